"""Sanity checks: does a reconstruction change when what the network learned is taken from it, block by block?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from deconv import models
from deconv.analyses.choosing import check_units, draw_units
from deconv.compare.measuring import mean_interval
from deconv.compare.peak_set import PeakSet, gather_peaks
from deconv.compare.randomising import blocks, renewed, shuffled
from deconv.compare.similarity import SIMILARITIES, similarities
from deconv.compare.tasks import keep_or_measure
from deconv.engines import open_engine
from deconv.figures import sanity_checks, save_figure
from deconv.files import write_json
from deconv.images import Source
from deconv.images.cached import open_frames
from deconv.mining import mine_into
from deconv.models import load_network
from deconv.network import Network
from deconv.progress import track
from deconv.projection import check_rules
from deconv.projection.rules import as_rule
from deconv.records import Peaks
from deconv.records.formats import Columns

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
        """Return all that decides the record of a layer by a rule."""
        return {
            "layer": layer,
            "rule": as_rule(rule).options(),
            "units": self.units[layer],
            "seed": self.seed,
            "blocks": self.blocks,
            "peaks": self.peaks.provenance,
        }

    def shuffled(self, names: list[str]) -> Network:
        """Return the network with the blocks of these layers shuffled."""
        paths = [path for name in names for path in self.blocks[name]]
        return renewed(self.network, shuffled(self.module, paths, self.seed))

    def strongest_peaks(self, layer: str) -> PeakSet:
        """Return the strongest peak of each unit of a layer, with the photographs they lie in."""
        peaks, units = self.peaks[layer], self.units[layer]
        return gather_peaks(self.network, self.images, layer, peaks, units, per_unit=1, seed=self.seed)


def check(network: Network, layers: list[str], config: DictConfig) -> None:
    """Raise, before any work is done, what an unknown or unfit rule, layer or unit raises."""
    blocks(network, layers)
    check_units(network, layers, config.units)
    check_rules(network, layers, config.rules)


def checked(checks: Checks, records: Path) -> dict[str, dict[str, Columns]]:
    """Return {layer: {rule: columns}}, from records that are there, else computed and recorded.

    A column is "<similarity>/<cascade or alone>/<block>", or "<similarity>/other_unit".
    """
    provenances = {layer: {rule: checks.provenance(layer, rule) for rule in checks.rules} for layer in checks.units}
    return keep_or_measure(records, provenances, partial(check_layer, checks), "checking")


def check_layer(checks: Checks, layer: str, rules: list[str]) -> dict[str, Columns]:
    """Return {rule: columns} of one layer: its reconstructions by each shuffled network beside the intact one's."""
    peaks = checks.strongest_peaks(layer)
    intact = {rule: peaks.reconstruct(rule) for rule in rules}
    columns: dict[str, Columns] = {rule: {"unit": np.array(checks.units[layer])} for rule in rules}
    stages = list(shufflings(list(checks.units), layer))
    for name, names in track(stages, f"checking {layer}", len(stages), unit="networks"):
        changed = replace(peaks, network=checks.shuffled(names))
        if layer in names:  # one shuffled unit is as good as another; else a dead unit has nothing to show
            changed = changed.firing()
        for rule in rules:
            columns[rule] |= compared(intact[rule], changed.reconstruct(rule), peaks.inside, name)
    for rule in rules:
        columns[rule] |= compared(intact[rule], peaks.others.reconstruct(rule), peaks.inside, OTHER_UNIT)
    return columns


def shufflings(layers: list[str], layer: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (column, the blocks shuffled): cascading from the layer itself down to the first, then each alone.

    What lies above the layer has no part in its reconstructions.
    """
    layers_below = layers[: layers.index(layer) + 1]
    for n, name in reversed(list(enumerate(layers_below))):
        yield f"cascade/{name}", layers_below[n:]
    for name in reversed(layers_below[:-1]):  # the layer itself alone is the cascade's first step
        yield f"alone/{name}", [name]


def compared(before: np.ndarray, after: np.ndarray, inside: np.ndarray, name: str) -> Columns:
    """Return {"<similarity>/<name>": (N,)}; nan where a unit that is dead after shuffling leaves nothing to compare."""
    rows = [similarities(*row) for row in zip(before, after, inside, strict=True)]
    return {f"{kind}/{name}": np.array([row[kind] for row in rows]) for kind in SIMILARITIES}


def summarise(measured: Mapping[str, Mapping[str, Columns]], seed: int) -> dict[str, Any]:
    """Return {layer: {rule: {column: its mean, interval and number of units}}}."""
    return {
        layer: {
            rule: {name: mean_interval(values, seed) for name, values in columns.items() if name != "unit"}
            for rule, columns in rules.items()
        }
        for layer, rules in measured.items()
    }
