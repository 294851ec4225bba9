"""Does a split of a unit's peaks put together what is alike, more than a split by chance does?"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

RANDOM_SPLITS = 1000


def correlations(thumbnails: Float64[np.ndarray, "n s t"]) -> Float64[np.ndarray, "n n"]:
    """Return how alike every two pictures are, in [-1, 1]; nan with a constant one.

    thumbnails: as `deconv.compare.grouping.thumbnails` gives them.

    >>> from deconv.compare.grouping import thumbnails
    >>> pictures = np.random.default_rng(0).normal(size=(2, 3, 8, 8))[[0, 1, 0]]
    >>> alike = correlations(thumbnails(pictures))
    >>> round(float(alike[0, 2]), 6), bool(alike[0, 1] < 0.5)
    (1.0, True)
    """
    flat = thumbnails.reshape(len(thumbnails), -1)
    alike: np.ndarray = flat @ flat.T
    constant = ~flat.any(axis=1)
    alike[constant], alike[:, constant] = np.nan, np.nan
    return alike


def with_mean_outside(
    pixels: Float[np.ndarray, "n C h w"], inside: Bool[np.ndarray, "n h w"]
) -> Float64[np.ndarray, "n C h w"]:
    """Return patches whose pixels outside the image have the mean of those inside, so that they add to no correlation.

    Else two patches would be alike for lying at the same border.

    >>> pixels, inside = np.array([[[[0.0, 2.0, 4.0]]]]), np.array([[[False, True, True]]])
    >>> with_mean_outside(pixels, inside).tolist()
    [[[[3.0, 2.0, 4.0]]]]
    """
    within = inside[:, None]
    count = np.maximum(within.sum(axis=(2, 3), keepdims=True), 1)
    mean = np.where(within, pixels, 0).sum(axis=(2, 3), keepdims=True) / count
    filled: np.ndarray = np.where(within, pixels, mean).astype(np.float64)
    return filled


def same_class(labels: Int[np.ndarray, " n"]) -> Float64[np.ndarray, "n n"]:
    """Return 1 for every two images of one class, 0 for others, so that means over pairs are shares of pairs.

    >>> same_class(np.array([4, 7, 4])).tolist()
    [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]
    """
    return (labels[:, None] == labels).astype(np.float64)


def gain_of_split(
    alike: Float64[np.ndarray, "n n"], cluster: Int[np.ndarray, " n"], seed: int, splits: int = RANDOM_SPLITS
) -> dict[str, float | None]:
    """Return how alike the n peaks of one unit are before and after they are split into clusters.

    alike: how alike every two peaks are; a peak that has nan with itself is left out.

    In the result, means over pairs of peaks:
    - unit: all pairs, which is what a split by chance gives in the mean.
    - within, between: pairs of one cluster; pairs of two clusters.
    - low, high: of `within`, what 95 % of splits by chance into clusters of the same sizes give.
    - chance: the share of splits by chance, this one counted among them, that reach `within` (a permutation test).

    All are None where there is no pair within, or none between, clusters.

    >>> alike = same_class(np.array([0, 0, 0, 0, 1, 1, 1, 1]))
    >>> gain = gain_of_split(alike, np.array([0, 0, 0, 0, 1, 1, 1, 1]), seed=0)
    >>> gain["within"], gain["between"], round(gain["unit"], 3), gain["high"] < 1, gain["chance"] < 0.05
    (1.0, 0.0, 0.429, True, True)
    """
    known = np.isfinite(np.diag(alike))
    alike, cluster = alike[known][:, known], cluster[known]
    first, second = np.triu_indices(len(cluster), 1)
    pairs, same = alike[first, second], cluster[first] == cluster[second]
    if not same.any() or same.all():
        return dict.fromkeys(("unit", "within", "between", "low", "high", "chance"))
    within, draw, by_chance = pairs[same].mean(), np.random.default_rng(seed), np.empty(splits)
    for n in range(splits):
        drawn = draw.permutation(cluster)
        by_chance[n] = pairs[drawn[first] == drawn[second]].mean()
    low, high = np.percentile(by_chance, [2.5, 97.5])
    reached = 1 + int((by_chance >= within - 1e-12).sum())
    gain: dict[str, Any] = {"unit": pairs.mean(), "within": within, "between": pairs[~same].mean()}
    gain |= {"low": low, "high": high, "chance": reached / (splits + 1)}
    return {name: float(value) for name, value in gain.items()}
