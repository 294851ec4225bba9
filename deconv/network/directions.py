"""Directions: weighted sums of a layer's channels as a layer, by a 1x1 convolution and a rectifier over them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from deconv.errors import BadInput, bad_value, shown
from deconv.network.graph import Graph, Node, evaluate
from deconv.network.operations import LinearCall, Operation, Rectifier, Slot
from deconv.network.spatial import Convolution

if TYPE_CHECKING:
    from deconv.network import Network

BETWEEN = "@"
"""Stands in a layer's name between the layer that is read and the name of the directions: fire7@nmf."""
SUM = "sum"
"""The end of the name of the sums before their rectifier: fire7@nmf.sum."""


@dataclass(frozen=True, eq=False)
class Directions:
    """U directions over a layer of C channels: unit u is at each position bias[u] + weight[u] . channels.

    source: the layer's own name, no alias.  rectify: whether what is below zero becomes zero.
    """

    source: str
    name: str
    weight: Float[Tensor, "U C"]
    bias: Float[Tensor, " U"] | None
    rectify: bool

    @property
    def layer(self) -> str:
        """The name of the layer that they are."""
        return f"{self.source}{BETWEEN}{self.name}"

    def states(self) -> dict[str, Tensor]:
        """Return all that decides what the layer gives, by names that no module's weights have."""
        states = {f"{self.layer}.weight": self.weight, f"{self.layer}.rectify": torch.tensor(self.rectify)}
        return states if self.bias is None else {**states, f"{self.layer}.bias": self.bias}

    def nodes_over(self, node: Node, index: int, after: int) -> list[Node]:
        """Return the nodes that follow the one at `after` and read the layer's node, which has that index."""
        shape = (len(self.weight), *node.shape[1:])
        summing, kind = self._summing(node.is_map)
        name = f"{self.layer}.{SUM}" if self.rectify else self.layer
        nodes = [Node(name, node.path, kind, summing, (index,), shape, node.is_map)]
        if self.rectify:
            nodes.append(Node(self.layer, node.path, "relu", Rectifier(), (after + 1,), shape, node.is_map))
        return nodes

    def _summing(self, of_maps: bool) -> tuple[Operation, str]:
        if of_maps:
            kernels = self.weight[:, :, None, None].contiguous(memory_format=torch.channels_last)
            return Convolution(kernels, self.bias, (1, 1), (0, 0, 0, 0), (1, 1), 1), "conv2d"
        return LinearCall(torch.ops.aten.linear.default, (Slot(0), self.weight, self.bias), {}, False), "linear"


def widened(graph: Graph, directions: Directions) -> Graph:
    """Return the graph with directions right behind their layer, behind those that it has there already.

    Where the layer is not there, as at another size of the images, or has another number of channels, neither are they.
    """
    source = graph.layers.get(directions.source, graph.values.get(directions.source))
    channels = directions.weight.shape[1]
    if source is None or graph.nodes[source].shape[0] != channels:
        reason = graph.refusals.get(directions.source, graph.refusals.get("", "its layer is not there"))
        if source is not None:
            reason = f"{directions.source} has {graph.nodes[source].shape[0]} channels here, not {channels}"
        return replace(graph, refusals={**graph.refusals, directions.layer: reason})
    family = f"{directions.source}{BETWEEN}"
    after = max([source, *(n for n, node in enumerate(graph.nodes) if node.name.startswith(family))])
    made = directions.nodes_over(graph.nodes[source], source, after)

    def moved(index: int) -> int:
        return index if index <= after else index + len(made)

    behind = [replace(node, inputs=tuple(map(moved, node.inputs))) for node in graph.nodes[after + 1 :]]
    layers = [(name, moved(index)) for name, index in graph.layers.items()]
    related = [n for n, (name, _) in enumerate(layers) if name == directions.source or name.startswith(family)]
    earlier = [n for n, (_, index) in enumerate(layers) if index <= after]
    place = max(related or earlier, default=-1) + 1
    layers.insert(place, (directions.layer, after + len(made)))
    return Graph((*graph.nodes[: after + 1], *made, *behind), dict(layers), graph.refusals)


def checked_directions(
    network: Network, layer: str, weights: Any, bias: Any, name: Any, rectify: Any
) -> tuple[Directions, dict[str, str]]:
    """Return the directions, and the aliases that their layer gets. Raises as `Network.with_units`."""
    index = network.node(layer)
    source = network.aliases.get(layer, layer)
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise bad_value("name", name, "letters, digits, dashes and underscores, as 'nmf'")
    if not isinstance(rectify, bool):
        raise bad_value("rectify", rectify, "True or False")
    made = f"{source}{BETWEEN}{name}"
    aliases = {f"{alias}{BETWEEN}{name}": made for alias, known in network.aliases.items() if known == source}
    for taken in (made, f"{made}.{SUM}", *aliases):
        if taken in (*network.aliases, *network.graph.layers, *network.graph.values):
            raise bad_value("name", name, f"one that is not taken, as {taken!r} is", "give another")
    channels = network.channels(layer)
    weight = _checked("weights", weights, (None, channels), f"(directions, {channels}), {layer}'s channels")
    shift = None if bias is None else _checked("bias", bias, (len(weight),), f"({len(weight)},), one a direction")
    dtype = network.precision
    if network.device.type != "meta":  # a layer may be of another type than the weights, as under autocast
        image = torch.zeros((1, *network.input_shape), dtype=dtype, device=network.device)
        with torch.no_grad():
            dtype = evaluate(network.graph, image, [index])[index].dtype
    placed = [None if value is None else _placed(value, dtype, network.device) for value in (weight, shift)]
    assert placed[0] is not None
    return Directions(source, name, placed[0], placed[1], rectify), aliases


def _checked(argument: str, values: Any, shape: tuple[int | None, ...], expected: str) -> Tensor:
    """The values as a tensor of their own. Raises BadInput unless they have the shape and are finite numbers."""
    try:
        tensor = values.detach() if isinstance(values, Tensor) else torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        raise bad_value(argument, values, f"numbers of shape {expected}") from None
    fits = len(tensor.shape) == len(shape) and all(
        known in (None, size) for known, size in zip(shape, tensor.shape, strict=True)
    )
    if not fits or not tensor.numel():
        raise bad_value(argument, tensor, f"numbers of shape {expected}")
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise bad_value(argument, tensor, "real numbers")
    return tensor.clone()


def _placed(values: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The values in the layer's type, where it is. Raises BadInput for NaN, infinite and too large ones."""
    with torch.inference_mode(False):
        placed = values.to(device, dtype, copy=True)
    if not placed.is_meta and not bool(torch.isfinite(placed).all()):
        what = "weights" if values.dim() == 2 else "bias"
        raise BadInput(f"{what}: given {shown(values)} with NaN or infinite values in {dtype}; expected finite numbers")
    return placed
