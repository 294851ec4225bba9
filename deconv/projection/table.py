"""How each operation is sent backwards, by rule: one table, operation x choice (`rule_options`).

- `deconvnet`: Zeiler and Fergus 2013, section 2.1: unpool by switches, rectify the signal, filter with transposed
  weights.
- `guided`: Springenberg et al. 2014 (arXiv 1412.6806): rectify the signal, let it pass only where the forward ReLU did.
- `gradient`: the derivative (Simonyan et al. 2013, arXiv 1312.6034).

The three differ at rectifiers and at local response normalisation (which deconvnet leaves out on the way down); all
else is linear, or a choice of the maximum, and goes back by its transpose. The table does not know whether it works on
whole maps or on windows cut out of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deconv.errors import UnsupportedOperation, first_line
from deconv.network import operations as ops
from deconv.network.graph import Node
from deconv.network.spatial import AveragePool, Convolution, MaxPool, Pad
from deconv.projection.rules import RULES, Rule, as_rule

__all__ = ["RULES", "Memory", "Rule", "Way", "as_rule", "check_supported", "way_back", "way_up"]
Memory = tuple[Tensor, ...]
Shapes = list[torch.Size]


@dataclass(frozen=True)
class Way:
    """One cell of the table.

    up(operation, *inputs) -> (output, memory): the forward step, and the maps it must remember to come back.
    up_in_place: `up` where it may write over its input.
    down(operation, signal, memory, input_shapes) -> one signal for each input, None where none passes; may write over
        `signal`.
    """

    up: Callable[..., tuple[Tensor, Memory]]
    down: Callable[[Any, Tensor, Memory, Shapes], tuple[Any, ...]]
    up_in_place: Callable[..., tuple[Tensor, Memory]] | None = None


def way_back(node: Node, rule: str | Rule) -> Way:
    """The table's cell for a node. Raises UnsupportedOperation where there is none, UnknownName for an unknown rule."""
    rule, operation = as_rule(rule), node.operation
    if isinstance(operation, ops.Call) and not operation.linear:
        _check_derivative(node, rule)
        return DERIVED
    way = _linear_call(operation) if isinstance(operation, ops.Call) else TABLE[type(operation)]
    if not isinstance(way, Way):
        option, ways = way
        way = ways[getattr(rule, option)]
    left_out = isinstance(operation, ops.ChannelScale) and rule.batch_norm == "identity"
    return _without_bias(way) if rule.bias == "subtract" and not left_out else way


def _linear_call(operation: ops.Call) -> Way:
    return DERIVED if operation.chooses else LINEAR_CALL


def way_up(node: Node, rules: Sequence[str | Rule]) -> Way:
    """The cell by which a node goes up once for several rules: one that remembers what any of them needs.

    A node has one kind of thing to remember, and a way down that needs none of it leaves it unread.
    """
    ways = [way_back(node, rule) for rule in rules]
    return next((way for way in ways if way.up is not _forward), ways[0])


def _check_derivative(node: Node, rule: Rule) -> None:
    """Only a rule that takes a rectifier's derivative has a counterpart for what is neither linear nor a ReLU."""
    if rule.relu != "forward":
        able = [name for name, known in RULES.items() if known.relu == "forward"]
        raise UnsupportedOperation(
            f"{rule.name!r} has no way back through '{node.kind}' in {node.path or 'the network itself'}: "
            f"it is neither linear nor a ReLU. Rules that can serve: {', '.join(able)}; or choose a layer before it."
        )


def check_supported(nodes: Iterable[Node], rule: str | Rule) -> None:
    """Raise UnsupportedOperation, naming the first operation that `rule` cannot send back."""
    rule = as_rule(rule)
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


def _derived(operation: Any, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[Tensor | None, ...]:
    """The vector-Jacobian product; for a linear operation it is the same at any point, so zeros serve.

    None for inputs of whole numbers, which have no derivative.
    """
    points = memory or tuple(signal.new_zeros(shape) for shape in shapes)
    if isinstance(operation, ops.Call) and not operation.pointwise:
        # channels last, torch's derivative of instance_norm is another (2.14); and the user's own maps were not
        signal, points = signal.contiguous(), tuple(point.contiguous() for point in points)
    with torch.inference_mode(False), torch.enable_grad():
        points = tuple(_differentiable(point) for point in points)
        inputs = [point for point in points if point.requires_grad]
        # what writes in place must not write on a leaf
        output = operation.forward(*(point.view_as(point) if point.requires_grad else point for point in points))
        if not output.requires_grad:
            return tuple(None for _ in points)
        signal = signal.to(output.dtype)
        try:
            derived = iter(
                torch.autograd.grad(output, inputs, _normal(signal), allow_unused=True, materialize_grads=True)
            )
        except (RuntimeError, NotImplementedError) as error:
            if "derivative" not in str(error):
                raise
            raise UnsupportedOperation(f"autograd has no derivative here: {first_line(error)}") from error
    return tuple(next(derived).clone() if point.requires_grad else None for point in points)  # one may serve two inputs


def _differentiable(point: Tensor) -> Tensor:
    """The same values as a leaf of autograd's, if they are of floating point."""
    point = _normal(point).detach()
    return point.requires_grad_() if point.is_floating_point() or point.is_complex() else point


def _normal(value: Tensor) -> Tensor:
    """A tensor that autograd takes, which one made in inference mode is not."""
    return value.clone() if value.is_inference() else value


def _spelled(operation: ops.SpelledRectifier, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[Any, ...]:
    return _derived(_Spelling(operation), signal, memory, shapes)


@dataclass(frozen=True)
class _Spelling:
    """A rectifier's operation that runs as the user wrote it."""

    operation: ops.SpelledRectifier

    def forward(self, x: Tensor) -> Tensor:
        return self.operation.spelled(x)


def _stopped(operation: Any, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[None, ...]:
    return tuple(None for _ in shapes)


def _cast_back(operation: ops.Cast, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[Tensor, ...]:
    return (signal.to(operation.source),)


def offset(operation: Any, shapes: Shapes, like: Tensor) -> Tensor | None:
    """What an affine operation adds, shaped to be added to its output; None if it adds nothing."""
    if isinstance(operation, ops.ChannelScale):
        return operation.shift.view((1, -1) + (1,) * (like.dim() - 2))
    if isinstance(operation, Convolution):
        return None if operation.bias is None else operation.bias.view(1, -1, 1, 1)
    if isinstance(operation, ops.Call):
        added: Tensor = operation.forward(*(like.new_zeros(shape) for shape in shapes))
        return added
    return None


def without_bias(signal: Tensor, bias: Tensor | None) -> Tensor:
    """The signal less the bias where it is not zero: what was not kept stays out."""
    return signal if bias is None else torch.where(signal != 0, signal - bias, signal)


def _without_bias(way: Way) -> Way:
    def down(operation: Any, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[Any, ...]:
        return way.down(operation, without_bias(signal, offset(operation, shapes, signal)), memory, shapes)

    return replace(way, down=down)


FORWARD_ONLY = Way(_forward, _stopped)
"""For what lies behind a detached value."""
DERIVED = Way(_forward_keeping_inputs, _derived)
LINEAR_CALL = Way(_forward, _derived)
RECORDED = Way(_pool_keeping_switches, _unpooled)
CHOSEN = Way(_forward, _unpooled)  # `walk` remembers the switches
TABLE: dict[type, Way | tuple[str, dict[str, Way]]] = {
    ops.Rectifier: (
        "relu",
        {
            "backward": Way(_forward, _rectified, _rectify_in_place),
            "both": Way(_rectify_keeping_mask, _masked_rectified, _rectify_in_place_keeping_mask),
            "forward": Way(_rectify_keeping_mask, _masked, _rectify_in_place_keeping_mask),
            "none": Way(_forward, _unchanged, _rectify_in_place),
        },
    ),
    ops.SpelledRectifier: (
        "relu",
        {
            "backward": Way(_forward, _rectified),
            "both": Way(_rectify_keeping_mask, _masked_rectified),
            "forward": Way(_forward_keeping_inputs, _spelled),
            "none": Way(_forward, _unchanged),
        },
    ),
    MaxPool: ("switches", {"recorded": RECORDED, "other": RECORDED, "random": CHOSEN, "centre": CHOSEN}),
    ops.ChannelScale: ("batch_norm", {"scale": Way(_forward, _scaled), "identity": Way(_forward, _unchanged)}),
    ops.LocalResponseNorm: ("lrn", {"identity": Way(_forward, _unchanged), "derivative": DERIVED}),
    ops.Cast: Way(_forward, _cast_back),
    ops.Overwrite: Way(_forward, _derived),
    ops.Detached: Way(_forward, _stopped),
    Convolution: Way(_forward, _transposed_filters),
    AveragePool: Way(_forward, _derived),
    Pad: Way(_forward, _cropped),
    ops.Concatenate: Way(_forward, _split),
    ops.Add: Way(_forward, _copied),
    ops.Reshape: Way(_forward, _reshaped),
}
