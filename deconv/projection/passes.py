"""The way up through a graph, remembering, and the way down again; on whole maps or on windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from deconv.network.graph import Graph
from deconv.network.operations import Input
from deconv.network.spatial import MaxPool
from deconv.projection.rules import Rule, as_rule
from deconv.projection.switches import chosen_switches
from deconv.projection.table import FORWARD_ONLY, Memory, way_back, way_up
from deconv.projection.windows import WholeMaps, Windows


@dataclass(frozen=True)
class Record:
    """What the way down needs of the way up: for each node its memory and the shapes of its inputs."""

    memory: dict[int, Memory] = field(default_factory=dict)
    shapes: dict[int, list[torch.Size]] = field(default_factory=dict)

    def borrowing_switches(self, graph: Graph, other: Record) -> Record:
        """The same with the switches of another record of the same graph, whose maps have the same shapes."""
        return Record(self.memory | {p: other.memory[p] for p in self._pools(graph)}, self.shapes)

    def choosing_switches(self, graph: Graph, rule: Rule, maps: WholeMaps | Windows, device: torch.device) -> Record:
        """The same with the switches that a rule chooses."""
        counts = {p: self.shapes[p][0][0] for p in self._pools(graph)}
        chosen = {p: chosen_switches(graph, p, n, rule.switches, rule.seed, maps) for p, n in counts.items()}
        return Record(self.memory | {p: (switches.to(device),) for p, switches in chosen.items()}, self.shapes)

    def _pools(self, graph: Graph) -> list[int]:
        return [position for position in self.memory if isinstance(graph.nodes[position].operation, MaxPool)]


def up(
    graph: Graph, target: int, images: Tensor, rules: Sequence[str | Rule], maps: WholeMaps | Windows
) -> tuple[Tensor, Record]:
    """The target's value for images (or windows of them), and one record for `down` by any of the rules."""
    record = Record()
    order, carrying = graph.ancestors([target]), set(graph.carrying(target))
    last_reader = {source: position for position in order for source in graph.nodes[position].inputs}
    values = {0: images}
    for position in order:
        node = graph.nodes[position]
        if isinstance(node.operation, Input):
            continue
        inputs = [maps.read(position, source, values[source]) for source in node.inputs]
        way = way_up(node, rules) if position in carrying else FORWARD_ONLY
        step = way.up_in_place if way.up_in_place and position in graph.overwriting else way.up
        values[position], record.memory[position] = step(maps.operation(node.operation), *inputs)
        record.shapes[position] = [value.shape for value in inputs]
        for source in set(node.inputs):
            if last_reader[source] == position:
                del values[source]
    return values[target], record


def down(
    graph: Graph, target: int, signal: Tensor, record: Record, rule: str | Rule, maps: WholeMaps | Windows
) -> Tensor:
    """`signal`, shaped as the target, sent back to the pixels."""
    rule = as_rule(rule)
    signals = {target: signal}
    for position in reversed(graph.ancestors([target])):
        node = graph.nodes[position]
        if isinstance(node.operation, Input) or position not in signals:
            continue
        memory, shapes = record.memory[position], record.shapes[position]
        back = way_back(node, rule).down(maps.operation(node.operation), signals.pop(position), memory, shapes)
        for source, part in zip(node.inputs, back, strict=True):
            if part is not None:
                signals[source] = maps.returned(position, source, part, signals.get(source))
    return signals[0] if 0 in signals else signal.new_zeros(maps.image_shape(graph, len(signal)))
