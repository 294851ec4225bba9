"""How a node of a graph is sent backwards by a rule: by the table, or by what the rule's further options make of it.

Those options are for what is neither linear nor a rectifier (`deconv.network.roles`):

- `activation`: the signal is rectified as at a ReLU, and goes straight to the value that the function is one of;
- `gate`: of a product, the factor that is a gate is a constant, and no signal goes to it;
- `norm`: mean and deviation are constants, so that a normalisation is a scale.

Where the option says "derivative" the node goes back as by `gradient`. A rule whose `linear` is not "transpose" shares
relevance out (`relevance`) where others send a signal back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from deconv.errors import UnsupportedOperation
from deconv.network import operations as ops
from deconv.network.graph import Graph, Node
from deconv.network.roles import NORMS, roles
from deconv.projection.relevance import sharing
from deconv.projection.rules import CHOICES, RULES, Rule
from deconv.projection.table import (
    FORWARD_ONLY,
    RECTIFIERS,
    Backward,
    Memory,
    Shapes,
    backward_of,
    cell_of,
    derived,
    forward_keeping_inputs,
    no_way_back,
)

BEYOND = ("activation", "gate", "norm")


@dataclass(frozen=True)
class Way:
    """The way back through a node: its cell, and the nodes to which the signals go that the cell's `backward` gives."""

    sources: tuple[int, ...]
    cell: Backward


def way_back(graph: Graph, index: int, rule: Rule) -> Way:
    """Return the way back through a node by a rule. Raises UnsupportedOperation where there is none."""
    node = graph.nodes[index]
    return _way(graph, index, rule) or Way(node.inputs, backward_of(node, rule))


def forward_cell(graph: Graph, index: int, rules: Sequence[Rule]) -> Backward:
    """Return the cell by which a node runs forward once for the rules whose signals reach it.

    A node has one kind of thing to remember: the cell of any rule that remembers it serves the others, which ignore it.
    """
    cells = [way_back(graph, index, rule).cell for rule in rules]
    unneeded = RECTIFIERS["none"] if isinstance(graph.nodes[index].operation, ops.Rectifier) else FORWARD_ONLY
    return next((cell for cell in cells if cell.remembers), cells[0] if cells else unneeded)


def carrying(graph: Graph, target: int, rule: Rule) -> set[int]:
    """Return the indices of the target and of every node that a signal sent back from it by the rule can reach."""
    reached, pending = set(), [target]
    while pending:
        index = pending.pop()
        if index not in reached:
            reached.add(index)
            pending.extend(sources_of(graph, index, rule))
    return reached


def sources_of(graph: Graph, index: int, rule: Rule) -> tuple[int, ...]:
    """Return the nodes to which a signal goes on from a node by the rule."""
    node = graph.nodes[index]
    if isinstance(node.operation, ops.Detached | ops.Input):
        return ()
    way = _way(graph, index, rule) if rule.goes_beyond else None
    return node.inputs if way is None else way.sources


def check_carried(graph: Graph, target: int, rule: Rule) -> None:
    """Raise UnsupportedOperation unless the rule can send signals back from a node to the image.

    The error names the first operation that it has no way through, and the options and the rules that have one.
    """
    blocked = blocked_at(graph, target, rule)
    if blocked is not None and isinstance(graph.nodes[blocked].operation, ops.Detached):
        node = graph.nodes[blocked]
        raise UnsupportedOperation(
            f"no rule has a way back to the image: '{node.kind}' in {node.path or 'the network'} computes without "
            "gradients, as under no_grad or in whole numbers; expected a forward with gradients on"
        )
    if blocked is not None:
        role = roles(graph).get(blocked)
        untold = role is not None and not role.told and rule.gate == "constant"
        why = {"why": "which of its factors is the gate cannot be told"} if untold else {}
        if isinstance(graph.nodes[blocked].operation, ops.Selection):
            why = {"why": f"it chooses among what it reads, and switches={rule.switches!r} is for pooling windows"}
        earlier = [(name, index) for name, index in graph.layers.items() if index < blocked]
        before = next((name for name, index in reversed(earlier) if blocked_at(graph, index, rule) is None), None)
        error = no_way_back(graph.nodes[blocked], rule, _remedy(graph, target, rule), **why)
        raise error if before is None else UnsupportedOperation(f"{error}, as {before!r}")


def blocked_at(graph: Graph, target: int, rule: Rule) -> int | None:
    """Return the index of the first node on the way back from the target that the rule has no way through, or None."""
    reached = sorted(carrying(graph, target, rule))
    for index in reached:
        if not isinstance(graph.nodes[index].operation, ops.Input) and _way(graph, index, rule) is None:
            return index
    return reached[0] if isinstance(graph.nodes[reached[0]].operation, ops.Detached) else None  # the image is cut off


def _remedy(graph: Graph, target: int, rule: Rule) -> str:
    able = [name for name, known in RULES.items() if blocked_at(graph, target, known) is None]
    serving = f"rules that can serve: {', '.join(able)}"
    choices = [(getattr(rule, option), *CHOICES[option][1:]) for option in BEYOND]
    changes = [
        {option: choice for option, choice in zip(BEYOND, chosen, strict=True) if choice != getattr(rule, option)}
        for chosen in product(*choices)
    ]
    for change in sorted(changes, key=len):  # of as many, constants come before derivatives
        if change and blocked_at(graph, target, replace(rule, **change)) is None:
            shell = " ".join(f"rule.{option}={choice}" for option, choice in change.items())
            return f"rule={replace(rule, **change).differing()} would carry it, in the shell {shell}; {serving}"
    for choice in ("constant", "derivative"):
        blocked = blocked_at(graph, target, replace(rule, activation="rectify", gate=choice, norm=choice))
        if blocked is not None and blocked not in roles(graph):
            node = graph.nodes[blocked]
            return f"no option carries '{node.kind}' in {node.path or 'the network itself'}; {serving}"
    return serving


def _way(graph: Graph, index: int, rule: Rule) -> Way | None:
    known = _KNOWN.setdefault(graph, {})
    if (index, rule) not in known:
        known[index, rule] = _find_way(graph, index, rule)
    return known[index, rule]


_KNOWN: WeakKeyDictionary[Graph, dict[tuple[int, Rule], Way | None]] = WeakKeyDictionary()
"""The ways through graphs that are in use."""


def _find_way(graph: Graph, index: int, rule: Rule) -> Way | None:
    node = graph.nodes[index]
    role = roles(graph).get(index) if rule.goes_beyond else None
    cell = None
    if role is not None:
        choice = getattr(rule, role.option)
        if choice == "constant" and role.carriers:
            held = sharing(node, _held(node, role.carriers), rule, role.carriers)
            return Way(tuple(node.inputs[carrier] for carrier in role.carriers), held)
        if choice == "derivative":
            cell = cell_of(node.operation, _by_derivative(rule))
        elif role.source is not None and rule.relu != "forward" and rule.activation == "rectify":
            return Way((role.source,), ACTIVATIONS[rule.relu])
        elif role.source is not None and rule.activation == "derivative":
            cell = cell_of(node.operation, _by_derivative(rule))
    cell = cell or cell_of(node.operation, rule)
    return None if cell is None else Way(node.inputs, sharing(node, cell, rule))


@cache
def _by_derivative(rule: Rule) -> Rule:
    return replace(rule, relu="forward")


def _held(node: Node, carriers: tuple[int, ...]) -> Backward:
    if node.kind in NORMS:
        return NORMALISED
    return GATED_HALF if node.kind == "glu" else _towards(carriers)


@cache
def _towards(carriers: tuple[int, ...]) -> Backward:
    """The derivative by some of the inputs, the others being constants."""
    return Backward(forward_keeping_inputs, partial(_derived_towards, carriers), remembers=True)


def _derived_towards(
    carriers: tuple[int, ...], operation: Any, signal: Tensor, memory: Memory, shapes: Shapes
) -> tuple[Tensor | None, ...]:
    shares = derived(operation, signal, memory, shapes, carriers)
    return tuple(shares[carrier] for carrier in carriers)


def _masked_by_output(operation: Any, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[Tensor, ...]:
    return (torch.relu(signal) * (operation.forward(*memory) > 0),)


def _half_gated(operation: ops.Call, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[Tensor, ...]:
    """Of glu(a, b) = a * sigmoid(b): b's half is the gate."""
    axis = operation.arguments[1]
    gate = torch.sigmoid(operation.laid_out(memory[0]).chunk(2, axis)[1])
    signal = _laid_as_given(operation, signal)
    return (_as_read(operation, torch.cat([signal * gate, torch.zeros_like(signal)], axis), len(memory[0])),)


def _laid_as_given(operation: ops.Call, signal: Tensor) -> Tensor:
    """The signal laid out as the function's value."""
    return signal if operation.gives is None else operation.gives.lay_out(signal)


def _as_read(operation: ops.Call, share: Tensor, count: int) -> Tensor:
    """What goes back to the function's only input, its images first again."""
    layout = operation.lays[0] if operation.lays else None
    return share if layout is None else layout.images_first(share, count)


def _normalised(operation: ops.Call, signal: Tensor, memory: Memory, shapes: Shapes) -> tuple[Tensor, ...]:
    """The signal times the norm's weights, divided by the deviation of what the norm read."""
    named, count = _named(operation), len(signal)
    x, weight, eps = operation.laid_out(memory[0]), named["weight"], named["eps"]
    signal = _laid_as_given(operation, signal)
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    if "normalized_shape" in named:
        axes = tuple(range(-len(named["normalized_shape"]), 0))
        square = x.var(axes, correction=0, keepdim=True) if "bias" in named else x.square().mean(axes, keepdim=True)
        scale = torch.rsqrt(square + eps)
        return (_as_read(operation, signal * (scale if weight is None else scale * weight), count),)
    variance = named.get("running_var") if not named.get("use_input_stats", True) else None
    if variance is None:
        groups = named.get("num_groups", x.shape[1])
        variance = x.reshape(len(x), groups, -1).var(2, correction=0).repeat_interleave(x.shape[1] // groups, 1)
    scale = torch.rsqrt(variance + eps)
    scale = scale if weight is None else scale * weight
    return (_as_read(operation, signal * scale.view(-1, x.shape[1], *(1,) * (x.dim() - 2)), count),)


def _named(operation: ops.Call) -> dict[str, Any]:
    """The arguments of a call of torch's own by their names."""
    names = (argument.name for argument in operation.function._schema.arguments)  # type: ignore[attr-defined]
    return dict(zip(names, operation.arguments, strict=False))


ACTIVATIONS = RECTIFIERS | {"both": Backward(forward_keeping_inputs, _masked_by_output, remembers=True)}
"""What passes an activation that is rectified on the way back; with relu "forward" that is its derivative."""
NORMALISED = Backward(forward_keeping_inputs, _normalised, remembers=True)
GATED_HALF = Backward(forward_keeping_inputs, _half_gated, remembers=True)
