"""Figure 6: the filters of several networks, their projections, and the filters' energy by spatial frequency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from deconv.analyses.filters import FINE
from deconv.figures.page import CHART, MARGIN, NOTE, PART_TITLE, Page, head, text_height
from deconv.figures.pictures import as_bytes, on_grid, recon_tiles, tiles

PANEL_WIDTH = 560
"""Pixels of a panel across; its grid has as many columns as fit."""
TILE_GAP = 2
FILTER_SIDE, PROJECTION_SIDE = 44, 54
"""Pixels that a picture may fill; it is enlarged by the largest whole factor that fits."""
FULL_COLOUR = 2.0
"""Root mean squares of the largest filter that are full colour, as the figure's caption says."""
FILTERS_CAPTION = (
    "Layer 1: all filters of a network on one scale, zero at mid-grey, full colour at twice the largest filter's "
    "root mean square, so that weak filters look grey.\n"
    "Layer 2: the strongest peak of a random subset of units, sent back to pixels, each on its own scale."
)


@dataclass(frozen=True)
class Panel:
    """One part of Figure 6: a title, lines of numbers, and tiles (N, s, s, 3) for its grid."""

    title: str
    note: str
    tiles: np.ndarray

    @property
    def above(self) -> int:
        """Pixels of the title and the numbers, with a gap below."""
        return text_height(self.title, PART_TITLE) + text_height(self.note, NOTE) + 3 * TILE_GAP

    @property
    def grid(self) -> UInt8[np.ndarray, "H W 3"]:
        """The tiles in as many columns as fit."""
        return on_grid(self.tiles, max(1, PANEL_WIDTH // (self.tiles.shape[1] + TILE_GAP)), TILE_GAP)

    @property
    def height(self) -> int:
        """Pixels down."""
        return self.above + self.grid.shape[0]


@dataclass(frozen=True)
class Curve:
    """A line of the chart: its label, and the share of energy in each bin of frequency."""

    label: str
    share: Sequence[float]


def filter_panel(name: str, filters: Float[Tensor, "N 3 h w"], numbers: Mapping[str, Any]) -> Panel:
    """Return all filters of a network on one scale, with its numbers as the experiment sums them up."""
    largest, median = numbers["largest_rms"], max(numbers["median_rms"], 1e-30)
    shown = as_bytes((0.5 + filters / max(2 * FULL_COLOUR * largest, 1e-30)).clamp(0, 1))
    rows, cols = numbers["filter_size"]
    note = (
        f"{numbers['filters']} filters {rows} x {cols}, stride {numbers['stride']};  dead: {numbers['dead_units']} "
        f"never fire, {numbers['weak']} have under a tenth of the median RMS\n"
        f"largest RMS {largest:.3g}, {largest / median:.1f} times the median;  "
        f"{numbers['fine_share']:.0%} of the energy above {FINE:g} cycles a pixel"
    )
    return Panel(f"{name}: layer 1", note, tiles(shown, _enlarged_side(shown, FILTER_SIDE)))


def projection_panel(name: str, pixels: Float[Tensor, "N 3 h w"], firing: int, aliasing: Mapping[int, float]) -> Panel:
    """Return some units of a network's layer 2, of the number that fire, with its aliasing at some strides."""
    shares = ", ".join(f"{share:.1%} at stride {stride}" for stride, share in aliasing.items())
    note = f"aliasing, the energy that stands out at the frequencies of a stride (chance: 0):\n{shares}"
    title = f"{name}: layer 2, {len(pixels)} of the {firing} units that fire"
    return Panel(title, note, recon_tiles(pixels, _enlarged_side(pixels, PROJECTION_SIDE)))


def _enlarged_side(pictures: Tensor, most: int) -> int:
    """`most` pixels or a little less: a whole multiple of the pictures' side, if one fits."""
    side = max(pictures.shape[2:])
    return most // side * side or most


def filters_figure(
    upper: Sequence[Panel], lower: Sequence[Panel], curves: Sequence[Curve], white: Sequence[float], width: float
) -> Figure:
    """Draw Figure 6: `upper` panels (layer 1), under them `lower` ones (layer 2) and the filters' energy by frequency.

    curves, white: one share for each bin of `width` cycles per pixel; white is that of white noise.
    """
    heights = [max(panel.height for panel in upper), max([CHART, *(panel.height for panel in lower)])]
    across = max(len(upper), len(lower) + 1)
    tops = [head(FILTERS_CAPTION), head(FILTERS_CAPTION) + heights[0] + MARGIN]
    heading = "Figure 6: what the filters' size, stride and limited scale change"
    page = Page(tops[1] + heights[1] + MARGIN, MARGIN + across * (PANEL_WIDTH + MARGIN), heading, FILTERS_CAPTION)
    letters = iter(ascii_lowercase)
    for top, row in zip(tops, (upper, lower), strict=True):
        for n, panel in enumerate(row):
            _place_panel(page, top, MARGIN + n * (PANEL_WIDTH + MARGIN), panel, next(letters))
    x = MARGIN + len(lower) * (PANEL_WIDTH + MARGIN)
    page.text(tops[1], x, "Energy of the layer 1 filters by spatial frequency", **PART_TITLE)
    left, top, bottom = 4 * MARGIN, 2 * MARGIN, 2 * MARGIN  # room for the chart's labels, and for the title above it
    axes = page.axes(tops[1] + top, x + left, heights[1] - top - bottom, PANEL_WIDTH - left - MARGIN)
    _energy_chart(axes, curves, white, width)
    return page.finish()


def _place_panel(page: Page, y: int, x: int, panel: Panel, letter: str) -> None:
    page.text(y, x, f"({letter}) {panel.title}", **PART_TITLE)
    page.text(y + text_height(panel.title, PART_TITLE), x, panel.note, **NOTE)
    page.picture(y + panel.above, x, panel.grid)


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
