"""Arrays to pictures: the one place that scales for display.

A reconstruction is signed. It is shown symmetric about mid-grey: zero is mid-grey, and the PERCENTILE-th percentile of
its absolute values, over the whole reconstruction, is full black or white. Each reconstruction has its own scale.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from deconv.files import write_whole
from deconv.records import Patches

PERCENTILE = 99.0
TILE = 88
"""Pixels a side of one reconstruction or patch; smaller receptive fields are enlarged without smoothing."""
GAP, MARGIN, LABEL, TITLE = 2, 20, 20, 64
COLUMNS = 4
DPI = 100
CAPTION = (
    "Left of each pair: reconstructions, zero at mid-grey, each scaled by the "
    f"{PERCENTILE:g} % percentile of its absolute values. "
    "Right: the patches, in the same order; hatched: outside the image."
)


def display(reconstructions: Tensor) -> Tensor:
    """Signed (N, 3, h, w) to (N, 3, h, w) in 0..1, zero at 0.5, each on its own scale; all-zero is mid-grey."""
    flat = reconstructions.abs().flatten(1)
    rank = max(round(flat.shape[1] * PERCENTILE / 100), 1)
    scale = flat.kthvalue(rank, dim=1).values
    scale = torch.where(scale > 0, scale, flat.amax(dim=1))  # only a few pixels are set
    scale = torch.where(scale > 0, scale, 1.0)
    return (0.5 + 0.5 * reconstructions / scale.view(-1, 1, 1, 1)).clamp(0, 1)


def tiles(pictures: Tensor, side: int = TILE) -> np.ndarray:
    """(N, 3, h, w) in 0..1 as (N, side, side, 3): the long side fills the tile, the rest is white."""
    height, width = pictures.shape[2:]
    factor = side / max(height, width)
    size = (max(round(height * factor), 1), max(round(width * factor), 1))
    if factor >= 1:
        shown = F.interpolate(pictures, size, mode="nearest-exact")
    else:
        shown = F.interpolate(pictures, size, mode="bilinear", antialias=True).clamp(0, 1)
    tile = torch.ones(len(pictures), 3, side, side)
    top, left = (side - size[0]) // 2, (side - size[1]) // 2
    tile[:, :, top : top + size[0], left : left + size[1]] = shown
    return tile.permute(0, 2, 3, 1).numpy()


def patch_tiles(patches: Patches, side: int = TILE) -> np.ndarray:
    """Patches as tiles (N, side, side, 3), hatched where they lie outside the image."""
    shown = tiles(patches.pixels.float() / 255, side)
    outside = tiles((~patches.inside).float()[:, None].expand(-1, 3, -1, -1), side) > 0.5
    inside_tile = tiles(torch.zeros_like(patches.pixels, dtype=torch.float32), side) < 0.5
    ys, xs = np.mgrid[:side, :side]
    hatch = np.where((ys + xs) // 3 % 3 == 0, 0.62, 0.86)[None, :, :, None]
    return np.where(outside & inside_tile, hatch, shown)


def block(shown: np.ndarray, k: int) -> np.ndarray:
    """Up to k tiles (n, s, s, 3) as one square block, row by row; missing ones stay white."""
    side, across = shown.shape[1], max(1, round(np.ceil(np.sqrt(k))))
    down = -(-k // across)
    out = np.ones((down * (side + GAP) - GAP, across * (side + GAP) - GAP, 3))
    for n, tile in enumerate(shown[:k]):
        y, x = n // across * (side + GAP), n % across * (side + GAP)
        out[y : y + side, x : x + side] = tile
    return out


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write the figure as PNG and, beside it, as PDF; the same bytes for the same figure. Returns the PNG's path."""
    path = Path(path)
    fixed = {"pdf": {"CreationDate": None}, "png": {"Software": None}}
    for kind in ("pdf", "png"):
        written = path.with_suffix(f".{kind}")
        write_whole(written, lambda file, kind=kind: figure.savefig(file, format=kind, dpi=DPI, metadata=fixed[kind]))  # type: ignore[misc]
    return path.with_suffix(".png")
