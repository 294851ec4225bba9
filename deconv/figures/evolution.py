"""Figure 4: units of every layer at several epochs of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from jaxtyping import Bool, UInt8
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter
from torch import Tensor

from deconv.figures.page import CHART, MARGIN, NOTE, PART_TITLE, TILE, Page, head, text_height
from deconv.figures.pictures import patch_tiles, recon_tiles
from deconv.records import Patches, Reconstructions

CELL_GAP = 6
"""Pixels between two epochs of a unit, which a bar of SAME_IMAGE fills where one image wins at both."""
SAME_IMAGE = tuple(round(255 * value) for value in to_rgb("tab:blue"))
CROSS, CROSS_GROUND = 140, 237
"""The greys of the tile of an epoch at which a unit is dead."""
UNIT_NAME = 58
"""Pixels left of a row for the name of its unit: nine characters of NOTE, each half as wide as its font is high."""
BLOCKS_ABREAST = 2
NARROWEST_BLOCK = 490
"""Least pixels of a block across: 75 characters of NOTE, which its longest line of numbers has, and a margin."""
ABOVE_CELLS = text_height("conv1", PART_TITLE) + text_height("settled\nnot settled\nepoch", NOTE) + MARGIN // 2
"""Pixels of a block's title, its two lines of numbers, and the names of its columns, with a gap above these."""
EVOLUTION_CAPTION = (
    "Rows are units, columns epochs: the strongest peak over all images, sent back with the weights of that epoch,\n"
    "each cell on its own scale, zero at mid-grey. A blue bar joins epochs at which the same image wins;\n"
    "crossed out: the unit fires on no image. Right: the patch of the last epoch, hatched outside the image.\n"
    "Where the receptive field is as large as the image, all cells are whole images."
)


@dataclass(frozen=True)
class EvolutionRow:
    """One unit of Figure 4: tiles (s, s, 3) for the epochs, None where it is dead; `same[i]`: one image wins at i and
    i + 1; the patch of the last epoch, None where it is dead then."""

    label: str
    cells: tuple[np.ndarray | None, ...]
    same: tuple[bool, ...]
    patch: np.ndarray | None


@dataclass(frozen=True)
class EvolutionBlock:
    """One layer of Figure 4: a title, a line of numbers, and its units."""

    title: str
    note: str
    rows: tuple[EvolutionRow, ...]


def evolution_rows(
    units: Sequence[int],
    recons: Sequence[Reconstructions],
    patches: Patches | None,
    same: Bool[Tensor, "steps units"],
) -> tuple[EvolutionRow, ...]:
    """Return the rows of some units of a layer.

    recons: for each epoch the strongest peak of each unit that fires at it. patches: those under the reconstructions of
    the last epoch, None where no unit fires. same: whether one image wins at an epoch and the next.
    """
    cells = [_by_unit(recon, recon_tiles(recon.pixels, TILE) if len(recon) else ()) for recon in recons]
    cut = {} if patches is None else _by_unit(recons[-1], patch_tiles(patches.pixels, patches.inside, TILE))
    return tuple(
        EvolutionRow(f"unit {unit}", tuple(of_epoch.get(unit) for of_epoch in cells), tuple(stays), cut.get(unit))
        for unit, stays in zip(units, same.T.tolist(), strict=True)
    )


def _by_unit(recon: Reconstructions, tiles: Sequence[np.ndarray] | np.ndarray) -> dict[int, np.ndarray]:
    """{unit: its tile}; dead units have none."""
    return dict(zip(recon.channel.tolist(), tiles, strict=True))


def evolution_figure(
    blocks: Sequence[EvolutionBlock],
    epochs: Sequence[int],
    settled: Mapping[str, Mapping[int, float | None]],
    heading: str,
) -> Figure:
    """Draw Figure 4: the blocks of the layers, two beside each other, then the share of settled units by epoch.

    settled: {layer: {epoch: share}}, as `deconv.analyses.evolution.summarise` has it.
    """
    pitch = TILE + CELL_GAP
    width = max(UNIT_NAME + (len(epochs) + 1) * pitch, NARROWEST_BLOCK) + MARGIN
    height = max(ABOVE_CELLS + max(len(block.rows) for block in blocks) * pitch, CHART) + MARGIN
    rows = -(-(len(blocks) + 1) // BLOCKS_ABREAST)
    top = head(EVOLUTION_CAPTION)
    page = Page(top + rows * height, MARGIN + BLOCKS_ABREAST * width, heading, EVOLUTION_CAPTION)
    corners = [
        (top + n // BLOCKS_ABREAST * height, MARGIN + n % BLOCKS_ABREAST * width) for n in range(len(blocks) + 1)
    ]
    for (y, x), block in zip(corners, blocks, strict=False):
        _place_block(page, y, x, block, epochs)
    y, x = corners[-1]
    page.text(y, x, "Units that have settled", **PART_TITLE)
    left, bottom = 4 * MARGIN, 3 * MARGIN + MARGIN // 2  # room for the chart's labels
    axes = page.axes(y + ABOVE_CELLS, x + left, height - ABOVE_CELLS - bottom, width - left - MARGIN)
    _settling_chart(axes, settled, epochs)
    return page.finish()


def _place_block(page: Page, y: int, x: int, block: EvolutionBlock, epochs: Sequence[int]) -> None:
    pitch, top = TILE + CELL_GAP, y + ABOVE_CELLS
    page.text(y, x, block.title, **PART_TITLE)
    page.text(y + text_height(block.title, PART_TITLE), x, block.note, **NOTE)
    columns = [*(f"epoch {epoch}" for epoch in epochs), f"patch, {epochs[-1]}"]
    for n, name in enumerate(columns):
        page.text(top - 3, x + UNIT_NAME + n * pitch + TILE / 2, name, **(NOTE | {"ha": "center", "va": "bottom"}))
    for down, row in enumerate(block.rows):
        row_top = top + down * pitch
        page.text(row_top + TILE / 2, x, row.label, **(NOTE | {"va": "center"}))
        for n, cell in enumerate((*row.cells, row.patch)):
            page.picture(row_top, x + UNIT_NAME + n * pitch, _crossed_out() if cell is None else cell)
        for n in np.flatnonzero(row.same).tolist():
            page.picture(row_top + TILE // 3, x + UNIT_NAME + n * pitch + TILE, _bar())


def _bar() -> UInt8[np.ndarray, "h w 3"]:
    return np.full((TILE // 3, CELL_GAP, 3), SAME_IMAGE, dtype=np.uint8)


def _crossed_out() -> UInt8[np.ndarray, "side side 3"]:
    ys, xs = np.mgrid[:TILE, :TILE]
    cross = (abs(ys - xs) < 2) | (abs(ys + xs - TILE + 1) < 2)
    return np.where(cross, CROSS, CROSS_GROUND).astype(np.uint8)[..., None].repeat(3, axis=2)


def _settling_chart(axes: Axes, settled: Mapping[str, Mapping[int, float | None]], epochs: Sequence[int]) -> None:
    # From light to dark as layers go up, so that their order shows without the legend.
    colours = matplotlib.colormaps["viridis_r"](np.linspace(0.1, 1, len(settled)))
    for colour, (layer, share_by_epoch) in zip(colours, settled.items(), strict=True):
        shares = {epoch: share for epoch, share in share_by_epoch.items() if share is not None}
        axes.plot(list(shares), list(shares.values()), "o-", color=colour, label=layer, clip_on=False, zorder=3)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(epochs[:-1])))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlim(epochs[0] * 0.95, max(epochs[-2] * 1.05, epochs[0] * 1.5))
    axes.set_ylim(0, 1)
    axes.set_xlabel("epoch (logarithmic)")
    axes.set_ylabel(f"living units whose winning image\nstays the same until epoch {epochs[-1]}")
    axes.legend(frameon=False, title="layer")
