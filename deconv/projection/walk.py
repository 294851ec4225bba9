"""The way up through a graph, remembering, and the way down again; on whole maps or on windows."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from deconv.graph import Graph
from deconv.graph.operations import Input
from deconv.graph.spatial import MaxPool
from deconv.projection.unpooling import CHOSEN, chosen_switches
from deconv.projection.windows import WholeMaps, Windows
from deconv.rules import Memory, Rule, as_rule, way_back


@dataclass
class Record:
    """What the way down needs of the way up: for each node its memory and the shapes of its inputs."""

    memory: dict[int, Memory] = field(default_factory=dict)
    shapes: dict[int, list[torch.Size]] = field(default_factory=dict)

    def borrow_switches(self, graph: Graph, other: Record) -> None:
        """Take the switches of another record of the same graph, whose maps have the same shapes."""
        for position in self.memory:
            if isinstance(graph.nodes[position].operation, MaxPool):
                self.memory[position] = other.memory[position]


def up(graph: Graph, target: int, images: Tensor, rule: str | Rule, maps: WholeMaps | Windows) -> tuple[Tensor, Record]:
    """The target's value for images (or windows of them), and the record for `down`."""
    record, rule = Record(), as_rule(rule)
    order = graph.ancestors([target])
    last_reader = {source: position for position in order for source in graph.nodes[position].inputs}
    values = {0: images}
    for position in order:
        node = graph.nodes[position]
        if isinstance(node.operation, Input):
            continue
        inputs = [maps.read(position, source, values[source]) for source in node.inputs]
        operation = maps.operation(node.operation)
        way = way_back(node, rule)
        step = way.up_in_place if way.up_in_place and position in graph.overwriting else way.up
        values[position], record.memory[position] = step(operation, *inputs)
        if isinstance(operation, MaxPool) and rule.switches in CHOSEN:
            chosen = chosen_switches(graph, position, len(images), rule.switches, rule.seed, maps)
            record.memory[position] = (chosen.to(images.device),)
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
            signals[source] = maps.returned(position, source, part, signals.get(source))
    return signals[0]
