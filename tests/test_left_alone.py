"""What tracing must not touch: the module's hooks, state and modes, autograd's settings, and what stands on stderr."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deconv.errors import BadInput, DeconvError, UnsupportedOperation
from deconv.network import Network
from tests.kinds import Round
from tests.user_networks import Forward, conv

SHAPE = (3, 16, 16)
IMAGES = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))


def base() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()


HOOKS: dict[str, Any] = {
    "forward": lambda module, seen: module.register_forward_hook(lambda m, i, o: seen.append(o)),
    "forward, on a submodule": lambda module, seen: module[0].register_forward_hook(lambda m, i, o: seen.append(o)),
    "before": lambda module, seen: module[2].register_forward_pre_hook(lambda m, i: seen.append(i)),
    "with keywords": lambda module, seen: module[1].register_forward_hook(
        lambda m, i, k, o: seen.append(o), with_kwargs=True, always_call=True
    ),
    "backward": lambda module, seen: module[0].register_full_backward_hook(lambda m, i, o: seen.append(o)),
    "to numpy": lambda module, seen: module[0].register_forward_hook(lambda m, i, o: seen.append(o.detach().numpy())),
    "item": lambda module, seen: module.register_forward_pre_hook(lambda m, i: seen.append(i[0].sum().item())),
    "changing": lambda module, seen: module[0].register_forward_hook(lambda m, i, o: seen.append(o) or o * 0),
}


@pytest.mark.parametrize("name", HOOKS)
def test_hooks_do_not_run_and_stay(name: str) -> None:
    module, seen = base(), []  # type: tuple[nn.Sequential, list[Any]]
    expected = module(IMAGES).detach()
    HOOKS[name](module, seen)
    network = Network(module, SHAPE)
    torch.testing.assert_close(network.forward(IMAGES, ["3"])["3"], expected)
    network.forward(torch.zeros(1, 3, 20, 20), ["3"])
    assert seen == []
    leaf = IMAGES.clone().requires_grad_()
    module(leaf).sum().backward()
    assert len(seen) == 1


class Counting(nn.Module):
    """A forward that keeps what it sees, and hooks the gradients of its maps."""

    def __init__(self) -> None:
        super().__init__()
        self.one = conv(3)
        self.calls, self.kept = 0, []  # type: tuple[int, list[Tensor]]

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        maps = self.one(x)
        maps.register_hook(self.kept.append)
        self.last = maps
        self.kept.append(maps)
        return Round.apply(maps).relu()


def test_what_a_forward_writes_down_is_not_written() -> None:
    module = Counting()
    network = Network(module, SHAPE)
    network.forward(IMAGES, network.layers)
    assert module.calls == 0 and module.kept == [] and not hasattr(module, "last")
    assert Round.apply(IMAGES).equal(IMAGES.round()) and not hasattr(torch.autograd.Function, "watched")


@pytest.mark.parametrize("around", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_modes_around_everything(around: Any) -> None:
    with around():
        module = base()
        network = Network(module, SHAPE)
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        maps = network.forward(IMAGES, ["3"])["3"]
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before
        torch.testing.assert_close(maps, module(IMAGES))


REFUSED: dict[str, nn.Module] = {
    "a branch": Forward(lambda m, x: x.relu() if x.sum() > 0 else x),
    "an item": Forward(lambda m, x: (x + float(x.sum())).relu()),
    "a list": Forward(lambda m, x: torch.tensor(x.flatten(1).tolist()).relu()),
    "another number of channels": conv(5),
    "nothing": Forward(lambda m, x: None),
    "an error": Forward(lambda m, x: [][0]),
    "the batch flattened": Forward(lambda m, x: x.flatten()),
    "the positions of what fires": Forward(lambda m, x: x.nonzero().float()),
}


@pytest.mark.parametrize("module", REFUSED.values(), ids=REFUSED)
def test_a_refusal_is_one_line_and_nothing_else(
    module: nn.Module, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UnsupportedOperation) as refusal:
        Network(module, SHAPE)
    assert len(str(refusal.value).splitlines()) == 1 and len(str(refusal.value)) < 500
    streams = capfd.readouterr()
    assert (streams.out, streams.err, caplog.text) == ("", "", "")


def test_a_network_without_weights_says_how_it_gets_some() -> None:
    with torch.device("meta"):
        module = base()
    network = Network(module, SHAPE)
    assert network.receptive_field("2").size == (3, 3)
    with pytest.raises(BadInput, match=r"module.to_empty\(device='cpu'\), then module.load_state_dict"):
        network.forward(IMAGES, ["2"])
    module.to_empty(device="cpu")
    module.load_state_dict(base().state_dict())
    torch.testing.assert_close(Network(module, SHAPE).forward(IMAGES, ["3"])["3"], base()(IMAGES))


class Head(nn.Module):
    """Convolutions, and a head for one size of image."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(conv(3), nn.ReLU())
        self.head = nn.Linear(4 * 14 * 14, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x).flatten(1))


def test_a_head_of_one_size_does_not_forbid_its_convolutions_at_another() -> None:
    module = Head()
    network, larger = Network(module, SHAPE), torch.randn(2, 3, 30, 41)
    torch.testing.assert_close(network.forward(larger, ["trunk.1"])["trunk.1"], module.trunk(larger))
    message = r"layer 'head' cannot be traced for an input of \(3, 30, 41\): .+; layers that remain: trunk.1$"
    with pytest.raises(UnsupportedOperation, match=message):
        network.forward(larger, ["trunk.1", "head"])


OUTPUTS: dict[str, tuple[Any, list[str]]] = {
    "a tuple": (lambda m, x: (m.one(x).relu(), m.two(x).mean((2, 3))), ["relu", "mean"]),
    "a dict": (lambda m, x: {"maps": m.one(x).relu(), "logits": m.two(x).mean((2, 3)), "none": None}, ["relu", "mean"]),
    "nested": (lambda m, x: [m.one(x), ({"deep": m.two(x).sigmoid()}, None)], ["one", "sigmoid"]),
    "whole numbers beside": (lambda m, x: (m.one(x).relu(), m.one(x).argmax(1)), ["relu"]),
    "one twice": (lambda m, x: (m.one(x),) * 2, ["one"]),
    "two of one operation": (lambda m, x: torch.std_mean(m.one(x), (2, 3)), ["std_mean", "std_mean_1"]),
    "what cannot be carried beside": (lambda m, x: (m.one(x).relu(), m.two(x).softmax(0).sum(0)), ["relu"]),
}


@pytest.mark.parametrize(("forward", "layers"), OUTPUTS.values(), ids=OUTPUTS)
def test_every_tensor_that_a_module_returns_is_a_layer(forward: Any, layers: list[str]) -> None:
    module = Forward(forward, one=conv(3), two=conv(3)).eval()
    network = Network(module, SHAPE)
    assert network.layers == layers

    def tensors(value: Any) -> list[Tensor]:
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
        return [value] if isinstance(value, Tensor) else [tensor for item in items for tensor in tensors(item)]

    values = network.forward(IMAGES, layers)
    for layer, expected in zip(layers, tensors(module(IMAGES)), strict=False):
        torch.testing.assert_close(values[layer].view_as(expected), expected.detach())


def test_names_of_layers_do_not_collide() -> None:
    """A second call of "relu" is not the module "relu_1"."""
    module = Forward(lambda m, x: m.relu_1(m.relu(m.relu(x) - 0.1) - 0.1), relu=nn.ReLU(), relu_1=nn.ReLU())
    network = Network(module, SHAPE)
    assert len(set(network.layers)) == len(network.layers) == 3
    torch.testing.assert_close(network.forward(IMAGES, [network.layers[-1]])[network.layers[-1]], module(IMAGES))


def test_a_refused_layer_is_named_with_what_remains() -> None:
    module = Forward(lambda m, x: m.two(m.one(x).relu()[:1]).relu(), one=conv(3), two=conv())
    network = Network(module, SHAPE)
    assert network.layers == ["relu"]
    for name in ("slice", "two", "relu_1"):
        message = (
            rf"layer '{name}' cannot be traced.*'slice' in the network makes \(1, 4, .*; layers that remain: relu$"
        )
        with pytest.raises(UnsupportedOperation, match=message):
            network.forward(IMAGES, [name])


WRONG: dict[str, tuple[Any, Any, str]] = {
    "a state dict": (base().state_dict(), SHAPE, "module: given a OrderedDict; .*load_state_dict"),
    "a path": (
        "weights.pth",
        SHAPE,
        "module: given weights.pth; expected a torch.nn.Module: make the architecture and load",
    ),
    "a class": (nn.Conv2d, SHAPE, r"module: given a type; expected a torch.nn.Module: make one, as Conv2d\(\)"),
    "a function": (torch.relu, SHAPE, "module: given a .*; expected a torch.nn.Module: put what it does into the"),
    "a Lazy module": (nn.LazyConv2d(4, 3), SHAPE, "whose weight is not initialised; .*: run it once on an image batch"),
    "a size": (base(), 224, r"input_shape: given 224; expected \(C, H, W\), 3 whole numbers: \(3, 224, 224\)"),
    "two sizes": (base(), (224, 224), r"input_shape: given \(224, 224\); .*: \(3, 224, 224\)"),
    "a batch": (base(), (1, 3, 16, 16), r"input_shape: given \(1, 3, 16, 16\); .*: \(3, 16, 16\), without the batch"),
    "text": (base(), "3x16x16", "input_shape: given 3x16x16; expected"),
    "parts of pixels": (base(), (3, 16.5, 16), "input_shape: given 16.5; expected a whole number, 1 or more"),
}


@pytest.mark.parametrize(("module", "shape", "message"), WRONG.values(), ids=WRONG)
def test_wrong_things_for_a_network_are_one_line(module: Any, shape: Any, message: str, unchecked: None) -> None:
    with pytest.raises(BadInput, match=message) as mistake:
        Network(module, shape)
    assert isinstance(mistake.value, DeconvError) and "\n" not in str(mistake.value)
