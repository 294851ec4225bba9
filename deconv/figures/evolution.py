"""Figure 4: units of every layer at several epochs of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

from deconv.figures import MARGIN, TILE
from deconv.figures.page import CHART, GAP, NOTE, TITLE, Page, head

NAMES = 58
"""Pixels left of a row of Figure 4, for the name of its unit."""
SAME = (0.17, 0.49, 0.72)
ABREAST = 2
"""Blocks of Figure 4 beside each other."""
ABOVE = 74
"""Pixels of a block's title, numbers and column names."""
BLOCK = 490
"""Least pixels of a block of Figure 4 across: what its texts need."""
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


def evolution_figure(
    blocks: Sequence[EvolutionBlock],
    epochs: Sequence[int],
    settled: Mapping[str, Mapping[int, float | None]],
    heading: str,
) -> Figure:
    """Figure 4: the blocks of the layers, two beside each other, then the share of settled units by epoch.

    settled: {layer: {epoch: share}}, as `deconv.analyses.evolution.summarise` has it.
    """
    width = max(NAMES + (len(epochs) + 1) * (TILE + GAP), BLOCK) + MARGIN
    height = max(ABOVE + max(len(block.rows) for block in blocks) * (TILE + GAP), CHART) + MARGIN
    rows = -(-(len(blocks) + 1) // ABREAST)
    top = head(EVOLUTION_CAPTION)
    page = Page(top + rows * height, MARGIN + ABREAST * width, heading, EVOLUTION_CAPTION)
    for n, block in enumerate(blocks):
        _place_block(page, top + n // ABREAST * height, MARGIN + n % ABREAST * width, block, epochs)
    y, x = top + len(blocks) // ABREAST * height, MARGIN + len(blocks) % ABREAST * width
    page.text(y, x, "Units that have settled", **TITLE)
    axes = page.axes(y + ABOVE, x + 80, height - ABOVE - 70, width - 80 - MARGIN)
    _settling_chart(axes, settled, epochs)
    return page.finish()


def _place_block(page: Page, y: int, x: int, block: EvolutionBlock, epochs: Sequence[int]) -> None:
    pitch = TILE + GAP
    page.text(y, x, block.title, **TITLE)
    page.text(y + 22, x, block.note, **NOTE)
    top = y + ABOVE
    columns = [*(f"epoch {epoch}" for epoch in epochs), f"patch, {epochs[-1]}"]
    for n, name in enumerate(columns):
        page.text(top - 3, x + NAMES + n * pitch + TILE / 2, name, **(NOTE | {"ha": "center", "va": "bottom"}))
    for down, row in enumerate(block.rows):
        at = top + down * pitch
        page.text(at + TILE / 2, x, row.label, **(NOTE | {"va": "center"}))
        for n, cell in enumerate((*row.cells, row.patch)):
            page.picture(at, x + NAMES + n * pitch, _crossed_out() if cell is None else cell)
        for n in (n for n, same in enumerate(row.same) if same):
            bar = np.broadcast_to(SAME, (TILE // 3, GAP, 3))
            page.picture(at + TILE // 3, x + NAMES + n * pitch + TILE, bar)


def _crossed_out() -> np.ndarray:
    ys, xs = np.mgrid[:TILE, :TILE]
    cross = (abs(ys - xs) < 2) | (abs(ys + xs - TILE + 1) < 2)
    return np.where(cross, 0.55, 0.93)[..., None].repeat(3, axis=2)


def _settling_chart(axes: Axes, settled: Mapping[str, Mapping[int, float | None]], epochs: Sequence[int]) -> None:
    for n, (layer, share) in enumerate(settled.items()):
        known = {epoch: part for epoch, part in share.items() if part is not None}
        colour = _shade(n, len(settled))
        axes.plot(list(known), list(known.values()), "o-", color=colour, label=layer, clip_on=False, zorder=3)
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


def _shade(n: int, count: int) -> tuple[float, float, float]:
    """From light to dark blue-green as layers go up, so that their order shows without the legend."""
    share = n / max(count - 1, 1)
    return tuple(float(v) for v in (1 - share) * np.array([0.95, 0.65, 0.25]) + share * np.array([0.25, 0.1, 0.4]))  # type: ignore[return-value]
