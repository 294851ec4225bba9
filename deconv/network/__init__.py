"""A ConvNet as deconv sees it: named layers, their units, maps and receptive fields, and a forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor, nn

from deconv.errors import BadInput, UnknownName, UnsupportedOperation, nearest
from deconv.images.preprocessing import Preprocessing
from deconv.network.checks import checked_module, checked_shape
from deconv.network.graph import Graph, covering_pool, evaluate, stream
from deconv.network.operations import Concatenate, Rectifier
from deconv.network.receptive_field import ReceptiveField, receptive_field
from deconv.network.tracing import private_copy, trace
from deconv.records.provenance import weights_hash


class Network:
    """An nn.Module traced to a graph of known operations, with its weights as they are now.

    module: any ConvNet that takes one (N, C, H, W) batch; traced in eval mode, left as it was. The weights are copied:
        training the module later does not change this network.
    input_shape: (C, H, W) at which `map_size` and `receptive_field` are told; other sizes are traced when first met.
    aliases: {"conv1": "features.1", ...}, names of your own for layers.
    preprocessing: how a photograph becomes an input; needed to mine a Source, not for tensors.

    Raises UnsupportedOperation if the module cannot be traced, UnknownName for an alias to no layer.
    """

    def __init__(
        self,
        module: nn.Module,
        input_shape: tuple[int, int, int] = (3, 224, 224),
        aliases: Mapping[str, str] | None = None,
        preprocessing: Preprocessing | None = None,
    ):
        self.input_shape = checked_shape(input_shape)
        self.preprocessing = preprocessing
        self._module = private_copy(checked_module(module))
        self._weights = _states(self._module)
        self._graphs: dict[tuple[int, int], Graph] = {}
        self.aliases: dict[str, str] = {}
        self.graph_at(self.input_shape[1:])  # now, so that a module that cannot be traced is refused here
        for alias, layer in (aliases or {}).items():
            if layer not in self.graph.layers:
                raise UnknownName(f"alias {alias!r} names {layer!r}, which is no layer; {self._layer_help(layer)}")
        self.aliases = dict(aliases or {})

    @property
    def graph(self) -> Graph:
        """The traced graph at `input_shape`."""
        return self.graph_at(self.input_shape[1:])

    def graph_at(self, size: tuple[int, int]) -> Graph:
        """The traced graph for images of (H, W) pixels. Raises UnsupportedOperation if the module takes none such."""
        height, width = int(size[0]), int(size[1])
        if (height, width) not in self._graphs:
            shape = (self.input_shape[0], height, width)
            self._graphs[height, width] = trace(self._module, self.precision, shape, shape == self.input_shape)
        return self._graphs[height, width]

    @property
    def device(self) -> torch.device:
        """Where the weights are and the work is done."""
        return next(iter(self._weights.values()), torch.zeros(0)).device

    @property
    def precision(self) -> torch.dtype:
        """The floating-point type of the weights."""
        floats = (weight.dtype for weight in self._weights.values() if weight.is_floating_point())
        return next(floats, torch.float32)

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 over names, types, shapes and bytes of all weights."""
        return weights_hash(self._weights)

    @property
    def layers(self) -> list[str]:
        """Names that can be mined, in forward order: rectified maps, concatenations of such, and the output."""
        return list(self.graph.layers)

    def node(self, layer: str, size: tuple[int, int] | None = None) -> int:
        """The position of a layer (name or alias) in the graph at `size`. Raises UnknownName."""
        graph = self.graph if size is None else self.graph_at(size)
        name = self.aliases.get(layer, layer)
        if name in graph.layers:
            return graph.layers[name]
        reason = graph.refusals.get(name, graph.refusals.get("") if name in self.graph.layers else None)
        if reason is not None:
            shape = graph.nodes[0].shape
            raise UnsupportedOperation(
                f"{layer!r} cannot be traced for an input of {shape}: {reason}; layers that remain: "
                f"{', '.join(graph.layers)}"
            )
        raise UnknownName(f"{layer!r} is no layer of this network; {self._layer_help(layer)}")

    def _layer_help(self, layer: str) -> str:
        names = [*self.aliases, *self.layers]
        shown = names if len(names) <= 24 else [*names[:24], f"... {len(names) - 24} more in network.layers"]
        return f"expected one of {', '.join(shown)}{nearest(str(layer), names)}"

    def channels(self, layer: str) -> int:
        """The number of units of a layer."""
        return self.graph.nodes[self.node(layer)].shape[0]

    def map_size(self, layer: str) -> tuple[int, int]:
        """(H, W) of a layer's maps at `input_shape`; (1, 1) for a fully connected layer."""
        shape = self.graph.nodes[self.node(layer)].shape
        return (shape[1], shape[2]) if len(shape) == 3 else (1, 1)

    def rectified(self, layer: str) -> bool:
        """Whether the layer's activations are at least zero, so that zero means: does not fire."""
        return _is_rectified(self.graph, self.node(layer))

    def receptive_field(self, layer: str, size: tuple[int, int] | None = None) -> ReceptiveField:
        """The layer's receptive field, for images of `size` (default: `input_shape`)."""
        graph = self.graph if size is None else self.graph_at(size)
        return receptive_field(graph, self.node(layer, size))

    def forward(
        self, images: Tensor, layers: Iterable[str], precision: torch.dtype = torch.float32
    ) -> dict[str, Tensor]:
        """{layer: (N, C, H, W)} activations of preprocessed images (N, 3, H, W); H = W = 1 where fully connected.

        precision: torch.bfloat16 computes in that type, of weights rounded to it; torch.float32 as the weights are.
        """
        images = self.check_images(images)
        size = (images.shape[2], images.shape[3])
        graph = self.graph_at(size)
        positions = {layer: self.node(layer, size) for layer in layers}
        graph, images = self._in_precision(graph, images, precision)
        with torch.no_grad():
            values = evaluate(graph, images, positions.values())
        return {layer: as_map(values[position]) for layer, position in positions.items()}

    def forward_with_maxima(
        self, images: Tensor, layers: Iterable[str], precision: torch.dtype = torch.float32
    ) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Of each layer its name, what `forward` gives, and the spatial maxima (N, C), as soon as they are there.

        The maximum of a map that a max-pooling covers is the maximum of what it pools, which is several times less.
        """
        images = self.check_images(images)
        size = (images.shape[2], images.shape[3])
        graph = self.graph_at(size)
        names: dict[int, list[str]] = {}
        for layer in layers:
            names.setdefault(self.node(layer, size), []).append(layer)
        order = graph.ancestors(names)
        pooled_by = {position: covering_pool(graph, position, order) for position in names}
        layer_of = {pool: position for position, pool in pooled_by.items()}
        graph, images = self._in_precision(graph, images, precision)
        waiting: dict[int, Tensor] = {}
        for position, value in stream(graph, images, [*names, *layer_of]):
            if position in names:
                waiting[position] = value
            if position in layer_of:
                maps, maxima = as_map(waiting.pop(layer_of[position])), as_map(value).amax(dim=(2, 3))
                for name in names[layer_of[position]]:
                    yield name, maps, maxima
                del maps
            del value

    @staticmethod
    def _in_precision(graph: Graph, images: Tensor, precision: torch.dtype) -> tuple[Graph, Tensor]:
        return (graph, images) if precision == torch.float32 else (graph.cast(precision), images.to(precision))

    def needed_preprocessing(self) -> Preprocessing:
        """The preprocessing. Raises BadInput where there is none, so that photographs cannot become inputs."""
        if self.preprocessing is None:
            raise BadInput(
                "this network has no preprocessing, so it cannot read a Source; give Network(..., preprocessing=...)."
            )
        return self.preprocessing

    def check_images(self, images: Tensor) -> Tensor:
        """The batch on the network's device, in its precision, channels last.

        Raises BadInput if it is no (N, C, H, W) of floats.
        """
        channels = self.input_shape[0]
        if (
            not isinstance(images, Tensor)
            or images.dim() != 4
            or images.shape[1] != channels
            or not images.is_floating_point()
        ):
            given = f"{tuple(images.shape)} {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
            raise BadInput(
                f"images: given {given}; expected preprocessed images (N, {channels}, H, W) of floating point."
            )
        return images.detach().to(self.device, self.precision, memory_format=torch.channels_last)


def as_map(value: Tensor) -> Tensor:
    """(N, C) as (N, C, 1, 1); maps as they are."""
    return value[:, :, None, None] if value.dim() == 2 else value


def _is_rectified(graph: Graph, position: int) -> bool:
    node = graph.nodes[position]
    if isinstance(node.operation, Rectifier):
        return True
    return isinstance(node.operation, Concatenate) and all(_is_rectified(graph, source) for source in node.inputs)


def _states(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, buffers that are not saved with the module included."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
