"""How far to trust a unit's pictures, as pages say it: how often they name the right square, beside a control."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from deconv.records.formats import Columns

ABOUT = {
    "patches": "how much the photograph varies there",
    "image_centre": "nearness to the middle of the photograph",
    "other_unit": "another unit’s reconstruction",
    "random_weights": "a reconstruction by shuffled weights",
    "random_switches": "a reconstruction by switches drawn at random",
    "other_switches": "a reconstruction by another photograph’s switches",
    "edges": "the patch’s edges",
    "random_mask": "noise in the patch",
    "centre": "a blob about the peak",
}
"""Controls, in words."""
SUMMED = ("measured", "above", "by_chance")


@dataclass(frozen=True)
class Standing:
    """How one rule's pictures of a unit stand beside the control.

    right, control: of so many trials, each two squares on an image, how many either has right; equals are halves.
    images: those on which they lie.  p: of the test of whether the rule is ahead.  by_chance: how often the test says
    so of what is not.
    """

    trials: int
    images: int
    right: float
    control: float
    p: float
    by_chance: float

    @property
    def ahead(self) -> float:
        """The share of the trials that it has right, less the control's."""
        return (self.right - self.control) / self.trials


@dataclass(frozen=True, eq=False)
class Trust:
    """How the pictures of a layer's units stand beside its control, {rule: {unit: Standing}}, the atlas's rule first.

    level: p up to which a unit is above the control.

    >>> trust = Trust("centre", 0.05, {"deconvnet": {3: Standing(20, 9, 14.0, 11.0, 0.09, 0.02)}})
    >>> trust.of(3)
    [('deconvnet', Standing(trials=20, images=9, right=14.0, control=11.0, p=0.09, by_chance=0.02), False)]
    >>> trust.ahead(3), trust.ahead(4), trust.counts
    (0.15, None, Counts(measured=1, above=0, by_chance=0.02, level=0.05))
    """

    control: str
    level: float
    by_rule: Mapping[str, Mapping[int, Standing]]

    def of(self, unit: int) -> list[tuple[str, Standing, bool]]:
        """Return (rule, how it stands, whether that is above the control) of each rule that measured the unit."""
        standings = [(rule, of_rule[unit]) for rule, of_rule in self.by_rule.items() if unit in of_rule]
        return [(rule, standing, standing.p <= self.level) for rule, standing in standings]

    def ahead(self, unit: int) -> float | None:
        """Return by how much of its trials the first rule is ahead of the control; None for a unit not measured."""
        standing = self._of_first.get(unit)
        return None if standing is None else standing.ahead

    @property
    def described(self) -> str:
        """The control, in words behind its name where there are any."""
        return f"{self.control} ({ABOUT[self.control]})" if self.control in ABOUT else self.control

    @property
    def counts(self) -> Counts:
        """How many units were measured by the first rule, and how many of them are above the control."""
        standings = self._of_first.values()
        above = sum(standing.p <= self.level for standing in standings)
        return Counts(len(standings), above, sum(standing.by_chance for standing in standings), self.level)

    @property
    def _of_first(self) -> Mapping[int, Standing]:
        return next(iter(self.by_rule.values()))


@dataclass(frozen=True)
class Counts:
    """Units that were measured, those above their control, and how many would be by chance if none knew more."""

    measured: int
    above: int
    by_chance: float
    level: float


def together(trusts: Iterable[Trust | None]) -> Counts | None:
    """Return the counts of all layers; None where none was measured.

    >>> trust = Trust("centre", 0.05, {"deconvnet": {3: Standing(20, 9, 20.0, 11.0, 0.01, 0.04)}})
    >>> together([trust, None, trust]), together([None])
    (Counts(measured=2, above=2, by_chance=0.08, level=0.05), None)
    """
    counts = [trust.counts for trust in trusts if trust is not None]
    if not counts:
        return None
    measured, above, by_chance = (sum(getattr(each, name) for each in counts) for name in SUMMED)
    return Counts(measured, above, by_chance, counts[0].level)


def trust_column(trust: Trust | None, units: int) -> dict[str, list[float | None]]:
    """Return what units can be sorted by, {"trust": one for each unit, None where it was not measured}."""
    return {} if trust is None else {"trust": [trust.ahead(unit) for unit in range(units)]}


def p_value(p: float) -> str:
    """Return how p is said.

    >>> p_value(0.0207), p_value(0.00001)
    ('p = 0.021', 'p < 0.001')
    """
    return f"p = {p:.2g}" if p >= 0.001 else "p < 0.001"


def as_trust(control: str, level: float, by_rule: Mapping[str, Columns]) -> Trust:
    """Return the trust of a layer from columns of numbers, a row for each unit, as a run of prediction leaves them."""
    return Trust(control, level, {rule: _standings(columns) for rule, columns in by_rule.items()})


def _standings(columns: Columns) -> dict[int, Standing]:
    numbers: dict[str, list[Any]] = {name: values.tolist() for name, values in columns.items()}
    units = numbers.pop("unit")
    return {unit: Standing(**{name: of[n] for name, of in numbers.items()}) for n, unit in enumerate(units)}
