"""Does an explanation predict which of two squares lowers its unit more? How often it does, beside what knows less.

`deconv.compare.trials` finds the two squares of each trial, `deconv.compare.guesses` says what explanations answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deconv.compare.controls import Opened
from deconv.compare.guesses import BASELINES, VIEW, UnitTrials, named_right, shares
from deconv.compare.judging import all_layers, differences, first_rule, intervals, options_of
from deconv.compare.peak_set import PeakSet, gather_peaks
from deconv.compare.tasks import PATCHES, keep_or_measure
from deconv.compare.trials import ACTIVATIONS, Covering, Squares, keep_or_cover, split_peaks
from deconv.engines import Engine
from deconv.errors import BadInput
from deconv.images import Source
from deconv.network import Network
from deconv.progress import track
from deconv.projection.rules import Rule
from deconv.records import Peaks
from deconv.records.formats import Columns

UNITS_AT_ONCE = 5
"""Units in a task."""
Predictions = dict[str, dict[str, Columns]]
"""{layer: {explanation, or one of BASELINES: {"energy_max": the share of its trials that a unit has right, ...}}}."""


@dataclass(frozen=True, eq=False)
class PredictionStudy:
    """What is asked: explanations, the one under test first, of some units of each layer.

    peaks: one an image; of each unit the first `references` are its references, and all others are in the queries.
    random, records: as `deconv.compare.judging.Study` has them. batch_size: squares in one forward pass.
    """

    network: Network
    images: Source
    peaks: Peaks
    units: dict[str, list[int]]
    explanations: Mapping[str, Opened]
    random: Network | None
    references: int
    squares: Squares
    seed: int
    engine: Engine
    records: Path | None
    batch_size: int = 16

    @property
    def tested(self) -> Rule:
        """The rule under test, which controls that are deconvnets are carried like."""
        return first_rule(self.explanations.values())

    def made_of(self) -> dict[str, Any]:
        """Return what decides the trials."""
        settings = {"squares": list(self.squares.sides), "stride": self.squares.stride, "fill": self.squares.fill}
        shared = {"units": self.units, "references": self.references, "seed": self.seed}
        return settings | shared | {"peaks": self.peaks.provenance}

    def provenance(self, layer: str, name: str) -> dict[str, Any]:
        """Return all that decides the record of a layer by an explanation or one of BASELINES."""
        explanation = self.explanations.get(name, name)
        is_control = isinstance(explanation, str)
        carried = {"carried_like": self.tested.options()} if is_control and self.tested.goes_beyond else {}
        return self.made_of() | carried | {"layer": layer, "rule": options_of(explanation), "view": VIEW}

    def queries(self) -> dict[str, torch.Tensor]:
        """Return {layer: rows of image id, unit, row, col} of all query images. Raises BadInput if no unit has one."""
        queries = {
            layer: torch.cat([split_peaks(self.peaks[layer], unit, self.references)[1] for unit in units])
            for layer, units in self.units.items()
        }
        if not any(len(peaks) for peaks in queries.values()):
            raise BadInput(
                f"no unit fires on more images than its {self.references} references; expected query images: mine "
                "more images, or more peaks of each unit, or give fewer references"
            )
        return queries

    def measure(self) -> Predictions:
        """Return what is measured, from records that are there, else measured and recorded."""
        covering = Covering(self.network, self.images, self.queries(), self.squares, self.seed, self.batch_size)
        trials = keep_or_cover(self.records, covering, self.made_of(), self.engine)
        names = [*self.explanations, *BASELINES]
        provenances = {layer: {name: self.provenance(layer, name) for name in names} for layer in self.units}
        return keep_or_measure(self.records, provenances, partial(_predict_layer, self, trials), "predicting")


@dataclass(frozen=True, eq=False)
class LayerPrediction:
    """What all tasks of one layer share; trials: the columns of this layer's."""

    peaks: PeakSet
    trials: Columns
    references: int
    squares: Squares
    explanations: Mapping[str, Opened]
    names: list[str]


def _predict_layer(study: PredictionStudy, trials: Columns, layer: str, names: list[str]) -> dict[str, Columns]:
    """Return {explanation: columns} of all units of a layer."""
    units, of_layer = study.units[layer], trials["layer"] == list(study.units).index(layer)
    peaks = gather_peaks(
        study.network, study.images, layer, study.peaks[layer], units, None, study.random, study.seed, study.tested
    )
    chosen = {name: column[of_layer] for name, column in trials.items()}
    shared = LayerPrediction(peaks, chosen, study.references, study.squares, study.explanations, names)
    tasks = [units[n : n + UNITS_AT_ONCE] for n in range(0, len(units), UNITS_AT_ONCE)]
    done = study.engine.work(predict_units, shared, tasks)
    rows = [row for task in track(done, f"predicting {layer}", len(units), unit="units", size=len) for row in task]
    rows.sort(key=lambda row: units.index(int(row[names[0]]["unit"])))
    return {name: _columns([row[name] for row in rows]) for name in names}


def _columns(rows: list[dict[str, float]]) -> Columns:
    columns = {name: np.array([row[name] for row in rows], dtype=np.float64) for name in rows[0]}
    return columns | {"unit": columns["unit"].astype(np.int64)}


def predict_units(shared: LayerPrediction, units: list[int]) -> Iterator[list[dict[str, dict[str, float]]]]:
    """Yield, for each unit, {explanation: {column: the share of its trials that it names right}}."""
    yield [_predict_unit(shared, unit) for unit in units]


def _predict_unit(shared: LayerPrediction, unit: int) -> dict[str, dict[str, float]]:
    peaks = shared.peaks.subset(shared.peaks.channel == unit)
    trials = {name: column[shared.trials["unit"] == unit] for name, column in shared.trials.items()}
    of_unit = UnitTrials(peaks, trials, shared.references, shared.squares)
    rows = {}
    for name in shared.names:
        right = named_right(of_unit, name, shared.explanations.get(name, name))
        rows[name] = {"unit": float(unit)} | shares(trials, shared.squares, right)
    return rows


def summarise(study: PredictionStudy, measured: Predictions) -> dict[str, Any]:
    """Return accuracies over units with 95 % intervals, by layer and over all, and how far the tested one is ahead."""
    return side_by_side(measured, [*study.explanations, *BASELINES], study.seed) | {
        "trials": {
            layer: {a: int(of[PATCHES][f"trials_{a}"].sum()) for a in ACTIVATIONS} for layer, of in measured.items()
        },
        "rules": {name: options_of(explanation) for name, explanation in study.explanations.items()},
        "settings": {name: value for name, value in study.made_of().items() if name not in ("peaks", "units")},
        "units": study.units,
        "provenance": study.peaks.provenance,
    }


def side_by_side(measured: Predictions, names: list[str], seed: int) -> dict[str, Any]:
    """Return the accuracies of these names over units, and how far the first one is ahead, by layer and over all."""
    together = all_layers(measured)
    columns = answered(next(iter(together.values())))
    return {
        "layers": {layer: {n: intervals(c, seed) for n, c in of.items()} for layer, of in measured.items()},
        "all_layers": {name: intervals(of, seed) for name, of in together.items()},
        "tested": names[0],
        "tested_minus": differences(together, names, seed, columns),
        "layers_tested_minus": {layer: differences(of, names, seed, columns) for layer, of in measured.items()},
    }


def answered(columns: Iterable[str]) -> list[str]:
    """Return those of the columns that are accuracies."""
    return [name for name in columns if name != "unit" and not name.startswith("trials_")]
