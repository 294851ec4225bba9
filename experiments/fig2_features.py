"""Figure 2: the strongest peaks of units in every layer, sent back to pixels, beside their image patches."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deconv import figures
from deconv.analyses.choosing import choose_units, describe_share, described_images, listed_shares, strongest_units
from deconv.analyses.features import summarise
from deconv.command.ahead import Ahead, projections, units_shown
from deconv.command.options import Fig2Features
from deconv.command.setup import Prepared, open_model, open_reference, open_rule, prepare
from deconv.errors import BadInput, check_choice
from deconv.figures import features
from deconv.figures.beyond import BEYOND, beyond_panels
from deconv.figures.masks import save_masks
from deconv.files import safe_name, write_json
from deconv.images import Source
from deconv.mining.beyond import peaks_beyond
from deconv.models.presets import called
from deconv.network import Network
from deconv.network.receptive_field import first_filters
from deconv.progress import track
from deconv.projection import project_peaks
from deconv.projection.masks import mask_of
from deconv.projection.patches import patches_of
from deconv.projection.rules import Rule
from deconv.records import FIELDS, Firing, Patches, Peaks, Reconstructions
from deconv.records.firing import DRAWN, QUANTILES

log = logging.getLogger("deconv")

CHOICES = ("random", "strongest")
ROWS = 3
"""Rows of units that the picture of all layers shows of each; a layer's own picture has all of its units."""


def run(options: Fig2Features, folder: Path) -> Path:
    """Mine, project, cut and draw; returns the picture of all layers."""
    check_choice("field", options.field, FIELDS)
    network, rule = open_model(options), open_rule(options.rule)
    prepared = prepare(options, network, options.layers, [rule], options.units)
    images, layers = prepared.images, prepared.layers
    reference = open_reference(options, network, images, layers)
    check_choosing(options, reference)
    record, ahead = folder / "peaks.safetensors", work_ahead(options, prepared, rule)
    peaks = prepared.mine(record, options.k, options.per_image, firing=options.beyond, ahead=ahead)
    chosen = {layer: pick_units(options, layer, peaks, reference) for layer in layers}
    beyond = peaks_beyond(network, images, checked_firing(peaks, folder), chosen) if options.beyond else {}
    panels, panels_beyond, summary = [], [], {}
    for layer in track(layers, "projecting and drawing", len(layers), unit="layers"):
        units = chosen[layer]
        if not bool(peaks[layer].found[units].any()):
            raise BadInput(
                f"layer {layer}: none of the units {units} fires on any of the {len(images)} images; choose others."
            )
        recon = project_peaks(network, images, layer, peaks[layer], units, rule)
        recon.save(folder / f"{safe_name(layer)}.reconstructions.safetensors")
        shown = recon.zoomed(None if options.field == "effective" else max(network.receptive_field(layer).size))
        numbers = summarise(network, images, layer, peaks[layer], units, recon, shown)
        summary[layer] = numbers | shares_of(layer, peaks, units, reference)
        notes = describe_units(summary[layer], reference)
        drawn, patches = draw_layer(network, images, recon, shown, summary[layer], notes, options, folder)
        panels.append(drawn)
        if peaks.firing is not None and options.beyond:
            more = project_peaks(network, images, layer, beyond[layer], units, rule)
            shown_too = more.zoomed(max(shown.pixels.shape[2:]))
            firing = peaks.firing[layer]
            panels_beyond.append(draw_beyond(network, images, (shown, patches), more, shown_too, firing, units, folder))
            summary[layer]["beyond"] = [[asdict(step) for step in firing.steps(unit)] for unit in units]
    of_images = f"{described_images(peaks)}, {rule.name}"
    heading = f"{called(options.model, network)}: the {options.k} strongest peaks of each unit, {of_images}"
    picture = save(panels, heading, folder / "fig2.png", caption_of(options), rows=ROWS)
    if panels_beyond:
        save(panels_beyond, heading, folder / "fig2_beyond.png", features.COLOURED + BEYOND, rows=ROWS)
    made_of = {"provenance": peaks.provenance, "rule": rule.options()}
    compared = {} if reference is None else {"reference": reference.provenance}
    write_json(folder / "summary.json", {"layers": summary, **made_of, **compared})
    if images.name == "bundled":
        said = "few of %d photographs are what a unit looks for: source=folder source.root=PATH looks at yours"
        log.info(said, len(images))
    return picture


def work_ahead(options: Fig2Features, prepared: Prepared, rule: Rule) -> Ahead:
    """Count what comes after mining: pictures of all peaks of the units, and of images beyond them."""
    of_unit = options.k + (len(QUANTILES) * DRAWN if options.beyond else 0)
    counts = {layer: units_shown(options, prepared.network, layer) * of_unit for layer in prepared.layers}
    return Ahead(projections(counts, [rule]), kept=True)


def check_choosing(options: Fig2Features, reference: Peaks | None) -> None:
    """Raise UnknownName or BadInput, before the work, for a way to choose units that cannot be used."""
    check_choice("choice of units", options.choose, CHOICES)
    if options.choose == "strongest" and options.units is not None:
        raise BadInput("choose=strongest chooses units, and units names them: leave one of them out")
    if options.choose == "strongest" and reference is None:
        raise BadInput(
            "choose=strongest: nothing says how strong the units of this network can be; expected reference=PATH, the "
            "peaks.safetensors of a run with it over many more images, or choose=random"
        )
    if options.beyond and options.precision != "float32":
        raise BadInput(f"beyond=true with precision={options.precision}: how units fire is counted in float32 only")


def checked_firing(peaks: Peaks, folder: Path) -> Peaks:
    """Return the peaks. Raises BadInput for those of a run without beyond=true."""
    if peaks.firing is None:
        record = folder / "peaks.safetensors"
        raise BadInput(f"{record} does not say how units fire: delete it to mine again, or choose another folder")
    return peaks


def pick_units(options: Fig2Features, layer: str, peaks: Peaks, reference: Peaks | None) -> list[int]:
    """Return the units of a layer that are shown, in the order of the figure."""
    if options.choose == "strongest" and reference is not None:
        return strongest_units(peaks[layer], reference[layer], options.n_units)
    return choose_units(peaks[layer], options.units, options.n_units, options.seed)


def shares_of(layer: str, peaks: Peaks, units: Sequence[int], reference: Peaks | None) -> dict[str, Any]:
    """Return the share of its strongest of each unit, where there is a reference."""
    if reference is None:
        return {}
    shares = listed_shares(peaks[layer], reference[layer])
    return {"share_of_strongest": [shares[unit] for unit in units]}


def describe_units(numbers: Mapping[str, Any], reference: Peaks | None) -> dict[int, str]:
    """Return what is said of the units that have a share of their strongest."""
    if reference is None:
        return {}
    shares = zip(numbers["units"], numbers["share_of_strongest"], strict=True)
    return {unit: describe_share(share, reference) for unit, share in shares if share is not None}


def draw_layer(
    network: Network,
    images: Source,
    recon: Reconstructions,
    shown: Reconstructions,
    numbers: Mapping[str, Any],
    notes: Mapping[int, str],
    options: Fig2Features,
    folder: Path,
) -> tuple[features.LayerPanels, Patches]:
    """Picture and patches of one layer, whose reconstructions show what `shown` has of them."""
    layer = recon.layer
    patches = patches_of(network, images, recon)
    patches.save(folder / f"{safe_name(layer)}.patches.safetensors")
    if options.masks:
        save_masks(recon, folder / "masks")
    drawn = features.layer_panels(
        shown,
        patches,
        options.k,
        numbers,
        filters=first_filters(network.graph, network.node(layer)),
        notes=notes,
        masks=mask_of(shown) if options.masks else None,
    )
    save([drawn], called(options.model, network), folder / f"{safe_name(layer)}.png", caption_of(options))
    return drawn, patches


def draw_beyond(
    network: Network,
    images: Source,
    top: tuple[Reconstructions, Patches],
    recon: Reconstructions,
    shown: Reconstructions,
    firing: Firing,
    units: Sequence[int],
    folder: Path,
) -> features.LayerPanels:
    """Records and picture of what lies beyond the strongest peaks of one layer's units, which are `top`."""
    patches = patches_of(network, images, recon)
    recon.save(folder / f"{safe_name(recon.layer)}.beyond.reconstructions.safetensors")
    patches.save(folder / f"{safe_name(recon.layer)}.beyond.patches.safetensors")
    strongest = top[0], top[1].cut_to(top[0].box)
    drawn = beyond_panels(strongest, (shown, patches.cut_to(shown.box)), firing, units)
    caption = features.COLOURED + BEYOND
    save([drawn], f"{recon.layer}, {recon.rule}", folder / f"{safe_name(recon.layer)}.beyond.png", caption)
    return drawn


def caption_of(options: Fig2Features) -> str:
    """Return how to read the tiles."""
    return features.COLOURED + (features.MASKED if options.masks else "")


def save(
    layers: Sequence[features.LayerPanels], heading: str, path: Path, caption: str, rows: int | None = None
) -> Path:
    """One long picture as PNG and, for printing, pages as PDF; returns the PNG's path."""
    picture = features.features_figure(layers, heading, rows, caption)
    return figures.save_pages(picture, features.features_pages(layers, heading, rows, caption), path)
