"""Units on one photograph: each with its field there, the reconstruction in its place, and both enlarged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from matplotlib.figure import Figure
from torch import Tensor

from deconv.figures.features import LayerPanels, UnitPanel, features_figure, score_text
from deconv.figures.pictures import (
    FADED,
    OUTLINE,
    WHITE,
    as_bytes,
    display,
    energy,
    has_colours,
    patch_tiles,
    recon_tiles,
    tiles,
)
from deconv.projection.patches import cut_patches
from deconv.records import Reconstructions, recut, whole_boxes

SIDE = 224
"""Pixels of a photograph's long side, and of what is enlarged beside it."""
WIDEST = 2000
"""Pixels of the picture across: two units."""
LINE = 2
"""Pixels that the outline of a field is wide."""
CAPTION = (
    "For each unit: where it fires most, outlined on the photograph as the network sees it; the reconstruction laid "
    "over the pale photograph where it lies; the reconstruction alone, zero at mid-grey; the patch under it."
)


def strongest_figure(
    recon: Reconstructions, photograph: UInt8[Tensor, "C H W"], name: str, not_firing: Sequence[int]
) -> Figure:
    """Draw each reconstruction on its photograph; what is outlined and enlarged is `recon.zoomed()`.

    name: the photograph's, or "".  not_firing: units without a reconstruction, which the heading names.
    """
    shown = recon.zoomed()
    patches = cut_patches(photograph[None], torch.zeros_like(recon.image), shown.box)
    blocks = [
        outlined(photograph[None].expand(len(recon), -1, -1, -1), shown.box),
        outlined(over_photograph(recon, photograph), shown.box),
        recon_tiles(shown.pixels, SIDE),
        patch_tiles(patches.pixels, patches.inside, SIDE),
    ]
    units = tuple(
        UnitPanel(f"unit {unit}, {score_text(score)} at row {row}, column {col}", tuple(block[n] for block in blocks))
        for n, (unit, score, row, col) in enumerate(
            zip(*(column.tolist() for column in (recon.channel, recon.score, recon.row, recon.col)), strict=True)
        )
    )
    (y0, x0, y1, x1), (height, width) = recon.field[0].tolist(), shown.pixels.shape[2:]
    part = f", outlined: the {height} x {width} in its middle" if (height, width) != (y1 - y0, x1 - x0) else ""
    missing = f"; not firing here: {', '.join(map(str, not_firing))}" if not_firing else ""
    title = f"{recon.layer}   receptive field {y1 - y0} x {x1 - x0} pixels{part}{missing}"
    heading = f"{name or 'one photograph'}: where units fire most, {recon.rule}"
    return features_figure([LayerPanels(title, units, WIDEST)], heading, caption=CAPTION)


def over_photograph(recon: Reconstructions, photograph: UInt8[Tensor, "C H W"]) -> UInt8[Tensor, "N 3 H W"]:
    """Return reconstructions, each on its own scale, laid over the photograph, which is pale and grey beneath them.

    The larger a pixel's energy the less of the photograph is seen; where it is zero the photograph stays as it is.
    """
    whole = whole_boxes(len(recon), recon.input_size)
    cover = recut(energy(recon.pixels), recon.box, whole)
    colours = has_colours(recon.pixels.shape[1])
    drawn = recut(display(recon.pixels), recon.box, whole) if colours else 1 - cover
    grey = photograph.float().mean(dim=0, keepdim=True)
    pale = (WHITE - FADED * (WHITE - grey)) / WHITE
    return as_bytes((drawn * cover + pale * (1 - cover)).expand(-1, 3, -1, -1))


def outlined(pictures: UInt8[Tensor, "N C H W"], boxes: Int64[Tensor, "N 4"]) -> UInt8[np.ndarray, "N h w 3"]:
    """Return pictures whose long side is SIDE, white around them, with the outlines of boxes, one each.

    boxes: (N, 4) y0, x0, y1, x1 in the pixels of the pictures; only what lies in the picture is drawn.
    """
    height, width = pictures.shape[2:]
    scale, shown = SIDE / max(height, width), tiles(pictures, SIDE)
    top, left = ((SIDE - max(round(length * scale), 1)) // 2 for length in (height, width))
    for tile, (y0, x0, y1, x1) in zip(shown, boxes.tolist(), strict=True):
        rows = [top + round(min(max(y, 0), height) * scale) for y in (y0, y1)]
        cols = [left + round(min(max(x, 0), width) * scale) for x in (x0, x1)]
        frame = tile[rows[0] : rows[1], cols[0] : cols[1]]
        frame[:LINE], frame[-LINE:], frame[:, :LINE], frame[:, -LINE:] = OUTLINE, OUTLINE, OUTLINE, OUTLINE
    return shown
