"""Does a reconstruction change when what the network learned is taken from it, block by block?

The pictures of the same peaks, by the intact network and by copies of it with shuffled weights, side by side
(`deconv.compare.randomising` shuffles). A shuffled network is one task of the run's engine, which makes it there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from deconv.compare.measuring import mean_interval
from deconv.compare.peak_set import PeakSet, gather_peaks
from deconv.compare.randomising import blocks, renewed, shuffled
from deconv.compare.similarity import ENTROPY_RISE, SIMILARITIES, entropy_rise, similarities
from deconv.compare.tasks import keep_or_measure
from deconv.engines import Engine
from deconv.explanations.functions import Explanation
from deconv.images import Source
from deconv.network import Network
from deconv.progress import track
from deconv.projection.rules import Rule
from deconv.records import Peaks
from deconv.records.formats import Columns

OTHER_UNIT = "other_unit"
"""Stands among the shuffled networks where nothing is shuffled, but another unit is projected."""

Shuffling = tuple[str, list[str]]
"""The name of a column, and the layers whose blocks are shuffled for it."""


@dataclass(frozen=True, eq=False)
class Checks:
    """What is checked: the strongest peak of some units of each layer, before and after shuffling, by some rules.

    units: by layer, in forward order, as `blocks` needs them.
    smooth: how many noisy copies of the photographs the pictures are means over; 1 takes the photographs as they are.
    """

    network: Network
    images: Source
    peaks: Peaks
    units: dict[str, list[int]]
    rules: Mapping[str, Rule | Explanation]
    seed: int
    engine: Engine
    smooth: int = 1

    def provenance(self, layer: str, rule: str) -> dict[str, Any]:
        """Return all that decides the record of a layer by a rule."""
        return {
            "layer": layer,
            "rule": self.rules[rule].options(),
            "units": self.units[layer],
            "seed": self.seed,
            "smooth": self.smooth,
            "blocks": blocks(self.network, list(self.units)),
            "peaks": self.peaks.provenance,
        }

    def check(self, records: Path) -> dict[str, dict[str, Columns]]:
        """Return {layer: {rule: columns}}, from records that are there, else computed and recorded.

        A column is "<similarity, or entropy_rise>/<cascade or alone>/<block>", or "<the same>/other_unit". Raises what
        `keep_or_measure` raises.
        """
        provenances = {layer: {rule: self.provenance(layer, rule) for rule in self.rules} for layer in self.units}
        return keep_or_measure(records, provenances, partial(_check_layer, self), "checking")


@dataclass(frozen=True, eq=False)
class LayerCheck:
    """What all tasks of one layer share: its N peaks, and how their pictures are made.

    blocks: {layer: the modules that are shuffled with it}.  intact: by rule, the intact network's pictures; none yet
    while these are made.  smooth: as `Checks` has it.
    """

    peaks: PeakSet
    blocks: dict[str, list[str]]
    rules: dict[str, Rule | Explanation]
    intact: dict[str, Float[np.ndarray, "N 3 h w"]]
    smooth: int

    def pictures(self, peaks: PeakSet, rules: Sequence[str]) -> list[Float[np.ndarray, "N 3 h w"]]:
        """Return the pictures of some peaks by rules; means over noisy copies, where these were asked for."""
        explanations = [self.rules[rule] for rule in rules]
        if self.smooth == 1:
            return peaks.reconstruct_all(explanations)
        copies = [peaks.noisy(copy).reconstruct_all(explanations) for copy in range(self.smooth)]
        return [np.mean(of_rule, axis=0) for of_rule in zip(*copies, strict=True)]


def _check_layer(checks: Checks, layer: str, rules: list[str]) -> dict[str, Columns]:
    """Return {rule: columns} of one layer: its reconstructions by each shuffled network beside the intact one's."""
    units, layers = checks.units[layer], list(checks.units)
    peaks = gather_peaks(checks.network, checks.images, layer, checks.peaks[layer], units, per_unit=1, seed=checks.seed)
    chosen = {rule: checks.rules[rule] for rule in rules}
    shared = LayerCheck(peaks, blocks(checks.network, layers), chosen, {}, checks.smooth)
    pictures = checks.engine.work(reconstruct_intact, shared, rules, lambda rule: f"checking {layer}: intact, {rule}")
    shared = replace(shared, intact=dict(pictures))
    stages = [*shufflings(layers, layer), (OTHER_UNIT, [])]
    done = checks.engine.work(compare_shuffled, shared, stages, lambda stage: f"checking {layer}: {stage[0]}")
    by_stage = dict(track(done, f"checking {layer}", len(stages), unit="networks"))
    columns: dict[str, Columns] = {rule: {"unit": np.array(units)} for rule in rules}
    for name, _ in stages:
        for rule in rules:
            columns[rule] |= by_stage[name][rule]
    return columns


def reconstruct_intact(shared: LayerCheck, rule: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (rule, pictures (N, 3, h, w)) of the peaks by the intact network."""
    (pictures,) = shared.pictures(shared.peaks, [rule])
    yield rule, pictures


def compare_shuffled(shared: LayerCheck, stage: Shuffling) -> Iterator[tuple[str, dict[str, Columns]]]:
    """Yield (column, {rule: similarities}) of the intact network's pictures and those after a shuffling."""
    name, layers = stage
    if name == OTHER_UNIT:
        changed = shared.peaks.others
    else:
        changed = replace(shared.peaks, network=_shuffled(shared, layers))
        if shared.peaks.layer in layers:  # one shuffled unit is as good as another; else a dead one has nothing to show
            changed = changed.firing()
    pictures = zip(shared.rules, shared.pictures(changed, list(shared.rules)), strict=True)
    inside = shared.peaks.inside
    yield name, {rule: compared(shared.intact[rule], after, inside, name) for rule, after in pictures}


def _shuffled(shared: LayerCheck, layers: Sequence[str]) -> Network:
    """The network with the blocks of these layers shuffled."""
    network = shared.peaks.network
    paths = [path for layer in layers for path in shared.blocks[layer]]
    return renewed(network, shuffled(network.module, paths, shared.peaks.seed))


def shufflings(layers: list[str], layer: str) -> Iterator[Shuffling]:
    """Yield (column, the blocks shuffled): cascading from the layer itself down to the first, then each alone.

    What lies above the layer has no part in its reconstructions.

    >>> list(shufflings(["conv1", "conv2", "conv3"], "conv2"))
    [('cascade/conv2', ['conv2']), ('cascade/conv1', ['conv1', 'conv2']), ('alone/conv1', ['conv1'])]
    """
    layers_below = layers[: layers.index(layer) + 1]
    for n, name in reversed(list(enumerate(layers_below))):
        yield f"cascade/{name}", layers_below[n:]
    for name in reversed(layers_below[:-1]):  # the layer itself alone is the cascade's first step
        yield f"alone/{name}", [name]


def compared(
    before: Float[np.ndarray, "N 3 h w"],
    after: Float[np.ndarray, "N 3 h w"],
    inside: Bool[np.ndarray, "N h w"],
    name: str,
) -> Columns:
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
