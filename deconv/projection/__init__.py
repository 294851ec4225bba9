"""Peaks back to pixels: one activation kept, all others of its layer zero, sent back by a rule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deconv.defaults import plain_defaults
from deconv.errors import BadInput, bad_value, check_indices
from deconv.images import MapDataset, Source, check_images
from deconv.network import Network
from deconv.projection.belonging import check_belonging, of_peaks
from deconv.projection.belonging import check_scores as check_scores
from deconv.projection.loading import input_size, lent_images, peak_chunks
from deconv.projection.loading import load_inputs as load_inputs
from deconv.projection.parts import check_through as check_through
from deconv.projection.parts import dominators_below as dominators_below
from deconv.projection.parts import empty_parts, fill_parts
from deconv.projection.parts import layers_below as layers_below
from deconv.projection.rules import Rule, as_rule
from deconv.projection.serving import said_of_unserved as said_of_unserved
from deconv.projection.serving import served_layers as served_layers
from deconv.projection.strategies import plan, send_back
from deconv.projection.ways import check_carried
from deconv.records import LayerPeaks, Parts, Reconstructions
from deconv.records.provenance import build

AnyRule = str | Rule | Mapping[str, Any]
Images = Source | MapDataset | Float[Tensor, "M C H W"]
Indices = Int[Tensor, " N"] | Sequence[int]


@plain_defaults()
def project(
    network: Network,
    images: Images,
    layer: str,
    image: Indices,
    channel: Indices,
    row: Indices,
    col: Indices,
    rule: AnyRule = "deconvnet",
    score: Float[Tensor, " N"] | None = None,
    strategy: str = "auto",
    switches_of: Indices | None = None,
    through: Sequence[str] = (),
) -> Reconstructions:
    """Send N activations, that of unit channel[n] of `layer` at (row[n], col[n]) on image[n], back to pixels.

    images: a Source or a Dataset, or preprocessed images.
    image, channel, row, col: (N,) whole numbers; `image` counts from 0 in `images`.
    rule: "deconvnet", "guided", "gradient", "deconvnet_beyond", "guided_beyond", or a `Rule` or its options.
    score: the activations as they were mined, if known; they are checked.
    strategy: "window", "shared" or "whole" forces one of three that give the same (see `deconv.projection.strategies`);
        "auto" takes the one with least work.
    switches_of: (N,) images whose switches serve in place of the peaks' own, for a rule with switches "other".
    through: names of lower layers; what each of their units passes on is then in `parts` (see `records.Parts`).

    Returns Reconstructions: pixels (N, C, h, w) float32 of the receptive field, or of the image along an axis on which
    the field is longer, zero outside the image; what is sent back from the position is the activation's own value.
    Raises UnknownName (layer, rule, strategy), BadInput (indices outside their range; switches_of missing or in vain;
    a layer of `through` that is not below),
    UnsupportedOperation (the rule cannot pass an operation), RecordMismatch (the recomputed activation differs from
    `score` by more than 1e-3 of it and 1e-5 of the strongest given).
    Source: Zeiler and Fergus 2013, section 2.1.

    >>> import deconv, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    >>> network = deconv.Network(net.extend([torch.nn.Conv2d(4, 6, 3), torch.nn.ReLU()]), (3, 16, 16))
    >>> images = torch.rand(2, 3, 16, 16)
    >>> recon = deconv.project(network, images, "4", image=[0, 1], channel=[5, 2], row=[0, 3], col=[0, 3])
    >>> recon.pixels.shape, recon.paste().shape
    (torch.Size([2, 3, 8, 8]), torch.Size([2, 3, 16, 16]))
    >>> recon.box.tolist()
    [[-1, -1, 7, 7], [5, 5, 13, 13]]
    """
    requests = [(rule, channel)]
    (recon,) = project_together(
        network, images, layer, image, row, col, requests, strategy, switches_of, through=through
    )
    if score is not None:
        mined = torch.as_tensor(score).float().cpu()
        check_scores(recon.score, mined, layer, mined, network.rounding)
    return recon


@plain_defaults()
def project_together(
    network: Network,
    images: Images,
    layer: str,
    image: Indices,
    row: Indices,
    col: Indices,
    requests: Sequence[tuple[AnyRule, Indices]],
    strategy: str = "auto",
    switches_of: Indices | None = None,
    cut_to_image: bool = True,
    through: Sequence[str] = (),
) -> list[Reconstructions]:
    """Send activations at the same N positions back by several rules, for several units, after one forward pass.

    requests: (rule, channel (N,)) for each of the Reconstructions that are returned; the other arguments are those of
    `project`. switches_of: serves the rules with switches "other". cut_to_image: False returns all pixels of a field
    that is larger than the image. Each result is the one that `project` gives alone, and so are the errors.
    """
    # plan: nothing is computed before all of it is known to be possible
    rules = [as_rule(rule) for rule, _ in requests]
    requested = [channel for _, channel in requests]
    images, image_ids, rows, cols, channels, size = check_peaks(network, images, layer, image, row, col, requested)
    lenders = _lenders(switches_of, rules, image_ids, images)
    check_rules(network, [layer], rules, size)
    nodes = check_through(network, layer, through, rules, size)
    positions = torch.stack([rows, cols], dim=1)
    layer_plan = plan(network.graph_at(size), network.node(layer, size), strategy, image_ids, positions, cut_to_image)

    # run, chunk by chunk
    pixels = torch.empty((len(rules), len(positions), network.input_shape[0], *layer_plan.shown.size))
    scores = torch.empty((len(rules), len(positions)))
    parts = [empty_parts(network, nodes, len(positions)) for _ in rules]
    for chunk, peak_images in peak_chunks(network, images, image_ids, layer_plan):
        lender_images = None if lenders is None else lent_images(network, images, lenders[chunk])
        units = [(rule, channel[chunk].to(network.device)) for rule, channel in zip(rules, channels, strict=True)]
        with torch.no_grad():
            chunk_positions = positions[chunk].to(network.device)
            results = send_back(layer_plan, chunk_positions, peak_images, lender_images, units, set(nodes.values()))
        for n, sent in enumerate(results):
            scores[n, chunk], pixels[n, chunk] = _finite(sent.score.float().cpu(), layer), sent.pixels.float().cpu()
            fill_parts(parts[n], nodes, chunk, sent.parts, sent.around)

    # record
    box, field = layer_plan.shown.boxes(positions), layer_plan.field.boxes(positions)
    named = {"through": list(nodes)} if nodes else {}
    reconstructions = []
    for n, rule in enumerate(rules):
        provenance = build(network.provenance(), layer=layer, rule=rule.name, rule_options=rule.options(), **named)
        shares, part_positions, arounds = parts[n]
        recon = Reconstructions(
            layer=layer,
            rule=rule.name,
            pixels=pixels[n],
            score=scores[n],
            box=box,
            field=field,
            image=image_ids,
            channel=channels[n],
            row=rows,
            col=cols,
            input_size=size,
            provenance=provenance,
            parts=Parts(shares, part_positions, scores[n], image_ids, provenance, arounds) if nodes else Parts(),
        )
        reconstructions.append(recon)
    return reconstructions


@plain_defaults()
def project_peaks(
    network: Network,
    images: Images,
    layer: str,
    peaks: LayerPeaks,
    units: Sequence[int],
    rule: AnyRule = "deconvnet",
    through: Sequence[str] = (),
) -> Reconstructions:
    """Send all mined peaks of some units of a layer back, unit by unit, strongest first; their scores are checked.

    peaks: those of `layer`, mined from `images`.  units: the numbers of the units, from 0.  through: as for `project`.
    Returns and raises what `project` does, and BadInput for units that the layer does not have.

    >>> import deconv, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    >>> network, images = deconv.Network(net, (3, 16, 16)), torch.rand(5, 3, 16, 16)
    >>> peaks = deconv.mine(network, images, ["1"], k=2)
    >>> recon = deconv.project_peaks(network, images, "1", peaks["1"], units=[0, 3])
    >>> len(recon) <= 4, torch.allclose(recon.score, peaks["1"].scores_of([0, 3]))
    (True, True)
    """
    if not isinstance(peaks, LayerPeaks):
        raise bad_value("peaks", type(peaks).__name__, "the LayerPeaks of one layer", f"peaks[{layer!r}]")
    chosen = check_indices("units", units, len(peaks.score), f"units of {layer}")
    check_belonging(_check_kinds(network, images), layer, peaks, chosen, network.channels(layer))
    with of_peaks(layer):
        recon = project(network, images, layer, *peaks.of(chosen), rule=rule, through=through)
    check_scores(recon.score, peaks.scores_of(chosen), layer, peaks.score, network.rounding)
    return recon


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
    images = _check_kinds(network, images)
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


def _check_kinds(network: Network, images: Images) -> Source | Tensor:
    """Return the images as a source or a tensor. Raises BadInput for anything else, and for what is no network."""
    if not isinstance(network, Network):
        raise bad_value("network", type(network).__name__, "a deconv.Network", "deconv.Network(module, input_shape)")
    return check_images(images, network.input_shape[0], network.preprocessing)


def _finite(scores: Tensor, layer: str) -> Tensor:
    if not bool(torch.isfinite(scores).all()):
        raise BadInput(f"layer {layer}: an activation is NaN or infinite; expected numbers: check images and weights")
    return scores


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


def _lenders(
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
