"""The last convolution before a peak, for single units.

A peak is one unit at one position: its activation needs one filter, and the first step back from it is that filter
times the activation, a slice of the weights instead of a convolution with as many channels as the layer has units.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deconv.network.graph import Graph
from deconv.network.operations import Rectifier
from deconv.network.spatial import Convolution
from deconv.projection.relevance import share_out
from deconv.projection.rules import Rule
from deconv.projection.table import Memory, without_bias
from deconv.projection.ways import way_back


@dataclass(frozen=True, eq=False)
class SeedConvolution:
    """The end of a layer that is a convolution followed by rectifiers only.

    rectifiers: their indices in the graph, the convolution's neighbour first.
    index: the convolution's.  source: its input's.
    """

    graph: Graph
    rectifiers: tuple[int, ...]
    index: int
    source: int

    @property
    def convolution(self) -> Convolution:
        """The convolution itself."""
        operation = self.graph.nodes[self.index].operation
        assert isinstance(operation, Convolution)
        return operation

    def forward(
        self, read: Float[Tensor, "N C h w"], channel: Int[Tensor, " N"], rule: Rule
    ) -> tuple[Float[Tensor, " N"], list[Memory]]:
        """Return the activation of unit channel[n] from what it reads, and the memories, the convolution's first."""
        convolution = self.convolution
        dy, dx = convolution.dilation
        taps = read[:, :, ::dy, ::dx]
        value = (taps * convolution.weight[channel]).sum(dim=(1, 2, 3))
        value = value if convolution.bias is None else value + convolution.bias[channel]
        memories: list[Memory] = [() if rule.linear == "transpose" else (taps,)]
        for index in self.rectifiers:
            node = self.graph.nodes[index]
            value, memory = way_back(self.graph, index, rule).cell.forward(node.operation, value)
            memories.append(memory)
        return value, memories

    def backward(
        self,
        signal: Float[Tensor, " N"],
        channel: Int[Tensor, " N"],
        memories: list[Memory],
        rule: Rule,
        size: tuple[int, int],
    ) -> Float[Tensor, "N C h w"]:
        """Return signals at the units channel[n] sent to what the convolution reads, windows of `size`."""
        for index, memory in zip(reversed(self.rectifiers), reversed(memories[1:]), strict=True):
            node = self.graph.nodes[index]
            cell = way_back(self.graph, index, rule).cell
            (signal,) = cell.backward(node.operation, signal, memory, [signal.shape])
        weight = self.convolution.weight[channel]
        bias = None if self.convolution.bias is None else self.convolution.bias[channel]
        if rule.bias == "subtract":
            signal = without_bias(signal, bias)
        if rule.linear == "transpose":
            filters = signal.view(-1, 1, 1, 1) * weight
        else:
            filters = share_out(signal, memories[0][0], weight, bias, rule)
        if size == tuple(filters.shape[2:]):
            return filters
        dy, dx = self.convolution.dilation
        spread = filters.new_zeros((*filters.shape[:2], *size)).contiguous(memory_format=torch.channels_last)
        spread[:, :, ::dy, ::dx] = filters
        return spread


def seed_convolution(graph: Graph, target: int) -> SeedConvolution | None:
    """Return the convolution that a layer ends in, or None if it does not end in a convolution and rectifiers."""
    rectifiers: list[int] = []
    index = target
    while isinstance(graph.nodes[index].operation, Rectifier):
        rectifiers.insert(0, index)
        index = graph.nodes[index].inputs[0]
    operation = graph.nodes[index].operation
    if not isinstance(operation, Convolution) or operation.groups != 1:
        return None
    return SeedConvolution(graph, tuple(rectifiers), index, graph.nodes[index].inputs[0])
