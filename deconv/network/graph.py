"""A traced network: operations in the order they run, each with its name, its module and the shape it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from deconv.network.operations import Add, Cast, ChannelScale, Concatenate, Detached, Operation, Rectifier
from deconv.network.spatial import Convolution, MaxPool

Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class Node:
    """One operation of a traced network.

    name: as torchvision.models.feature_extraction names nodes; `_1`, `_2` for later ones of the same name.
    path: the module that runs it ("" for the network itself).
    kind: the ATen operation's name, for messages.
    inputs: the indices, in the graph, of the nodes it reads.
    shape: the shape of its output, without the batch, at the traced size.
    is_map: whether that is (C, H, W) with channels first.
    channels_last: whether it is (H, W, C).
    """

    name: str
    path: str
    kind: str
    operation: Operation
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    is_map: bool
    channels_last: bool = False

    def __repr__(self) -> str:
        return f"<Node {self.name}: {self.kind}, {' x '.join(map(str, self.shape))}>"

    @property
    def map_size(self) -> tuple[int, int]:
        """(H, W) of the output; (1, 1) where it is no map."""
        if self.channels_last:
            return (self.shape[0], self.shape[1])
        return (self.shape[1], self.shape[2]) if len(self.shape) == 3 else (1, 1)


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in running order, the image first; `layers` maps the name of each layer to its node's index.

    refusals: why what the module computes beyond these layers cannot be carried, by the name it would have; "" stands
        for all that comes after the point up to which the module could be followed.
    """

    nodes: tuple[Node, ...]
    layers: dict[str, int]
    refusals: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Graph: {len(self.nodes)} nodes, {len(self.layers)} layers>"

    @property
    def cut_short(self) -> str:
        """Why the module is not followed to its end; "" if it is."""
        return self.refusals.get("") or next(iter(self.refusals.values()), "")

    @cached_property
    def consumers(self) -> tuple[tuple[int, ...], ...]:
        """For each node, the indices of those that read it; one that reads it twice stands twice."""
        readers: list[list[int]] = [[] for _ in self.nodes]
        for index, node in enumerate(self.nodes):
            for source in node.inputs:
                readers[source].append(index)
        return tuple(map(tuple, readers))

    @cached_property
    def values(self) -> dict[str, int]:
        """The nodes whose value is a map or a vector with a derivative, by name: what can be mined, layer or not."""
        return {
            node.name: index
            for index, node in enumerate(self.nodes)
            if index and (node.is_map or len(node.shape) == 1) and not isinstance(node.operation, Detached)
        }

    def cast(self, dtype: torch.dtype) -> Graph:
        """Return the same graph with its constants in another floating-point type."""
        if dtype not in self._casts:
            nodes = (replace(node, operation=cast_operation(node.operation, dtype)) for node in self.nodes)
            self._casts[dtype] = Graph(tuple(nodes), self.layers, self.refusals)
        return self._casts[dtype]

    @cached_property
    def _casts(self) -> dict[torch.dtype, Graph]:
        return {}

    def coarsest_type(self, dtype: torch.dtype) -> torch.dtype:
        """Return the type of fewest digits among `dtype`, the images', and those that operations cast to."""
        casts = [node.operation.dtype for node in self.nodes if isinstance(node.operation, Cast)]
        return max([dtype, *casts], key=lambda each: torch.finfo(each).eps)

    @cached_property
    def measured(self) -> dict[Any, Any]:
        """What `deconv.network.reach` has measured of nodes, by their indices."""
        return {}

    @cached_property
    def overwriting(self) -> frozenset[int]:
        """The rectifiers that may write over their input, since it is memory of its own that nothing else reads."""
        return frozenset(
            index
            for index, node in enumerate(self.nodes)
            if isinstance(node.operation, Rectifier)
            and len(self.consumers[node.inputs[0]]) == 1
            and isinstance(self.nodes[node.inputs[0]].operation, Convolution | ChannelScale | Add)
        )

    def ancestors(self, targets: Iterable[int]) -> list[int]:
        """Return the indices of the targets and of every node they depend on, in running order."""
        needed, pending = set(), list(targets)
        while pending:
            index = pending.pop()
            if index not in needed:
                needed.add(index)
                pending.extend(self.nodes[index].inputs)
        return sorted(needed)

    def carrying(self, target: int) -> list[int]:
        """Return the indices of the target and of every node that a signal sent back from it can reach."""
        reached, pending = set(), [target]
        while pending:
            index = pending.pop()
            if index not in reached:
                reached.add(index)
                node = self.nodes[index]
                pending.extend(() if isinstance(node.operation, Detached) else node.inputs)
        return sorted(reached)


def run(
    graph: Graph, image: Value, targets: Iterable[int], compute: Callable[[int, list[Value]], Value]
) -> Iterator[tuple[int, Value]]:
    """Compute the targets, and of the other nodes those they depend on; yield (index, value) of each target in turn.

    image: the value of node 0.  compute: gives the value of the node at an index from the values of its inputs; it is
    called in running order. A value is let go of when the last node that reads it has been computed.
    """
    targets = set(targets)
    order = graph.ancestors(targets)
    last_reader = {source: index for index in order for source in graph.nodes[index].inputs}
    values = {0: image}
    if 0 in targets:
        yield 0, image
    for index in order[1:]:
        sources = graph.nodes[index].inputs
        values[index] = compute(index, [values[source] for source in sources])
        for source in set(sources):
            if last_reader[source] == index:
                del values[source]
        if index in targets:
            yield index, values[index]
        if index not in last_reader:
            del values[index]


def stream(graph: Graph, images: Float[Tensor, "N C H W"], targets: Iterable[int]) -> Iterator[tuple[int, Tensor]]:
    """Run the graph on images and yield (index, value (N, *shape)) of each target as soon as it is computed.

    Whoever lets go of a value before asking for the next frees its memory.
    """
    targets = set(targets)

    def compute(index: int, inputs: list[Tensor]) -> Tensor:
        node = graph.nodes[index]
        if isinstance(node.operation, Rectifier) and index in graph.overwriting and node.inputs[0] not in targets:
            return node.operation.forward_in_place(inputs[0])
        return node.operation.forward(*inputs)  # type: ignore[union-attr]

    return run(graph, images, targets, compute)


def evaluate(graph: Graph, images: Float[Tensor, "N C H W"], targets: Iterable[int]) -> dict[int, Tensor]:
    """Run the graph on images as far as the targets need; return {index: value (N, *shape)} of the targets."""
    return dict(stream(graph, images, targets))


def covering_pool(graph: Graph, index: int, order: Iterable[int]) -> int:
    """Return a max-pooling among `order` whose windows cover the whole map of node `index`; that node if none does."""
    computed = set(order)
    for reader in graph.consumers[index]:
        pool = graph.nodes[reader].operation
        if reader in computed and isinstance(pool, MaxPool):
            sizes = zip(graph.nodes[index].shape[1:], graph.nodes[reader].shape[1:], strict=True)
            if all(pool.covers(size, pooled, axis) for axis, (size, pooled) in enumerate(sizes)):
                return reader
    return index


def cast_operation(operation: Any, dtype: torch.dtype, device: str | None = None) -> Any:
    """Return the operation with its constants, and the types it casts to, in another floating-point type.

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


def is_layer(node: Node, layers: set[int]) -> bool:
    """Return whether units may be mined here: in a rectified map or vector, or channels gathered from some."""
    if not (node.is_map or len(node.shape) == 1):
        return False
    if isinstance(node.operation, Concatenate):
        return all(source in layers for source in node.inputs)
    return is_activation(node)


def is_activation(node: Node) -> bool:
    """Return whether a node is a rectifier or another activation whose maps can be mined."""
    return isinstance(node.operation, Rectifier) or node.kind in SMOOTH_ACTIVATIONS


def is_rectified(graph: Graph, index: int) -> bool:
    """Return whether a node's values are at least zero: those of a rectifier, or such gathered or turned."""
    node = graph.nodes[index]
    if isinstance(node.operation, Rectifier):
        return True
    moves = isinstance(node.operation, Concatenate) or (
        node.kind == "permute" and graph.nodes[node.inputs[0]].channels_last
    )
    return moves and all(is_rectified(graph, source) for source in node.inputs)


SMOOTH_ACTIVATIONS = frozenset(
    "silu hardswish gelu mish leaky_relu elu celu selu softplus prelu rrelu tanh softsign hardtanh".split()
)
"""Activations that can be mined though only `gradient` sends them back. Gates (sigmoid, hardsigmoid) are not layers."""
