"""Sanity checks: does a reconstruction change when what the network learned is taken from it, block by block?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from deconv import models
from deconv.analyses.choosing import check_units, draw_units
from deconv.compare.measuring import mean_interval
from deconv.compare.randomising import blocks, renewed, shuffled
from deconv.compare.scene import Scene
from deconv.compare.similarity import SIMILARITIES, similarities
from deconv.engines import open_engine
from deconv.figures import sanity_checks, save_figure
from deconv.files import write_json
from deconv.images import Source
from deconv.images.batches import whole_batches
from deconv.images.cached import open_frames
from deconv.mining import mine_into
from deconv.models import load_network
from deconv.network import Network
from deconv.progress import track
from deconv.projection import check_rules
from deconv.projection.rules import as_rule
from deconv.records import Peaks, table

OTHER_UNIT = "other_unit"
"""Stands among the shuffled networks where nothing is shuffled, but another unit is projected."""


def run(config: DictConfig, folder: Path) -> Path:
    """Mine, project by intact and shuffled networks, compare and draw; returns the picture of all curves."""
    network = load_network(**config.model, seed=config.seed)
    layers = sorted(config.layers or network.aliases or network.layers, key=network.node)
    check(network, layers, config)
    images = open_frames(config.source, network.needed_preprocessing(), config.cache)
    counts = {"k": config.k, "batch_size": config.batch_size, "per_image": config.per_image}
    how = {"precision": config.precision, "engine": open_engine(**config.engine)}
    peaks = mine_into(folder / "peaks.parquet", network, images, layers, **counts, **how)
    units = {layer: draw_units(layer, peaks[layer], config.units, config.n_units, config.seed) for layer in layers}
    found = checked(Checks(network, images, peaks, units, config), folder / "records")
    summary = {
        "layers": summarise(found, config.seed),
        "rules": {rule: as_rule(rule).options() for rule in config.rules},
        "units": units,
        "provenance": peaks.provenance,
    }
    write_json(folder / "summary.json", summary)
    return save_figure(sanity_checks.cascades(summary["layers"], list(config.rules)), folder / "sanity_checks.png")


class Checks:
    """What is checked: the strongest peak of some units of each layer, before and after shuffling."""

    def __init__(
        self, network: Network, images: Source, peaks: Peaks, units: dict[str, list[int]], config: DictConfig
    ) -> None:
        self.network, self.images, self.peaks, self.units = network, images, peaks, units
        self.rules, self.seed = list(config.rules), config.seed
        self.module = models.build(**models.of_build(config.model), seed=config.seed)
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


def check(network: Network, layers: list[str], config: DictConfig) -> None:
    """Raise, before any work is done, what an unknown or unfit rule, layer or unit raises."""
    blocks(network, layers)
    check_units(network, layers, config.units)
    check_rules(network, layers, config.rules)


def checked(checks: Checks, records: Path) -> dict[str, dict[str, table.Columns]]:
    """{layer: {rule: columns}}, from records that are there, else computed and recorded.

    A column is "<similarity>/<cascade or alone>/<block>", or "<similarity>/other_unit".
    """
    paths = {(layer, rule): records / f"{layer}.{rule}.parquet" for layer in checks.units for rule in checks.rules}
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
