"""Does an explanation predict which of two squares lowers its unit more? How often it does, beside what knows less.

`deconv.compare.trials` finds the two squares of each trial, `deconv.compare.guesses` says what explanations answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from deconv.compare.controls import Opened
from deconv.compare.guesses import BASELINES, VIEW, UnitTrials, named_right, shares
from deconv.compare.judging import Study, side_by_side
from deconv.compare.peak_set import PeakSet
from deconv.compare.tasks import PATCHES, record_path, unit_tasks, units_title
from deconv.compare.trials import ACTIVATIONS, Covering, Squares, keep_or_cover, split_peaks
from deconv.errors import BadInput
from deconv.progress import track
from deconv.records.formats import Columns, save_columns

Row = TypeVar("Row")
Predictions = dict[str, dict[str, Columns]]
"""{layer: {explanation, or one of BASELINES: {"energy_max": the share of its trials that a unit has right, ...}}}."""


@dataclass(frozen=True, eq=False)
class PredictionStudy(Study):
    """What is asked: explanations, the one under test first, of some units of each layer.

    peaks: one an image; of each unit the first `references` are its references, and all others are in the queries.
    batch_size: squares in one forward pass. All else is as `Study` has it.
    """

    references: int
    squares: Squares
    batch_size: int = 16

    def made_of(self) -> dict[str, Any]:
        """Return what decides the trials."""
        settings = {"squares": list(self.squares.sides), "stride": self.squares.stride, "fill": self.squares.fill}
        shared = {"units": self.units, "references": self.references, "seed": self.seed}
        return settings | shared | {"peaks": self.peaks.provenance}

    def provenance(self, layer: str, name: str) -> dict[str, Any]:
        """Return all that decides the record of a layer by an explanation or one of BASELINES."""
        return self.made_of() | self.described(name) | {"layer": layer, "view": VIEW}

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
        return self.kept(BASELINES, partial(_predict_layer, self, trials), "predicting")


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
    chosen = {name: column[of_layer] for name, column in trials.items()}
    shared = LayerPrediction(
        study.gather(layer, units), chosen, study.references, study.squares, study.explanations, names
    )
    answers = in_order(study, predict_units, shared, layer, "predicting", lambda answered: answered.unit)
    if study.records is not None:  # before the units' record, without which all is measured again
        for name in names:
            columns = _join([unit.columns(name) for unit in answers])
            save_columns(answers_path(study.records, layer, name), columns, study.provenance(layer, name))
    return _by_name([{name: unit.shares(name, study.squares) for name in names} for unit in answers])


def answers_path(records: Path, layer: str, name: str) -> Path:
    """Return the file in a study's `records` that keeps how an explanation answered each trial of a layer's units."""
    return record_path(records / "answers", layer, name)


def in_order(
    study: Study,
    do: Callable[[Any, list[int]], Iterator[list[Row]]],
    shared: Any,
    layer: str,
    about: str,
    unit_of: Callable[[Row], int],
) -> list[Row]:
    """Return what `do` gives of all units of a layer, a few at a time, in the order of the units."""
    units = study.units[layer]
    done = study.engine.work(do, shared, unit_tasks(units), partial(units_title, about, layer))
    rows = [row for task in track(done, f"{about} {layer}", len(units), unit="units", size=len) for row in task]
    return sorted(rows, key=lambda row: units.index(unit_of(row)))


def by_unit(
    study: Study,
    do: Callable[[Any, list[int]], Iterator[list[dict[str, dict[str, float]]]]],
    shared: Any,
    layer: str,
    names: list[str],
    about: str,
) -> dict[str, Columns]:
    """Return {name: columns} of all units of a layer: what `do` gives of a few at a time, in the order of the units."""
    rows = in_order(study, do, shared, layer, about, lambda row: int(row[names[0]]["unit"]))
    return _by_name(rows)


def _by_name(rows: list[dict[str, dict[str, float]]]) -> dict[str, Columns]:
    """{name: columns} of a row {name: numbers} for each unit."""
    return {name: _columns([row[name] for row in rows]) for name in rows[0]}


def _columns(rows: list[dict[str, float]]) -> Columns:
    columns = {name: np.array([row[name] for row in rows], dtype=np.float64) for name in rows[0]}
    return columns | {"unit": columns["unit"].astype(np.int64)}


def _join(parts: list[Columns]) -> Columns:
    return {name: np.concatenate([columns[name] for columns in parts]) for name in parts[0]}


@dataclass(frozen=True, eq=False)
class Answers:
    """How explanations answer one unit's trials; right: {explanation: what `named_right` says}."""

    unit: int
    trials: Columns
    right: dict[str, dict[str, np.ndarray]]

    def columns(self, name: str) -> Columns:
        """Return a row for each trial: which it is, and by question 1 for right, 0 for wrong, a half for equals."""
        return {key: self.trials[key] for key in ("unit", "image", "activation", "square")} | self.right[name]

    def shares(self, name: str, squares: Squares) -> dict[str, float]:
        """Return the unit, and the shares of its trials that are right."""
        return {"unit": float(self.unit)} | shares(self.trials, squares, self.right[name])


def predict_units(shared: LayerPrediction, units: list[int]) -> Iterator[list[Answers]]:
    """Yield what each explanation answers of some units."""
    yield [_predict_unit(shared, unit) for unit in units]


def _predict_unit(shared: LayerPrediction, unit: int) -> Answers:
    peaks = shared.peaks.subset(shared.peaks.channel == unit)
    trials = {name: column[shared.trials["unit"] == unit] for name, column in shared.trials.items()}
    of_unit = UnitTrials(peaks, trials, shared.references, shared.squares)
    right = {name: named_right(of_unit, name, shared.explanations.get(name, name)) for name in shared.names}
    return Answers(unit, trials, right)


def summarise(study: PredictionStudy, measured: Predictions) -> dict[str, Any]:
    """Return accuracies over units with 95 % intervals, by layer and over all, and how far the tested one is ahead."""
    names = [*study.explanations, *BASELINES]
    return side_by_side(measured, names, study.seed, answered(next(iter(measured.values()))[names[0]])) | {
        "trials": {
            layer: {a: int(of[PATCHES][f"trials_{a}"].sum()) for a in ACTIVATIONS} for layer, of in measured.items()
        },
        "rules": study.options(),
        "settings": {name: value for name, value in study.made_of().items() if name not in ("peaks", "units")},
        "units": study.units,
        "provenance": study.peaks.provenance,
    }


def answered(columns: Iterable[str]) -> list[str]:
    """Return those of the columns that are accuracies."""
    return [name for name in columns if name != "unit" and not name.startswith("trials_")]
