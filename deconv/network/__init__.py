"""A ConvNet as deconv sees it: named layers, their units, maps and receptive fields, and a forward pass."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, reduce

import torch
from jaxtyping import Float
from torch import Tensor, nn

from deconv.defaults import plain_defaults
from deconv.errors import BadInput, bad_value, check_list, counted, unknown
from deconv.images.preprocessing import Preprocessing
from deconv.network.checks import (
    checked_module,
    checked_preprocessing,
    checked_shape,
    checked_sizes,
    no_layer,
    no_name,
    warn_of_mistakes,
)
from deconv.network.directions import Directions, checked_directions, widened
from deconv.network.graph import Graph, covering_pool, evaluate, is_rectified, stream
from deconv.network.receptive_field import ReceptiveField, receptive_field
from deconv.network.tracing import private_copy, states_of, trace
from deconv.notebooks import ShownInNotebooks
from deconv.records.provenance import Provenance, weights_hash


class Network(ShownInNotebooks):
    """An nn.Module traced to a graph of known operations, with its weights as they are now.

    module: any ConvNet that takes one (N, C, H, W) batch. A copy of it, in eval mode and without its hooks, runs on
        random images; the module itself never runs, and training it later does not change this network. It may return
        several tensors, in tuples, lists or dicts: each that is a map or a vector of each image is a layer.
    input_shape: (C, H, W) of the images that `map_size` and `receptive_field` speak of; the graph for another size is
        traced when an image of it is first met.
    aliases: {"conv1": "features.1", ...}, names of your own for layers.
    preprocessing: how a photograph becomes an input; needed to read a Source, not for tensors.  Where the module cannot
        be followed to its end, that is logged, with the reason.

    All four are attributes, `module` the user's own, whose weights may have changed since, and `directions`, by layer.
    Raises UnsupportedOperation if the module fails, no layer of it can be carried, or its graph gives another output
    than the module; UnknownName for an alias to no layer; BadInput for anything but a module and three sizes, or for a
    preprocessing of other channels. A layer that cannot be carried is no layer, and asking for it says why.

    >>> import deconv, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    >>> net.extend([torch.nn.Conv2d(4, 6, 3), torch.nn.ReLU()])
    Sequential(...)
    >>> network = deconv.Network(net, (3, 16, 16), aliases={"conv1": "1", "conv2": "4"})
    >>> network
    Network(2 layers, input_shape=(3, 16, 16), weights ...)
    >>> network.layers, network.channels("conv2"), network.map_size("conv2")
    (['1', '4'], 6, (5, 5))
    >>> network.forward(torch.rand(8, 3, 16, 16), ["conv2"])["conv2"].shape
    torch.Size([8, 6, 5, 5])
    """

    def __init__(
        self,
        module: nn.Module,
        input_shape: tuple[int, int, int] = (3, 224, 224),
        aliases: Mapping[str, str] | None = None,
        preprocessing: Preprocessing | None = None,
    ):
        channels, height, width = checked_shape(input_shape)
        self.input_shape = (channels, height, width)
        self.preprocessing = preprocessing
        self.module = checked_module(module)
        self._copy = private_copy(module)
        self._weights = states_of(self._copy)
        self._graphs: dict[tuple[int, int], Graph] = {}
        self.aliases: dict[str, str] = {}
        self.directions: dict[str, Directions] = {}
        self.graph_at()  # now, so that a module that cannot be traced is refused here
        for alias, layer in (aliases or {}).items():
            if layer not in self.graph.layers and layer not in self.graph.values:
                raise unknown(f"layer of the alias {alias!r}", layer, self.layers)
        self.aliases = dict(aliases or {})
        warn_of_mistakes(self.graph, self.module, preprocessing)

    def __repr__(self) -> str:
        weights = "without values" if self.device.type == "meta" else self.weights_hash[:8]
        ends = f", ends at {self.layers[-1]}" if self.graph.cut_short else ""
        return f"Network({counted(len(self.layers), 'layer')}{ends}, input_shape={self.input_shape}, weights {weights})"

    @property
    def graph(self) -> Graph:
        """The traced graph for images of `input_shape`, as `graph_at` gives it."""
        return self.graph_at()

    def graph_at(self, size: tuple[int, int] | None = None) -> Graph:
        """The traced graph for images of `size`, (H, W) pixels (default: `input_shape`).

        It is what the rooms above work on; its nodes and their indices are no promise to users. Raises
        UnsupportedOperation if the module does not take such images.
        """
        height, width = self.input_shape[1:] if size is None else checked_sizes("size", size, "(H, W)")
        if (height, width) not in self._graphs:
            shape = (self.input_shape[0], height, width)
            graph = trace(self._copy, self.precision, shape, shape == self.input_shape)
            self._graphs[height, width] = reduce(widened, self.directions.values(), graph)
        return self._graphs[height, width]

    @property
    def device(self) -> torch.device:
        """The device that holds the weights and does the work."""
        return next(iter(self._weights.values()), torch.zeros(0)).device

    @property
    def precision(self) -> torch.dtype:
        """The floating-point type of the weights."""
        floats = (weight.dtype for weight in self._weights.values() if weight.is_floating_point())
        return next(floats, torch.float32)

    @property
    def rounding(self) -> float:
        """The relative error of one number in the coarsest type that the network computes in, casts included."""
        return torch.finfo(self.graph.coarsest_type(self.precision)).eps

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 over names, types, shapes and bytes of all weights, those of directions among them."""
        return weights_hash(self._weights)

    def provenance(self) -> Provenance:
        """Return what a record says of the network that it was made with: its weights and its preprocessing."""
        preprocessing = None if self.preprocessing is None else self.preprocessing.as_dict()
        return {"weights": self.weights_hash, "preprocessing": preprocessing}

    @plain_defaults()
    def with_units(
        self,
        layer: str,
        weights: Float[Tensor, "U C"],
        bias: Float[Tensor, " U"] | None = None,
        *,
        name: str,
        rectify: bool = True,
    ) -> Network:
        """Return a network with U directions over a layer as one more layer, `layer@name`; this one stays as it is.

        Unit u is at each position bias[u] plus the sum of the C channels of the layer times weights[u]; what is below
        zero becomes zero unless `rectify` is False. The new layer is mined, projected and compared as any other: a 1x1
        convolution and a rectifier, which `module` does not have. It has an alias for each alias of its layer.
        Raises UnknownName for a layer that does not exist; BadInput for weights or a bias of another shape, with NaN or
        infinite values, and for a name that is taken or is not of letters, digits, dashes and underscores.

        >>> import deconv, torch
        >>> module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> network = deconv.Network(module, (3, 8, 8), {"conv1": "1"})
        >>> wide = network.with_units("conv1", torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, -1]]), name="pairs")
        >>> wide.layers, wide.channels("conv1@pairs"), network.layers
        (['1', '1@pairs'], 2, ['1'])
        """
        directions, aliases = checked_directions(self, layer, weights, bias, name, rectify)
        wide = copy.copy(self)
        vars(wide).pop("weights_hash", None)
        wide.directions, wide.aliases = {**self.directions, directions.layer: directions}, {**self.aliases, **aliases}
        wide._weights = {**self._weights, **directions.states()}
        wide._graphs = {size: widened(graph, directions) for size, graph in self._graphs.items()}
        return wide

    @property
    def layers(self) -> list[str]:
        """The names of the layers, in forward order: rectified maps, concatenations of these, and the output.

        Other nodes can be mined by name too: see `node`.
        """
        return list(self.graph.layers)

    def node(self, layer: str, size: tuple[int, int] | None = None) -> int:
        """Return the index of a layer (name or alias) in the graph at `size`. Raises UnknownName.

        Any node that gives a map or a vector serves, asked for by its name: a sum, or a convolution before its
        rectifier, with the batch normalisation that is folded into it.
        """
        graph = self.graph_at(size)
        name = self.aliases.get(layer, layer) if isinstance(layer, str) else layer
        for nodes in (graph.layers, graph.values):
            if isinstance(name, str) and name in nodes:
                return nodes[name]
        known = [*self.aliases, *self.layers]
        if not isinstance(name, str):
            raise no_name(layer, known, self.module)
        raise no_layer(layer, name, graph, known, self.module)

    def channels(self, layer: str) -> int:
        """Return the number of units of a layer."""
        return self.graph.nodes[self.node(layer)].shape[0]

    def map_size(self, layer: str, size: tuple[int, int] | None = None) -> tuple[int, int]:
        """Return (H, W) of a layer's maps for images of `size` (default: `input_shape`).

        It is (1, 1) for a fully connected layer.
        """
        return self.graph_at(size).nodes[self.node(layer, size)].map_size

    def rectified(self, layer: str) -> bool:
        """Return whether the layer's activations are at least zero, so that a unit at zero does not fire."""
        return is_rectified(self.graph, self.node(layer))

    @plain_defaults()
    def receptive_field(self, layer: str, size: tuple[int, int] | None = None) -> ReceptiveField:
        """Return the layer's receptive field in images of `size` (default: `input_shape`)."""
        return receptive_field(self.graph_at(size), self.node(layer, size))

    @plain_defaults()
    def forward(
        self, images: Float[Tensor, "N C H W"], layers: Iterable[str], precision: torch.dtype = torch.float32
    ) -> dict[str, Float[Tensor, "N units rows cols"]]:
        """Return the activations of some layers for preprocessed images; rows = cols = 1 where fully connected.

        precision: torch.bfloat16 computes in that type, with weights rounded to it; torch.float32 in the weights' own.
        Raises BadInput for other images, UnknownName for a layer that does not exist.
        """
        graph, images, targets = self._prepare(images, layers, precision)
        with torch.no_grad():
            values = evaluate(graph, images, targets.values())
        return {layer: as_map(values[target]) for layer, target in targets.items()}

    def forward_with_maxima(
        self, images: Float[Tensor, "N C H W"], layers: Iterable[str], precision: torch.dtype = torch.float32
    ) -> Iterator[tuple[str, Float[Tensor, "N units rows cols"], Float[Tensor, "N units"]]]:
        """Yield (layer, maps, spatial maxima of these) as soon as they are computed; the maps are those of `forward`.

        Whoever lets go of a layer's maps before asking for the next frees their memory. The maximum of a map that a
        max-pooling covers is taken of what it pools to, which is several times less.
        """
        graph, images, targets = self._prepare(images, layers, precision)
        names: dict[int, list[str]] = {}
        for layer, target in targets.items():
            names.setdefault(target, []).append(layer)
        order = graph.ancestors(names)
        target_of = {covering_pool(graph, target, order): target for target in names}
        waiting: dict[int, Tensor] = {}
        for index, value in stream(graph, images, [*names, *target_of]):
            if index in names:
                waiting[index] = value
            if index in target_of:
                target = target_of[index]
                maps, maxima = as_map(waiting.pop(target)), as_map(value).amax(dim=(2, 3))
                for name in names[target]:
                    yield name, maps, maxima
                del maps
            del value

    def _prepare(
        self, images: Tensor, layers: Iterable[str], precision: torch.dtype
    ) -> tuple[Graph, Tensor, dict[str, int]]:
        """The graph and the images in the precision asked for, and the index of each layer's node."""
        if not isinstance(precision, torch.dtype) or not precision.is_floating_point:
            raise bad_value("precision", precision, "torch.float32 or torch.bfloat16")
        names = check_list("layers", layers, "layer names")
        images = self.check_images(images)
        size = (images.shape[2], images.shape[3])
        graph, targets = self.graph_at(size), {layer: self.node(layer, size) for layer in names}
        if precision != torch.float32:
            graph, images = graph.cast(precision), images.to(precision)
        return graph, images, targets

    def needed_preprocessing(self) -> Preprocessing:
        """Return the preprocessing. Raises BadInput where none makes inputs of photographs, saying what to do."""
        return checked_preprocessing(self.preprocessing, self.input_shape[0])

    def check_images(self, images: Tensor) -> Float[Tensor, "N C H W"]:
        """Return the batch on the network's device, in its precision, channels last.

        Raises BadInput unless it is one of preprocessed images (N, C, H, W) of floating point.
        """
        channels = self.input_shape[0]
        if (
            not isinstance(images, Tensor)
            or images.dim() != 4
            or images.shape[1] != channels
            or not images.is_floating_point()
        ):
            raise bad_value("images", images, f"preprocessed images (N, {channels}, H, W) of floating point")
        if self.device.type == "meta":
            raise BadInput(
                "this network has no weights, for its module is on the meta device; expected weights: "
                "module.to_empty(device='cpu'), then module.load_state_dict(...)"
            )
        return images.detach().to(self.device, self.precision, memory_format=torch.channels_last)


def as_map(value: Tensor) -> Tensor:
    """Return a layer's value as maps: (N, C) as a view (N, C, 1, 1), maps as they are."""
    return value[:, :, None, None] if value.dim() == 2 else value
