"""Peaks back to pixels: one activation kept, all others of its layer zero, sent back by a rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch
from jaxtyping import Float
from torch import Tensor

from deconv.defaults import plain_defaults
from deconv.errors import BadInput, check_indices
from deconv.network import Network
from deconv.projection.arguments import AnyRule as AnyRule
from deconv.projection.arguments import Images as Images
from deconv.projection.arguments import Indices as Indices
from deconv.projection.arguments import check_kinds, lenders_of, peaks_asked
from deconv.projection.arguments import check_peaks as check_peaks
from deconv.projection.arguments import check_rules as check_rules
from deconv.projection.belonging import check_belonging, of_peaks
from deconv.projection.belonging import check_scores as check_scores
from deconv.projection.loading import lent_images, peak_chunks
from deconv.projection.loading import load_inputs as load_inputs
from deconv.projection.parts import check_through as check_through
from deconv.projection.parts import dominators_below as dominators_below
from deconv.projection.parts import empty_parts, fill_parts
from deconv.projection.parts import layers_below as layers_below
from deconv.projection.rules import as_rule
from deconv.projection.serving import said_of_unserved as said_of_unserved
from deconv.projection.serving import served_layers as served_layers
from deconv.projection.strategies import plan, send_back
from deconv.records import LayerPeaks, Parts, Reconstructions
from deconv.records.provenance import build


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
    lenders = lenders_of(switches_of, rules, image_ids, images)
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


@overload
def project_peaks(
    network: Network,
    images: Images,
    layer: LayerPeaks,
    *,
    units: Sequence[int],
    rule: AnyRule = ...,
    through: Sequence[str] = ...,
) -> Reconstructions: ...
@overload
def project_peaks(
    network: Network,
    images: Images,
    layer: str,
    peaks: LayerPeaks,
    units: Sequence[int],
    rule: AnyRule = ...,
    through: Sequence[str] = ...,
) -> Reconstructions: ...
@plain_defaults()
def project_peaks(
    network: Network,
    images: Images,
    layer: str | LayerPeaks,
    peaks: LayerPeaks | None = None,
    units: Sequence[int] | None = None,
    rule: AnyRule = "deconvnet",
    through: Sequence[str] = (),
) -> Reconstructions:
    """Send all mined peaks of some units of a layer back, unit by unit, strongest first; their scores are checked.

    layer, peaks: the peaks of a layer, mined from `images`, which know its name; or the name and then the peaks.
    units: the numbers of the units, from 0.  through: as for `project`.
    Returns and raises what `project` does, and BadInput for units that the layer does not have.

    >>> import deconv, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    >>> network, images = deconv.Network(net, (3, 16, 16)), torch.rand(5, 3, 16, 16)
    >>> peaks = deconv.mine(network, images, ["1"], k=2)
    >>> recon = deconv.project_peaks(network, images, peaks["1"], units=[0, 3])
    >>> len(recon) <= 4, torch.allclose(recon.score, peaks["1"].scores_of([0, 3]))
    (True, True)
    """
    layer, peaks, units = peaks_asked(layer, peaks, units)
    chosen = check_indices("units", units, len(peaks.score), f"units of {layer}")
    check_belonging(check_kinds(network, images), layer, peaks, chosen, network.channels(layer))
    with of_peaks(layer):
        recon = project(network, images, layer, *peaks.of(chosen), rule=rule, through=through)
    check_scores(recon.score, peaks.scores_of(chosen), layer, peaks.score, network.rounding)
    return recon


def _finite(scores: Tensor, layer: str) -> Tensor:
    if not bool(torch.isfinite(scores).all()):
        raise BadInput(f"layer {layer}: an activation is NaN or infinite; expected numbers: check images and weights")
    return scores
