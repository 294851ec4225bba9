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
        return (operation.spatial and not _turned_since_maps(inputs[0], nodes)) or shape[1:] == (1, 1)
    if isinstance(operation, Call) and operation.is_laid:
        return False
    if isinstance(operation, Call) and operation.arguments[1:] == ([0, 3, 1, 2],):  # permute: channels first again
        return True
    return not _moves_axes(operation) and all(node.is_map or _is_plane(node, nodes) for node in inputs)


def _turned_since_maps(node: Node, nodes: list[Node]) -> bool:
    """Whether the last two axes may be others than a map's, by what moved axes after the nearest maps."""
    pending, seen = [node], set()
    while pending:
        met = pending.pop()
        if met.is_map or id(met) in seen:
            continue
        seen.add(id(met))
        if _moves_axes(met.operation) or (isinstance(met.operation, Call) and met.operation.is_laid):
            return True
        pending.extend(nodes[source] for source in met.inputs)
    return False


def _moves_axes(operation: Operation) -> bool:
    return isinstance(operation, Call) and not operation.pointwise and str(operation.function) in MOVES_AXES


def gives_channels_last(operation: Operation, inputs: list[Node], shape: tuple[int, ...], kind: str) -> bool:
    """Return whether the output is (H, W, C): a map turned so, or what works on such maps place by place."""
    if len(shape) != 3 or isinstance(operation, ops.Detached):
        return False
    if isinstance(operation, ops.Add):
        return any(node.channels_last for node in inputs)
    if isinstance(operation, Call) and operation.arguments[1:] == ([0, 2, 3, 1],):
        return inputs[0].is_map and not operation.is_laid
    places = all(node.channels_last and node.shape[:2] == shape[:2] for node in inputs)
    return places and ops.keeps_places(operation, kind)


def _is_plane(node: Node, nodes: list[Node]) -> bool:
    """Whether the node is (H, W), one channel of maps of this size or what was made of their channels."""
    sources = [nodes[source] for source in node.inputs]
    return len(node.shape) == 2 and any((s.is_map and s.map_size == node.shape) or _is_plane(s, nodes) for s in sources)


MOVES_AXES = frozenset({"aten.permute.default", "aten.transpose.int", "aten.swapaxes.default", "aten.movedim.int"})
