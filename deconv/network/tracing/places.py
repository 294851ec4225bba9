"""Which values of a graph have places: maps (C, H, W), and the same with channels last, (H, W, C)."""

from __future__ import annotations

from deconv.network import operations as ops
from deconv.network import spatial
from deconv.network.graph import Node
from deconv.network.operations import Call, Operation


def gives_map(operation: Operation, inputs: list[Node], shape: tuple[int, ...], nodes: list[Node]) -> bool:
    """Return whether the output is (C, H, W), channels first."""
    if len(shape) != 3:
        return False
    if isinstance(operation, ops.Detached):
        return gives_map(operation.operation, inputs, shape, nodes)
    if isinstance(operation, ops.Input | spatial.Spatial | ops.ChannelScale):
        return True
    if isinstance(operation, ops.Add):
        return any(node.is_map for node in inputs)
    if isinstance(operation, ops.Reshape):
        return shape[1:] == (1, 1) or _is_unfolded(operation, inputs[0], shape, nodes)
    if isinstance(operation, Call) and operation.is_laid:
        return _is_taken_of_planes(operation, inputs, shape, nodes)
    if isinstance(operation, Call) and str(operation.function) in GIVE_MAPS:
        return True
    if _permutes(operation, [0, 3, 1, 2]):  # channels first again
        return True
    return not _moves_axes(operation) and all(node.is_map or _is_plane(node, nodes) for node in inputs)


def _is_taken_of_planes(call: Call, inputs: list[Node], shape: tuple[int, ...], nodes: list[Node]) -> bool:
    """Whether a call makes maps of stacked ones, as the mean over an ensemble does, and none of its axes are moved."""
    if call.gives is not None or _turns(call):
        return False
    before = all(lay is None or lay.axis < len(node.shape) - 1 for lay, node in zip(call.lays, inputs, strict=True))
    return before and all(_is_plane(node, nodes) and node.shape[-2:] == shape[1:] for node in inputs)


def _is_unfolded(reshape: ops.Reshape, source: Node, shape: tuple[int, ...], nodes: list[Node]) -> bool:
    """Whether a view gives maps: its last two axes are still a map's, or it lays a row of positions or a vector out."""
    if reshape.spatial or len(source.shape) == 1:
        return not _turned_since_maps(source, nodes)
    if len(source.shape) != 2 or source.shape[0] != shape[0]:
        return False
    straight = not _turned_since_maps(source, nodes) or _is_turned_back(source, nodes)
    return straight or shape[1:] in {met.map_size for met in _nearest_maps(source, nodes)}


def _is_turned_back(node: Node, nodes: list[Node]) -> bool:
    """Whether rows of a map's positions, (C, L), were turned to (L, C) and back, as around a linear layer."""
    turns = 0
    while len(node.shape) == 2 and node.inputs:
        turns += _turns(node.operation)
        node = nodes[node.inputs[0]]
    return node.is_map and turns % 2 == 0


def _nearest_maps(node: Node, nodes: list[Node]) -> list[Node]:
    """The maps that a node's value is made of, without others between."""
    pending, seen, maps = [node], set(), []
    while pending:
        met = pending.pop()
        if id(met) in seen:
            continue
        seen.add(id(met))
        if met.is_map:
            maps.append(met)
        else:
            pending.extend(nodes[source] for source in met.inputs)
    return maps


def _turned_since_maps(node: Node, nodes: list[Node]) -> bool:
    """Whether the last two axes may be others than a map's, by what moved axes after the nearest maps."""
    pending, seen = [node], set()
    while pending:
        met = pending.pop()
        if met.is_map or id(met) in seen:
            continue
        seen.add(id(met))
        operation = met.operation
        if _turns(operation) or (isinstance(operation, Call) and operation.is_laid):
            return True
        pending.extend(nodes[source] for source in met.inputs)
    return False


def gives_channels_last(operation: Operation, inputs: list[Node], shape: tuple[int, ...], kind: str) -> bool:
    """Return whether the output is (H, W, C): a map turned so, or what works on such maps place by place."""
    if len(shape) != 3 or isinstance(operation, ops.Detached):
        return False
    if isinstance(operation, ops.Add):
        return any(node.channels_last for node in inputs)
    if _permutes(operation, [0, 2, 3, 1]):
        return inputs[0].is_map and not (isinstance(operation, Call) and operation.is_laid)
    places = all(node.channels_last and node.shape[:2] == shape[:2] for node in inputs)
    return places and ops.keeps_places(operation, kind)


def _is_plane(node: Node, nodes: list[Node]) -> bool:
    """Whether the node is no map, but has a map's (H, W) as its last two axes: one channel, or channels in groups."""
    if len(node.shape) in (1, 3) or _moves_axes(node.operation):
        return False
    sources = [nodes[source] for source in node.inputs]
    return any((s.is_map and s.map_size == node.shape[-2:]) or _is_plane(s, nodes) for s in sources)


def _permutes(operation: Operation, axes: list[int]) -> bool:
    permutes = isinstance(operation, Call) and str(operation.function) == "aten.permute.default"
    return permutes and operation.arguments[1] == axes  # type: ignore[union-attr]


def _moves_axes(operation: Operation) -> bool:
    return not operation.spatial if isinstance(operation, ops.Reshape) else _turns(operation)


def _turns(operation: Operation) -> bool:
    return isinstance(operation, Call) and not operation.pointwise and str(operation.function) in MOVES_AXES


MOVES_AXES = frozenset(
    "aten.permute.default aten.transpose.int aten.swapaxes.default aten.swapdims.default aten.movedim.int "
    "aten.movedim.intlist aten.moveaxis.int aten.moveaxis.intlist aten.mT.default aten.mH.default "
    "aten.adjoint.default".split()
)
GIVE_MAPS = frozenset({"aten.col2im.default"})
"""What gives maps of rows that are none."""
