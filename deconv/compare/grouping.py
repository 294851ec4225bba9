"""Are a unit's reconstructions alike, and more so than reconstructions of different units?

Zeiler and Fergus 2013, section 4.1: the patches of a unit vary more than its reconstructions, which show only what
they have in common.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Float64, Int
from skimage.color import rgb2gray
from skimage.transform import resize

from deconv.compare.arrays import checked
from deconv.compare.likeness import standardised

THUMBNAIL = 24
"""Pixels a side at which pictures are compared, so that a shift by a pixel or two does not hide that they are alike."""


def thumbnails(pictures: Float[np.ndarray, "N 3 h w"]) -> Float64[np.ndarray, "N s t"]:
    """Return small grey views of pictures, at most THUMBNAIL pixels a side: each of mean 0 and norm 1, or all zero."""
    (pictures,) = checked(pictures=pictures)
    largest = np.abs(pictures).max(axis=(1, 2, 3), keepdims=True, initial=1e-300)
    luminance = rgb2gray(pictures / largest, channel_axis=1)
    rows, cols = (_shrinking(side) for side in luminance.shape[1:])
    small = rows @ luminance @ cols.T
    for view in small:
        standard = standardised(view)
        view[:] = 0 if standard is None else standard / np.sqrt(standard.size)
    return small


@lru_cache(maxsize=32)
def _shrinking(side: int) -> np.ndarray:
    """Return the matrix (s, side) that scikit-image's resize with anti-aliasing, which is linear, is along one axis."""
    size = min(side, THUMBNAIL)
    shrunk: np.ndarray = resize(np.eye(side), (size, side), anti_aliasing=size < side)
    return shrunk


def alikeness(
    thumbnails: Float[np.ndarray, "N s t"], unit: Int[np.ndarray, " N"]
) -> tuple[Int[np.ndarray, " U"], Float64[np.ndarray, " U"], Float64[np.ndarray, " U"]]:
    """Return (units, within, between): how alike each unit's pictures are, for units in rising order.

    thumbnails: as `thumbnails` gives them; unit: which unit each is of. within: the mean correlation of the unit's
    pictures with each other, nan for one picture; between: with those of all other units, nan if there is no other
    unit; both in [-1, 1]; constant pictures are left out. Their difference is the grouping: 0 if the unit's pictures
    are no more alike than any.

    Two units, each of which has the same picture twice:

    >>> pictures = np.random.default_rng(0).normal(size=(2, 3, 8, 8))[[0, 0, 1, 1]]
    >>> units, within, between = alikeness(thumbnails(pictures), np.array([4, 4, 7, 7]))
    >>> units.tolist(), within.round(6).tolist(), bool((between < 0.5).all())
    ([4, 7], [1.0, 1.0], True)
    """
    units, member = np.unique(unit, return_inverse=True)
    varies = thumbnails.any(axis=(1, 2))
    flat, member = thumbnails.reshape(len(thumbnails), -1)[varies], member[varies]
    sums = np.zeros((len(units), flat.shape[1]))
    np.add.at(sums, member, flat)
    count = np.bincount(member, minlength=len(units)).astype(np.float64)
    selves = np.bincount(member, weights=(flat**2).sum(axis=1), minlength=len(units))
    inner = (sums**2).sum(axis=1)  # of a sum of pictures with itself: every pair, each picture with itself among them
    outer = sums @ sums.sum(axis=0) - inner
    within = _mean(inner - selves, count * (count - 1))
    return units, within, _mean(outer, count * (len(flat) - count))


def _mean(total: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    return np.divide(total, pairs, out=np.full(len(total), np.nan), where=pairs > 0)
