"""A pass over images: everything about it but which images, so that any part of them can be seen anywhere."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from deconv.images import Source
from deconv.mining.partials import Partial
from deconv.mining.scanning import Scan
from deconv.mining.topk import TopK
from deconv.network import Network


@dataclass(frozen=True, eq=False)
class Pass:
    """What to look for in images, and how.

    precision: the type that activations are computed in.  candidates: by layer what a pass in bfloat16 found; how far
    its scores are off is measured on the way (`Partial.errors`).
    """

    network: Network
    layers: list[str]
    k: int
    per_image: int
    batch_size: int
    precision: torch.dtype = torch.float32
    candidates: dict[str, TopK] | None = None

    def steps(
        self,
        images: Source | Tensor,
        indices: np.ndarray,
        numbers: np.ndarray | None = None,
        most_skipped: int | None = None,
    ) -> Generator[int, None, Partial]:
        """Look at the images `indices`: yields how many each batch held, returns what was found.

        numbers: what each of `indices` counts as, in ascending order, where `images` are a part of the whole.
        Raises what `Scan.steps` raises.
        """
        scan = Scan(self.network, images, self.layers, self.k, self.per_image, self.precision)
        number_of = _Renumbering(indices, indices if numbers is None else numbers)
        errors = {layer: Errors(table) for layer, table in (self.candidates or {}).items()}

        def observe(layer: str, index: np.ndarray, scores: np.ndarray) -> None:
            if errors:
                errors[layer].observe(number_of(index), scores)

        yield from scan.steps(self.batch_size, indices, observe, most_skipped)
        for table in scan.tables.values():
            table.image = np.where(table.image >= 0, number_of(table.image), -1)
        unreadable = [(int(number_of(np.array(index))), key, reason) for index, key, reason in scan.unreadable]
        return Partial(
            scan.tables, scan.input_size, unreadable, {layer: found.largest for layer, found in errors.items()}
        )


class _Renumbering:
    """From indices (sorted) to numbers, element by element; what is not among the indices gives anything."""

    def __init__(self, indices: np.ndarray, numbers: np.ndarray):
        self.indices, self.numbers = indices, numbers

    def __call__(self, index: np.ndarray) -> np.ndarray:
        if self.indices is self.numbers:
            return index
        return self.numbers[np.searchsorted(self.indices, index).clip(max=len(self.numbers) - 1)]


class Errors:
    """The largest difference between bfloat16 and float32 seen on each unit's own candidates, (C,)."""

    def __init__(self, candidates: TopK):
        self.candidates = candidates
        self.largest = np.zeros(len(candidates.score))

    def observe(self, index: np.ndarray, scores: np.ndarray) -> None:
        """Float32 scores (n, C) of images index (n,)."""
        order = np.argsort(index)
        place = np.searchsorted(index, self.candidates.image, sorter=order).clip(max=len(index) - 1)
        row = order[place]
        here = index[row] == self.candidates.image
        exact = np.take_along_axis(scores.T, row, axis=1)
        difference = np.abs(exact - np.where(here, self.candidates.score, exact))
        self.largest = np.maximum(self.largest, difference.max(axis=1))


def shards_of(source: Source, shard_size: int, batch_size: int) -> list[range]:
    """The images of a source in consecutive shards of at most about `shard_size`.

    A tar is not divided unless it is larger than that. Every shard but the last is a multiple of batch_size long, so
    that each batch holds the same images however the source is cut: a tar's end is moved to the next such border.
    """
    ends, start, at = [0], 0, 0
    for _, members in groupby(source.members, key=lambda member: member.path):
        at, before = at + sum(1 for _ in members), at
        if at - start > shard_size and before > start:
            ends.append(_rounded_up(before, batch_size))
            start = before
        while at - start > shard_size:
            start += shard_size
            ends.append(_rounded_up(start, batch_size))
    ends = sorted({min(end, len(source)) for end in [*ends, len(source)]})
    return [range(first, end) for first, end in zip(ends, ends[1:], strict=False)]


def _rounded_up(count: int, batch_size: int) -> int:
    return -(-count // batch_size) * batch_size
