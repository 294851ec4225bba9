"""Beyond the top: units in a row each, from the strongest images to the weakest that fire them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

import numpy as np

from deconv.figures.features import LayerPanels, UnitPanel
from deconv.figures.page import MARGIN, TILE
from deconv.figures.pictures import on_grid, patch_tiles, recon_tiles
from deconv.records import Firing, Patches, Reconstructions
from deconv.records.firing import DRAWN, QUANTILES

ACROSS = 2
"""Tiles in a row of a block."""
GAP = 2
BEYOND = (
    " From left to right: the strongest images; then images drawn at random of those that fire the unit as strongly as "
    "the quantile of all images that fire it at all: between the activations that are named, so many images in all."
)


def beyond_panels(
    top: tuple[Reconstructions, Patches],
    beyond: tuple[Reconstructions, Patches],
    firing: Firing,
    units: Sequence[int],
) -> LayerPanels:
    """Return a row of panels for each unit: its strongest peaks, and those in the images drawn at its quantiles.

    top, beyond: reconstructions and what is shown of their patches; of each unit one after the other, those of `beyond`
    in the order of `firing.steps(unit)`. A unit that does not fire has no row. Where two quantiles lie in one step they
    share a panel, and the last of the row is left empty.
    """
    panels: list[UnitPanel] = []
    for unit in units:
        if steps := firing.steps(unit):
            rows = np.flatnonzero((top[0].channel == unit).numpy())[:DRAWN]
            strongest = float(top[0].score[rows[0]])
            row = [UnitPanel(f"unit {unit}: top\n{_short(strongest)} at most", _blocks(*top, rows))]
            rows = np.flatnonzero((beyond[0].channel == unit).numpy())
            ends = accumulate((len(step.drawn) for step in steps), initial=0)
            for step, (first, last) in zip(steps, pairwise(ends), strict=True):
                images = f"{step.images:,} image{'' if step.images == 1 else 's'}"
                label = f"{step.name}\n{_short(step.low)} to {_short(step.high)}, {images}"
                row.append(UnitPanel(label, _blocks(*beyond, rows[first:last])))
            blank = tuple(np.full_like(block, 255) for block in row[0].blocks)
            panels += row + [UnitPanel("", blank)] * (1 + len(QUANTILES) - len(row))
    layer = LayerPanels(f"{top[0].layer}   beyond the top", tuple(panels))
    return replace(layer, widest=MARGIN + (1 + len(QUANTILES)) * layer.pitch[1])


def _blocks(recon: Reconstructions, patches: Patches, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    tiles = recon_tiles(recon.pixels[rows], TILE), patch_tiles(patches.pixels[rows], patches.inside[rows], TILE)
    left, right = (on_grid(each, ACROSS, GAP, places=DRAWN) for each in tiles)
    return left, right


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
