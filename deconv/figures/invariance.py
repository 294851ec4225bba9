"""Line charts of how a network's features follow a moving picture (the paper's Figure 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from deconv.figures import DPI

COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22")
EDGE = 5
"""Pixels of the coloured edge around each sample picture."""


@dataclass(frozen=True)
class Chart:
    """One column of lines: a title, what the axis counts, and a line (images, amounts) for each image.

    top: where the axis ends; it begins at 0.
    """

    title: str
    values: np.ndarray
    top: float


@dataclass(frozen=True)
class ChartRow:
    """One kind of move: sample pictures, then its charts over `amounts`.

    samples: uint8 (images, moves, 3, H, W); sample_names: one for each move.
    """

    title: str
    amounts: Sequence[float]
    axis: str
    samples: Tensor
    sample_names: Sequence[str]
    charts: Sequence[Chart]


def invariance_figure(rows: Sequence[ChartRow], names: Sequence[str], heading: str, caption: str) -> Figure:
    """Row under row: sample pictures edged in the colour of their line, then the charts; `names` of the images."""
    figure = Figure(figsize=(17, 3.9 * len(rows) + 1.3), dpi=DPI, facecolor="white")
    height = float(figure.get_figheight())
    grid = figure.add_gridspec(
        len(rows), 1 + len(rows[0].charts), width_ratios=[0.94, *[1.0 for _ in rows[0].charts]],
        left=0.012, right=0.99, top=1 - 1.45 / height, bottom=0.55 / height, wspace=0.13, hspace=0.26,
    )  # fmt: skip
    for number, row in enumerate(rows):
        _samples(figure.add_subplot(grid[number, 0]), row)
        for column, chart in enumerate(row.charts):
            _lines(figure.add_subplot(grid[number, column + 1]), row, chart, number == 0)
    figure.text(0.012, 1 - 0.3 / height, heading, fontsize=15, weight="bold", va="center")
    figure.text(0.012, 1 - 0.6 / height, caption, fontsize=9.5, color="0.3", va="center")
    lines = [figure.axes[1].lines[number] for number in range(len(names))]
    figure.legend(
        lines, names, loc="center left", bbox_to_anchor=(0.005, 1 - 0.93 / height), ncol=len(names), frameon=False
    )
    return figure


def colour_of(number: int) -> str:
    """The colour of image `number`, over and over."""
    return COLOURS[number % len(COLOURS)]


def _samples(axes: Axes, row: ChartRow) -> None:
    pictures = row.samples.permute(0, 1, 3, 4, 2).numpy().astype(np.float64) / 255
    images, moves, height, width = pictures.shape[:4]
    page = np.ones((images * (height + 2 * EDGE), moves * (width + 2 * EDGE), 3))
    for image in range(images):
        for move in range(moves):
            y, x = image * (height + 2 * EDGE), move * (width + 2 * EDGE)
            page[y : y + height + 2 * EDGE - 2, x : x + width + 2 * EDGE - 2] = _rgb(colour_of(image))
            page[y + EDGE - 1 : y + EDGE - 1 + height, x + EDGE - 1 : x + EDGE - 1 + width] = pictures[image, move]
    axes.imshow(page, interpolation="antialiased")
    axes.set_anchor("W")
    axes.set_title(row.title, fontsize=12, weight="bold", loc="left")
    axes.set_xticks([(move + 0.5) * (width + 2 * EDGE) for move in range(moves)], row.sample_names, fontsize=9)
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _rgb(colour: str) -> list[float]:
    return [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]


def _lines(axes: Axes, row: ChartRow, chart: Chart, titled: bool) -> None:
    for image, values in enumerate(chart.values):
        axes.plot(row.amounts, values, color=colour_of(image), linewidth=1.6)
    axes.set_xlabel(row.axis, fontsize=9.5, labelpad=2)
    axes.set_xlim(row.amounts[0], row.amounts[-1] if row.amounts[-1] > row.amounts[0] else None)
    axes.set_ylim(0, chart.top)
    axes.grid(color="0.9")
    axes.tick_params(labelsize=9)
    if titled:
        axes.set_title(chart.title, fontsize=11)
