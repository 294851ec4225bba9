"""deconv/rules.py: each cell of the table, alone, on its operation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deconv import operations as ops
from deconv import rules
from deconv.errors import UnknownName, UnsupportedOperation
from deconv.graph import Node
from deconv.spatial import AveragePool, Convolution, MaxPool, Pad, Window

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn((2, 4, 7, 8), generator=GENERATOR, dtype=torch.float64)


def weight(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


def node(operation: Any, kind: str = "some", path: str = "features.3") -> Node:
    return Node(path, path, kind, operation, (0,), (), True)


def there_and_back(operation: Any, rule: str, *inputs: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """(output, a signal shaped like it, what comes back of the signal)."""
    way = rules.way_back(node(operation), rule)
    output, memory = way.up(operation, *(x.clone() for x in inputs))
    signal = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return output, signal, way.down(operation, signal.clone(), memory, [x.shape for x in inputs])


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
        ops.Call(torch.ops.aten.add.Tensor, (ops.Slot(0), ops.Slot(1)), {"alpha": -2}, True, True), (X, X + 1)
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", rules.RULES)
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
        way = rules.way_back(node(operation), rule)
        assert way.up_in_place is not None
        overwritten = X.clone()
        in_place, memory = way.up_in_place(operation, overwritten)
        assert in_place.data_ptr() == overwritten.data_ptr() and torch.equal(in_place, output)
        torch.testing.assert_close(way.down(operation, signal.clone(), memory, [X.shape])[0], back)


def test_local_response_norm_is_left_out_by_deconvnet_alone() -> None:
    operation = ops.LocalResponseNorm(3, 0.5, 0.75, 1.0)
    for rule in rules.RULES:
        output, signal, (back,) = there_and_back(operation, rule, X)
        torch.testing.assert_close(output, F.local_response_norm(X, 3, 0.5, 0.75, 1.0))
        expected = signal if rule == "deconvnet" else derivative(operation, signal, X)[0]
        torch.testing.assert_close(back, expected)


def test_values_that_share_a_switch_add() -> None:
    """One strongest place under four windows."""
    maps = torch.zeros(1, 1, 5, 5)
    maps[0, 0, 2, 2] = 1
    operation = MaxPool(Window((3, 3), (1, 1), (0, 0), (1, 1)), False)
    way = rules.way_back(node(operation), "deconvnet")
    output, memory = way.up(operation, maps)
    (back,) = way.down(operation, torch.ones_like(output), memory, [maps.shape])
    assert back[0, 0, 2, 2] == 9 and back.sum() == 9


def test_signals_that_share_memory_are_not_written_over() -> None:
    """A mean hands the same number to every place, by strides of zero."""
    for rule in rules.RULES:
        way, operation = rules.way_back(node(ops.Rectifier()), rule), ops.Rectifier()
        _, memory = way.up(operation, X)
        signal = torch.tensor(-1.0, dtype=torch.float64).expand(X.shape)
        (back,) = way.down(operation, signal, memory, [X.shape])
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


SIGMOID = node(ops.Call(torch.ops.aten.sigmoid.default, (ops.Slot(0),), {}, False, True), "sigmoid", "features.3.gate")


def test_other_operations_serve_the_gradient_only() -> None:
    _, signal, (back,) = there_and_back(SIGMOID.operation, "gradient", X)
    torch.testing.assert_close(back, signal * X.sigmoid() * (1 - X.sigmoid()))
    for rule in ("deconvnet", "guided"):
        message = f"'{rule}' has no way back through 'sigmoid' in features.3.gate: .* can serve: gradient"
        with pytest.raises(UnsupportedOperation, match=message):
            rules.way_back(SIGMOID, rule)


def test_support_is_checked_before_anything_is_computed() -> None:
    nodes = [node(ops.Input()), node(ops.Rectifier()), SIGMOID]
    rules.check_supported(nodes, "gradient")
    rules.check_supported(nodes[:2], "deconvnet")
    with pytest.raises(UnsupportedOperation, match="'sigmoid' in features.3.gate"):
        rules.check_supported(nodes, "deconvnet")


def test_an_unknown_rule_is_named() -> None:
    with pytest.raises(UnknownName, match="'lrp' is unknown; expected one of deconvnet, guided, gradient"):
        rules.way_back(SIGMOID, "lrp")
