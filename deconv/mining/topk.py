"""Streaming top-k with a total order: the k best of each unit, whatever the order in which candidates arrive."""

from __future__ import annotations

import numpy as np

Column = np.ndarray


class TopK:
    """The k strongest peaks of each of C units so far, ordered by (-score, image, row, col).

    Because the order is total, `offer` and `merge` are commutative and associative: any split of the images into
    batches, shards or workers gives the same table. Memory is C x k, whatever the number of images.

    score (C, k) float32, -inf where missing; image, row, col (C, k) int64, -1 where missing. numpy, because the tables
    are small and a hundred tiny parallel loops a batch would cost more than the sorting.
    """

    def __init__(self, channels: int, k: int):
        self.k = k
        self.score = np.full((channels, k), -np.inf, dtype=np.float32)
        self.image = np.full((channels, k), -1, dtype=np.int64)
        self.row = self.image.copy()
        self.col = self.image.copy()

    @property
    def weakest(self) -> Column:
        """(C,) the score that a candidate must reach: the k-th best so far, -inf while there are fewer."""
        return self.score[:, -1]

    def offer(self, channel: Column, score: Column, image: Column, row: Column, col: Column) -> None:
        """Consider P candidates: each argument (P,), in any order; the same peak must not be offered twice."""
        if not len(channel):
            return
        units, which = np.unique(channel, return_inverse=True)
        unit = np.concatenate([np.repeat(np.arange(len(units)), self.k), which])
        given = (score, image, row, col)
        parts = [np.concatenate([old[units].ravel(), new]) for old, new in zip(self._parts(), given, strict=True)]
        scores, images, rows, cols = parts
        order = np.lexsort((cols, rows, images, -scores, unit))  # the last key is the most important
        # every unit has at least k entries: its first k in the order stay
        first = np.searchsorted(unit[order], np.arange(len(units)))
        best = order[first[:, None] + np.arange(self.k)]
        for part, merged in zip(self._parts(), parts, strict=True):
            part[units] = merged[best]

    def merge(self, other: TopK) -> None:
        """Consider everything another table holds, of other images. Raises ValueError if its shape differs."""
        if other.score.shape != self.score.shape:
            raise ValueError(f"cannot merge top-k tables of shapes {self.score.shape} and {other.score.shape}")
        found = other.image >= 0
        channel = np.broadcast_to(np.arange(len(found))[:, None], found.shape)
        self.offer(channel[found], *(part[found] for part in other._parts()))

    def _parts(self) -> tuple[Column, Column, Column, Column]:
        return self.score, self.image, self.row, self.col
