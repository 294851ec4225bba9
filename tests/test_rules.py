"""deconv/projection/table.py: each cell of the table, alone, on its operation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor, nn

from deconv.errors import BadInput, UnknownName, UnsupportedOperation
from deconv.network import Network
from deconv.network import operations as ops
from deconv.network.graph import Graph, Node
from deconv.network.spatial import AveragePool, Convolution, MaxPool, Pad, Window
from deconv.projection import project, project_together, table, ways
from deconv.projection.rules import RULES, Rule, as_rule
from deconv.projection.switches import chosen_switches
from deconv.projection.windows import WholeMaps
from tests.oracle import relative_error
from tests.peaks import project_at, random_positions

STRATEGIES = ("whole", "shared", "window")
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn((2, 4, 7, 8), generator=GENERATOR, dtype=torch.float64)


def weight(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


def node(operation: Any, kind: str = "any", path: str = "features.3") -> Node:
    return Node(path, path, kind, operation, (0,), (), True)


def there_and_back(operation: Any, rule: str | Rule, *inputs: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """(output, a signal shaped like it, what comes back of the signal)."""
    cell = table.backward_of(node(operation), rule)
    output, memory = cell.forward(operation, *(x.clone() for x in inputs))
    signal = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return output, signal, cell.backward(operation, signal.clone(), memory, [x.shape for x in inputs])


def derivative(operation: Any, signal: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    points = [x.clone().requires_grad_() for x in inputs]
    return torch.autograd.grad(operation.forward(*points), points, signal)


ONE = (1, 1)
SAME_BY_EVERY_RULE: dict[str, tuple[Any, tuple[Tensor, ...]]] = {
    "convolution": (Convolution(weight(6, 4, 3, 2), weight(6), (1, 1), (1, 1, 0, 0), (1, 1), 1), (X,)),
    "uneven convolution": (Convolution(weight(6, 2, 2, 3), None, (2, 1), (0, 1, 2, 1), (2, 1), 2), (X,)),
    "strided convolution of few channels": (Convolution(weight(5, 4, 5, 3), None, (3, 3), (1, 1, 2, 2), ONE, 1), (X,)),
    "convolution that leaves pixels over": (Convolution(weight(5, 4, 2, 2), None, (3, 3), (0, 0, 0, 0), ONE, 1), (X,)),
    "max pool": (MaxPool(Window((3, 2), (2, 1), (1, 0), (1, 2)), True), (X,)),
    "average pool": (AveragePool(Window((3, 3), (2, 2), (1, 1), ONE), True, False, None, False), (X,)),
    "pad": (Pad((1, -2, 0, 3), 0.5), (X,)),
    "scale": (ops.ChannelScale(weight(4), weight(4)), (X,)),
    "scale of vectors": (ops.ChannelScale(weight(4), weight(4)), (X[:, :, 0, 0],)),
    "concatenation": (ops.Concatenate(), (X, X[:, :1] * 2, X[:, 1:])),
    "sum": (ops.Add(), (X, X * 2)),
    "reshape": (ops.Reshape((2, 2, 7, 8), True), (X,)),
    "flattening": (ops.Reshape((224,), False), (X,)),
    "linear call": (
        ops.LinearCall(torch.ops.aten.add.Tensor, (ops.Slot(0), ops.Slot(1)), {"alpha": -2}, True), (X, X + 1)
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("operation", "inputs"), SAME_BY_EVERY_RULE.values(), ids=SAME_BY_EVERY_RULE)
def test_what_is_linear_or_a_maximum_goes_back_by_its_transpose(operation: Any, inputs: Any, rule: str) -> None:
    output, signal, back = there_and_back(operation, rule, *inputs)
    torch.testing.assert_close(output, operation.forward(*inputs))
    for found, expected in zip(back, derivative(operation, signal, *inputs), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("ceiling", [None, 0.6])
def test_rectifiers_differ_by_rule(ceiling: float | None) -> None:
    operation = ops.Rectifier(ceiling)
    passed = X.gt(0) & X.lt(ceiling or float("inf"))
    for rule, expect in (
        ("deconvnet", lambda signal: F.relu(signal)),
        ("guided", lambda signal: F.relu(signal) * passed),
        ("gradient", lambda signal: signal * passed),
    ):
        output, signal, (back,) = there_and_back(operation, rule, X)
        torch.testing.assert_close(output, X.clamp(0, ceiling))
        torch.testing.assert_close(back, expect(signal))
        cell = table.backward_of(node(operation), rule)
        assert cell.forward_in_place is not None
        overwritten = X.clone()
        in_place, memory = cell.forward_in_place(operation, overwritten)
        assert in_place.data_ptr() == overwritten.data_ptr() and torch.equal(in_place, output)
        torch.testing.assert_close(cell.backward(operation, signal.clone(), memory, [X.shape])[0], back)


def test_local_response_norm_is_left_out_by_deconvnet_alone() -> None:
    operation = ops.LocalResponseNorm(3, 0.5, 0.75, 1.0)
    for rule in RULES:
        output, signal, (back,) = there_and_back(operation, rule, X)
        torch.testing.assert_close(output, F.local_response_norm(X, 3, 0.5, 0.75, 1.0))
        expected = signal if RULES[rule].lrn == "identity" else derivative(operation, signal, X)[0]
        torch.testing.assert_close(back, expected)


@pytest.mark.parametrize(("size", "channels"), [(1, 4), (2, 4), (5, 4), (4, 3), (5, 1), (6, 2)])
def test_local_response_norm_is_torchs_at_any_window(size: int, channels: int) -> None:
    """Windows of an even size reach further to one side; there are fewer channels than a window has."""
    operation, x = ops.LocalResponseNorm(size, 0.5, 0.75, 1.0), X[:, :channels]
    output, signal, (back,) = there_and_back(operation, "gradient", x)
    points = x.clone().requires_grad_()
    expected = F.local_response_norm(points, size, 0.5, 0.75, 1.0)
    torch.testing.assert_close(output, expected.detach())
    torch.testing.assert_close(back, torch.autograd.grad(expected, points, signal)[0])


def test_values_that_share_a_switch_add() -> None:
    """One strongest position under four windows."""
    maps = torch.zeros(1, 1, 5, 5)
    maps[0, 0, 2, 2] = 1
    operation = MaxPool(Window((3, 3), (1, 1), (0, 0), (1, 1)), False)
    cell = table.backward_of(node(operation), "deconvnet")
    output, memory = cell.forward(operation, maps)
    (back,) = cell.backward(operation, torch.ones_like(output), memory, [maps.shape])
    assert back[0, 0, 2, 2] == 9 and back.sum() == 9


def test_signals_that_share_memory_are_not_written_over() -> None:
    """A mean hands the same number to every position, by strides of zero."""
    for rule in RULES:
        cell, operation = table.backward_of(node(ops.Rectifier()), rule), ops.Rectifier()
        _, memory = cell.forward(operation, X)
        signal = torch.tensor(-1.0, dtype=torch.float64).expand(X.shape)
        (back,) = cell.backward(operation, signal, memory, [X.shape])
        torch.testing.assert_close(back, -(X > 0).double() if rule == "gradient" else torch.zeros_like(X))
        assert (signal == -1).all()


@pytest.mark.parametrize(("operation", "inputs"), SAME_BY_EVERY_RULE.values(), ids=SAME_BY_EVERY_RULE)
def test_the_signals_of_several_inputs_are_memory_of_their_own(operation: Any, inputs: Any) -> None:
    """What comes back is added to in place."""
    _, _, back = there_and_back(operation, "deconvnet", *inputs)
    before = [part.clone() for part in back]
    for i, part in enumerate(back):
        part.add_(1)
        assert all(torch.equal(back[j], before[j]) for j in range(i + 1, len(back)))


SIGMOID = node(ops.Call(torch.ops.aten.sigmoid.default, (ops.Slot(0),), {}, True), "sigmoid", "features.3.gate")


def test_other_operations_serve_the_gradient_only() -> None:
    _, signal, (back,) = there_and_back(SIGMOID.operation, "gradient", X)
    torch.testing.assert_close(back, signal * X.sigmoid() * (1 - X.sigmoid()))
    for rule in ("deconvnet", "guided"):
        message = f"'{rule}' has no way back through 'sigmoid' in features.3.gate: .* can serve: gradient"
        with pytest.raises(UnsupportedOperation, match=message):
            table.backward_of(SIGMOID, rule)


def test_support_is_checked_before_anything_is_computed() -> None:
    nodes = (node(ops.Input()), node(ops.Rectifier()), replace(SIGMOID, inputs=(1,)))
    graph = Graph(nodes, {})
    ways.check_carried(graph, 2, RULES["gradient"])
    ways.check_carried(graph, 1, RULES["deconvnet"])
    with pytest.raises(UnsupportedOperation, match="'sigmoid' in features.3.gate"):
        ways.check_carried(graph, 2, RULES["deconvnet"])


def test_an_unknown_rule_is_named() -> None:
    with pytest.raises(UnknownName, match="unknown rule 'lrp'; expected one of deconvnet, guided, gradient"):
        table.backward_of(SIGMOID, "lrp")


VARIANTS: list[dict[str, Any]] = [
    {"switches": "centre"},
    {"switches": "random", "relu": "none"},
    {"relu": "both", "bias": "subtract"},
    {"relu": "none", "bias": "subtract", "batch_norm": "identity", "lrn": "derivative"},
    {"relu": "forward", "switches": "random", "seed": 4, "lrn": "identity"},
]


def trunk() -> nn.Sequential:
    torch.manual_seed(8)
    first = [
        nn.Conv2d(2, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.LocalResponseNorm(3),
        nn.MaxPool2d(3, 2, 1),
    ]
    made = nn.Sequential(*first, nn.Conv2d(6, 8, 3, 1, 1), nn.ReLU(), nn.MaxPool2d((2, 3), 2, ceil_mode=True))
    made.extend([nn.Conv2d(8, 5, 3), nn.ReLU()])
    norm = made[1]
    assert isinstance(norm, nn.BatchNorm2d)
    for values in (norm.running_mean, norm.running_var, norm.weight.data, norm.bias.data):
        assert values is not None
        values.uniform_(0.5, 2)
    return made.double().eval()


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_the_strategies_agree_on_every_variant(options: dict[str, Any]) -> None:
    network, images = Network(trunk(), (2, 31, 26)), torch.randn(3, 2, 31, 26, generator=GENERATOR, dtype=torch.float64)
    peaks = random_positions(network.forward(images, ["9"])["9"], 20)
    found = [project_at(network, images, "9", peaks, rule=options, strategy=strategy) for strategy in STRATEGIES]
    assert found[0].pixels.any() and found[0].rule == as_rule(options).name
    assert found[0].provenance["rule_options"] == Rule(**options).options()
    for other in found[1:]:
        assert relative_error(other.pixels, found[0].pixels).max() < 1e-5


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rules_that_share_the_forward_pass_give_what_each_gives(strategy: str) -> None:
    network, images = Network(trunk(), (2, 31, 26)), torch.randn(3, 2, 31, 26, generator=GENERATOR, dtype=torch.float64)
    image, channel, row, col = random_positions(network.forward(images, ["9"])["9"], 20).unbind(1)
    lent = (image + 1) % 3
    options = [{"switches": "other"}, *VARIANTS]
    requests = [(rule, (channel + n) % 5) for n, rule in enumerate(options)]
    together = project_together(network, images, "9", image, row, col, requests, strategy, switches_of=lent)
    for (rule, units), found in zip(requests, together, strict=True):
        lenders = lent if as_rule(rule).switches == "other" else None
        alone = project(network, images, "9", image, units, row, col, rule=rule, strategy=strategy, switches_of=lenders)
        assert torch.equal(found.pixels, alone.pixels) and torch.equal(found.score, alone.score)
        assert torch.equal(found.channel, units) and found.provenance == alone.provenance


def test_other_switches_come_from_the_image_that_lends_them() -> None:
    """By the gradient with a lender's switches: the switches of max(x) are those of autograd on the lender."""
    network = Network(
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(3, 4, 1), nn.ReLU()), (2, 21, 21)
    )
    images = torch.randn(4, 2, 21, 21, generator=GENERATOR, dtype=torch.float64).float()
    peaks = random_positions(network.forward(images, ["4"])["4"], 16)
    lent: dict[str, Any] = {"rule": {"switches": "other"}, "switches_of": (peaks[:, 0] + 1) % 4}
    first, *others = (project_at(network, images, "4", peaks, **lent, strategy=strategy) for strategy in STRATEGIES)
    for other in others:
        torch.testing.assert_close(other.pixels, first.pixels)
    own = project_at(network, images, "4", peaks, rule={"switches": "other"}, switches_of=peaks[:, 0])
    plain = project_at(network, images, "4", peaks)
    torch.testing.assert_close(own.pixels, plain.pixels)
    torch.testing.assert_close(first.score, plain.score)
    assert not torch.allclose(first.pixels, plain.pixels)


@pytest.mark.parametrize(("rule", "lenders"), [("deconvnet", [0]), ({"switches": "other"}, None)])
def test_lenders_belong_to_the_rule_that_needs_them(rule: Any, lenders: Any) -> None:
    network, images = Network(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU()), (2, 5, 5)), torch.randn(1, 2, 5, 5)
    with pytest.raises(BadInput, match="switches_of: given"):
        project_at(network, images, "1", torch.zeros((1, 4), dtype=torch.int64), rule=rule, switches_of=lenders)


@pytest.mark.parametrize("size", [(7, 8), (8, 7), (5, 5)])
@pytest.mark.parametrize(
    "pool",
    [nn.MaxPool2d(3, 2), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, 3, ceil_mode=True), nn.MaxPool2d(2, 1, dilation=2)],
)
def test_chosen_switches_lie_in_their_windows_and_in_the_map(pool: nn.MaxPool2d, size: tuple[int, int]) -> None:
    """Each kind of value that a window can choose is one of its own inputs."""
    graph = Network(pool, (2, *size)).graph
    positions = torch.arange(size[0] * size[1]).double().view(1, 1, *size).expand(1, 2, *size)
    kernel = table.backward_of(graph.nodes[1], "deconvnet").forward(graph.nodes[1].operation, positions)[0].shape
    for choice in ("centre", "random"):
        switches = chosen_switches(graph, 1, choice, 0, WholeMaps(graph, torch.zeros((1, 2), dtype=torch.int64)))
        assert switches.shape == kernel and switches.min() >= 0 and switches.max() < size[0] * size[1]
        for row, col in np.ndindex(*kernel[2:]):
            mask = torch.full_like(positions, -1.0)
            mask.view(1, 2, -1).scatter_(2, switches[:, :, row, col].unsqueeze(2), 1.0)
            assert (pool(mask)[:, :, row, col] == 1).all(), (choice, row, col)


def test_random_switches_depend_on_their_seed_alone() -> None:
    graph = Network(nn.MaxPool2d(3, 2), (4, 33, 33)).graph
    two = WholeMaps(graph, torch.zeros((2, 2), dtype=torch.int64))
    first, again, other = (chosen_switches(graph, 1, "random", seed, two) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other) and torch.equal(first[0], first[1])
    taps = MaxPool(Window((3, 3), (2, 2), (0, 0), ONE), False).taps(first, 33)
    counts = np.bincount(taps.flatten().numpy(), minlength=9) / taps.numel()
    np.testing.assert_allclose(counts, 1 / 9, atol=0.03)  # every tap alike


def test_the_bias_is_subtracted_from_what_is_not_zero() -> None:
    operation = Convolution(
        weight(3, 4, 1, 1), torch.tensor([1.0, -2, 3], dtype=torch.float64), ONE, (0, 0, 0, 0), ONE, 1
    )
    cell = table.backward_of(node(operation), Rule(bias="subtract"))
    signal = torch.zeros(1, 3, 2, 2, dtype=torch.float64)
    signal[0, 1, 0, 0] = 5
    (back,) = cell.backward(operation, signal, (), [torch.Size((1, 4, 2, 2))])
    expected = torch.zeros(1, 4, 2, 2, dtype=torch.float64)
    expected[0, :, 0, 0] = 7 * operation.weight[1, :, 0, 0]
    torch.testing.assert_close(back, expected)


def test_normalisations_are_left_out_where_the_rule_says_so() -> None:
    scale = ops.ChannelScale(weight(4), weight(4))
    left_out = Rule(batch_norm="identity", bias="subtract")
    assert table.backward_of(node(scale), left_out).backward(scale, X, (), [X.shape])[0] is X
    (back,) = table.backward_of(node(scale), Rule(bias="subtract")).backward(scale, X, (), [X.shape])
    torch.testing.assert_close(back, (X - scale.shift.view(1, 4, 1, 1)) * scale.scale.view(1, 4, 1, 1))


def test_a_relu_that_lets_everything_pass() -> None:
    _, signal, (back,) = there_and_back(ops.Rectifier(), Rule(relu="none"), X)
    torch.testing.assert_close(back, signal)


def test_rules_by_name_by_options_and_back() -> None:
    assert as_rule("guided") == Rule(relu="both", lrn="derivative") == as_rule(RULES["guided"])
    assert as_rule(OmegaConf.create({"relu": "both", "lrn": "derivative"})).name == "guided"
    assert [as_rule(name).name for name in RULES] == list(RULES)
    assert Rule(relu="none", switches="centre").name == "relu=none,switches=centre"
    with pytest.raises(UnknownName, match="choice of the rule's relu 'forwards'; expected one of backward, forward"):
        as_rule({"relu": "forwards"})
    with pytest.raises(UnknownName, match="unknown option of a rule 'rellu'; expected one of relu, switches"):
        as_rule({"rellu": "forward"})


def test_only_rules_by_the_derivative_pass_what_is_no_relu() -> None:
    graph = Graph((node(ops.Input()), SIGMOID), {})
    ways.check_carried(graph, 1, Rule(relu="forward", switches="centre"))
    with pytest.raises(UnsupportedOperation, match="'relu=both' has no way back.* can serve: gradient"):
        ways.check_carried(graph, 1, Rule(relu="both"))


def test_pointwise_convolutions_of_few_images_go_by_rows() -> None:
    """To and from the pixels as torch has them; of an image of one row, of many channels, with and without a bias."""
    torch.manual_seed(0)
    for count, (height, width), bias in ((3, (5, 7), True), (1, (1, 9), False), (20, (4, 4), True)):
        convolution = nn.Conv2d(6, 10, 1, bias=bias)
        network = Network(convolution, (6, height, width))
        operation = network.graph.nodes[-1].operation
        assert isinstance(operation, Convolution)
        x = torch.randn(count, 6, height, width).contiguous(memory_format=torch.channels_last).requires_grad_()
        expected = convolution(x)
        signal = torch.randn_like(expected)
        found, back = operation.forward(x.detach()), operation.transposed(signal, x.shape)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(back, torch.autograd.grad(expected, x, signal)[0])
        assert found.is_contiguous(memory_format=torch.channels_last)
