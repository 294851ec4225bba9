"""deconv/network/__init__.py: names, shapes and values of layers, and what a Network takes."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names
from torchvision.ops import Conv2dNormActivation

from deconv import network as network_module
from deconv.errors import BadInput, UnknownName, UnsupportedOperation
from deconv.images.preprocessing import Preprocessing
from deconv.network import Network

IMAGES = torch.randn(3, 3, 20, 24, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """One rectifier for several calls, a functional one, and a branch."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.relu(self.norm(self.first(x)))
        maps = F.relu(self.second(maps))
        return torch.cat([self.relu(x + maps), F.max_pool2d(maps, 3, 1, 1)], 1)


class Named(nn.Module):
    """Calls of every kind that names are made from."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv2dNormActivation(3, 4, 3, 2)
        self.blocks = nn.Sequential(Block(4), Block(8))
        self.head = nn.Sequential(nn.Linear(16, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 5))

    def forward(self, x: Tensor) -> Tensor:
        maps = F.relu(self.blocks(self.stem(x)), inplace=True)
        return self.head(torch.flatten(F.adaptive_avg_pool2d(maps, 1), 1))


@pytest.fixture(scope="module")
def module() -> nn.Module:
    torch.manual_seed(0)
    return Named().eval()


@pytest.fixture(scope="module")
def network(module: nn.Module) -> Network:
    return Network(module, (3, 20, 24), {"stem out": "stem", "fc": "head.1"})


LAYERS = [
    "stem", "blocks.0.relu", "blocks.0.relu_1", "blocks.0.relu_2",
    "blocks.1.relu", "blocks.1.relu_1", "blocks.1.relu_2", "relu", "head.1", "head.3",
]  # fmt: skip


def test_layers_bear_torchvisions_names_and_hold_the_same_values(module: nn.Module, network: Network) -> None:
    names = get_graph_node_names(module, suppress_diff_warning=True)[1]
    assert [name for name in names if name in network.layers] == network.layers == LAYERS
    expected = create_feature_extractor(module, LAYERS)(IMAGES)
    found = network.forward(IMAGES, LAYERS)
    assert list(found) == LAYERS
    for layer in LAYERS:
        torch.testing.assert_close(found[layer].view_as(expected[layer]), expected[layer].detach())
        assert found[layer].shape[1:] == (network.channels(layer), *network.map_size(layer))


def test_aliases_stand_for_layers_everywhere(network: Network) -> None:
    found = network.forward(IMAGES, ["stem out", "stem"])
    assert torch.equal(found["stem out"], found["stem"])
    assert network.channels("stem out") == 4 and network.map_size("stem out") == (10, 12)
    assert network.receptive_field("stem out") == network.receptive_field("stem")
    assert "stem out" not in network.layers


def test_asking_for_a_layer_in_the_middle_does_not_change_it(network: Network) -> None:
    """Rectifiers may write over their input while nothing else wants it."""
    alone = {layer: network.forward(IMAGES, [layer])[layer] for layer in LAYERS}
    together = network.forward(IMAGES, LAYERS)
    assert all(torch.equal(alone[layer], together[layer]) for layer in LAYERS)
    images = IMAGES.clone()
    network.forward(images, LAYERS)
    assert torch.equal(images, IMAGES)


def test_rectified_says_whether_a_unit_at_zero_does_not_fire(network: Network) -> None:
    assert [layer for layer in network.layers if not network.rectified(layer)] == ["head.3"]
    mixed = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SiLU(), nn.Conv2d(4, 4, 1), nn.ReLU())
    assert [Network(mixed, (3, 8, 8)).rectified(layer) for layer in ("1", "3")] == [False, True]


def test_fully_connected_layers_are_maps_of_one_position(network: Network) -> None:
    assert network.forward(IMAGES, ["head.3"])["head.3"].shape == (3, 5, 1, 1)
    assert network.map_size("fc") == (1, 1) and network.receptive_field("fc").size == (20, 24)


def test_maxima_are_those_of_the_maps(network: Network) -> None:
    whole, yielded = network.forward(IMAGES, LAYERS), []
    for layer, maps, maxima in network.forward_with_maxima(IMAGES, LAYERS):
        assert torch.equal(maps, whole[layer]) and torch.equal(maxima, maps.amax((2, 3))), layer
        yielded.append(layer)
    assert sorted(yielded) == sorted(LAYERS)


def test_maps_that_were_let_go_of_are_freed_while_the_network_runs() -> None:
    blocks = [module for _ in range(4) for module in (nn.Conv2d(3, 3, 3), nn.ReLU())]
    network = Network(nn.Sequential(*blocks), (3, 20, 24))
    freed: list[weakref.ref[Tensor]] = []
    for _, maps, _ in network.forward_with_maxima(IMAGES, network.layers):
        assert all(reference() is None for reference in freed)
        freed.append(weakref.ref(maps))
    assert len(freed) == 4


POOLS = [
    nn.MaxPool2d(2, 3), nn.MaxPool2d(3, 2), nn.MaxPool2d(3, 2, ceil_mode=True), nn.MaxPool2d(2, 2, dilation=2),
    nn.MaxPool2d((1, 2), (2, 1)), nn.MaxPool2d(3, 2, 1),
]  # fmt: skip


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_maxima_do_not_trust_pools_that_leave_positions_out(pool: nn.Module) -> None:
    """The largest value stands in turn at every position."""
    trunk = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), pool, nn.Conv2d(1, 1, 1), nn.ReLU())
    nn.init.ones_(trunk[0].weight)  # type: ignore[arg-type]
    images = torch.eye(56).view(56, 1, 7, 8) + 1
    found = Network(trunk, (1, 7, 8)).forward_with_maxima(images, ["1", "4"])
    maxima = {layer: maxima for layer, _, maxima in found}
    assert maxima["1"].flatten().tolist() == [2.0] * 56


@pytest.mark.parametrize("name", ["stem.2", "Head.1", "blocks.0", ""])
def test_an_unknown_layer_is_named_with_what_there_is(network: Network, name: str) -> None:
    for ask in (network.channels, network.map_size, network.receptive_field, lambda n: network.forward(IMAGES, [n])):
        with pytest.raises(UnknownName, match=f"unknown layer '{name}'; expected one of stem out, fc, stem,"):
            ask(name)


def test_a_near_name_is_offered(network: Network) -> None:
    with pytest.raises(UnknownName, match="did you mean 'blocks.0.relu_1'"):
        network.channels("block.0.relu_1")


def test_an_alias_to_no_layer_is_refused(module: nn.Module) -> None:
    with pytest.raises(UnknownName, match="unknown layer of the alias 'conv1' 'features.0'; expected one of stem,"):
        Network(module, (3, 20, 24), {"conv1": "features.0"})


def test_a_module_that_cannot_be_traced_is_refused_when_the_network_is_made() -> None:
    with pytest.raises(UnsupportedOperation, match=r"Conv2d cannot be traced for an input of \(3, 8, 8\).*4.*channels"):
        Network(nn.Conv2d(4, 4, 1), (3, 8, 8))


class Transposed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).flatten(2).transpose(1, 2)


def test_an_output_that_is_no_map_is_no_layer() -> None:
    assert Network(Transposed(), (3, 8, 8)).layers == ["relu"]


@pytest.mark.parametrize(
    "images",
    [torch.zeros(3, 20, 24), torch.zeros(1, 4, 20, 24), torch.zeros(1, 3, 20, 24).byte(), torch.zeros(1, 20, 24, 3)],
)
def test_images_of_another_kind_are_refused(network: Network, images: Tensor, unchecked: None) -> None:
    with pytest.raises(BadInput, match=r"images: given Tensor .*expected preprocessed images \(N, 3, H, W\) of"):
        network.forward(images, ["stem"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"module": "alexnet"}, "module: given alexnet; expected a torch.nn.Module"),
        ({"input_shape": (28, 28)}, r"input_shape: given \(28, 28\); expected \(C, H, W\), 3 whole numbers"),
        ({"input_shape": (1, 3, 16, 16)}, r"input_shape: given \(1, 3, 16, 16\); expected \(C, H, W\)"),
        ({"input_shape": 224}, r"input_shape: given 224; expected \(C, H, W\)"),
        ({"input_shape": (3, 0, 8)}, "input_shape: given 0; expected a whole number, 1 or more"),
        ({"input_shape": (3, "8", 8)}, "input_shape: given 8; expected a whole number"),
        ({"input_shape": (3, 8.5, 8)}, "input_shape: given 8.5; expected a whole number"),
    ],
)
def test_mistakes_in_making_a_network_are_named(change: dict, message: str, unchecked: None) -> None:
    with pytest.raises(BadInput, match=message):
        Network(**{"module": nn.Conv2d(3, 4, 1), "input_shape": (3, 8, 8)} | change)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"layers": "stem"}, BadInput, r"layers: given stem; expected a list of layer names: \['stem'\] for one"),
        ({"layers": 3}, BadInput, "layers: given 3; expected a list of layer names"),
        ({"layers": [3]}, UnknownName, "unknown layer 3; expected one of stem out"),
        ({"images": IMAGES.numpy()}, BadInput, r"images: given ndarray of shape \(3, 3, 20, 24\) and float32"),
        ({"images": "photo.jpg"}, BadInput, "images: given photo.jpg; expected preprocessed images"),
        ({"precision": "bfloat16"}, BadInput, "precision: given bfloat16; expected torch.float32 or torch.bfloat16"),
    ],
)
def test_mistakes_in_a_forward_pass_are_named(
    network: Network, change: dict, error: type[Exception], message: str, unchecked: None
) -> None:
    arguments = {"images": IMAGES, "layers": ["stem"]} | change
    with pytest.raises(error, match=message):
        network.forward(**arguments)
    with pytest.raises(error, match=message):
        list(network.forward_with_maxima(**arguments))


@pytest.mark.parametrize("size", [224, (224,), (0, 8), ("20", 24)])
def test_an_image_size_that_is_none_is_named(network: Network, size: Any, unchecked: None) -> None:
    for ask in (network.map_size, network.receptive_field):
        with pytest.raises(BadInput, match="size: given "):
            ask("stem", size)


def test_a_network_shows_itself_in_a_line(network: Network) -> None:
    assert repr(network) == f"Network(10 layers, input_shape=(3, 20, 24), weights {network.weights_hash[:8]})"
    with torch.device("meta"):
        assert "without values" in repr(Network(nn.Conv2d(3, 4, 1), (3, 8, 8)))


def test_map_sizes_of_other_images(network: Network) -> None:
    assert network.map_size("stem", (40, 24)) == (20, 12) and network.map_size("fc", (40, 24)) == (1, 1)


def test_the_module_is_the_users_own(network: Network, module: nn.Module) -> None:
    assert network.module is module


def test_provenance_names_the_weights_and_the_preprocessing(network: Network, module: nn.Module) -> None:
    assert network.provenance() == {"weights": network.weights_hash, "preprocessing": None}
    preprocessing = Preprocessing((20, 24), None, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    shown = Network(module, (3, 20, 24), preprocessing=preprocessing).provenance()
    assert shown["preprocessing"] == preprocessing.as_dict()


def test_images_of_another_precision_become_the_networks(network: Network, module: nn.Module) -> None:
    assert network.forward(IMAGES.double(), ["stem"])["stem"].dtype == torch.float32
    double = Network(Named().double(), (3, 20, 24))
    assert double.forward(IMAGES, ["stem"])["stem"].dtype == torch.float64


def test_bfloat16_is_near_and_leaves_the_weights_alone(network: Network) -> None:
    exact = network.forward(IMAGES, ["relu"])["relu"]
    rough = network.forward(IMAGES, ["relu"], torch.bfloat16)["relu"]
    assert rough.dtype == torch.bfloat16 and not torch.equal(rough.float(), exact)
    torch.testing.assert_close(rough.float(), exact, rtol=0.1, atol=0.1)
    assert torch.equal(network.forward(IMAGES, ["relu"])["relu"], exact)


def test_no_image_gives_empty_maps(network: Network) -> None:
    assert network.forward(IMAGES[:0], ["stem"])["stem"].shape == (0, 4, 10, 12)


def test_each_size_is_traced_once(module: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    plain = network_module.trace

    def counted(*given: object) -> object:
        sizes.append(given[2])
        return plain(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(network_module, "trace", counted)
    network = Network(module, (3, 20, 24))
    for size in ((20, 24), (30, 24), (20, 24), (30, 24)):
        network.forward(torch.zeros(1, 3, *size), ["stem"])
        network.receptive_field("stem", size)
    assert sizes == [(3, 20, 24), (3, 30, 24)]


def test_layers_of_other_sizes_have_their_own_geometry(network: Network) -> None:
    large = torch.zeros(1, 3, 31, 40)
    assert network.forward(large, ["stem"])["stem"].shape == (1, 4, 16, 20)
    assert network.receptive_field("stem", (31, 40)) == network.receptive_field("stem")
    assert network.receptive_field("head.3", (31, 40)).size == (31, 40)


def test_the_weights_hash_is_that_of_the_weights(module: nn.Module, network: Network) -> None:
    again = Network(module, (3, 30, 30))
    assert again.weights_hash == network.weights_hash and len(network.weights_hash) == 64
    other = Named()
    other.load_state_dict(module.state_dict())
    assert Network(other, (3, 20, 24)).weights_hash == network.weights_hash
    with torch.no_grad():
        next(other.parameters()).view(-1)[7] += 1e-6
    assert Network(other, (3, 20, 24)).weights_hash != network.weights_hash


def test_a_network_without_weights_works_too() -> None:
    network = Network(nn.Sequential(nn.AvgPool2d(2), nn.ReLU()), (3, 20, 24))
    torch.testing.assert_close(network.forward(IMAGES, ["1"])["1"], F.relu(F.avg_pool2d(IMAGES, 2)))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.bn(self.conv(x)))


def test_a_name_that_is_no_maps_is_answered_with_those_that_are() -> None:
    network = Network(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), Residual()).eval(), (3, 9, 9))
    assert network.channels("2.conv") == 4
    with pytest.raises(UnknownName, match="unknown layer '2'; .*: the output of the module 2 is '2.relu'"):
        network.channels("2")
    with pytest.raises(UnknownName, match="unknown layer '2.bn'; .*: the module 2.bn has no map of its own: a batch"):
        network.channels("2.bn")
    with pytest.raises(UnknownName, match="any other map serves too, by its module or function, as '0'"):
        network.channels("conv9")


class Restless(nn.Module):
    """Between two convolutions it draws at random, or looks at pixels to decide what to do."""

    def __init__(self, looks: bool) -> None:
        super().__init__()
        self.looks, self.low, self.high = looks, nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.low(x))
        if self.looks and x.sum() > 0:
            x = x + 1
        return torch.relu(self.high(x if self.looks else x * (torch.rand_like(x) > 0.5)))


@pytest.mark.parametrize(("looks", "reason"), [(True, "reads pixel values"), (False, "differs from call to call")])
def test_where_a_module_cannot_be_followed_further_is_said_at_once(
    looks: bool, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", "deconv"):
        network = Network(Restless(looks), (3, 9, 9))
    (line,) = caplog.messages
    assert line.startswith("Restless is followed up to relu: ") and reason in line
    assert repr(network).startswith("Network(1 layer, ends at relu, input_shape=(3, 9, 9)")
    assert "followed up to relu: " in network._repr_html_() and reason in network._repr_html_()


def test_a_preprocessing_that_does_not_fit_is_told_when_the_network_is_made(caplog: pytest.LogCaptureFixture) -> None:
    module, grey = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), Preprocessing((9, 9), None, (0.5,), (0.5,))
    with pytest.raises(BadInput, match=r"mean: given \[0.5\]; expected three numbers, for red, green and blue"):
        Network(module, (3, 9, 9), preprocessing=grey)
    with caplog.at_level("WARNING", "deconv"):
        Network(module, (3, 9, 9), preprocessing=Preprocessing((9, 12), None, (0.5,) * 3, (0.5,) * 3))
    assert caplog.messages == [
        "preprocessing makes inputs of 9 x 12, and input_shape says 9 x 9, for which maps and fields are told"
    ]
