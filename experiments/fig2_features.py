"""Figure 2: the strongest peaks of units in every layer, sent back to pixels, beside their image patches."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from deconv import figures
from deconv.analyses.choosing import choose_units
from deconv.analyses.features import classes_of_units, summarise
from deconv.command.options import Fig2Features
from deconv.command.setup import open_network, open_rule, prepare
from deconv.errors import BadInput
from deconv.figures import features
from deconv.files import safe_name, write_json
from deconv.images import Source
from deconv.network import Network
from deconv.network.receptive_field import first_convolution
from deconv.progress import track
from deconv.projection import project_peaks
from deconv.projection.patches import patches_of
from deconv.records import LayerPeaks, Peaks

log = logging.getLogger("deconv")
ROWS = 3
"""Rows of units that the picture of all layers shows of each; a layer's own picture has all of its units."""


def run(options: Fig2Features, folder: Path) -> Path:
    """Mine, project, cut and draw; returns the picture of all layers."""
    network, rule = open_network(options.model, options.seed), open_rule(options.rule)
    prepared = prepare(options, network, options.layers, [rule], options.units)
    images, layers = prepared.images, prepared.layers
    peaks = prepared.mine(folder / "peaks.parquet", options.k, options.per_image)
    panels, summary = [], {}
    for layer in track(layers, "projecting and drawing", len(layers), unit="layers"):
        units = choose_units(peaks[layer], options.units, options.n_units, options.seed)
        panels.append(draw_layer(network, images, layer, peaks, units, options, folder))
        summary[layer] = summarise(network, images, layer, peaks[layer], units)
    heading = (
        f"{options.model['name']}: the {options.k} strongest peaks of each unit, {len(images)} photographs, {rule.name}"
    )
    picture = save(panels, heading, folder / "fig2.png", rows=ROWS)
    write_json(folder / "summary.json", {"layers": summary, "provenance": peaks.provenance, "rule": rule.options()})
    return picture


def draw_layer(
    network: Network, images: Source, layer: str, peaks: Peaks, units: list[int], options: Fig2Features, folder: Path
) -> features.LayerPanels:
    """Records and picture of one layer."""
    if not bool(peaks[layer].found[units].any()):
        raise BadInput(
            f"layer {layer}: none of the units {units} fires on any of the {len(images)} images; choose others."
        )
    recon = project_peaks(network, images, layer, peaks[layer], units, open_rule(options.rule))
    patches = patches_of(network, images, recon)
    recon.save(folder / f"{safe_name(layer)}.reconstructions.safetensors")
    patches.save(folder / f"{safe_name(layer)}.patches.safetensors")
    filters = first_convolution(network.graph, network.node(layer))
    weights = None if filters is None else filters.weight.float().cpu()
    classes = classes_of_units(images, peaks[layer], units)
    panels = features.unit_panels(recon, patches, options.k, weights, classes)
    drawn = features.LayerPanels(title(network, layer, peaks[layer], filters is not None), panels)
    save([drawn], options.model["name"], folder / f"{safe_name(layer)}.png")
    return drawn


def save(layers: Sequence[features.LayerPanels], heading: str, path: Path, rows: int | None = None) -> Path:
    """One long picture as PNG and, for printing, pages as PDF; returns the PNG's path."""
    picture = features.features_figure(layers, heading, rows)
    return figures.save_pages(picture, features.features_pages(layers, heading, rows), path)


def title(network: Network, layer: str, peaks: LayerPeaks, with_filters: bool) -> str:
    """What stands above a layer's grid."""
    (rows, cols), dead = network.receptive_field(layer).size, int((~peaks.found.any(dim=1)).sum())
    return (
        f"{layer}   {network.channels(layer)} units, receptive field {rows} x {cols} pixels"
        + (f", {dead} never fire" if dead else "")
        + ("; first its filter" if with_filters else "")
    )
