"""Figure 6: the filters of several networks, their projections, and the filters' energy by spatial frequency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_lowercase

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from deconv.figures import MARGIN
from deconv.figures.page import CHART, LINE, NOTE, TITLE, Page, head


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
