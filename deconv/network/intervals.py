"""What positions along an axis read of another axis: the first and the last position of each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NOTHING = 10**9
"""The first of an interval that holds nothing; the last is its negative."""


@dataclass(frozen=True, eq=False)
class Interval:
    """For each position along one axis of a layer the first and the last position of a node that it reads; int64."""

    first: Tensor
    last: Tensor

    def united(self, other: Interval | None) -> Interval:
        """Return the smallest intervals that hold both."""
        if other is None:
            return self
        return Interval(torch.minimum(self.first, other.first), torch.maximum(self.last, other.last))

    def through_window(self, step: int, before: int, extent: int) -> Interval:
        """Return what a sliding window reads for these of its outputs."""
        read = Interval(self.first * step - before, self.last * step - before + extent - 1)
        return read.where(self.first <= self.last)

    def where(self, kept: Tensor) -> Interval:
        """Return the intervals where `kept`, elsewhere nothing."""
        return Interval(self.first.where(kept, NOTHING), self.last.where(kept, -NOTHING))

    def through_table(self, table: Interval) -> Interval:
        """Return the union of the table's entries over each interval; what lies outside the table reads nothing."""
        size = len(table.first)
        first, last = self.first.clamp_min(0).tolist(), self.last.clamp_max(size - 1).tolist()
        firsts, lasts = table.first.tolist(), table.last.tolist()
        read = [
            (min(firsts[low : high + 1]), max(lasts[low : high + 1])) if low <= high else (NOTHING, -NOTHING)
            for low, high in zip(first, last, strict=True)
        ]
        both = torch.tensor(read, dtype=torch.int64).view(-1, 2)
        return Interval(both[:, 0], both[:, 1])


Intervals = tuple[Interval, Interval]
"""Of the rows and of the columns."""
