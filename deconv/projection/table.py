"""How each operation is sent backwards, by rule: one table, operation x rule -> `Backward`.

- `deconvnet`: Zeiler and Fergus 2013, section 2.1: unpool by switches, rectify the signal, filter with transposed
  weights.
- `guided`: Springenberg et al. 2014 (arXiv 1412.6806): rectify the signal, let it pass only where the forward ReLU did.
- `gradient`: the derivative (Simonyan et al. 2013, arXiv 1312.6034).

The three differ at rectifiers and at local response normalisation (which deconvnet leaves out on the way back); all
else is linear, or a choice of the maximum, and goes back by its transpose; what is neither, by its derivative or as
further options say (`ways`). The table does not know whether it works on whole maps or on windows cut out of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deconv.errors import UnsupportedOperation, first_line
from deconv.network import operations as ops
from deconv.network.graph import Node
from deconv.network.spatial import AveragePool, Convolution, MaxPool, Pad
from deconv.projection.rules import Rule, as_rule

Memory = tuple[Tensor, ...]
"""What a node keeps of its forward step."""
Shapes = list[torch.Size]


@dataclass(frozen=True)
class Backward:
    """One cell of the table: how an operation runs forward so that a signal can come back, and how it comes back.

    forward(operation, *inputs) -> (output, memory): the forward step, and the tensors that it must keep.
    backward(operation, signal, memory, input_shapes): a tuple of one signal for each input, None where none passes; may
        write over `signal`.
    forward_in_place: `forward` where it may write over its input.
    remembers: whether the memory holds anything.
    """

    forward: Callable[..., tuple[Tensor, Memory]]
    backward: Callable[[Any, Tensor, Memory, Shapes], tuple[Any, ...]]
    forward_in_place: Callable[..., tuple[Tensor, Memory]] | None = None
    remembers: bool = False


def backward_of(node: Node, rule: str | Rule) -> Backward:
    """Return the table's cell for a node and a rule. Raises UnsupportedOperation where there is none, UnknownName."""
    rule = as_rule(rule)
    cell = cell_of(node.operation, rule)
    if cell is None:
        raise no_way_back(node, rule)
    return cell


def no_way_back(
    node: Node, rule: Rule, remedy: str = "rules that can serve: gradient", why: str = "it is neither linear nor a ReLU"
) -> UnsupportedOperation:
    """Return the error of an operation that a rule cannot send back."""
    named = f"{rule.name!r} has no way back through '{node.kind}' in {node.path or 'the network itself'}"
    return UnsupportedOperation(f"{named}: {why}; {remedy}; or choose a layer before it")


def cell_of(operation: Any, rule: Rule) -> Backward | None:
    """Return the table's cell for an operation and a rule, None where there is none."""
    return TABLE[type(operation)](rule)


def _forward(operation: Any, *inputs: Tensor) -> tuple[Tensor, Memory]:
    return operation.forward(*inputs), ()


def forward_keeping_inputs(operation: Any, *inputs: Tensor) -> tuple[Tensor, Memory]:
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


def _rectified(operation: Any, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[Tensor, ...]:
    return (torch.relu_(_writable(signal)),)


def _masked_rectified(operation: ops.Rectifier, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[Tensor, ...]:
    return (torch.relu_(_writable(signal)).mul_(memory[0]),)


def _masked(operation: ops.Rectifier, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[Tensor, ...]:
    return (_writable(signal).mul_(memory[0]),)


def _writable(signal: Tensor) -> Tensor:
    """The signal itself, which nothing else holds, unless several of its positions share memory."""
    return signal.clone() if 0 in signal.stride() else signal


def _unpooled(operation: MaxPool, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[Tensor, ...]:
    return (operation.unpool(signal, memory[0], shapes[0]),)


def _unchanged(operation: Any, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[Tensor, ...]:
    return (signal,)


def _transposed_filters(operation: Convolution, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[Tensor, ...]:
    return (operation.transposed(signal, shapes[0]),)


def _scaled(operation: ops.ChannelScale, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[Tensor, ...]:
    return (signal * _along_channels(operation.scale, signal),)


def _by_derivative(operation: ops.LocalResponseNorm, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[Tensor]:
    return (operation.transposed(signal, memory[0]),)


def _cropped(operation: Pad, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[Tensor, ...]:
    top, bottom, left, right = operation.padding
    return (F.pad(signal, (-left, -right, -top, -bottom)),)


def _split(operation: ops.Concatenate, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[Tensor, ...]:
    return tuple(signal.split([shape[1] for shape in shapes], dim=1))


def _copied(operation: ops.Add, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[Tensor, ...]:
    return signal, signal.clone()


def _reshaped(operation: ops.Reshape, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[Tensor, ...]:
    return (signal.reshape(shapes[0]),)


def derived(
    operation: Any, signal: Tensor, memory: Memory, shapes: Shapes, towards: Collection[int] | None = None
) -> tuple[Tensor | None, ...]:
    """Return the vector-Jacobian product; for a linear operation it is the same at any point, so zeros serve.

    towards: the inputs that it is asked for, the others being constants; None for all. It is None for those, and for
    inputs of whole numbers, which have no derivative.
    """
    points = memory or tuple(signal.new_zeros(shape) for shape in shapes)
    if isinstance(operation, ops.Call) and not operation.pointwise:
        # channels last, torch's derivative of instance_norm is another (2.14); and the user's own maps were not
        signal, points = signal.contiguous(), tuple(point.contiguous() for point in points)
    with torch.inference_mode(False), torch.enable_grad():
        points = tuple(
            _differentiable(point) if towards is None or n in towards else _normal(point).detach()
            for n, point in enumerate(points)
        )
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
    return derived(_Spelling(operation), signal, memory, shapes)


def _masked_spelled(operation: ops.SpelledRectifier, signal: Tensor, memory: Memory, shapes: Shapes) -> Any:
    return (torch.relu_(_writable(signal)).mul_(operation.passes(operation.forward(memory[0]))),)


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


def without_bias(signal: Tensor, bias: Tensor | None) -> Tensor:
    """Return the signal less the bias where it is not zero: what was not kept stays out."""
    return signal if bias is None else torch.where(signal != 0, signal - bias, signal)


def _filter_bias(operation: Convolution, signal: Tensor, shapes: Shapes) -> Tensor | None:
    return None if operation.bias is None else _along_channels(operation.bias, signal)


def _shift(operation: ops.ChannelScale, signal: Tensor, shapes: Shapes) -> Tensor:
    return _along_channels(operation.shift, signal)


def _answer_to_zeros(operation: ops.LinearCall, signal: Tensor, shapes: Shapes) -> Tensor:
    return operation.forward(*(signal.new_zeros(shape) for shape in shapes))


def _along_channels(values: Tensor, like: Tensor) -> Tensor:
    """(C,) values, shaped to be broadcast over (N, C, ...)."""
    return values.view((1, -1) + (1,) * (like.dim() - 2))


def _by_bias(rule: Rule, cell: Backward, bias_of: Callable[[Any, Tensor, Shapes], Tensor | None]) -> Backward:
    """The cell of an affine operation, which subtracts what the operation adds if the rule says so."""
    if rule.bias == "none":
        return cell

    def backward(operation: Any, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[Any, ...]:
        return cell.backward(operation, without_bias(signal, bias_of(operation, signal, shapes)), memory, shapes)

    return replace(cell, backward=backward)


LEFT_OUT, TRANSPOSED = Backward(_forward, _unchanged), Backward(_forward, _transposed_filters)
FORWARD_ONLY = Backward(_forward, _stopped)
"""For what no signal reaches: detached values, and all that lies behind them."""
DERIVED, LINEAR = Backward(forward_keeping_inputs, derived, remembers=True), Backward(_forward, derived)
RECORDED = Backward(_pool_keeping_switches, _unpooled, remembers=True)
CHOSEN = Backward(_forward, _unpooled)
"""A max-pooling whose switches are put on the tape after the forward pass (`passes.with_switches`)."""
RECTIFIERS = {
    "backward": Backward(_forward, _rectified, _rectify_in_place),
    "both": Backward(_rectify_keeping_mask, _masked_rectified, _rectify_in_place_keeping_mask, remembers=True),
    "forward": Backward(_rectify_keeping_mask, _masked, _rectify_in_place_keeping_mask, remembers=True),
    "none": Backward(_forward, _unchanged, _rectify_in_place),
}
SPELLED = RECTIFIERS | {
    "both": Backward(forward_keeping_inputs, _masked_spelled, remembers=True),
    "forward": Backward(forward_keeping_inputs, _spelled, remembers=True),
}
"""Whatever the rule, they remember one kind of thing, as every type of node does: one forward pass serves all rules."""
SCALED, NEIGHBOURLY = Backward(_forward, _scaled), Backward(forward_keeping_inputs, _by_derivative, remembers=True)
CROPPED, SPLIT, COPIED = Backward(_forward, _cropped), Backward(_forward, _split), Backward(_forward, _copied)
RESHAPED, CAST_BACK = Backward(_forward, _reshaped), Backward(_forward, _cast_back)

TABLE: dict[type, Callable[[Rule], Backward | None]] = {
    ops.Rectifier: lambda rule: RECTIFIERS[rule.relu],
    ops.SpelledRectifier: lambda rule: SPELLED[rule.relu],
    MaxPool: lambda rule: RECORDED if rule.switches in ("recorded", "other") else CHOSEN,
    Convolution: lambda rule: _by_bias(rule, TRANSPOSED, _filter_bias),
    ops.ChannelScale: lambda rule: LEFT_OUT if rule.batch_norm == "identity" else _by_bias(rule, SCALED, _shift),
    ops.LocalResponseNorm: lambda rule: LEFT_OUT if rule.lrn == "identity" else NEIGHBOURLY,
    AveragePool: lambda rule: LINEAR,
    Pad: lambda rule: CROPPED,
    ops.Concatenate: lambda rule: SPLIT,
    ops.Add: lambda rule: COPIED,
    ops.Reshape: lambda rule: RESHAPED,
    ops.LinearCall: lambda rule: _by_bias(rule, LINEAR, _answer_to_zeros),
    ops.ChoosingCall: lambda rule: DERIVED,
    ops.Cast: lambda rule: CAST_BACK,
    ops.Overwrite: lambda rule: LINEAR,
    ops.Detached: lambda rule: FORWARD_ONLY,
    ops.Selection: lambda rule: DERIVED if rule.switches == "recorded" or rule.relu == "forward" else None,
    # neither linear nor a ReLU: only a rule that takes a rectifier's derivative has a counterpart for it
    ops.Call: lambda rule: DERIVED if rule.relu == "forward" else None,
}
