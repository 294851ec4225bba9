"""Figures that set pictures and numbers side by side on one page: Figure 4 and Figure 6."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

from deconv.figures import DPI, MARGIN, TILE

GAP = 6
LINE = 15
NAMES = 58
"""Pixels left of a row of Figure 4, for the name of its unit."""
TITLE: dict[str, Any] = {"fontsize": 12, "weight": "bold"}
NOTE: dict[str, Any] = {"fontsize": 8.5, "color": "0.25"}
SAME = (0.17, 0.49, 0.72)
ABREAST = 2
"""Blocks of Figure 4 beside each other."""
ABOVE = 74
"""Pixels of a block's title, numbers and column names."""
CHART = 420
"""Least pixels of a chart down, its title and labels included."""
BLOCK = 490
"""Least pixels of a block of Figure 4 across: what its texts need."""
EVOLUTION_CAPTION = (
    "Rows are units, columns epochs: the strongest peak over all images, sent back with the weights of that epoch,\n"
    "each cell on its own scale, zero at mid-grey. A blue bar joins epochs at which the same image wins;\n"
    "crossed out: the unit fires on no image. Right: the patch of the last epoch, hatched outside the image.\n"
    "Where the receptive field is as large as the image, all cells are whole images."
)


def head(caption: str) -> int:
    """Pixels that a page's heading and caption take."""
    return MARGIN + 26 + (caption.count("\n") + 1) * 18 + MARGIN


class Page:
    """A white page of (height, width) pixels; what is put on it is placed by its top left corner (y, x), in pixels."""

    def __init__(self, height: int, width: int, heading: str, caption: str):
        self.pixels = np.ones((height, width, 3))
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
        self.text(MARGIN, MARGIN, heading, fontsize=15, weight="bold")
        self.text(MARGIN + 26, MARGIN, caption, fontsize=9.5, color="0.3", linespacing=1.35)

    def picture(self, y: int, x: int, picture: np.ndarray) -> None:
        """Put a picture (h, w, 3) in 0..1 there."""
        self.pixels[y : y + picture.shape[0], x : x + picture.shape[1]] = picture

    def text(self, y: int | float, x: int | float, text: str, **style: Any) -> None:
        """Write a text there; `ha` and `va` as matplotlib has them, left and top by default."""
        height, width = self.pixels.shape[:2]
        self.figure.text(x / width, 1 - y / height, text, **({"va": "top", "ha": "left"} | style))

    def axes(self, y: int, x: int, height: int, width: int) -> Axes:
        """An empty chart of (height, width) pixels there, its labels outside."""
        down, across = self.pixels.shape[:2]
        place = (x / across, 1 - (y + height) / down, width / across, height / down)
        axes = self.figure.add_axes(place, label=f"chart {y} {x}")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.9")
        return axes

    def finish(self) -> Figure:
        """The figure, its pictures drawn pixel by pixel beneath texts and charts."""
        below = self.figure.add_axes((0, 0, 1, 1), label="page", zorder=-1)
        below.imshow(self.pixels, interpolation="nearest", aspect="auto")
        below.set_axis_off()
        return self.figure


@dataclass(frozen=True)
class EvolutionRow:
    """One unit of Figure 4: tiles (s, s, 3) for the epochs, None where it is silent; `same[i]`: one image wins at i and
    i + 1; the patch of the last epoch, None where it is silent then."""

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

    settled: {layer: {epoch: share}}, as `deconv.evolution.summarise` has it.
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


@dataclass(frozen=True)
class Panel:
    """One part of Figure 6: a title, lines of numbers, and tiles (N, s, s, 3) for its grid."""

    title: str
    note: str
    tiles: np.ndarray


@dataclass(frozen=True)
class Curve:
    """A line of the chart: its label, and the share of energy in each bin of frequency."""

    label: str
    share: Sequence[float]


GRID = 560
"""Pixels of a panel of Figure 6 across; its grid has as many columns as fit."""
FILTERS_CAPTION = (
    "Layer 1: all filters of a network on one scale, zero at mid-grey, full colour at twice the largest filter's "
    "root mean square, so that weak filters look grey.\n"
    "Layer 2: the strongest peak of a random subset of units, sent back to pixels, each on its own scale."
)


def filters_figure(
    upper: Sequence[Panel], lower: Sequence[Panel], curves: Sequence[Curve], white: Sequence[float], width: float
) -> Figure:
    """Figure 6: `upper` panels (layer 1) over `lower` ones (layer 2), and the filters' energy by spatial frequency.

    curves, white: one share for each bin of `width` cycles per pixel; white is that of white noise.
    """
    heights = [max(_panel_height(panel) for panel in upper), max([CHART, *map(_panel_height, lower)])]
    across = max(len(upper), len(lower) + 1)
    tops = [head(FILTERS_CAPTION), head(FILTERS_CAPTION) + heights[0] + MARGIN]
    heading = "Figure 6: what the filters' size, stride and limited scale change"
    page = Page(tops[1] + heights[1] + MARGIN, MARGIN + across * (GRID + MARGIN), heading, FILTERS_CAPTION)
    letters = iter(ascii_lowercase)
    for top, row in zip(tops, (upper, lower), strict=True):
        for n, panel in enumerate(row):
            _place_panel(page, top, MARGIN + n * (GRID + MARGIN), panel, next(letters))
    x = MARGIN + len(lower) * (GRID + MARGIN)
    page.text(tops[1], x, "Energy of the layer 1 filters by spatial frequency", **TITLE)
    _energy_chart(page.axes(tops[1] + 2 * LINE, x + 60, heights[1] - 80, GRID - 80), curves, white, width)
    return page.finish()


def _grid_columns(panel: Panel) -> int:
    return max(1, GRID // (panel.tiles.shape[1] + 2))


def _panel_height(panel: Panel) -> int:
    rows = -(-len(panel.tiles) // _grid_columns(panel))
    return 22 + (panel.note.count("\n") + 1) * LINE + 6 + rows * (panel.tiles.shape[1] + 2)


def _place_panel(page: Page, y: int, x: int, panel: Panel, letter: str) -> None:
    page.text(y, x, f"({letter}) {panel.title}", **TITLE)
    page.text(y + 22, x, panel.note, **NOTE)
    top, side = y + 22 + (panel.note.count("\n") + 1) * LINE + 6, panel.tiles.shape[1]
    for n, tile in enumerate(panel.tiles):
        down, across = divmod(n, _grid_columns(panel))
        page.picture(top + down * (side + 2), x + across * (side + 2), tile)


def _energy_chart(axes: Axes, curves: Sequence[Curve], white: Sequence[float], width: float) -> None:
    middle = (np.arange(len(white)) + 0.5) * width
    for curve in curves:
        axes.plot(middle, curve.share, "o-", markersize=4, label=curve.label)
    axes.plot(middle, white, "--", color="0.5", label="white noise")
    axes.set_xlabel("cycles per pixel")
    axes.set_ylabel(f"share of energy in a bin of {width:g}")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlim(0, len(white) * width)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
