"""How the units of two layers correlate over the same images: summed in one pass, and beside chance on a sample.

An image counts by a unit's strongest activation on it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int64

CHUNK = 64
"""Images whose products are summed at once, whatever the batches are, so that these do not change the sums."""
SHUFFLES = 19
"""How often the sample is shuffled: a unit above all of them would be so by chance once in twenty times."""
DIGITS = 6
"""Decimals of a correlation that are kept: the last bits of activations depend on what is computed together."""


class Moments:
    """Sums over images, from which the correlation of each of C units with each of D others follows.

    They are of differences from the first image, so that a unit that never changes has a sum of squares of exactly 0.
    """

    def __init__(self, units: int, others: int):
        self.images = 0
        self.sums = np.zeros(units), np.zeros(others)
        self.squares = np.zeros(units), np.zeros(others)
        self.products = np.zeros((units, others))
        self._first: tuple[np.ndarray, np.ndarray] | None = None
        self._waiting = np.empty((0, units)), np.empty((0, others))

    def see(self, maxima: Float[np.ndarray, "n C"], others: Float[np.ndarray, "n D"]) -> None:
        """Count the strongest activations of the units of both networks on n images."""
        if self._first is None:
            self._first = maxima[0].astype(np.float64), others[0].astype(np.float64)
        x, y = (
            np.concatenate([waiting, values - first])
            for waiting, values, first in zip(self._waiting, (maxima, others), self._first, strict=True)
        )
        whole = len(x) // CHUNK * CHUNK
        for start in range(0, whole, CHUNK):
            self._add(x[start : start + CHUNK], y[start : start + CHUNK])
        self._waiting = x[whole:], y[whole:]

    def _add(self, x: np.ndarray, y: np.ndarray) -> None:
        self.images += len(x)
        for total, squares, values in zip(self.sums, self.squares, (x, y), strict=True):
            total += values.sum(axis=0)
            squares += (values**2).sum(axis=0)
        self.products += x.T @ y

    def merge(self, other: Moments) -> None:
        """Add what was counted on other images, whose differences are from another first image; `other` is used up.

        >>> values = np.random.default_rng(0).normal(size=(100, 3)).round(1)
        >>> whole, first, rest = Moments(3, 3), Moments(3, 3), Moments(3, 3)
        >>> for moments, rows in ((whole, values), (first, values[:70]), (rest, values[70:])):
        ...     moments.see(rows, rows[:, ::-1])
        >>> first.merge(rest)
        >>> first.images, np.allclose(first.correlation(), whole.correlation(), atol=1e-9)
        (100, True)
        """
        if self._first is None or other._first is None:
            if self._first is None:
                vars(self).update(vars(other))
            return
        for moments in (self, other):
            moments._add_waiting()
        x, y = (theirs - ours for ours, theirs in zip(self._first, other._first, strict=True))
        self.products += other.products + np.outer(x, other.sums[1]) + np.outer(other.sums[0], y)
        self.products += other.images * np.outer(x, y)
        for n, apart in enumerate((x, y)):
            self.squares[n][:] += other.squares[n] + 2 * apart * other.sums[n] + other.images * apart**2
            self.sums[n][:] += other.sums[n] + other.images * apart
        self.images += other.images

    def _add_waiting(self) -> None:
        self._add(*self._waiting)
        self._waiting = self._waiting[0][:0], self._waiting[1][:0]

    def correlation(self) -> Float[np.ndarray, "C D"]:
        """Return Pearson's correlations, to DIGITS decimals; nan for units that are the same on all images.

        >>> moments = Moments(2, 1)
        >>> moments.see(np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]]), np.array([[7.0], [5.0], [3.0]]))
        >>> moments.correlation().tolist()
        [[-1.0], [nan]]
        """
        self._add_waiting()
        spreads = [
            np.sqrt(np.where(squares > 0, self.images * squares - total**2, np.nan))
            for total, squares in zip(self.sums, self.squares, strict=True)
        ]
        covariance = self.images * self.products - np.outer(*self.sums)
        correlation: np.ndarray = (covariance / np.outer(*spreads)).clip(-1, 1).round(DIGITS)
        return correlation


def against_chance(
    maxima: Float[np.ndarray, "n C"], others: Float[np.ndarray, "n D"], match: Int64[np.ndarray, " C"], seed: int
) -> tuple[Float[np.ndarray, " C"], Float[np.ndarray, " C"]]:
    """Return each unit's correlation with its match on a sample of images, and its largest with any other by chance.

    By chance: the images of the others are shuffled, SHUFFLES times, by the seed. A unit that is the same on the whole
    sample correlates by 0; the first is nan for a unit without a match.

    >>> values = np.random.default_rng(0).normal(size=(500, 3))
    >>> sampled, chance = against_chance(values, values[:, [2, 0, 1]], np.array([1, 2, -1]), seed=0)
    >>> sampled.tolist(), bool((chance < 0.3).all())
    ([1.0, 1.0, nan], True)
    """
    x, y = _standard(maxima), _standard(others)
    sampled = np.where(match < 0, np.nan, (x * y[:, match]).sum(axis=0)).round(DIGITS)
    draw, chance = np.random.default_rng(seed), np.full(x.shape[1], -np.inf)
    for _ in range(SHUFFLES):
        chance = np.maximum(chance, (x.T @ y[draw.permutation(len(y))]).max(axis=1))
    return sampled, chance.round(DIGITS)


def _standard(values: np.ndarray) -> np.ndarray:
    """Columns of mean 0 and length 1; of zeros where nothing changes."""
    apart = values - values[:1].astype(np.float64)
    centred = apart - apart.mean(axis=0)
    length = np.sqrt((centred**2).sum(axis=0))
    standard: np.ndarray = centred / np.where(length > 0, length, 1.0)
    return standard
