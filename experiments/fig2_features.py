"""Figure 2: the strongest peaks of units in every layer, sent back to pixels, beside their image patches."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from omegaconf import DictConfig

from deconv import figures
from deconv.analyses.choosing import check_units, chosen_rule
from deconv.engines import open_engine
from deconv.errors import BadInput
from deconv.figures import features
from deconv.files import write_json
from deconv.images import Source
from deconv.images.cached import open_frames
from deconv.mining import mine_into
from deconv.models import load_network
from deconv.network import Network
from deconv.network.receptive_field import first_convolution
from deconv.progress import track
from deconv.projection import check_rules, project_peaks
from deconv.projection.patches import patches_of
from deconv.records import LayerPeaks, Peaks

log = logging.getLogger("deconv")


def run(config: DictConfig, folder: Path) -> Path:
    """Mine, project, cut and draw; returns the picture of all layers."""
    network = load_network(**config.model, seed=config.seed)
    images = open_frames(config.source, network.needed_preprocessing(), config.cache)
    layers = list(config.layers or network.aliases or network.layers)
    check_units(network, layers, config.units)
    rule = chosen_rule(config.rule)
    check_rules(network, layers, [rule])
    counts = {"k": config.k, "batch_size": config.batch_size, "per_image": config.per_image}
    how = {"precision": config.precision, "engine": open_engine(**config.engine)}
    peaks = mine_into(folder / "peaks.parquet", network, images, layers, **counts, **how)
    panels, summary = [], {}
    for layer in track(layers, "projecting and drawing", len(layers), unit="layers"):
        units = choose_units(peaks[layer], config.units, config.n_units, config.seed)
        panels.append(draw_layer(network, images, layer, peaks, units, config, folder))
        summary[layer] = summarise(network, layer, peaks[layer], units)
    heading = (
        f"{config.model.name}: the {config.k} strongest peaks of each unit, {len(images)} photographs, {rule.name}"
    )
    picture = figures.save_figure(features.feature_figure(panels, heading, rows=2), folder / "fig2.png")
    write_json(folder / "summary.json", {"layers": summary, "provenance": peaks.provenance, "rule": rule.options()})
    return picture


def choose_units(peaks: LayerPeaks, units: list[int] | None, n_units: int, seed: int) -> list[int]:
    """The units asked for, or a random subset (drawn by `seed`) of those that fire on the most images."""
    if units is not None:
        return list(units)
    fires_on = peaks.found.sum(dim=1)
    shuffled = torch.randperm(len(fires_on), generator=torch.Generator().manual_seed(seed))
    by_count = shuffled[torch.argsort(fires_on[shuffled], descending=True, stable=True)]
    alive = by_count[fires_on[by_count] > 0]
    return sorted(alive[:n_units].tolist())


def draw_layer(
    network: Network, images: Source, layer: str, peaks: Peaks, units: list[int], config: DictConfig, folder: Path
) -> features.LayerPanels:
    """Records and picture of one layer."""
    if not bool(peaks[layer].found[units].any()):
        raise BadInput(
            f"layer {layer}: none of the units {units} fires on any of the {len(images)} images; choose others."
        )
    recon = project_peaks(network, images, layer, peaks[layer], units, chosen_rule(config.rule))
    patches = patches_of(network, images, recon)
    recon.save(folder / f"{layer}.reconstructions.safetensors")
    patches.save(folder / f"{layer}.patches.safetensors")
    filters = first_convolution(network.graph, network.node(layer))
    panels = features.unit_panels(recon, patches, config.k, None if filters is None else filters.weight.float().cpu())
    drawn = features.LayerPanels(title(network, layer, peaks[layer], filters is not None), panels)
    figures.save_figure(features.feature_figure([drawn], config.model.name), folder / f"{layer}.png")
    return drawn


def title(network: Network, layer: str, peaks: LayerPeaks, with_filters: bool) -> str:
    """What stands above a layer's grid."""
    (rows, cols), dead = network.receptive_field(layer).size, int((~peaks.found.any(dim=1)).sum())
    return (
        f"{layer}   {network.channels(layer)} units, receptive field {rows} x {cols} pixels"
        + (f", {dead} never fire" if dead else "")
        + ("; first its filter" if with_filters else "")
    )


def summarise(network: Network, layer: str, peaks: LayerPeaks, units: list[int]) -> dict[str, object]:
    """The numbers that the figure shows."""
    field = network.receptive_field(layer)
    return {
        "units": units,
        "channels": network.channels(layer),
        "map_size": network.map_size(layer),
        "receptive_field": field.size,
        "stride": field.stride,
        "dead_units": int((~peaks.found.any(dim=1)).sum()),
        "strongest_score": [round(float(peaks.score[unit, 0]), 6) if peaks.found[unit, 0] else None for unit in units],
        "different_images": [int(peaks.image[unit][peaks.found[unit]].unique().numel()) for unit in units],
    }
