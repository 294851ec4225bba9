"""Figure 4: the strongest peak of units in every layer at several epochs of training, sent back to pixels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deconv import figures
from deconv.analyses.choosing import choose_units
from deconv.analyses.evolution import find_snapshots, mine_epochs, settling_epochs, summarise, winners
from deconv.command.paper import Fig4Evolution
from deconv.command.setup import open_rule, prepare
from deconv.figures.evolution import EvolutionBlock, EvolutionRow, evolution_figure, evolution_rows
from deconv.files import safe_name, write_json
from deconv.images import Source
from deconv.models.presets import called, open_network
from deconv.network import Network
from deconv.progress import track
from deconv.projection import project_peaks
from deconv.projection.patches import patches_of
from deconv.projection.rules import Rule
from deconv.records import Peaks


def run(options: Fig4Evolution, folder: Path) -> Path:
    """Mine at every epoch, project, count and draw; returns the picture."""
    networks, rule = load_networks(options), open_rule(options.rule)
    epochs, last = list(networks), networks[max(networks)]
    prepared = prepare(options, last, options.layers, [rule], options.units)
    images, layers = prepared.images, prepared.layers
    work: dict[str, Any] = {"batch_size": options.batch_size, "precision": options.precision}
    peaks = mine_epochs(networks, images, layers, folder / "peaks", **work, engine=prepared.engine)
    blocks, numbers = [], {}
    for layer in track(layers, "projecting and drawing", len(layers), unit="layers"):
        units = choose_units(peaks[epochs[-1]][layer], options.units, options.n_units, options.seed)
        numbers[layer] = {"shown": units} | summarise(settling_epochs(winners(peaks, layer), epochs), epochs)
        rows = draw_units(networks, images, layer, peaks, units, rule, folder)
        blocks.append(EvolutionBlock(title(last, layer), note(numbers[layer]), rows))
    shares = {layer: entry["settled_share"] for layer, entry in numbers.items()}
    heading = f"Figure 4: units of {called(options.model, last)} while it learns; {len(images)} images, {rule.name}"
    picture = figures.save_figure(evolution_figure(blocks, epochs, shares, heading), folder / "fig4.png")
    provenance = peaks[epochs[-1]].provenance | {
        "weights": {epoch: network.weights_hash for epoch, network in networks.items()}
    }
    write_json(folder / "summary.json", {"layers": numbers, "rule": rule.options(), "provenance": provenance})
    return picture


def load_networks(options: Fig4Evolution) -> dict[int, Network]:
    """{epoch: network}, all of them before any is mined, so that a file that does not fit is named at once."""
    files = find_snapshots(options.trained, options.epochs)
    return {
        epoch: open_network(options.model, options.seed, options.device, weights=str(path))
        for epoch, path in files.items()
    }


def draw_units(
    networks: Mapping[int, Network],
    images: Source,
    layer: str,
    peaks: Mapping[int, Peaks],
    units: list[int],
    rule: Rule,
    folder: Path,
) -> tuple[EvolutionRow, ...]:
    """Rows of one layer; leaves its reconstructions at every epoch and the patches of the last one in the folder."""
    recons = []
    for epoch, network in networks.items():
        recons.append(project_peaks(network, images, layer, peaks[epoch][layer], units, rule))
        recons[-1].save(folder / safe_name(layer) / f"epoch-{epoch:03d}.reconstructions.safetensors")
    patches = patches_of(networks[max(networks)], images, recons[-1]) if len(recons[-1]) else None
    if patches is not None:
        patches.save(folder / safe_name(layer) / "patches.safetensors")
    winning = winners(peaks, layer)[:, units]
    return evolution_rows(units, recons, patches, same=(winning[1:] == winning[:-1]) & (winning[1:] >= 0))


def title(network: Network, layer: str) -> str:
    """What stands above a layer's block."""
    rows, cols = network.receptive_field(layer).size
    return f"{layer}   {network.channels(layer)} units that see {rows} x {cols} pixels"


def note(numbers: dict[str, Any]) -> str:
    """A layer's numbers in two lines; shares are of the living units."""
    parts = zip(("a quarter", "half", "three quarters"), numbers["quartiles"], strict=True)
    by = ", ".join(f"{part} {'not yet' if epoch is None else f'by epoch {epoch}'}" for part, epoch in parts)
    return f"settled: {by}\n{numbers['not_settled']} units not settled at the last epoch, {numbers['dead_units']} dead"
