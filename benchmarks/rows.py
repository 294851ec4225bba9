"""One row of the benchmark: what was measured, what was reached, what must be; as a table and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from benchmarks.timing import Pair


@dataclass(frozen=True)
class Row:
    """A result, or the reason why there is none.

    reached: the number that `must` speaks of; at_most, at_least: the bound, None where the row only tells.
    by_cpu: the same ratio by processor time, which another process on the machine disturbs less.
    ours, peer: the two times in words. details: everything measured, for the JSON.
    """

    what: str
    reached: float | None = None
    unit: str = "x"
    at_most: float | None = None
    at_least: float | None = None
    by_cpu: float | None = None
    ours: str = ""
    peer: str = ""
    note: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def must(self) -> str:
        """The bound in words."""
        if self.at_most is not None:
            return f"at most {self.at_most:g} {self.unit}"
        return "" if self.at_least is None else f"at least {self.at_least:g} {self.unit}"

    @property
    def holds(self) -> bool | None:
        """Whether the bound holds; None without a bound or a number."""
        if self.reached is None or (self.at_most is None and self.at_least is None):
            return None
        return self.reached <= self.at_most if self.at_most is not None else self.reached >= (self.at_least or 0)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        names = ("what", "reached", "unit", "must", "holds", "by_cpu", "ours", "peer", "note", "details")
        return {name: getattr(self, name) for name in names}


def skipped(what: str, reason: str) -> Row:
    """A row that could not be measured here."""
    return Row(what, note=f"skipped: {reason}")


def faster(what: str, pair: Pair, unit: str, at_least: float | None = None, note: str = "") -> Row:
    """How many times as long the peer takes; `unit` is what an item is ("image", "peak")."""
    reached, by_cpu = (statistics.median(pair.ratios(kind)) for kind in ("wall", "cpu"))
    ours, peer = per_item(pair.ours_each(), unit), per_item(pair.peer_each(), unit)
    return Row(what, reached, "x", None, at_least, by_cpu, ours, peer, note, details_of(pair))


def over_floor(what: str, pair: Pair, unit: str, at_most: float | None = None, note: str = "") -> Row:
    """How many times as long as the floor ours takes."""
    reached, by_cpu = (statistics.median([1 / ratio for ratio in pair.ratios(kind)]) for kind in ("wall", "cpu"))
    ours, peer = per_item(pair.ours_each(), unit), per_item(pair.peer_each(), unit)
    return Row(what, reached, "x", at_most, None, by_cpu, ours, peer, note, details_of(pair))


def per_item(seconds: float, unit: str) -> str:
    """ "12.3 ms a peak", and for images the rate: "123 images/s"."""
    return f"{1 / seconds:.4g} images/s" if unit == "image" else f"{1e3 * seconds:.3g} ms a {unit}"


def details_of(pair: Pair) -> dict[str, Any]:
    """All laps of a pair."""
    laps = {
        f"{side}_{kind}_seconds": [getattr(lap, kind) for lap in getattr(pair, side)]
        for side in ("ours", "peer")
        for kind in ("wall", "cpu")
    }
    return laps | {"ours_items": pair.ours_items, "peer_items": pair.peer_items, "ratios": pair.ratios()}


def table(rows: Iterable[Row]) -> Table:
    """The rows for a terminal; their notes were told as they came, and are in the JSON."""
    drawn = Table(title="reached / must: medians of ratios, pair by pair", title_justify="left")
    for name in ("what", "reached", "by CPU time", "must", "holds", "ours", "peer or floor"):
        drawn.add_column(name, justify="right" if name in ("reached", "by CPU time") else "left", overflow="fold")
    for row in rows:
        holds = {True: "yes", False: "NO", None: ""}[row.holds]
        by_cpu = "" if row.by_cpu is None else number(row.by_cpu, row.unit)
        drawn.add_row(row.what, number(row.reached, row.unit), by_cpu, row.must, holds, row.ours, row.peer)
    return drawn


def number(value: float | None, unit: str) -> str:
    """Three digits and the unit, or a dash."""
    return "-" if value is None else f"{value:.3g} {unit}"
