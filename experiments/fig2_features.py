"""Figure 2: the strongest peaks of units in every layer, sent back to pixels, beside their image patches."""

from __future__ import annotations

import logging
from pathlib import Path

from deconv import figures
from deconv.analyses.choosing import choose_units
from deconv.command.options import Fig2Features
from deconv.command.setup import open_network, open_rule, prepare
from deconv.errors import BadInput, check_choice
from deconv.figures import features
from deconv.files import safe_name, write_json
from deconv.images import Source
from deconv.network import Network
from deconv.network.receptive_field import first_convolution
from deconv.progress import track
from deconv.projection import project_peaks
from deconv.projection.masks import mask_of, save_masks
from deconv.projection.patches import patches_of
from deconv.records import FIELDS, LayerPeaks, Peaks, Reconstructions

log = logging.getLogger("deconv")


def run(options: Fig2Features, folder: Path) -> Path:
    """Mine, project, cut and draw; returns the picture of all layers."""
    check_choice("field", options.field, FIELDS)
    network, rule = open_network(options.model, options.seed), open_rule(options.rule)
    prepared = prepare(options, network, options.layers, [rule], options.units)
    images, layers = prepared.images, prepared.layers
    peaks = prepared.mine(folder / "peaks.parquet", options.k, options.per_image)
    panels, summary = [], {}
    for layer in track(layers, "projecting and drawing", len(layers), unit="layers"):
        units = choose_units(peaks[layer], options.units, options.n_units, options.seed)
        if not bool(peaks[layer].found[units].any()):
            raise BadInput(
                f"layer {layer}: none of the units {units} fires on any of the {len(images)} images; choose others."
            )
        recon = project_peaks(network, images, layer, peaks[layer], units, rule)
        panels.append(draw_layer(network, images, layer, peaks, recon, options, folder))
        summary[layer] = summarise(network, layer, peaks[layer], units, recon)
    heading = (
        f"{options.model['name']}: the {options.k} strongest peaks of each unit, {len(images)} photographs, {rule.name}"
    )
    picture = figures.save_figure(features.features_figure(panels, heading, rows=2), folder / "fig2.png")
    write_json(folder / "summary.json", {"layers": summary, "provenance": peaks.provenance, "rule": rule.options()})
    return picture


def draw_layer(
    network: Network,
    images: Source,
    layer: str,
    peaks: Peaks,
    recon: Reconstructions,
    options: Fig2Features,
    folder: Path,
) -> features.LayerPanels:
    """Records and picture of one layer."""
    patches = patches_of(network, images, recon)
    recon.save(folder / f"{safe_name(layer)}.reconstructions.safetensors")
    patches.save(folder / f"{safe_name(layer)}.patches.safetensors")
    if options.masks:
        save_masks(recon, folder / "masks")
    shown = recon.zoomed(None if options.field == "effective" else max(network.receptive_field(layer).size))
    filters = first_convolution(network.graph, network.node(layer))
    panels = features.unit_panels(
        shown,
        patches.cut_to(shown.box),
        options.k,
        None if filters is None else filters.weight.float().cpu(),
        mask_of(shown) if options.masks else None,
    )
    drawn = features.LayerPanels(title(network, layer, peaks[layer], shown, filters is not None), panels)
    figures.save_figure(features.features_figure([drawn], options.model["name"]), folder / f"{safe_name(layer)}.png")
    return drawn


def title(network: Network, layer: str, peaks: LayerPeaks, shown: Reconstructions, with_filters: bool) -> str:
    """What stands above a layer's grid."""
    (rows, cols), dead = network.receptive_field(layer).size, int((~peaks.found.any(dim=1)).sum())
    height, width = shown.pixels.shape[2:]
    return (
        f"{layer}   {network.channels(layer)} units, receptive field {rows} x {cols} pixels"
        + (f", shown: the {height} x {width} in the middle" if (height, width) != (rows, cols) else "")
        + (f", {dead} never fire" if dead else "")
        + ("; first its filter" if with_filters else "")
    )


def summarise(
    network: Network, layer: str, peaks: LayerPeaks, units: list[int], recon: Reconstructions
) -> dict[str, object]:
    """The numbers that the figure shows."""
    field = network.receptive_field(layer)
    return {
        "units": units,
        "channels": network.channels(layer),
        "map_size": network.map_size(layer),
        "receptive_field": field.size,
        "effective_field": recon.effective_field,
        "stride": field.stride,
        "dead_units": int((~peaks.found.any(dim=1)).sum()),
        "strongest_score": [round(float(peaks.score[unit, 0]), 6) if peaks.found[unit, 0] else None for unit in units],
        "different_images": [int(peaks.image[unit][peaks.found[unit]].unique().numel()) for unit in units],
    }
