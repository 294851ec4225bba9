"""What a projection is asked for, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deconv.errors import bad_value
from deconv.images import MapDataset, Source, check_images
from deconv.network import Network
from deconv.projection.loading import input_size
from deconv.projection.rules import Rule, as_rule
from deconv.projection.ways import check_carried
from deconv.records import LayerPeaks

AnyRule = str | Rule | Mapping[str, Any]
Images = Source | MapDataset | Float[Tensor, "M C H W"]
Indices = Int[Tensor, " N"] | Sequence[int]


def peaks_asked(
    layer: str | LayerPeaks, peaks: LayerPeaks | None, units: Sequence[int] | None
) -> tuple[str, LayerPeaks, Sequence[int]]:
    """Return (layer, its peaks, units) of a call that names the layer before its peaks, or leaves the name to these.

    Raises BadInput for what is no peaks of one layer, for peaks that know no layer, and where the units are missing.
    """
    if isinstance(layer, LayerPeaks):
        if peaks is not None:
            raise bad_value("peaks", "two arguments", "the peaks of one layer, and the units by name", "units=[0, 1]")
        if not layer.layer:
            raise bad_value("peaks", "some that know no layer", "peaks[layer]", "or give the layer's name before them")
        peaks, layer = layer, layer.layer
    if not isinstance(peaks, LayerPeaks):
        raise bad_value("peaks", type(peaks).__name__, "the LayerPeaks of one layer", f"peaks[{layer!r}]")
    if units is None:
        raise bad_value("units", "none", "the numbers of some units", "units=[0, 1]")
    return layer, peaks, units


def check_peaks(
    network: Network,
    images: Images,
    layer: str,
    image: Indices,
    row: Indices,
    col: Indices,
    channels: Sequence[Indices],
) -> tuple[Source | Tensor, Tensor, Tensor, Tensor, list[Tensor], tuple[int, int]]:
    """Return (images, image, row, col, channels, input size): peaks as (N,) int64 on the CPU, that are there.

    channels: the units at these positions, each (N,). Raises BadInput for what is no network, images or list of whole
    numbers, or outside its range, and for images that become inputs of several sizes; UnknownName for the layer.
    """
    images = check_kinds(network, images)
    named = [("image", image), ("row", row), ("col", col), *(("channel", channel) for channel in channels)]
    image_ids, rows, cols, *columns = _columns(named)
    _check_image_ids("image", image_ids, images)
    size = input_size(network, images, image_ids)
    height, width = network.map_size(layer, size)
    _check_range("row", rows, height)
    _check_range("col", cols, width)
    for column in columns:
        _check_range("channel", column, network.channels(layer))
    return images, image_ids, rows, cols, columns, size


def check_rules(
    network: Network, layers: Iterable[str], rules: Iterable[AnyRule], size: tuple[int, int] | None = None
) -> None:
    """Raise unless every rule can send every layer back, for images of `size` (default: the network's input size).

    Raises UnknownName for a layer or a rule that does not exist, UnsupportedOperation, naming the operation, for a rule
    that cannot pass one of those that the layer depends on.
    """
    checked = [as_rule(rule) for rule in rules]
    for layer in layers:
        for rule in checked:
            check_carried(network.graph_at(size), network.node(layer, size), rule)


def check_kinds(network: Network, images: Images) -> Source | Tensor:
    """Return the images as a source or a tensor. Raises BadInput for anything else, and for what is no network."""
    if not isinstance(network, Network):
        raise bad_value("network", type(network).__name__, "a deconv.Network", "deconv.Network(module, input_shape)")
    return check_images(images, network.input_shape[0], network.preprocessing)


def _columns(named: Sequence[tuple[str, Indices]]) -> list[Tensor]:
    """Each argument as (N,) int64 on the CPU. Raises BadInput unless all are lists of whole numbers, of one length."""
    columns = [_column(name, values) for name, values in named]
    if len({len(column) for column in columns}) > 1:
        names, lengths = ", ".join(name for name, _ in named), [len(column) for column in columns]
        raise bad_value(names, f"lengths {lengths}", "one entry in each for every peak")
    return columns


def _column(name: str, values: Indices) -> Tensor:
    try:
        column = torch.as_tensor(values).cpu()
    except (TypeError, ValueError, RuntimeError):
        column = torch.tensor(float("nan"))
    if column.dim() != 1 or (len(column) and column.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8)):
        raise bad_value(name, values, "a list of whole numbers, one for each peak")
    return column.to(torch.int64)


def _check_image_ids(name: str, image_ids: Tensor, images: Source | Tensor) -> None:
    if isinstance(images, Tensor) or images.is_numbered:
        _check_range(name, image_ids, len(images))
    else:  # a part of a source, which keeps the ids that its images have in the whole, or a streamed one
        images.check_ids(image_ids.unique().tolist())


def _check_range(name: str, column: Tensor, limit: int) -> None:
    outside = column[(column < 0) | (column >= limit)]
    if len(outside):
        remedy = "-1 marks a missing peak, leave those out" if bool((outside == -1).any()) else ""
        raise bad_value(name, int(outside[0]), f"0 to {limit - 1}", remedy)


def lenders_of(
    switches_of: Indices | None, rules: Sequence[Rule], image_ids: Tensor, images: Source | Tensor
) -> Tensor | None:
    """(N,) images that lend their switches, within their range; None where every rule has switches of its own."""
    switches = [rule.switches for rule in rules]
    if (switches_of is not None) != ("other" in switches):
        raise bad_value(
            "switches_of",
            f"{'none' if switches_of is None else 'images'} with a rule of switches {', '.join(map(repr, switches))}",
            "one image for each peak with switches 'other', and none with others",
        )
    if switches_of is None:
        return None
    lenders, _ = _columns([("switches_of", switches_of), ("image", image_ids.tolist())])
    _check_image_ids("switches_of", lenders, images)
    return lenders
