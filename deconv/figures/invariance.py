"""Figure 5: how a network's features follow a moving picture, as line charts beside some of the moved pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from deconv.figures.page import HEADING, PART_TITLE, charts

EDGE, SPACE = 4, 2
"""Pixels of the coloured edge around each sample picture, and between two of them."""


@dataclass(frozen=True, eq=False)
class Chart:
    """One column of lines: a title, what the axis counts, and a line for each image.

    top: where the axis ends; it begins at 0.
    """

    title: str
    values: Float[np.ndarray, "images amounts"]
    top: float


@dataclass(frozen=True, eq=False)
class ChartRow:
    """One kind of move: sample pictures, then its charts over `amounts`; sample_names: one for each sample's move."""

    title: str
    amounts: Sequence[float]
    axis: str
    samples: UInt8[Tensor, "images moves 3 H W"]
    sample_names: Sequence[str]
    charts: Sequence[Chart]


def invariance_figure(rows: Sequence[ChartRow], names: Sequence[str], heading: str, caption: str) -> Figure:
    """Draw row under row: sample pictures edged in the colour of their line, then the charts; `names` of the images."""
    figure = charts(17, 3.9 * len(rows) + 1.3, "", caption)
    grid = figure.subplots(len(rows), 1 + len(rows[0].charts), squeeze=False)
    for axes_row, row in zip(grid, rows, strict=True):
        _samples(axes_row[0], row)
        for axes, chart in zip(axes_row[1:], row.charts, strict=True):
            _lines(axes, row, chart)
    for axes, chart in zip(grid[0][1:], rows[0].charts, strict=True):
        axes.set_title(chart.title, fontsize=11)
    lines = grid[0][1].lines[: len(names)]
    # The heading is the legend's title: matplotlib would lay a legend above the charts over the figure's own title.
    legend = figure.legend(lines, names, loc="outside upper left", ncols=len(names), frameon=False, alignment="left")
    legend.get_title().set(text=heading, **HEADING)
    return figure


def colour_of(image: int) -> str:
    """Return the colour of the line and the edge of an image, by its place among the images; ten, over and over."""
    return f"C{image % 10}"


def _samples(axes: Axes, row: ChartRow) -> None:
    images, moves, _, height, width = row.samples.shape
    down, across = height + 2 * EDGE + SPACE, width + 2 * EDGE + SPACE
    page = np.ones((images * down - SPACE, moves * across - SPACE, 3))
    for image in range(images):
        for move in range(moves):
            y, x = image * down, move * across
            page[y : y + height + 2 * EDGE, x : x + width + 2 * EDGE] = to_rgb(colour_of(image))
            picture = row.samples[image, move].permute(1, 2, 0).numpy() / 255
            page[y + EDGE : y + EDGE + height, x + EDGE : x + EDGE + width] = picture
    axes.imshow(page, interpolation="antialiased")
    axes.set_anchor("W")
    axes.set_title(row.title, loc="left", **PART_TITLE)
    axes.set_xticks([move * across + EDGE + width / 2 for move in range(moves)], row.sample_names, fontsize=9)
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _lines(axes: Axes, row: ChartRow, chart: Chart) -> None:
    for image, values in enumerate(chart.values):
        axes.plot(row.amounts, values, color=colour_of(image), linewidth=1.6)
    axes.set_xlabel(row.axis, fontsize=9.5, labelpad=2)
    axes.set_xlim(row.amounts[0], row.amounts[-1] if row.amounts[-1] > row.amounts[0] else None)
    axes.set_ylim(0, chart.top)
    axes.grid(color="0.9")
    axes.tick_params(labelsize=9)
