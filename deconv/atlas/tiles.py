"""Reconstructions and patches as square tiles: uint8 arrays (n, side, side, 3) of n peaks of one unit."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deconv import figures
from deconv.records import Patches

WHITE = 255
LEAST_HATCHED = 64
"""Pixels a side; in a smaller tile lines would be all that one sees, and it gets their mean."""


def recon_tiles(pixels: Tensor, side: int) -> np.ndarray:
    """Signed pixels (n, 3, h, w), each scaled for display by its own values, the long side filling the tile."""
    factor = side / max(pixels.shape[2:])
    if factor < 1:  # before scaling: thumbnails keep contrast
        pixels = F.interpolate(pixels, _size(pixels, factor), mode="bilinear", antialias=True)
    return _square(_fitted((figures.display(pixels) * 255 + 0.5).to(torch.uint8), side), side)


def patch_tiles(pixels: Tensor, inside: Tensor, side: int) -> np.ndarray:
    """Patches uint8 (n, 3, h, w), hatched where `inside` (n, h, w) is False."""
    shown = _square(_fitted(pixels, side), side)
    if inside.all():
        return shown
    outside = _square(_fitted((~inside)[:, None].to(torch.uint8) * 255, side), side, around=0) > 127
    return np.where(outside, _hatch(side), shown)


def _fitted(pictures: Tensor, side: int) -> Tensor:
    """uint8 (n, c, h, w) whose long side is `side`: enlarged as squares, or smoothly made smaller."""
    factor = side / max(pictures.shape[2:])
    if factor == 1:
        return pictures
    if factor > 1:
        return F.interpolate(pictures, _size(pictures, factor), mode="nearest-exact")
    return F.interpolate(pictures, _size(pictures, factor), mode="bilinear", antialias=True)


def _size(pictures: Tensor, factor: float) -> list[int]:
    return [max(round(length * factor), 1) for length in pictures.shape[2:]]


def _square(pictures: Tensor, side: int, around: int = WHITE) -> np.ndarray:
    """uint8 (n, c, h, w) in the middle of tiles (n, side, side, c)."""
    height, width = pictures.shape[2:]
    top, left = (side - height) // 2, (side - width) // 2
    tile = np.full((len(pictures), side, side, pictures.shape[1]), around, dtype=np.uint8)
    tile[:, top : top + height, left : left + width] = pictures.permute(0, 2, 3, 1).numpy()
    return tile


@cache
def _hatch(side: int) -> np.ndarray:
    """The tile (side, side, 3) of a patch that lies outside its image altogether."""
    nothing, place = torch.zeros(1, 3, 1, 1, dtype=torch.uint8), torch.zeros(1, 4, dtype=torch.int64)
    outside = Patches(nothing, torch.zeros(1, 1, 1, dtype=torch.bool), place, place[:, 0])
    hatch = (figures.patch_tiles(outside, side)[0] * 255 + 0.5).astype(np.uint8)
    return hatch if side >= LEAST_HATCHED else np.full_like(hatch, round(hatch.mean()))
