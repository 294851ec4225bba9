"""A forward pass that keeps what the signals need, and the backward pass that sends them; on whole maps or windows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from torch import Tensor

from deconv.network.graph import Graph, run
from deconv.network.operations import Input
from deconv.network.spatial import MaxPool
from deconv.projection.rules import Rule, as_rule
from deconv.projection.switches import CHOSEN, chosen_switches
from deconv.projection.table import Memory
from deconv.projection.tapered import Maps
from deconv.projection.ways import carrying, forward_cell, way_back

Tape = dict[int, Memory]
"""What the backward pass needs of the forward pass: {node index: what the node remembers}."""


def forward(
    graph: Graph,
    target: int,
    images: Tensor,
    rules: Sequence[str | Rule],
    maps: Maps,
    through: Collection[int] = (),
) -> tuple[Tensor, Tape, dict[int, Tensor]]:
    """Return the target's value, one tape for `backward` by any of the rules, and the values of the nodes `through`.

    images: (N, C, H, W), or windows (N, C, h, w) of images, which are worked on in place; values are (N, *shape), and
    those of windows mean nothing outside the map. Without rules the tape is empty.
    """
    tape: Tape = {}
    reached = [(rule, carrying(graph, target, rule)) for rule in map(as_rule, rules)]

    def compute(index: int, inputs: list[Tensor]) -> Tensor:
        node = graph.nodes[index]
        cell = forward_cell(graph, index, [rule for rule, indices in reached if index in indices])
        overwrites = index in graph.overwriting and node.inputs[0] not in through
        in_place = cell.forward_in_place if overwrites else None
        read = [maps.read(index, source, value) for source, value in zip(node.inputs, inputs, strict=True)]
        output, tape[index] = (in_place or cell.forward)(maps.operation(index), *read)
        return output

    values = dict(run(graph, images, {target, *through}, compute))
    return values[target], tape, {index: values[index] for index in through}


def backward(
    graph: Graph,
    target: int,
    signal: Tensor,
    tape: Tape,
    rule: str | Rule,
    maps: Maps,
    meet: Callable[[int, Tensor], None] | None = None,
    blocked: int | None = None,
) -> Tensor:
    """Return a signal (N, *shape), shaped as the target's value and written over, sent back to the images' pixels.

    meet: is called with the index of each node on the way and all of the signal that comes back to it.
    blocked: a node that passes nothing on, so that what comes back has gone around it.
    """
    rule = as_rule(rule)
    signals = {target: signal}
    for index in reversed(graph.ancestors([target])):
        node = graph.nodes[index]
        if isinstance(node.operation, Input) or index not in signals:
            continue
        signal = signals.pop(index)
        if index == blocked:
            continue
        if meet is not None:
            meet(index, signal)
        operation, shapes = maps.operation(index), maps.input_shapes(index, len(signal))
        way = way_back(graph, index, rule)
        returned = way.cell.backward(operation, signal, tape[index], shapes)
        for source, share in zip(way.sources, returned, strict=True):
            if share is not None:
                signals[source] = maps.returned(index, source, share, signals.get(source))
    return signals[0] if 0 in signals else signal.new_zeros(maps.pixels_shape(len(signal)))


def with_switches(tape: Tape, graph: Graph, rule: Rule, maps: Maps, lent_tape: Tape | None) -> Tape:
    """Return the tape with the switches that the rule takes: its own, chosen ones, or those of the lenders' tape."""
    pools = [index for index in tape if isinstance(graph.nodes[index].operation, MaxPool)]
    if rule.switches in CHOSEN:
        return tape | {pool: (chosen_switches(graph, pool, rule.switches, rule.seed, maps),) for pool in pools}
    if rule.switches == "other" and lent_tape is not None:
        return tape | {pool: lent_tape[pool] for pool in pools}
    return tape
