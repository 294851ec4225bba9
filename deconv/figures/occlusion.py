"""Maps of what a square does that lies at each place of an image (the paper's Figure 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from deconv.figures import DPI, display, tiles

SIDE = 2.75
"""Inches a side of one map."""
LEFT = tuple(0.15 + 2.9 * column + bars * 0.42 for column, bars in enumerate((0, 0, 1, 1, 2)))
"""Inches from the left of each column: (b) and (d) have a bar of colours beside them."""
NAMED = 7
"""Labels that get a colour of their own; the rarer ones are "other"."""
COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#b279a2", "#eeca3b", "#72b7b2")
OTHER = "#bab0ac"


@dataclass(frozen=True, eq=False)
class OcclusionRow:
    """One image of Figure 7; maps are (R, C), an entry for each place of the square.

    input_image: uint8 (3, H, W). sample: (row, column) of the square shown in it. colour: (3,) of the square, 0..255.
    rows, cols: its first pixels. projections: the image's own (3, H, W), then those of others. labels: class numbers;
    names: of all classes.
    """

    title: str
    input_image: Tensor
    sample: tuple[int, int]
    square: int
    colour: Tensor
    rows: Tensor
    cols: Tensor
    activity: Tensor
    activity_title: str
    projections: Sequence[Tensor]
    probability: Tensor
    probability_title: str
    labels: Tensor
    names: Sequence[str]


def occlusion_figure(rows: Sequence[OcclusionRow], heading: str, caption: str) -> Figure:
    """Image under image: (a) with the square, (b) activity, (c) projections, (d) probability, (e) labels."""
    width, height = LEFT[-1] + SIDE + 2.0, len(rows) * (SIDE + 0.62) + 0.85
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    for number, row in enumerate(rows):
        bottom = height - 1.15 - number * (SIDE + 0.62) - SIDE
        for left, draw in zip(LEFT, (_image, _activity, _projections, _probability, _labels), strict=True):
            place = (left / width, bottom / height, SIDE / width, SIDE / height)
            axes = figure.add_axes(place, label=f"{draw.__name__} {number}")
            axes.set_xticks([])
            axes.set_yticks([])
            draw(figure, axes, row)
    figure.text(0.15 / width, 1 - 0.3 / height, heading, fontsize=15, weight="bold", va="center")
    figure.text(0.15 / width, 1 - 0.6 / height, caption, fontsize=9.5, color="0.3", va="center")
    return figure


def _image(figure: Figure, axes: Axes, row: OcclusionRow) -> None:
    axes.imshow(row.input_image.permute(1, 2, 0).numpy())
    y, x = row.sample
    grey = [float(value) / 255 for value in row.colour]
    axes.add_patch(Rectangle((x - 0.5, y - 0.5), row.square, row.square, facecolor=grey, edgecolor="none"))
    axes.set_title(f"(a) {row.title}", fontsize=10.5, loc="left")


def _over_image(axes: Axes, row: OcclusionRow, values: np.ndarray, **style: object) -> object:
    """The map where the square's middle was, on the image, pale, so that places can be compared."""
    pale = 1 - 0.45 * (1 - row.input_image.permute(1, 2, 0).numpy() / 255)
    axes.imshow(pale)
    step = [float(places[1] - places[0]) if len(places) > 1 else 1.0 for places in (row.rows, row.cols)]
    (top, left), (bottom, right) = (
        (float(row.rows[at]) + (row.square - 1) / 2, float(row.cols[at]) + (row.square - 1) / 2) for at in (0, -1)
    )
    edges = (left - step[1] / 2, right + step[1] / 2, bottom + step[0] / 2, top - step[0] / 2)
    shown = axes.imshow(values, extent=edges, interpolation="nearest", **style)  # type: ignore[arg-type]
    axes.set_xlim(-0.5, row.input_image.shape[2] - 0.5)
    axes.set_ylim(row.input_image.shape[1] - 0.5, -0.5)
    return shown


def _bar(figure: Figure, axes: Axes, shown: object) -> None:
    box = axes.get_position()
    beside = figure.add_axes((box.x1 + 0.003, box.y0, 0.006, box.height), label=f"bar {axes.get_label()}")
    figure.colorbar(shown, cax=beside).ax.tick_params(labelsize=7.5, length=2, pad=1)  # type: ignore[arg-type]


def _activity(figure: Figure, axes: Axes, row: OcclusionRow) -> None:
    _bar(figure, axes, _over_image(axes, row, row.activity.numpy(), cmap="viridis"))
    axes.set_title(f"(b) {row.activity_title}", fontsize=10.5, loc="left")


def _probability(figure: Figure, axes: Axes, row: OcclusionRow) -> None:
    _bar(figure, axes, _over_image(axes, row, row.probability.numpy(), cmap="viridis", vmin=0, vmax=1))
    axes.set_title(f"(d) {row.probability_title}", fontsize=10.5, loc="left")


def _projections(figure: Figure, axes: Axes, row: OcclusionRow) -> None:
    """Two by two, the image's own first and framed."""
    side, gap = 220, 6
    page = np.ones((2 * side + gap, 2 * side + gap, 3))
    for number, projection in enumerate(row.projections[:4]):
        y, x = number // 2 * (side + gap), number % 2 * (side + gap)
        page[y : y + side, x : x + side] = tiles(display(projection[None]), side)[0]
    axes.imshow(page)
    axes.add_patch(Rectangle((-0.5, -0.5), side, side, fill=False, edgecolor="#d62728", linewidth=2.5))
    axes.set_title("(c) that map projected", fontsize=10.5, loc="left")
    axes.spines[:].set_visible(False)


def _labels(figure: Figure, axes: Axes, row: OcclusionRow) -> None:
    numbers, counts = row.labels.unique(return_counts=True)
    order = torch.argsort(counts, descending=True, stable=True)
    named = numbers[order][:NAMED]
    kinds = torch.full(row.labels.shape, len(named))
    for kind, number in enumerate(named):
        kinds[row.labels == number] = kind
    colours = [*COLOURS[: len(named)], OTHER]
    _over_image(axes, row, kinds.numpy(), cmap=ListedColormap(colours), vmin=-0.5, vmax=len(named) + 0.5)
    shares = (counts[order] / counts.sum()).tolist()
    texts = [f"{row.names[int(number)]}, {_percent(share)}" for number, share in zip(named, shares, strict=False)]
    texts += (
        [f"other ({len(numbers) - len(named)}), {_percent(sum(shares[len(named) :]))}"] if len(numbers) > NAMED else []
    )
    handles = [Patch(color=colour) for colour in colours[: len(texts)]]
    axes.legend(
        handles, texts, loc="upper left", bbox_to_anchor=(1.0, 1.02), fontsize=8.5, frameon=False, handlelength=1
    )
    axes.set_title("(e) most probable label", fontsize=10.5, loc="left")


def _percent(share: float) -> str:
    return "below 1 %" if share < 0.01 else f"{100 * share:.0f} %"
