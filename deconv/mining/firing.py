"""How a layer's units fire over all images, counted in one pass without keeping an image's numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

BINS = 24
"""Steps of a unit's histogram."""
ALIKE = 6
"""Units that are named as the most alike, at most."""


@dataclass(frozen=True)
class Firing:
    """How C units fire over `images` images; an image counts by its strongest activation of the unit.

    - counts (C, BINS): the number of images in each of BINS equal steps from 0 to the unit's strongest peak; images
      that do not fire the unit are in none.
    - sparsity (C): 0 for a unit that fires alike on all images, 1 for one that fires on a single image; None for a
      dead unit.
    - alike (C, up to ALIKE): the units whose strongest activations correlate most with the unit's own over the images.
    - correlation: Pearson's correlation with each of those.
    """

    images: int
    counts: list[list[int]]
    sparsity: list[float | None]
    alike: list[list[int]]
    correlation: list[list[float]]

    def fires_on(self, unit: int) -> int:
        """Return the number of images with an activation above zero."""
        return sum(self.counts[unit])

    def as_dict(self) -> dict[str, Any]:
        """Return the fields in plain JSON types."""
        return asdict(self)


class Tally:
    """Counts batches of strongest activations for units whose strongest peaks are `top`, nan for a dead unit."""

    def __init__(self, top: Float[np.ndarray, " C"]):
        units = len(top)
        self.top = np.where(np.nan_to_num(top) > 0, top, np.inf).astype(np.float64)
        self.images = 0
        self.counts = np.zeros((units, BINS), dtype=np.int64)
        self.sums = np.zeros(units)
        self.products = np.zeros((units, units))
        self.fired = np.zeros((2, units))
        """The sums of what is above zero, and of its squares."""

    def see(self, maxima: Float[np.ndarray, "n C"]) -> None:
        """Count the strongest activations (n, C) of n images."""
        values = maxima.astype(np.float64)
        above = values.clip(min=0)
        step = np.minimum(above / self.top * BINS, BINS - 1).astype(np.int64)
        image, unit = np.nonzero(above)
        np.add.at(self.counts, (unit, step[image, unit]), 1)
        self.images += len(values)
        self.sums += values.sum(axis=0)
        self.products += values.T @ values
        self.fired += above.sum(axis=0), (above**2).sum(axis=0)

    def firing(self) -> Firing:
        """Return what was counted."""
        alike, correlation = self._alike()
        return Firing(self.images, self.counts.tolist(), self._sparsity(), alike, correlation)

    def _sparsity(self) -> list[float | None]:
        """Return the sparsity of Vinje and Gallant 2000 (doi 10.1126/science.287.5456.1273), after Treves and Rolls."""
        total, squares = self.fired
        n = self.images
        return [
            round(float((1 - t * t / (n * s)) / (1 - 1 / n)), 4) if s > 0 and n > 1 else None
            for t, s in zip(total, squares, strict=True)
        ]

    def _alike(self) -> tuple[list[list[int]], list[list[float]]]:
        covariance = self.products / self.images - np.outer(self.sums, self.sums) / self.images**2
        spread = np.sqrt(np.diag(covariance).clip(min=0))
        varies = np.isfinite(self.top) & (spread > 1e-6 * np.abs(self.sums / self.images))
        scale = np.where(varies, spread, 1.0)
        # Rounded, so that the order of summation does not decide between equals.
        correlation = (covariance / np.outer(scale, scale)).clip(-1, 1).round(4)
        correlation[~varies] = correlation[:, ~varies] = -np.inf
        np.fill_diagonal(correlation, -np.inf)
        order = np.argsort(-correlation, axis=1, kind="stable")[:, :ALIKE]
        best = np.take_along_axis(correlation, order, axis=1)
        real = best > 0
        chosen = [row[keep].tolist() for row, keep in zip(order, real, strict=True)]
        return chosen, [row[keep].tolist() for row, keep in zip(best, real, strict=True)]
