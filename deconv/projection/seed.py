"""The last convolution before a peak, for single units.

A peak is one unit at one place: its activation needs one filter, and the first step down from it is that filter times
the activation, a slice of the weights instead of a convolution with as many channels as the layer has units.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deconv.network.graph import Graph
from deconv.network.operations import Rectifier
from deconv.network.spatial import Convolution
from deconv.projection.rules import Rule
from deconv.projection.table import Memory, way_back, without_bias


@dataclass(frozen=True, eq=False)
class Head:
    """A layer that is a convolution followed by rectifiers only.

    rectifiers: their positions, the convolution's neighbour first.  position: the convolution's.  base: its input's.
    """

    graph: Graph
    rectifiers: tuple[int, ...]
    position: int
    base: int

    @property
    def convolution(self) -> Convolution:
        operation = self.graph.nodes[self.position].operation
        assert isinstance(operation, Convolution)
        return operation

    def up(self, read: Tensor, channel: Tensor, rule: Rule) -> tuple[Tensor, list[Memory]]:
        """Activations (N,) of unit channel[n] from what it reads, (N, C, h, w), and the rectifiers' memories."""
        convolution = self.convolution
        dy, dx = convolution.dilation
        value = (read[:, :, ::dy, ::dx] * convolution.weight[channel]).sum(dim=(1, 2, 3))
        value = value if convolution.bias is None else value + convolution.bias[channel]
        memories = []
        for position in self.rectifiers:
            node = self.graph.nodes[position]
            value, memory = way_back(node, rule).up(node.operation, value)
            memories.append(memory)
        return value, memories

    def down(self, seed: Tensor, channel: Tensor, memories: list[Memory], rule: Rule, size: tuple[int, int]) -> Tensor:
        """Seeds (N,) as signals (N, C, h, w) at what the convolution reads."""
        for position, memory in zip(reversed(self.rectifiers), reversed(memories), strict=True):
            node = self.graph.nodes[position]
            (seed,) = way_back(node, rule).down(node.operation, seed, memory, [seed.shape])
        bias = self.convolution.bias
        if rule.bias == "subtract" and bias is not None:
            seed = without_bias(seed, bias[channel])
        filters = seed.view(-1, 1, 1, 1) * self.convolution.weight[channel]
        if size == tuple(filters.shape[2:]):
            return filters
        dy, dx = self.convolution.dilation
        spread = filters.new_zeros((*filters.shape[:2], *size)).contiguous(memory_format=torch.channels_last)
        spread[:, :, ::dy, ::dx] = filters
        return spread


def find_head(graph: Graph, target: int) -> Head | None:
    """The head of a layer, or None where it does not end in a convolution and rectifiers."""
    rectifiers: list[int] = []
    position = target
    while isinstance(graph.nodes[position].operation, Rectifier):
        rectifiers.insert(0, position)
        position = graph.nodes[position].inputs[0]
    operation = graph.nodes[position].operation
    if not isinstance(operation, Convolution) or operation.groups != 1:
        return None
    return Head(graph, tuple(rectifiers), position, graph.nodes[position].inputs[0])
