"""Explanations of some units measured side by side: a table explanation x question, with intervals over units."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from deconv.compare.controls import Opened
from deconv.compare.measuring import METRICS, mean_interval
from deconv.compare.peak_set import PeakSet, gather_peaks
from deconv.compare.randomising import blocks, renewed, shuffled
from deconv.compare.sufficiency import CURVES, SHARES
from deconv.compare.tasks import PATCHES, LayerComparison, join, keep_or_measure, measure_units, unit_tasks, units_title
from deconv.engines import Engine
from deconv.images import Source
from deconv.network import Network
from deconv.progress import track
from deconv.projection.rules import Rule
from deconv.records import Peaks
from deconv.records.formats import Columns

Measurements = dict[str, dict[str, Columns]]
"""{layer: {explanation, or PATCHES: {metric: one number a unit}}}."""


@dataclass(frozen=True, eq=False)
class Study:
    """What is compared: the peaks of some units of each layer, by explanations, the one under test first.

    random: the network with its weights shuffled, for the control that needs it; None where no control does.
    records: the folder in which what was measured is kept; None keeps nothing.
    """

    network: Network
    images: Source
    peaks: Peaks
    units: dict[str, list[int]]
    explanations: Mapping[str, Opened]
    random: Network | None
    seed: int
    engine: Engine
    records: Path | None

    @property
    def tested(self) -> Rule:
        """The rule under test, which controls that are deconvnets are carried like."""
        return first_rule(self.explanations.values())

    def described(self, name: str) -> dict[str, Any]:
        """Return what a record says of an explanation, or of what else has a name; how far a control is carried."""
        explanation = self.explanations.get(name, name)
        is_control = isinstance(explanation, str)
        carried = {"carried_like": self.tested.options()} if is_control and self.tested.goes_beyond else {}
        return carried | {"rule": options_of(explanation)}

    def options(self) -> dict[str, Any]:
        """Return what a record says of each explanation, by its name."""
        return {name: options_of(explanation) for name, explanation in self.explanations.items()}

    def provenance(self, layer: str, name: str) -> dict[str, Any]:
        """Return all that decides the record of a layer by an explanation or PATCHES."""
        return self.described(name) | {
            "layer": layer,
            "units": self.units[layer],
            "seed": self.seed,
            "curves": CURVES,
            "shares": SHARES,
            "peaks": self.peaks.provenance,
        }

    def gather(self, layer: str, units: list[int], per_unit: int | None = None) -> PeakSet:
        """Return the strongest peaks of some units of a layer with the photographs they lie in; None for all."""
        peaks = self.peaks[layer]
        return gather_peaks(
            self.network, self.images, layer, peaks, units, per_unit, self.random, self.seed, self.tested
        )

    def measure(self) -> Measurements:
        """Return what is measured, from records that are there, else measured and recorded, layer by layer."""
        return self.kept([PATCHES], partial(_measure_layer, self), "comparing")

    def kept(
        self, baselines: Sequence[str], measure_layer: Callable[[str, list[str]], dict[str, Columns]], about: str
    ) -> Measurements:
        """Return what `measure_layer` measures of explanations and baselines, or their records where they are there."""
        names = [*self.explanations, *baselines]
        provenances = {layer: {name: self.provenance(layer, name) for name in names} for layer in self.units}
        return keep_or_measure(self.records, provenances, measure_layer, about)


def first_rule(explanations: Iterable[Opened]) -> Rule:
    """Return the first of them that is a rule, deconvnet if none is."""
    return next((each for each in explanations if isinstance(each, Rule)), Rule())


def options_of(explanation: Opened) -> Any:
    """Return what a record says of an explanation: its options, or the name of a control."""
    return explanation if isinstance(explanation, str) else explanation.options()


def randomised(network: Network, layers: list[str], seed: int) -> Network:
    """Return the same network with the weights of all layers looked at shuffled."""
    paths = [path for block in blocks(network, layers).values() for path in block]
    return renewed(network, shuffled(network.module, paths, seed))


def random_control(network: Network, layers: list[str], seed: int, explanations: Iterable[Opened]) -> Network | None:
    """Return `randomised` for the control random_weights, None where that is not among the explanations."""
    return randomised(network, layers, seed) if "random_weights" in list(explanations) else None


def _measure_layer(study: Study, layer: str, names: list[str]) -> dict[str, Columns]:
    """Return {explanation: columns} of all units of a layer, measured a few units at a time."""
    units, strongest = study.units[layer], study.peaks[layer].score[:, 0].numpy()
    comparison = LayerComparison(study.gather(layer, units), strongest, study.explanations, names)
    done = study.engine.work(measure_units, comparison, unit_tasks(units), partial(units_title, "comparing", layer))
    return join(list(track(done, f"comparing {layer}", len(units), unit="units", size=lambda t: len(t.units))), names)


def summarise(study: Study, measured: Measurements) -> dict[str, Any]:
    """Return means over units with 95 % intervals, by layer and over all; and by how much the tested one is ahead.

    "tested_minus" is that over all layers, by explanation, "layers_tested_minus" by layer: the mean of the units'
    differences, which are paired.
    """
    return side_by_side(measured, list(study.explanations), study.seed, list(METRICS)) | {
        "rules": study.options(),
        "units": study.units,
        "shares": SHARES,
        "provenance": study.peaks.provenance,
    }


def side_by_side(measured: Measurements, names: list[str], seed: int, metrics: Sequence[str]) -> dict[str, Any]:
    """Return means and intervals by layer and over all, and how far the first of `names` is ahead of the others."""
    together = all_layers(measured)
    return {
        "layers": {layer: {n: intervals(c, seed) for n, c in of.items()} for layer, of in measured.items()},
        "all_layers": {name: intervals(columns, seed) for name, columns in together.items()},
        "tested": names[0],
        "tested_minus": differences(together, names, seed, metrics),
        "layers_tested_minus": {layer: differences(of, names, seed, metrics) for layer, of in measured.items()},
    }


def all_layers(measured: Measurements) -> dict[str, Columns]:
    """Return {explanation: columns} over the units of all layers together."""
    return {
        name: {metric: np.concatenate([of[name][metric] for of in measured.values()]) for metric in columns}
        for name, columns in next(iter(measured.values())).items()
    }


def differences(columns: Mapping[str, Columns], names: list[str], seed: int, metrics: Sequence[str]) -> dict[str, Any]:
    """Return {other: {metric: mean and interval of the first one's value less the other's, over units}}."""
    first, *others = names
    return {
        other: {metric: mean_interval(columns[first][metric] - columns[other][metric], seed) for metric in metrics}
        for other in others
    }


def intervals(columns: Columns, seed: int) -> dict[str, Any]:
    """Return {metric: its mean and interval}, in the order of the table."""
    return {name: mean_interval(values, seed) for name, values in columns.items() if name != "unit"}
