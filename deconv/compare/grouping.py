"""Are a unit's reconstructions alike, and more so than reconstructions of different units?

Zeiler and Fergus 2013, section 4.1: the patches of a unit vary more than its reconstructions, which show only what
they have in common.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from skimage.color import rgb2gray
from skimage.transform import resize

from deconv.compare.arrays import checked
from deconv.compare.likeness import standardised

THUMBNAIL = 24
"""Pixels a side at which pictures are compared, so that a shift by a pixel or two does not hide that they are alike."""


def thumbnails(pictures: np.ndarray) -> np.ndarray:
    """(N, s, s) grey views of pictures (N, 3, h, w), s at most THUMBNAIL: mean 0, norm 1, or all zero."""
    (given,) = checked(pictures=pictures)
    largest = np.abs(given).max(axis=(1, 2, 3), keepdims=True, initial=1e-300)
    shown = rgb2gray(given / largest, channel_axis=1)
    rows, cols = (_shrinking(side) for side in shown.shape[1:])
    found = rows @ shown @ cols.T
    for small in found:
        view = standardised(small)
        small[:] = 0 if view is None else view / np.sqrt(view.size)
    return found


@lru_cache(maxsize=32)
def _shrinking(side: int) -> np.ndarray:
    """(s, side): what scikit-image's resize with anti-aliasing does along one axis, which is linear."""
    size = min(side, THUMBNAIL)
    shrunk: np.ndarray = resize(np.eye(side), (size, side), anti_aliasing=size < side)
    return shrunk


def alikeness(thumbnails: np.ndarray, unit: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each unit, in rising order: (units (U,), within (U,), between (U,)).

    thumbnails (N, s, s), as `thumbnails` gives;  unit (N,) int. within: the mean correlation of the unit's pictures
    with each other, nan for one picture; between: with those of all other units, nan if there is no other unit; both in
    [-1, 1]; constant pictures are left out. Their difference is the grouping: 0 if the unit's pictures are no more
    alike than any.
    """
    units, member = np.unique(unit, return_inverse=True)
    shows = thumbnails.any(axis=(1, 2))
    flat, member = thumbnails.reshape(len(thumbnails), -1)[shows], member[shows]
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
