"""Peaks back to pixels: one activation kept, all others of its layer zero, sent down by a rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from deconv.errors import BadInput, RecordMismatch
from deconv.images import Source
from deconv.images.batches import whole_batches
from deconv.network import Network
from deconv.network.receptive_field import cone
from deconv.progress import track
from deconv.projection import table
from deconv.projection.rules import Rule, as_rule
from deconv.projection.strategies import Loaded, Places, choose, chunk_size, send_down
from deconv.records import LayerPeaks, Reconstructions
from deconv.records.provenance import versions

SCORE_TOLERANCE = 1e-3
ROUNDING = 1e-5
"""Of a layer's strongest activation: what float32 may lose where large terms cancel, in units that hardly fire."""
IMAGES_AT_ONCE = 16
"""A way that runs whole images keeps this many in memory."""

Indices = Tensor | Sequence[int]


def project(
    network: Network,
    images: Source | Tensor,
    layer: str,
    image: Indices,
    channel: Indices,
    row: Indices,
    col: Indices,
    rule: str | Rule | Mapping[str, Any] = "deconvnet",
    score: Tensor | None = None,
    way: str = "auto",
    switches_of: Indices | None = None,
) -> Reconstructions:
    """Send the activation of each peak, unit channel[n] of `layer` at (row[n], col[n]) on images[image[n]], to pixels.

    images: a Source, or preprocessed images (M, 3, H, W).  image, channel, row, col: (N,) int64.
    rule: "deconvnet", "guided", "gradient", or a Rule or its options (`deconv.projection.rules`).
    score: (N,) what the activations were when mined, if known; checked.
    way: "window", "shared", "whole" (see `ways`) force one of the equal ways; "auto" takes the cheapest.
    switches_of: (N,) images whose switches serve in place of the peak's own, for a rule with switches "other".
    Returns Reconstructions: pixels (N, 3, h, w) float32 of the receptive field, zero outside the image; the seed is the
    activation's own value.

    Raises UnknownName (layer, rule, way), BadInput (indices outside their range; switches_of missing or in vain),
    UnsupportedOperation (the rule cannot pass an operation), RecordMismatch (the recomputed activation differs from
    `score` by more than 1e-3 of it and 1e-5 of the strongest given).
    Source: Zeiler and Fergus 2013, section 2.1.
    """
    asked = [(rule, channel)]
    (found,) = project_together(network, images, layer, image, row, col, asked, way=way, switches_of=switches_of)
    if score is not None:
        expected = torch.as_tensor(score).float().cpu()
        _check_scores(found.score, expected, layer, expected)
    return found


def project_together(
    network: Network,
    images: Source | Tensor,
    layer: str,
    image: Indices,
    row: Indices,
    col: Indices,
    asked: Sequence[tuple[str | Rule | Mapping[str, Any], Indices]],
    way: str = "auto",
    switches_of: Indices | None = None,
) -> list[Reconstructions]:
    """`project` of the same N places by several rules and units: what is below them goes up once for all.

    asked: (rule, channel (N,)) of each answer; switches_of serves the rules with switches "other". Raises as `project`.
    """
    rules_asked = [as_rule(rule) for rule, _ in asked]
    peaks = torch.stack([_columns((image, channel, row, col), len(images)) for _, channel in asked])
    places = peaks[0][:, [0, 2, 3]]
    lenders = _lenders(switches_of, rules_asked, places, len(images))
    size = _frame_size(network, images, places[:, 0])
    graph, target = network.graph_at(size), network.node(layer, size)
    _check_ranges(graph.nodes[target].shape, peaks.flatten(0, 1))
    for rule in rules_asked:
        table.check_supported((graph.nodes[p] for p in graph.carrying(target)), rule)
    cone_of_layer, field = cone(graph, target), network.receptive_field(layer, size)
    chosen = choose(way, graph, cone_of_layer, places[:, 0])
    box = torch.tensor([field.box(int(r), int(c)) for r, c in places[:, 1:]], dtype=torch.int64).view(-1, 4)
    pixels = torch.empty((len(asked), len(places), network.input_shape[0], *field.size))
    scores = torch.empty((len(asked), len(places)))
    for some, own in _chunks(network, images, places[:, 0], chunk_size(graph, cone_of_layer, chosen), chosen):
        lent = None if lenders is None else _lent(network, images, lenders[some])
        at, starts = (column[some].to(network.device) for column in (places[:, 1:], box[:, :2]))
        units = peaks[:, some, 1].to(network.device)
        there = Places(own.to(network.device), lent, at, starts, field.size)
        with torch.no_grad():
            parts = send_down(chosen, graph, cone_of_layer, there, list(zip(rules_asked, units, strict=True)))
        for n, (score, sent) in enumerate(parts):
            scores[n, some], pixels[n, some] = score.float().cpu(), sent.float().cpu()
    about = {"weights": network.weights_hash, "layer": layer, "versions": versions()}
    found = []
    for rule, score, sent, columns in zip(rules_asked, scores, pixels, peaks, strict=True):
        which, channels, rows, cols = columns.unbind(1)
        provenance = about | {"rule": rule.name, "rule_options": rule.options()}
        found.append(Reconstructions(layer, rule.name, sent, score, box, which, channels, rows, cols, size, provenance))
    return found


def project_peaks(
    network: Network,
    images: Source | Tensor,
    layer: str,
    peaks: LayerPeaks,
    units: Sequence[int],
    rule: str | Rule | Mapping[str, Any] = "deconvnet",
) -> Reconstructions:
    """`project` for all mined peaks of some units of a layer, unit by unit, strongest first, scores checked."""
    chosen = list(units)
    recon = project(network, images, layer, *peaks.of(chosen), rule=rule)
    _check_scores(recon.score, peaks.scores_of(chosen), layer, peaks.score)
    return recon


def _lent(network: Network, images: Source | Tensor, lenders: Tensor) -> Loaded:
    used, which = lenders.unique(return_inverse=True)
    lent = Loaded(torch.cat([part for _, part in _load(network, images, used)]), which)
    return lent.to(network.device)


def _chunks(
    network: Network, images: Source | Tensor, image: Tensor, most: int, way: str
) -> Iterator[tuple[Tensor, Loaded]]:
    """Peaks of images (N,) image by image, so that each is loaded once: (their numbers, what they need)."""
    if not len(image):
        return
    order = torch.argsort(image, stable=True)
    if isinstance(images, Tensor) and way == "window":  # windows are cut from the tensor itself, without a copy of it
        there = images.detach().to(network.device, network.precision)
        for some in track(order.split(most), "projecting", len(image), unit="peaks", size=len):
            yield some, Loaded(there, image[some])
        return
    used, counts = image[order].unique_consecutive(return_counts=True)
    at = 0
    loading = _load(network, images, used)
    for part in track(loading, "projecting", len(image), unit="peaks", size=lambda part: int(counts[part[0]].sum())):
        which_used, loaded = part
        numbers = order[at : at + int(counts[which_used].sum())]
        at += len(numbers)
        local = torch.searchsorted(used[which_used].contiguous(), image[numbers].contiguous())
        for some in torch.arange(len(numbers)).split(most):
            yield numbers[some], Loaded(loaded, local[some])


def _load(network: Network, images: Source | Tensor, used: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(positions in `used`, preprocessed images), a few at a time, in order."""
    positions = torch.arange(len(used))
    if isinstance(images, Tensor):
        for some in positions.split(IMAGES_AT_ONCE):
            yield some, network.check_images(images[used[some].to(images.device)])
        return
    preprocessing = network.needed_preprocessing()
    for index, input_images in whole_batches(images, preprocessing, IMAGES_AT_ONCE, used.tolist()):
        yield torch.searchsorted(used, index), network.check_images(preprocessing.normalize(input_images))


def _columns(given: Sequence[Indices], images: int) -> Tensor:
    """(N, 4) int64 of image, channel, row, col; the images within their range."""
    columns = [torch.as_tensor(values, dtype=torch.int64).cpu().reshape(-1) for values in given]
    if len({len(column) for column in columns}) != 1:
        raise BadInput(f"image, channel, row, col: given lengths {[len(c) for c in columns]}; expected equal ones.")
    peaks = torch.stack(columns, dim=1)
    _check_range("image", peaks[:, 0], images)
    return peaks


def _lenders(given: Indices | None, asked: Sequence[Rule], places: Tensor, images: int) -> Tensor | None:
    """(N,) images that lend their switches, within their range; None where every rule has switches of its own."""
    switches = [rule.switches for rule in asked]
    if (given is not None) != ("other" in switches):
        raise BadInput(
            f"switches_of: given {'none' if given is None else 'images'} with a rule of switches "
            f"{', '.join(map(repr, switches))}; expected one image for each peak with switches 'other', and none with "
            "others."
        )
    return None if given is None else _columns((given, *places.T), images)[:, 0]


def _check_ranges(shape: tuple[int, ...], peaks: Tensor) -> None:
    channels, height, width = shape if len(shape) == 3 else (shape[0], 1, 1)
    for name, column, limit in zip(("channel", "row", "col"), peaks[:, 1:].T, (channels, height, width), strict=True):
        _check_range(name, column, limit)


def _check_range(name: str, column: Tensor, limit: int) -> None:
    bad = column[(column < 0) | (column >= limit)]
    if len(bad):
        hint = " (-1 marks a missing peak: leave those out)" if bool((bad == -1).any()) else ""
        raise BadInput(f"{name}: given {int(bad[0])}; expected 0 to {limit - 1}{hint}.")


def _frame_size(network: Network, images: Source | Tensor, image: Tensor) -> tuple[int, int]:
    if isinstance(images, Tensor):
        network.check_images(images[:1])
        return images.shape[2], images.shape[3]
    preprocessing = network.needed_preprocessing()
    if preprocessing.size is not None:
        return preprocessing.size[0], preprocessing.size[1]
    input_images = (preprocessing.input_image(images.image(int(i))) for i in image.unique())
    shapes = {(input_image.shape[1], input_image.shape[2]) for input_image in input_images}
    if len(shapes) != 1:
        raise BadInput(
            f"images: given input images of sizes {sorted(shapes)}; expected one size. Give the preprocessing a size."
        )
    return shapes.pop()


def _check_scores(found: Tensor, expected: Tensor, layer: str, of_layer: Tensor) -> None:
    """`of_layer`: activations of the layer, of which the strongest says how large rounding may be."""
    if found.shape != expected.shape:
        raise BadInput(f"score: given shape {tuple(expected.shape)}; expected one for each of {len(found)} peaks.")
    allowed = SCORE_TOLERANCE * expected.abs() + ROUNDING * of_layer.nan_to_num(0).abs().amax() if len(found) else 0
    excess = ((found - expected).abs() - allowed).nan_to_num(float("inf"))
    if bool((excess > 0).any()):
        worst = int(excess.argmax())
        raise RecordMismatch(
            f"{layer}: peak {worst} was mined with score {float(expected[worst]):.6g} but now gives "
            f"{float(found[worst]):.6g}: the weights, images or preprocessing are not those of the record. Mine again."
        )
