"""Are a unit's reconstructions alike, and more so than reconstructions of different units?

Zeiler and Fergus 2013, section 4.1: the patches of a unit vary more than its reconstructions, which show only what
they have in common.
"""

from __future__ import annotations

import numpy as np
from skimage.transform import resize

from deconv.compare.arrays import checked, grey
from deconv.compare.likeness import standardised

THUMBNAIL = 24
"""Pixels a side at which pictures are compared, so that a shift by a pixel or two does not hide that they are alike."""


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """(s, s) grey view of a picture (3, h, w), s at most THUMBNAIL, mean 0 and norm 1; all zero if it is constant."""
    (given,) = checked(pixels=pixels)
    shown = grey(given / max(np.abs(given).max(), 1e-300))
    size = [min(side, THUMBNAIL) for side in shown.shape]
    small = standardised(resize(shown, size, anti_aliasing=size[0] < shown.shape[0]))
    return np.zeros(size) if small is None else small / np.sqrt(small.size)


def alikeness(thumbnails: np.ndarray, unit: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each unit, in rising order: (units (U,), within (U,), between (U,)).

    thumbnails (N, s, s), as `thumbnail` gives them;  unit (N,) int. within: the mean correlation of the unit's pictures
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
