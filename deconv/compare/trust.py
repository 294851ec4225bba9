"""How far to trust a unit's pictures: are they right about its squares more often than pictures that know less?

A finished run of prediction has kept how each explanation answered each trial (`deconv.compare.predicting`). Of a unit
those are set beside the answers of the strongest control of its layer, image by image: squares on one image lie at much
the same places, so that they are no trials of their own, and the test is over images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.stats import binom, binomtest

from deconv.compare.guesses import BASELINES
from deconv.compare.predicting import answers_path
from deconv.compare.trials import ACTIVATIONS
from deconv.errors import BadInput
from deconv.explanations.functions import Explanation
from deconv.projection.rules import Rule
from deconv.records.formats import Columns, read_columns
from deconv.records.provenance import Provenance, check_same

QUESTION, ACTIVATION = "energy", "near"
"""What is asked: by the picture of the query image, of squares that all cover the middle of the peak's receptive field.
Of squares anywhere, whoever knows where the peak is names nearly all, as the control `centre` does."""
LEVEL = 0.05
"""Of the test: how often a unit whose pictures know nothing more than the control is found above it, at most."""
KNOWS_THE_UNIT = "gradient_times_input"
"""The one of the controls that is an explanation of the unit, no less than others."""
EXPECTED = "give the folder of a finished experiment=predict, run since answers to single trials are kept"


@dataclass(frozen=True)
class PredictionRun:
    """A finished experiment=predict, as its folder says: what it asked by name, and of which units of each layer.

    explanations: {name: a control's name, or "" for what is no control}.
    """

    folder: Path
    explanations: Mapping[str, str]
    units: Mapping[str, Sequence[int]]

    def trust(self, layer: str, rules: Sequence[Rule | Explanation], made_of: Provenance) -> LayerTrust:
        """Return how the units of a layer stand, by those of the rules that were asked.

        made_of: the weights, the preprocessing and the source of the peaks that the answers must be about. Raises
        RecordMismatch, naming the difference, for others.
        """
        controls = {name: self._answers(layer, name, made_of) for name in (*self.controls, *BASELINES)}
        control = strongest(controls)
        asked = {rule.name: made_of | {"rule": rule.options()} for rule in rules if rule.name in self.explanations}
        answers = {name: self._answers(layer, name, expected) for name, expected in asked.items()}
        return LayerTrust(control, {name: beside(answer, controls[control]) for name, answer in answers.items()})

    @property
    def controls(self) -> list[str]:
        """What was asked and knows less of the unit, beside BASELINES."""
        return [name for name, control in self.explanations.items() if control and control != KNOWS_THE_UNIT]

    def _answers(self, layer: str, name: str, made_of: Provenance) -> Columns:
        path = answers_path(self.folder / "records", layer, name)
        columns, provenance = read_columns(path)
        said = provenance["peaks"] | {"rule": provenance["rule"]}
        check_same(path, {key: said.get(key) for key in made_of}, made_of, "Run experiment=predict again")
        asked = columns["activation"] == ACTIVATIONS.index(ACTIVATION)
        return {key: values[asked] for key, values in columns.items()}


@dataclass(frozen=True, eq=False)
class LayerTrust:
    """The strongest control of a layer, and how its units stand beside that, {rule: columns as `beside` has them}."""

    control: str
    by_rule: Mapping[str, Columns]


def open_run(folder: Path, layers: Sequence[str], rule: str) -> PredictionRun:
    """Return the run of a folder. Raises BadInput, in one line, unless it can say how far to trust a rule's pictures.

    That is for a folder that is none of a finished experiment=predict, and for a run without that rule, without
    controls, or of none of these layers.
    """
    summary = folder / "summary.json"
    for needed in (summary, folder / "records" / "answers"):
        if not needed.exists():
            raise BadInput(f"predicted: {folder} has no {needed.relative_to(folder)}; {EXPECTED}")
    try:
        said = json.loads(summary.read_text(encoding="utf-8"))
        explanations = {name: of if isinstance(of, str) else "" for name, of in said["rules"].items()}
        run = PredictionRun(folder, explanations, dict(said["units"]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInput(f"predicted: {summary} is of something else ({error!r}); {EXPECTED}") from error
    if rule not in explanations:
        raise BadInput(f"predicted: {folder} asked {', '.join(explanations)}, not {rule}: give another run or rule")
    if not any(run.units.get(layer) for layer in layers):
        asked, wanted = ", ".join(run.units), ", ".join(layers)
        raise BadInput(f"predicted: {folder} asked of units of {asked}, none of {wanted}: give another run")
    if not run.controls:
        raise BadInput(f"predicted: {folder} asked no control; run it again with against=[other_unit,centre]")
    return run


def strongest(answers: Mapping[str, Columns]) -> str:
    """Return the control that is right most often, the first of equals.

    >>> strongest({"centre": {"energy": np.array([1.0, 0.0])}, "edges": {"energy": np.array([1.0, 1.0])}})
    'edges'
    """
    return max(answers, key=lambda name: float(np.nansum(answers[name][QUESTION])))


def beside(answers: Columns, control: Columns) -> Columns:
    """Return a row for each unit that has trials: how it is answered for, beside the control's answers to the same.

    Its number, its trials and the images that they lie on; how many each has right; and of `sign_test` over images p
    and "by_chance".

    >>> trials = {"unit": np.repeat(7, 10), "image": np.arange(10) // 2}
    >>> rows = beside(trials | {"energy": np.ones(10)}, trials | {"energy": np.tile([1.0, 0.0], 5)})
    >>> {name: values.tolist() for name, values in rows.items() if name not in ("p", "by_chance")}
    {'unit': [7], 'trials': [10], 'images': [5], 'right': [10.0], 'control': [5.0]}
    >>> rows["p"].tolist()
    [0.03125]
    """
    rows = []
    for unit in np.unique(answers["unit"]).tolist():
        of_unit = answers["unit"] == unit
        right, by_control = answers[QUESTION][of_unit], control[QUESTION][of_unit]
        images, number = np.unique(answers["image"][of_unit], return_inverse=True)
        p, by_chance = sign_test(np.bincount(number, weights=right - by_control))
        rows.append((unit, len(right), len(images), right.sum(), by_control.sum(), p, by_chance))
    names = ("unit", "trials", "images", "right", "control", "p", "by_chance")
    kinds = (np.int64, np.int64, np.int64, *(np.float64,) * 4)
    return {
        name: np.array([row[n] for row in rows], dtype=kind)
        for n, (name, kind) in enumerate(zip(names, kinds, strict=True))
    }


def sign_test(ahead: Float[np.ndarray, " images"]) -> tuple[float, float]:
    """Return (p, by chance) of the exact, one-sided sign test of whether values are above zero; zeros are left out.

    By chance is how often p is at most LEVEL where neither side is ahead: less than LEVEL, as counts are whole.

    >>> sign_test(np.array([1.0, 2.0, 0.5, 0.0, 1.0, 1.0, -1.0]))
    (0.109375, 0.015625)
    """
    above, below = int((ahead > 0).sum()), int((ahead < 0).sum())
    untied = above + below
    if not untied:
        return 1.0, 0.0
    by_chance = binom.sf(binom.isf(LEVEL, untied, 0.5), untied, 0.5)
    return float(binomtest(above, untied, 0.5, alternative="greater").pvalue), float(by_chance)
