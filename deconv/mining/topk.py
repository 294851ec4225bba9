"""Streaming top-k with a total order: the k best of each unit, whatever the order in which candidates arrive."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int64

Numbers = Int64[np.ndarray, " p"]


class TopK:
    """The k strongest peaks of each of C units so far, ordered by (-score, image, row, col).

    Because the order is total, `offer` and `merge` are commutative and associative: any split of the images into
    batches, shards or workers gives the same table. Memory is C x k, whatever the number of images.

    - score: (C, k) float32, -inf where there are fewer peaks.
    - image, row, col: (C, k) int64, -1 where there are fewer peaks.

    All are numpy arrays, because the tables are small and a hundred tiny parallel loops a batch would cost more than
    the sorting.
    """

    def __init__(self, channels: int, k: int):
        self.k = k
        self.score: Float[np.ndarray, "C k"] = np.full((channels, k), -np.inf, dtype=np.float32)
        self.image: Int64[np.ndarray, "C k"] = np.full((channels, k), -1, dtype=np.int64)
        self.row: Int64[np.ndarray, "C k"] = self.image.copy()
        self.col: Int64[np.ndarray, "C k"] = self.image.copy()

    @property
    def weakest(self) -> Float[np.ndarray, " C"]:
        """The score that a candidate of each unit must reach: the k-th best so far, -inf while there are fewer."""
        return self.score[:, -1]

    def offer(
        self, channel: Numbers, score: Float[np.ndarray, " p"], image: Numbers, row: Numbers, col: Numbers
    ) -> None:
        """Consider p candidates, in any order; the same peak must not be offered twice."""
        if not len(channel):
            return
        units, which = np.unique(channel, return_inverse=True)
        unit = np.concatenate([np.repeat(np.arange(len(units)), self.k), which])
        offered = (score, image, row, col)
        joined = [np.concatenate([old[units].ravel(), new]) for old, new in zip(self._columns(), offered, strict=True)]
        scores, images, rows, cols = joined
        order = np.lexsort((cols, rows, images, -scores, unit))  # the last key is the most important
        # every unit has at least k entries: its first k in the order stay
        first = np.searchsorted(unit[order], np.arange(len(units)))
        best = order[first[:, None] + np.arange(self.k)]
        for column, values in zip(self._columns(), joined, strict=True):
            column[units] = values[best]

    def clear(self, rows: slice) -> None:
        """Forget what some of the units hold."""
        for column, nothing in zip(self._columns(), (-np.inf, -1, -1, -1), strict=True):
            column[rows] = nothing

    def merge(self, other: TopK) -> None:
        """Consider everything another table holds, of other images. Raises ValueError if its shape differs."""
        if other.score.shape != self.score.shape:
            raise ValueError(f"cannot merge top-k tables of shapes {self.score.shape} and {other.score.shape}")
        exists = other.image >= 0
        channel = np.broadcast_to(np.arange(len(exists))[:, None], exists.shape)
        self.offer(channel[exists], *(column[exists] for column in other._columns()))

    def _columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        return self.score, self.image, self.row, self.col
