"""Which images stand for all others: those with the largest lots, so that nobody need know how many there are.

An image's lot hangs on its key alone. Images are ordered by (-lot, image id), a total order, so that any cut of them
and any order of what was cut give the same sample.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Int64

LOTS = 2**24
"""Different lots: as many as a float32 tells apart."""


def lots_of(keys: Iterable[str]) -> Float[np.ndarray, " n"]:
    """Return the lot of each image: a number from 0 to below 1 that hangs on its key alone, as if drawn at random.

    >>> lots_of(["a.jpg", "b.jpg"]).tolist() == lots_of(["b.jpg", "a.jpg"])[::-1].tolist()
    True
    """
    digests = [hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=3).digest() for key in keys]
    numbers = [int.from_bytes(digest, "big") for digest in digests]
    return (np.array(numbers, dtype=np.float64) / LOTS).astype(np.float32)


class Sample:
    """The `most` images with the largest lots so far, and the strongest activations of `units` units on each of them.

    `offer` and `merge` are commutative and associative; memory is most x units, whatever the number of images.

    least: images of smaller lots are not kept, as `most` others have larger ones, whoever saw these.

    >>> sample = Sample(1, most=2)
    >>> sample.offer(np.array([0.1, 0.9, 0.5], np.float32), np.arange(3), np.array([[7], [8], [9]], np.float32))
    >>> [column.ravel().tolist() for column in sample.by_image()]
    [[0.8999999761581421, 0.5], [1, 2], [8.0, 9.0]]
    """

    def __init__(self, units: int, most: int, least: float = 0.0):
        self.most, self.least, self._count = most, np.float32(least), 0
        self._lots: Float[np.ndarray, " room"] = np.empty(0, dtype=np.float32)
        self._image_ids: Int64[np.ndarray, " room"] = np.empty(0, dtype=np.int64)
        self._strongest: Float[np.ndarray, "room units"] = np.empty((0, units), dtype=np.float32)

    @property
    def lots(self) -> Float[np.ndarray, " n"]:
        """The lots of the images, in no order."""
        return self._lots[: self._count]

    @property
    def is_whole(self) -> bool:
        """Whether none of the images that were not kept because of `least` belongs to the sample."""
        return bool(self.least == 0 or (self._count == self.most and self.lots.min() >= self.least))

    def offer(
        self, lots: Float[np.ndarray, " n"], image_ids: Int64[np.ndarray, " n"], strongest: Float[np.ndarray, "n units"]
    ) -> None:
        """Consider n images, in any order; the same image must not be offered twice."""
        weakest = self.lots.min() if self._count == self.most else self.least
        large = np.flatnonzero(lots >= max(self.least, weakest))
        if not len(large):
            return
        before, lots, image_ids = self._count, lots[large], image_ids[large]
        joined = np.concatenate([self.lots, lots]), np.concatenate([self._image_ids[:before], image_ids])
        kept = np.zeros(len(joined[0]), dtype=bool)
        kept[np.lexsort((joined[1], -joined[0]))[: self.most]] = True
        self._count = int(kept.sum())
        self._make_room()
        enters, places = kept[before:], np.flatnonzero(~kept[:before])  # of those that leave
        places = np.concatenate([places, np.arange(before, self._count)])
        self._lots[places], self._image_ids[places] = lots[enters], image_ids[enters]
        self._strongest[places] = strongest[large[enters]]

    def merge(self, other: Sample) -> None:
        """Consider the images of another sample, which are others."""
        count, self.least = other._count, np.maximum(self.least, other.least)
        self.offer(other.lots, other._image_ids[:count], other._strongest[:count])

    def by_image(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (lots (n,), image ids (n,), strongest activations (n, units)), by image id."""
        order = np.argsort(self._image_ids[: self._count])
        return self._lots[order], self._image_ids[order], self._strongest[order]

    def __getstate__(self) -> dict[str, object]:
        """Return what another process needs: no room for more images."""
        columns = ("_lots", "_image_ids", "_strongest")
        return vars(self) | {name: getattr(self, name)[: self._count] for name in columns}

    def _make_room(self) -> None:
        """Let there be room for the images: twice as much as before, if that is too little."""
        room = len(self._lots)
        if room < self._count:
            room = min(max(self._count, 2 * room), self.most)
            self._lots, self._image_ids = _longer(self._lots, room), _longer(self._image_ids, room)
            self._strongest = _longer(self._strongest, room)


def _longer(values: np.ndarray, length: int) -> np.ndarray:
    longer = np.empty((length, *values.shape[1:]), dtype=values.dtype)
    longer[: len(values)] = values
    return longer
