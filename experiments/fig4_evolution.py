"""Figure 4: the strongest peak of units in every layer at several epochs of training, sent back to pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from deconv import figures
from deconv.analyses.choosing import check_units, chosen_rule
from deconv.analyses.evolution import find_snapshots, mine_epochs, settling_epochs, summarise, winners
from deconv.engines import open_engine
from deconv.figures import evolution as charts
from deconv.files import write_json
from deconv.images import Source
from deconv.images.cached import open_frames
from deconv.models import load_network
from deconv.network import Network
from deconv.progress import track
from deconv.projection import check_rules, project_peaks
from deconv.projection.patches import patches_of
from deconv.projection.rules import Rule
from deconv.records import LayerPeaks, Peaks, Reconstructions


def run(config: DictConfig, folder: Path) -> Path:
    """Mine at every epoch, project, count and draw; returns the picture."""
    networks = load_networks(config)
    epochs, last = list(networks), networks[max(networks)]
    layers, rule = check_layers(last, config), chosen_rule(config.rule)
    images = open_frames(config.source, last.needed_preprocessing(), config.cache)
    engine = open_engine(**config.engine)
    work = {"batch_size": config.batch_size, "precision": config.precision, "engine": engine}
    peaks = mine_epochs(networks, images, layers, folder / "peaks", **work)
    blocks, numbers = [], {}
    for layer in track(layers, "projecting and drawing", len(layers), unit="layers"):
        units = choose_units(peaks[epochs[-1]][layer], config)
        numbers[layer] = {"shown": units} | summarise(settling_epochs(winners(peaks, layer), epochs), epochs)
        rows = draw_units(networks, images, layer, peaks, units, rule, folder)
        blocks.append(charts.EvolutionBlock(title(last, layer), note(numbers[layer]), rows))
    shares = {layer: about["settled_share"] for layer, about in numbers.items()}
    heading = f"Figure 4: units of {config.model.name} while it learns; {len(images)} images, {rule.name}"
    picture = figures.save_figure(charts.evolution_figure(blocks, epochs, shares, heading), folder / "fig4.png")
    provenance = peaks[epochs[-1]].provenance | {
        "weights": {epoch: network.weights_hash for epoch, network in networks.items()}
    }
    write_json(folder / "summary.json", {"layers": numbers, "rule": rule.options(), "provenance": provenance})
    return picture


def load_networks(config: DictConfig) -> dict[int, Network]:
    """{epoch: network}, all of them before any is mined, so that a file that does not fit is named at once."""
    files = find_snapshots(config.trained, config.epochs)
    settings = {str(key): value for key, value in config.model.items()}
    return {
        epoch: load_network(**(settings | {"weights": str(path)}), seed=config.seed) for epoch, path in files.items()
    }


def check_layers(network: Network, config: DictConfig) -> list[str]:
    """The layers to look at. Raises UnknownName or UnsupportedOperation before any work is done."""
    layers = list(config.layers)
    check_rules(network, layers, [chosen_rule(config.rule)])
    check_units(network, layers, config.units)
    return layers


def choose_units(peaks: LayerPeaks, config: DictConfig) -> list[int]:
    """The units asked for, or a random subset (drawn by the seed): of dead ones only where living ones are too few."""
    if config.units is not None:
        return list(config.units)
    alive = peaks.found[:, 0]
    shuffled = torch.randperm(len(alive), generator=torch.Generator().manual_seed(config.seed))
    return sorted(shuffled[torch.argsort(~alive[shuffled], stable=True)][: config.n_units].tolist())


def draw_units(
    networks: Mapping[int, Network],
    images: Source,
    layer: str,
    peaks: Mapping[int, Peaks],
    units: list[int],
    rule: Rule,
    folder: Path,
) -> tuple[charts.EvolutionRow, ...]:
    """Rows of one layer; leaves its reconstructions at every epoch and the patches of the last one in the folder."""
    shown: list[dict[int, np.ndarray]] = []
    for epoch, network in networks.items():
        recon = project_peaks(network, images, layer, peaks[epoch][layer], units, rule)
        recon.save(folder / layer / f"epoch-{epoch:03d}.reconstructions.safetensors")
        shown.append(by_unit(recon.channel, cells_of(recon)))
    cut = by_unit(recon.channel, patch_cells(networks[max(networks)], images, recon, folder / layer))
    winning = winners(peaks, layer)
    same = (winning[1:] == winning[:-1]) & (winning[1:] >= 0)
    return tuple(
        charts.EvolutionRow(
            f"unit {unit}", tuple(cells.get(unit) for cells in shown), tuple(same[:, unit].tolist()), cut.get(unit)
        )
        for unit in units
    )


def by_unit(channel: torch.Tensor, pictures: np.ndarray) -> dict[int, np.ndarray]:
    """{unit: its picture}; dead units have none."""
    return dict(zip(channel.tolist(), pictures, strict=True))


def sees_all(recon: Reconstructions) -> bool:
    """Whether a receptive field is as large as the image, so that most of a box would lie outside."""
    return recon.pixels.shape[2] >= recon.input_size[0] and recon.pixels.shape[3] >= recon.input_size[1]


def cells_of(recon: Reconstructions) -> np.ndarray:
    """A tile for each reconstruction: its receptive field, or the whole image where that is less."""
    return figures.tiles(figures.display(recon.paste() if sees_all(recon) else recon.pixels))


def patch_cells(network: Network, images: Source, recon: Reconstructions, folder: Path) -> np.ndarray:
    """The tiles of the patches beside `cells_of`; saves the patches, if any unit fires."""
    if not len(recon):
        return cells_of(recon)
    if sees_all(recon):
        recon = replace(recon, box=torch.tensor([[0, 0, *recon.input_size]]).expand(len(recon), 4))
    patches = patches_of(network, images, recon)
    patches.save(folder / "patches.safetensors")
    return figures.patch_tiles(patches)


def title(network: Network, layer: str) -> str:
    """What stands above a layer's block."""
    rows, cols = network.receptive_field(layer).size
    return f"{layer}   {network.channels(layer)} units that see {rows} x {cols} pixels"


def note(numbers: dict[str, Any]) -> str:
    """A layer's numbers in two lines; shares are of the living units."""
    parts = zip(("a quarter", "half", "three quarters"), numbers["quartiles"], strict=True)
    by = ", ".join(f"{part} {'not yet' if epoch is None else f'by epoch {epoch}'}" for part, epoch in parts)
    return f"settled: {by}\n{numbers['not_settled']} units not settled at the last epoch, {numbers['dead_units']} dead"
