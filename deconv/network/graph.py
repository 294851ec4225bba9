"""A traced network: operations in the order they run, each with its name, its module and the shape it gives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from deconv.network.operations import Add, ChannelScale, Concatenate, Detached, Operation, Rectifier
from deconv.network.spatial import Convolution, MaxPool


@dataclass(frozen=True, eq=False)
class Node:
    """One operation at its place.

    name: as torchvision.models.feature_extraction names nodes; `_1`, `_2` for later ones of the same name.
    path: the module that runs it ("" for the network itself).  kind: the ATen operation's name, for messages.
    inputs: positions of the nodes it reads.  shape: of its output, without the batch, at the traced size.
    is_map: (C, H, W) with channels first.
    """

    name: str
    path: str
    kind: str
    operation: Operation
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    is_map: bool


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in running order, the image first; `layers` maps the name of each mineable layer to its node's position.

    refusals: why what the module computes beyond these layers cannot be carried, by the name it would have.
    """

    nodes: tuple[Node, ...]
    layers: dict[str, int]
    refusals: dict[str, str] = field(default_factory=dict)

    @cached_property
    def consumers(self) -> tuple[tuple[int, ...], ...]:
        """For each node, the nodes that read it (a node that reads it twice stands twice)."""
        found: list[list[int]] = [[] for _ in self.nodes]
        for position, node in enumerate(self.nodes):
            for source in node.inputs:
                found[source].append(position)
        return tuple(map(tuple, found))

    def cast(self, dtype: torch.dtype) -> Graph:
        """The same graph with its constants in another floating-point type."""
        if dtype not in self._casts:
            nodes = (replace(node, operation=cast_operation(node.operation, dtype)) for node in self.nodes)
            self._casts[dtype] = Graph(tuple(nodes), self.layers, self.refusals)
        return self._casts[dtype]

    @cached_property
    def _casts(self) -> dict[torch.dtype, Graph]:
        return {}

    @cached_property
    def overwriting(self) -> frozenset[int]:
        """Rectifiers that may write over their input: it is memory of its own, and nothing else reads it."""
        return frozenset(
            position
            for position, node in enumerate(self.nodes)
            if isinstance(node.operation, Rectifier)
            and len(self.consumers[node.inputs[0]]) == 1
            and isinstance(self.nodes[node.inputs[0]].operation, Convolution | ChannelScale | Add)
        )

    def ancestors(self, targets: Iterable[int]) -> list[int]:
        """The targets and every node they depend on, in running order."""
        wanted, pending = set(), list(targets)
        while pending:
            position = pending.pop()
            if position not in wanted:
                wanted.add(position)
                pending.extend(self.nodes[position].inputs)
        return sorted(wanted)

    def carrying(self, target: int) -> list[int]:
        """The target and every node that a signal sent down from it can reach, in running order."""
        wanted, pending = set(), [target]
        while pending:
            position = pending.pop()
            if position not in wanted:
                wanted.add(position)
                node = self.nodes[position]
                pending.extend(() if isinstance(node.operation, Detached) else node.inputs)
        return sorted(wanted)


def evaluate(graph: Graph, images: Tensor, targets: Iterable[int]) -> dict[int, Tensor]:
    """Run the graph on images (N, 3, H, W) as far as the targets need; {position: (N, *shape)} of the targets."""
    return dict(stream(graph, images, targets))


def stream(graph: Graph, images: Tensor, targets: Iterable[int]) -> Iterator[tuple[int, Tensor]]:
    """As `evaluate`, each target (position, its value) as soon as it is there: let go of it, and its memory is free."""
    wanted = set(targets)
    order = graph.ancestors(wanted)
    last_reader = {source: position for position in order for source in graph.nodes[position].inputs}
    values = {0: images}
    if 0 in wanted:
        yield 0, images
    for position in order[1:]:
        node = graph.nodes[position]
        inputs = [values[source] for source in node.inputs]
        overwrites = position in graph.overwriting and node.inputs[0] not in wanted
        values[position] = _run(node.operation, inputs, overwrites)
        del inputs
        for source in set(node.inputs):
            if last_reader[source] == position:
                del values[source]
        if position in wanted:
            yield position, values[position]
        if position not in last_reader:
            del values[position]


def _run(operation: Operation, inputs: list[Tensor], overwrites: bool) -> Tensor:
    if overwrites and isinstance(operation, Rectifier):
        return operation.forward_in_place(inputs[0])
    return operation.forward(*inputs)  # type: ignore[union-attr]


def covering_pool(graph: Graph, position: int, order: Iterable[int]) -> int:
    """A max-pooling among `order` whose windows cover the whole map of `position`; `position` itself if none does."""
    computed = set(order)
    for reader in graph.consumers[position]:
        pool = graph.nodes[reader].operation
        if reader in computed and isinstance(pool, MaxPool):
            sizes = zip(graph.nodes[position].shape[1:], graph.nodes[reader].shape[1:], strict=True)
            if all(pool.covers(size, pooled, axis) for axis, (size, pooled) in enumerate(sizes)):
                return reader
    return position


def cast_operation(operation: Any, dtype: torch.dtype, device: str | None = None) -> Any:
    """The same operation with its constants, and the types it casts to, in another floating-point type.

    device: where its constants are to be; on "cpu" those without values ("meta") become random ones.
    """
    changed = {each.name: _cast_value(getattr(operation, each.name), dtype, device) for each in fields(operation)}
    return replace(operation, **changed)


def _cast_value(value: Any, dtype: torch.dtype, device: str | None) -> Any:
    if isinstance(value, Tensor):
        if value.is_meta and device == "cpu":
            value = torch.randn(value.shape).to(value.dtype)
        value = value.to(dtype) if value.is_floating_point() else value
        return value if device is None else value.to(device)
    if isinstance(value, torch.dtype) and value.is_floating_point:
        return dtype
    if is_dataclass(value) and not isinstance(value, type):
        return cast_operation(value, dtype, device)
    if isinstance(value, list | tuple):
        return type(value)(_cast_value(item, dtype, device) for item in value)
    if isinstance(value, dict):
        return {name: _cast_value(item, dtype, device) for name, item in value.items()}
    return value


def is_layer(node: Node, nodes: list[Node], layer_positions: set[int]) -> bool:
    """Whether a unit may be mined here: a rectified map or vector, or channels gathered from such."""
    if not (node.is_map or len(node.shape) == 1):
        return False
    if isinstance(node.operation, Concatenate):
        return all(source in layer_positions for source in node.inputs)
    return isinstance(node.operation, Rectifier) or node.kind in SMOOTH_ACTIVATIONS


SMOOTH_ACTIVATIONS = frozenset(
    "silu hardswish gelu mish leaky_relu elu celu selu softplus prelu rrelu tanh softsign hardtanh".split()
)
"""Activations that can be mined though only `gradient` sends them back. Gates (sigmoid, hardsigmoid) are not layers."""
