"""Streaming top-k with a total order: the k best of each unit, whatever the order in which candidates arrive."""

from __future__ import annotations

import torch
from torch import Tensor


class TopK:
    """The k strongest peaks of each of C units so far, ordered by (-score, image, row, col).

    Because the order is total, `offer` and `merge` are commutative and associative: any split of the images into
    batches, shards or workers gives the same table. Memory is C x k, whatever the number of images.

    score (C, k) float32, -inf where missing; image, row, col (C, k) int64, -1 where missing.
    """

    def __init__(self, channels: int, k: int):
        self.k = k
        self.score = torch.full((channels, k), float("-inf"))
        self.image = torch.full((channels, k), -1, dtype=torch.int64)
        self.row = self.image.clone()
        self.col = self.image.clone()

    @property
    def weakest(self) -> Tensor:
        """(C,) the score that a candidate must reach: the k-th best so far, -inf while there are fewer."""
        return self.score[:, -1]

    def offer(self, channel: Tensor, score: Tensor, image: Tensor, row: Tensor, col: Tensor) -> None:
        """Consider P candidates: each argument (P,), in any order; the same peak must not be offered twice."""
        if not len(channel):
            return
        units, which = channel.unique(return_inverse=True)
        held = [part[units].flatten() for part in self._parts()]
        which_held = torch.arange(len(units)).repeat_interleave(self.k)
        unit = torch.cat([which_held, which])
        parts = [torch.cat([old, new]) for old, new in zip(held, (score, image, row, col), strict=True)]
        order = _total_order(unit, *parts)
        # every unit has at least k entries: its first k in the order stay
        first = torch.searchsorted(unit[order].contiguous(), torch.arange(len(units)))
        best = order[first[:, None] + torch.arange(self.k)]
        for part, merged in zip(self._parts(), parts, strict=True):
            part[units] = merged[best].to(part.dtype)

    def merge(self, other: TopK) -> None:
        """Consider everything another table holds, of other images. Raises ValueError if its shape differs."""
        if other.score.shape != self.score.shape:
            raise ValueError(
                f"cannot merge top-k tables of shapes {tuple(self.score.shape)} and {tuple(other.score.shape)}"
            )
        channel = torch.arange(len(other.score))[:, None].expand_as(other.image)
        found = other.image >= 0
        self.offer(channel[found], *(part[found] for part in other._parts()))

    def _parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.score, self.image, self.row, self.col


def _total_order(unit: Tensor, score: Tensor, image: Tensor, row: Tensor, col: Tensor) -> Tensor:
    """Indices that sort by (unit, -score, image, row, col)."""
    order = torch.arange(len(unit))
    for key in (col, row, image, -score, unit):  # stable sorts, the least important key first
        order = order[torch.argsort(key[order], stable=True)]
    return order
