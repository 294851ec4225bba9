"""Sanity checks: does a reconstruction change when what the network learned is taken from it, block by block?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deconv.analyses.choosing import firing_units
from deconv.command.options import SanityChecks
from deconv.command.setup import build_model, open_network, prepare
from deconv.compare.measuring import mean_interval
from deconv.compare.randomising import blocks, renewed, shuffled
from deconv.compare.scene import Scene
from deconv.compare.similarity import SIMILARITIES, similarities
from deconv.figures import sanity_checks, save_figure
from deconv.files import safe_name, write_json
from deconv.images import Source
from deconv.images.batches import whole_batches
from deconv.network import Network
from deconv.progress import track
from deconv.projection.rules import as_rule
from deconv.records import Peaks, table

OTHER_UNIT = "other_unit"
"""Stands among the shuffled networks where nothing is shuffled, but another unit is projected."""


def run(options: SanityChecks, folder: Path) -> Path:
    """Mine, project by intact and shuffled networks, compare and draw; returns the picture of all curves."""
    network = open_network(options.model, options.seed)
    prepared = prepare(options, network, options.layers, options.rules, options.units)
    blocks(network, prepared.layers)  # refuses layers between which nothing could be shuffled
    peaks, seed = prepared.mine(folder / "peaks.parquet", k=1), options.seed
    units = {name: firing_units(name, peaks[name], options.units, options.n_units, seed) for name in peaks}
    found = checked(Checks(network, prepared.images, peaks, units, options), folder / "records")
    summary = {
        "layers": summarise(found, options.seed),
        "rules": {rule: as_rule(rule).options() for rule in options.rules},
        "units": units,
        "provenance": peaks.provenance,
    }
    write_json(folder / "summary.json", summary)
    return save_figure(sanity_checks.cascades(summary["layers"], list(options.rules)), folder / "sanity_checks.png")


class Checks:
    """What is checked: the strongest peak of some units of each layer, before and after shuffling."""

    def __init__(
        self, network: Network, images: Source, peaks: Peaks, units: dict[str, list[int]], options: SanityChecks
    ) -> None:
        self.network, self.images, self.peaks, self.units = network, images, peaks, units
        self.rules, self.seed = list(options.rules), options.seed
        self.module = build_model(options.model, options.seed)
        self.blocks = blocks(network, list(units))

    def provenance(self, layer: str, rule: str) -> dict[str, Any]:
        """All that decides a record."""
        about = {"layer": layer, "rule": as_rule(rule).options(), "units": self.units[layer], "seed": self.seed}
        return about | {"blocks": self.blocks, "peaks": self.peaks.provenance}

    def shuffled(self, names: list[str]) -> Network:
        """The network with the blocks of these layers shuffled."""
        paths = [path for name in names for path in self.blocks[name]]
        return renewed(self.network, shuffled(self.module, paths, self.seed))

    def scene(self, layer: str) -> Scene:
        """The strongest peak of each unit."""
        peaks, units = self.peaks[layer], self.units[layer]
        columns = (peaks.image[units, 0], torch.tensor(units), peaks.row[units, 0], peaks.col[units, 0])
        numbers, preprocessing = columns[0].unique(), self.network.needed_preprocessing()
        input_images = torch.cat([part for _, part in whole_batches(self.images, preprocessing, 64, numbers.tolist())])
        return Scene(self.network, layer, input_images, numbers, torch.stack(columns, dim=1), seed=self.seed)


def checked(checks: Checks, records: Path) -> dict[str, dict[str, table.Columns]]:
    """{layer: {rule: columns}}, from records that are there, else computed and recorded.

    A column is "<similarity>/<cascade or alone>/<block>", or "<similarity>/other_unit".
    """
    paths = {
        (layer, rule): records / f"{safe_name(layer)}.{rule}.parquet" for layer in checks.units for rule in checks.rules
    }
    found: dict[str, dict[str, table.Columns]] = {layer: {} for layer in checks.units}
    for (layer, rule), path in paths.items():  # all first: a record of something else is refused before any work
        columns = table.load(path, checks.provenance(layer, rule))
        if columns is not None:
            found[layer][rule] = columns
    missing = [layer for layer in found if len(found[layer]) < len(checks.rules)]
    for layer in track(missing, "checking", len(missing), unit="layers"):
        for rule, columns in check_layer(checks, layer).items():
            table.save(paths[layer, rule], columns, checks.provenance(layer, rule))
            found[layer][rule] = columns
    return {layer: {rule: found[layer][rule] for rule in checks.rules} for layer in found}


def check_layer(checks: Checks, layer: str) -> dict[str, table.Columns]:
    """{rule: columns} of one layer: its reconstructions by each shuffled network beside the intact one's."""
    scene = checks.scene(layer)
    original = {rule: scene.reconstruct(rule) for rule in checks.rules}
    columns: dict[str, table.Columns] = {rule: {"unit": np.array(checks.units[layer])} for rule in checks.rules}
    stages = list(shufflings(list(checks.units), layer))
    for name, names in track(stages, f"checking {layer}", len(stages), unit="networks"):
        changed = Scene(checks.shuffled(names), layer, scene.input_images, scene.numbers, scene.peaks, seed=checks.seed)
        if layer in names:  # one shuffled unit is as good as another; else a dead unit has nothing to show
            changed = changed.firing()
        for rule in checks.rules:
            columns[rule] |= compared(original[rule], changed.reconstruct(rule), scene.inside, name)
    for rule in checks.rules:
        columns[rule] |= compared(original[rule], scene.others.reconstruct(rule), scene.inside, OTHER_UNIT)
    return columns


def shufflings(layers: list[str], layer: str) -> Iterator[tuple[str, list[str]]]:
    """(column, the blocks shuffled): from the layer itself down to the first, cascading, and each alone.

    What lies above the layer has no part in its reconstructions.
    """
    below = layers[: layers.index(layer) + 1]
    for n, name in reversed(list(enumerate(below))):
        yield f"cascade/{name}", below[n:]
    for name in reversed(below[:-1]):  # of the layer itself alone, the cascade's first step tells
        yield f"alone/{name}", [name]


def compared(before: np.ndarray, after: np.ndarray, inside: np.ndarray, name: str) -> table.Columns:
    """{"<similarity>/<name>": (N,)}; nan where a unit that was shuffled into silence leaves nothing to compare."""
    rows = [similarities(a, b, i) for a, b, i in zip(before, after, inside, strict=True)]
    return {f"{kind}/{name}": np.array([row[kind] for row in rows]) for kind in SIMILARITIES}


def summarise(found: Mapping[str, Mapping[str, table.Columns]], seed: int) -> dict[str, Any]:
    """{layer: {rule: {column: its mean, interval and number of units}}}."""
    return {
        layer: {
            rule: {name: mean_interval(values, seed) for name, values in columns.items() if name != "unit"}
            for rule, columns in rules.items()
        }
        for layer, rules in found.items()
    }
