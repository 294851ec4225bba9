"""Every ConvNet of torchvision: the 43 that are pure ReLU networks by all three rules, the 25 others by gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names
from torchvision.models.regnet import BlockParams

from deconv.errors import UnsupportedOperation
from deconv.mining import mine
from deconv.network import Network
from deconv.projection import check_rules, project
from deconv.projection.rules import RULES
from tests.oracle import project_by_autograd, relative_error
from tests.peaks import project_at

PAPERS_RULES = ("deconvnet", "guided", "gradient")
FAMILIES = {
    "alexnet": ["alexnet"],
    "vgg": ["vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"],
    "squeezenet": ["squeezenet1_0", "squeezenet1_1"],
    "resnet": ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"],
    "resnext": ["resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"],
    "wide_resnet": ["wide_resnet50_2", "wide_resnet101_2"],
    "googlenet": ["googlenet"],
    "inception": ["inception_v3"],
    "densenet": ["densenet121", "densenet161", "densenet169", "densenet201"],
    "shufflenet": ["shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0"],
    "mnasnet": ["mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3"],
    "mobilenet_v2": ["mobilenet_v2"],
    "regnet_x": [f"regnet_x_{size}" for size in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf")],
}
PURE = [name for family in FAMILIES.values() for name in family]
OTHERS = [
    name
    for name in models.list_models(module=models)
    if name.startswith(("convnext", "efficientnet", "mobilenet_v3", "regnet_y"))
]

# One of each family, small or with most kinds of operations: input size, then layers to project, of all depths.
COMPARED: dict[str, tuple[int, list[str]]] = {
    "alexnet": (64, ["features.4", "features.11", "classifier.6"]),
    "vgg11_bn": (64, ["features.6", "features.20", "classifier.1"]),
    "squeezenet1_1": (64, ["features.1", "features.4.cat", "features.12.expand1x1_activation", "flatten"]),
    "resnet18": (64, ["relu", "layer1.1.relu_1", "layer3.0.relu", "fc"]),
    "resnext50_32x4d": (64, ["layer1.0.relu_1", "layer2.3.relu_2", "fc"]),
    "wide_resnet50_2": (64, ["layer1.1.relu_1", "layer2.0.relu_2"]),
    "googlenet": (64, ["conv3.relu", "inception3b.cat", "inception4e.branch4.1.relu", "fc"]),
    "inception_v3": (80, ["Mixed_5b.cat", "Mixed_6a.branch3x3dbl_3.relu", "Mixed_7b.cat_1", "fc"]),
    "densenet121": (64, ["features.denseblock1.denselayer3.relu2", "features.transition1.relu", "classifier"]),
    "shufflenet_v2_x0_5": (64, ["stage2.0.branch1.4", "stage3.3.branch2.7", "conv5.2", "fc"]),
    "mnasnet0_5": (64, ["layers.5", "layers.9.1.layers.5", "classifier.1"]),
    "mobilenet_v2": (64, ["features.0", "features.4.conv.1", "features.18", "classifier.1"]),
    "regnet_x_400mf": (64, ["stem", "trunk_output.block1.block1-0.activation", "fc"]),
}

# Representatives of the 25 others: the operation and the module that deconvnet and guided name.
REFUSED = {
    "convnext_tiny": "'layer_norm' in features.0.1",
    "efficientnet_b0": "'silu' in features.0.2",
    "mobilenet_v3_small": "'hardswish' in features.0.2",
    "regnet_y_400mf": "'sigmoid' in trunk_output.block1.block1-0.f.se.scale_activation",
}


def build(name: str, device: str) -> nn.Module:
    """A network without the slow random initialisation; on "meta" without any weights at all."""
    plain = BlockParams.from_init_params

    def on_cpu(*args: float, **kwargs: float) -> BlockParams:
        with torch.device("cpu"):  # RegNet computes its widths with tensors
            return plain(*args, **kwargs)

    quick = {"init_weights": False, "transform_input": True} if name in ("googlenet", "inception_v3") else {}
    with mock.patch.object(BlockParams, "from_init_params", on_cpu), torch.device("meta"):
        module = models.get_model(name, weights=None, **quick).eval()
    return module if device == "meta" else module.to_empty(device=device)


def randomised(name: str, size: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    """With random weights under which every layer fires in the order of one.

    Double precision, for in single precision some rectifier among millions is on by one way of rounding and off by
    another, which gradients of deep networks show.
    """
    module = build(name, "cpu").to(dtype)
    generator = torch.Generator().manual_seed(0)
    for path, parameter in module.named_parameters():
        parameter.data.normal_(generator=generator)
        if parameter.dim() > 1:
            parameter.data *= (2 / parameter[0].numel()) ** 0.5
        else:
            parameter.data = parameter.data * 0.2 + path.endswith("weight")
    norms = [submodule for submodule in module.modules() if isinstance(submodule, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():  # the running statistics become those of these images
        module(torch.randn((4, 3, size, size), generator=generator, dtype=dtype))
    return module.eval()


def torchvision_names(module: nn.Module) -> list[str]:
    return get_graph_node_names(module, suppress_diff_warning=True)[1]


def values_of(module: nn.Module, layers: list[str]) -> Callable[[Tensor], dict[str, Tensor]]:
    return create_feature_extractor(module, layers, suppress_diff_warning=True)


def test_the_families_are_all_of_torchvisions_convnets() -> None:
    known = set(models.list_models(module=models))
    transformers = {name for name in known if name.startswith(("vit", "swin", "maxvit"))}
    assert len(PURE) == len(set(PURE)) == 43 and len(OTHERS) == 25
    assert known - transformers == set(PURE) | set(OTHERS)
    assert {name for name, family in FAMILIES.items() if not set(family) & set(COMPARED)} == set()


@pytest.mark.parametrize("name", [name for name in PURE if name not in COMPARED])
def test_every_pure_relu_network_is_carried_by_every_rule(name: str) -> None:
    module = build(name, "meta")
    network = Network(module, (3, 96, 96))
    check_names(network, module)
    check_rules(network, network.layers[-1:], RULES)


def check_names(network: Network, module: nn.Module) -> None:
    """Layers are torchvision's nodes in torchvision's order; every rectifier is one of them; the last is the output."""
    names = torchvision_names(module)
    assert [name for name in names if name in set(network.layers)] == network.layers
    rectifiers = [name for name, submodule in module.named_modules() if isinstance(submodule, nn.ReLU | nn.ReLU6)]
    assert len(network.layers) > max(len(rectifiers), 1)
    assert network.layers[-1] == names[-1]


@pytest.mark.parametrize("name", COMPARED)
def test_every_family_equals_autograd_with_replaced_rectifiers(name: str) -> None:
    size, layers = COMPARED[name]
    module = randomised(name, size)
    network = Network(module, (3, size, size))
    check_names(network, module)
    images = torch.randn((2, 3, size, size), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, expected = network.forward(images, network.layers), values_of(module, network.layers)(images)
    for layer in network.layers:
        torch.testing.assert_close(found[layer].view_as(expected[layer]), expected[layer])
    for layer in layers:
        check_projections(network, module, images, layer, corners_and_strongest(found[layer]), PAPERS_RULES)


def check_projections(
    network: Network, module: nn.Module, images: Tensor, layer: str, peaks: Tensor, of_rules: Iterable[str]
) -> None:
    trunk = values_of(module, [layer])

    def run(x: Tensor) -> Tensor:
        value = trunk(x)[layer]
        channels_last = value.dim() == 4 and value.shape[1] != network.channels(layer)
        return value.permute(0, 3, 1, 2) if channels_last else value

    for rule in of_rules:
        recon = project_at(network, images, layer, peaks, rule=rule)
        score, expected = project_by_autograd(run, images, peaks, rule)
        assert score[2:].all() and expected[2:].any(), "the strongest peak should show something"
        torch.testing.assert_close(recon.score, score.float())
        assert relative_error(recon.paste(), expected).max() < 1e-5, (layer, rule)


def corners_and_strongest(maps: Tensor) -> Tensor:
    """(3, 4) peaks: the strongest of two opposite corners, and of all positions, at the ceiling of no ReLU6."""
    maps, peaks = maps.where(maps != 6, 0), []
    for row, col in ((0, 0), (maps.shape[2] - 1, maps.shape[3] - 1)):
        corner = maps[:, :, row, col]
        peaks.append([*(corner == corner.max()).nonzero()[0].tolist(), row, col])
    return torch.tensor([*peaks, (maps == maps.max()).nonzero()[0].tolist()])


@pytest.mark.parametrize("name", REFUSED)
def test_networks_with_gates_are_refused_by_name_but_mined_and_derived(name: str) -> None:
    dtype = torch.float32 if name == "convnext_tiny" else torch.float64  # smooth throughout, and slow in double
    module = randomised(name, 64, dtype)
    network = Network(module, (3, 64, 64))
    images = torch.randn((3, 3, 64, 64), generator=torch.Generator().manual_seed(1), dtype=dtype)
    first, last = network.layers[0], network.layers[-1]
    maps = network.forward(images, [first, last])
    peaks = mine(network, images, [first, last], k=1, batch_size=2)
    for layer in {first, last}:
        torch.testing.assert_close(peaks[layer].score[:, 0].nan_to_num(), maps[layer].amax((0, 2, 3)).float())
        check_projections(network, module, images, layer, corners_and_strongest(maps[layer]), ["gradient"])
    for rule in ("deconvnet", "guided"):
        with pytest.raises(UnsupportedOperation, match=f"'{rule}' has no way back through {REFUSED[name]}"):
            project(network, images, last, [0], [0], [0], [0], rule=rule)
