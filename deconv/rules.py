"""How each operation is sent backwards, by rule: one table, operation x rule.

- `deconvnet`: Zeiler and Fergus 2013, section 2.1: unpool by switches, rectify the signal, filter with transposed
  weights.
- `guided`: Springenberg et al. 2014 (arXiv 1412.6806): rectify the signal, let it pass only where the forward ReLU did.
- `gradient`: the derivative (Simonyan et al. 2013, arXiv 1312.6034).

The rules differ at rectifiers and at local response normalisation (which deconvnet leaves out on the way down); all
else is linear, or a choice of the maximum, and goes back by its transpose. The table does not know whether it works on
whole maps or on windows cut out of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deconv import operations as ops
from deconv.errors import UnknownName, UnsupportedOperation
from deconv.graph import Node
from deconv.spatial import AveragePool, Convolution, MaxPool, Pad

RULES = ("deconvnet", "guided", "gradient")
Memory = tuple[Tensor, ...]
Shapes = list[torch.Size]


@dataclass(frozen=True)
class Way:
    """One cell of the table.

    up(operation, *inputs) -> (output, memory): the forward step, and the maps it must remember to come back.
    up_in_place: `up` where it may write over its input.
    down(operation, signal, memory, input_shapes) -> one signal for each input; may write over `signal`.
    """

    up: Callable[..., tuple[Tensor, Memory]]
    down: Callable[[Any, Tensor, Memory, Shapes], tuple[Tensor, ...]]
    up_in_place: Callable[..., tuple[Tensor, Memory]] | None = None


def way_back(node: Node, rule: str) -> Way:
    """The table's cell for a node. Raises UnsupportedOperation where there is none, UnknownName for an unknown rule."""
    if rule not in RULES:
        raise UnknownName(f"rule {rule!r} is unknown; expected one of {', '.join(RULES)}.")
    operation = node.operation
    if isinstance(operation, ops.Call):
        row = LINEAR_CALL if operation.linear else OTHER_CALL
    else:
        row = TABLE[type(operation)]
    if rule not in row:
        raise UnsupportedOperation(
            f"{rule!r} has no way back through '{node.kind}' in {node.path or 'the network itself'}: "
            f"it is neither linear nor a ReLU. Rules that can serve: {', '.join(row)}; or choose a layer before it."
        )
    return row[rule]


def check_supported(nodes: Iterable[Node], rule: str) -> None:
    """Raise UnsupportedOperation, naming the first operation that `rule` cannot send back."""
    for node in nodes:
        if not isinstance(node.operation, ops.Input):
            way_back(node, rule)


def _forward(operation: Any, *inputs: Tensor) -> tuple[Tensor, Memory]:
    return operation.forward(*inputs), ()


def _forward_keeping_inputs(operation: Any, *inputs: Tensor) -> tuple[Tensor, Memory]:
    return operation.forward(*inputs), inputs


def _rectify_in_place(operation: ops.Rectifier, x: Tensor) -> tuple[Tensor, Memory]:
    return operation.forward_in_place(x), ()


def _rectify_keeping_mask(operation: ops.Rectifier, x: Tensor) -> tuple[Tensor, Memory]:
    output = operation.forward(x)
    return output, (operation.passes(output),)


def _rectify_in_place_keeping_mask(operation: ops.Rectifier, x: Tensor) -> tuple[Tensor, Memory]:
    output = operation.forward_in_place(x)
    return output, (operation.passes(output),)


def _pool_keeping_switches(operation: MaxPool, x: Tensor) -> tuple[Tensor, Memory]:
    pooled, switches = operation.forward_with_switches(x)
    return pooled, (switches,)


def _rectified(operation: ops.Rectifier, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[Tensor, ...]:
    return (torch.relu_(_own(signal)),)


def _masked_rectified(operation: ops.Rectifier, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[Tensor, ...]:
    return (torch.relu_(_own(signal)).mul_(memory[0]),)


def _masked(operation: ops.Rectifier, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[Tensor, ...]:
    return (_own(signal).mul_(memory[0]),)


def _own(signal: Tensor) -> Tensor:
    """The signal itself, which nothing else holds, unless several of its places share memory."""
    return signal.clone() if 0 in signal.stride() else signal


def _unpooled(operation: MaxPool, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[Tensor, ...]:
    return (operation.unpool(signal, memory[0], shapes[0]),)


def _unchanged(operation: Any, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[Tensor, ...]:
    return (signal,)


def _transposed_filters(operation: Convolution, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[Tensor, ...]:
    return (operation.transposed(signal, shapes[0]),)


def _scaled(operation: ops.ChannelScale, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[Tensor, ...]:
    return (signal * operation.scale.view((1, -1) + (1,) * (signal.dim() - 2)),)


def _cropped(operation: Pad, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[Tensor, ...]:
    top, bottom, left, right = operation.padding
    return (F.pad(signal, (-left, -right, -top, -bottom)),)


def _split(operation: ops.Concatenate, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[Tensor, ...]:
    return tuple(signal.split([shape[1] for shape in shapes], dim=1))


def _copied(operation: ops.Add, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[Tensor, ...]:
    return signal, signal.clone()


def _reshaped(operation: ops.Reshape, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[Tensor, ...]:
    return (signal.reshape(shapes[0]),)


def _derived(operation: Any, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[Tensor, ...]:
    """The vector-Jacobian product; for a linear operation it is the same at any point, so zeros serve."""
    points = memory or tuple(signal.new_zeros(shape) for shape in shapes)
    with torch.enable_grad():
        points = tuple(point.detach().requires_grad_() for point in points)
        output = operation.forward(*points)
    derived = torch.autograd.grad(output, points, signal)
    return tuple(part.clone() for part in derived)  # autograd may give one tensor for two inputs


def _every_rule(way: Way) -> dict[str, Way]:
    return dict.fromkeys(RULES, way)


DERIVED = Way(_forward_keeping_inputs, _derived)
TABLE: dict[type, dict[str, Way]] = {
    ops.Rectifier: {
        "deconvnet": Way(_forward, _rectified, _rectify_in_place),
        "guided": Way(_rectify_keeping_mask, _masked_rectified, _rectify_in_place_keeping_mask),
        "gradient": Way(_rectify_keeping_mask, _masked, _rectify_in_place_keeping_mask),
    },
    MaxPool: _every_rule(Way(_pool_keeping_switches, _unpooled)),
    Convolution: _every_rule(Way(_forward, _transposed_filters)),
    ops.ChannelScale: _every_rule(Way(_forward, _scaled)),
    AveragePool: _every_rule(Way(_forward, _derived)),
    Pad: _every_rule(Way(_forward, _cropped)),
    ops.Concatenate: _every_rule(Way(_forward, _split)),
    ops.Add: _every_rule(Way(_forward, _copied)),
    ops.Reshape: _every_rule(Way(_forward, _reshaped)),
    ops.LocalResponseNorm: {"deconvnet": Way(_forward, _unchanged), "guided": DERIVED, "gradient": DERIVED},
}
LINEAR_CALL = _every_rule(Way(_forward, _derived))
OTHER_CALL = {"gradient": DERIVED}
