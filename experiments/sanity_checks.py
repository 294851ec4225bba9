"""Sanity checks: does a reconstruction change when what the network learned is taken from it, block by block?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from deconv.analyses.choosing import firing_units
from deconv.command.options import SanityChecks
from deconv.command.setup import asked_explanations, prepare
from deconv.compare.measuring import mean_interval
from deconv.compare.peak_set import PeakSet, gather_peaks
from deconv.compare.randomising import blocks, renewed, shuffled
from deconv.compare.similarity import ENTROPY_RISE, SIMILARITIES, entropy_rise, similarities
from deconv.compare.tasks import keep_or_measure
from deconv.explanations import by_name
from deconv.explanations.functions import Explanation
from deconv.figures import sanity_checks, save_figure
from deconv.files import write_json
from deconv.images import Source
from deconv.models.presets import build_model, open_network
from deconv.network import Network
from deconv.progress import track
from deconv.projection.rules import Rule
from deconv.records import Peaks
from deconv.records.formats import Columns

OTHER_UNIT = "other_unit"
"""Stands among the shuffled networks where nothing is shuffled, but another unit is projected."""


def run(options: SanityChecks, folder: Path) -> Path:
    """Mine, project by intact and shuffled networks, compare and draw; returns the picture of all curves."""
    network = open_network(options.model, options.seed, options.device)
    rules = by_name(asked_explanations(options, options.rules))
    prepared = prepare(options, network, options.layers, rules.values(), options.units)
    blocks(network, prepared.layers)  # refuses layers between which nothing could be shuffled
    peaks, seed = prepared.mine(folder / "peaks.safetensors", k=1), options.seed
    units = {name: firing_units(name, peaks[name], options.units, options.n_units, seed) for name in peaks}
    measurements = checked(Checks(network, prepared.images, peaks, units, rules, options), folder / "records")
    summary = {
        "layers": summarise(measurements, options.seed),
        "rules": {name: rule.options() for name, rule in rules.items()},
        "units": units,
        "provenance": peaks.provenance,
    }
    write_json(folder / "summary.json", summary)
    return save_figure(sanity_checks.cascades(summary["layers"], list(rules)), folder / "sanity_checks.png")


class Checks:
    """What is checked: the strongest peak of some units of each layer, before and after shuffling."""

    def __init__(
        self,
        network: Network,
        images: Source,
        peaks: Peaks,
        units: dict[str, list[int]],
        rules: Mapping[str, Rule | Explanation],
        options: SanityChecks,
    ) -> None:
        self.network, self.images, self.peaks, self.units = network, images, peaks, units
        self.rules, self.seed, self.smooth = rules, options.seed, options.smooth
        self.module = build_model(options.model, options.seed)
        self.blocks = blocks(network, list(units))

    def provenance(self, layer: str, rule: str) -> dict[str, Any]:
        """Return all that decides the record of a layer by a rule."""
        return {
            "layer": layer,
            "rule": self.rules[rule].options(),
            "units": self.units[layer],
            "seed": self.seed,
            "smooth": self.smooth,
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

    def pictures(self, peaks: PeakSet, rules: list[str]) -> list[np.ndarray]:
        """Return the pictures by some rules; means over noisy copies of the photographs, where these were asked for."""
        explanations = [self.rules[rule] for rule in rules]
        if self.smooth == 1:
            return peaks.reconstruct_all(explanations)
        copies = [peaks.noisy(copy).reconstruct_all(explanations) for copy in range(self.smooth)]
        return [np.mean(of_rule, axis=0) for of_rule in zip(*copies, strict=True)]


def checked(checks: Checks, records: Path) -> dict[str, dict[str, Columns]]:
    """Return {layer: {rule: columns}}, from records that are there, else computed and recorded.

    A column is "<similarity, or entropy_rise>/<cascade or alone>/<block>", or "<the same>/other_unit".
    """
    provenances = {layer: {rule: checks.provenance(layer, rule) for rule in checks.rules} for layer in checks.units}
    return keep_or_measure(records, provenances, partial(check_layer, checks), "checking")


def check_layer(checks: Checks, layer: str, rules: list[str]) -> dict[str, Columns]:
    """Return {rule: columns} of one layer: its reconstructions by each shuffled network beside the intact one's."""
    peaks = checks.strongest_peaks(layer)
    intact = checks.pictures(peaks, rules)
    columns: dict[str, Columns] = {rule: {"unit": np.array(checks.units[layer])} for rule in rules}
    stages = list(shufflings(list(checks.units), layer))
    for name, names in track(stages, f"checking {layer}", len(stages), unit="networks"):
        changed = replace(peaks, network=checks.shuffled(names))
        if layer in names:  # one shuffled unit is as good as another; else a dead unit has nothing to show
            changed = changed.firing()
        for rule, before, after in zip(rules, intact, checks.pictures(changed, rules), strict=True):
            columns[rule] |= compared(before, after, peaks.inside, name)
    for rule, own, other in zip(rules, intact, checks.pictures(peaks.others, rules), strict=True):
        columns[rule] |= compared(own, other, peaks.inside, OTHER_UNIT)
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
    """Return {"<similarity, or entropy_rise>/<name>": (N,)}; nan where a dead unit leaves nothing to compare."""
    triples = list(zip(before, after, inside, strict=True))
    rows = [similarities(*triple) | {ENTROPY_RISE: entropy_rise(*triple)} for triple in triples]
    return {f"{kind}/{name}": np.array([row[kind] for row in rows]) for kind in (*SIMILARITIES, ENTROPY_RISE)}


def summarise(measured: Mapping[str, Mapping[str, Columns]], seed: int) -> dict[str, Any]:
    """Return {layer: {rule: {column: its mean, interval and number of units}}}."""
    return {
        layer: {
            rule: {name: mean_interval(values, seed) for name, values in columns.items() if name != "unit"}
            for rule, columns in rules.items()
        }
        for layer, rules in measured.items()
    }
