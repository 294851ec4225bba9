"""Figure 7: maps of what a square does that lies at each position of an image."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from deconv.analyses.occlusion import Occlusion
from deconv.figures.page import charts
from deconv.figures.pictures import on_grid, recon_tiles

PROJECTION_SIDE, PROJECTION_GAP = 220, 6
"""Pixels a side of a projection, and between two: twice 220 are more than the axes have, so none is enlarged twice."""
MOST_NAMED = 7
"""Labels that get a colour of their own; the rarer ones are "other"."""
LABEL_COLOURS = matplotlib.colormaps["tab10"].colors[:MOST_NAMED]  # type: ignore[attr-defined]
OTHER_LABELS = "0.75"
TITLE_CHARACTERS = 36
"""Characters of a panel's title that fit above it: at 10.5 points 0.085 inches each, over some 3 inches."""


@dataclass(frozen=True, eq=False)
class OcclusionRow:
    """One image of Figure 7, and what the square does to it.

    colour: of the square, 0..255. label: the class whose probability is shown, of all classes' `names`. projections:
    the image's own, then those of others.
    """

    title: str
    input_image: UInt8[Tensor, "3 H W"]
    colour: Float[Tensor, " 3"]
    seen: Occlusion
    label: int
    names: Sequence[str]
    projections: Sequence[Float[Tensor, "3 H W"]]

    @property
    def probability(self) -> Float[Tensor, "R C"]:
        """The probability of the label, for each position of the square."""
        return self.seen.probability[..., self.label]

    @property
    def labels(self) -> Int[Tensor, "R C"]:
        """The most probable class, for each position of the square."""
        return self.seen.probability.argmax(dim=2)


def occlusion_figure(rows: Sequence[OcclusionRow], heading: str, caption: str) -> Figure:
    """Draw image under image: (a) with the square, (b) activity, (c) projections, (d) probability, (e) labels."""
    figure = charts(18, 3.5 * len(rows) + 1, heading, caption)
    grid = figure.subplots(len(rows), 5, squeeze=False)
    for axes_row, row in zip(grid, rows, strict=True):
        for axes, draw in zip(axes_row, (_image, _activity, _projections, _probability, _labels), strict=True):
            axes.set(xticks=[], yticks=[])
            draw(axes, row)
    return figure


def _title(axes: Axes, text: str) -> None:
    axes.set_title(textwrap.fill(text, TITLE_CHARACTERS), fontsize=10.5, loc="left")


def _image(axes: Axes, row: OcclusionRow) -> None:
    """The image with the square where the label's probability is least."""
    axes.imshow(row.input_image.permute(1, 2, 0).numpy())
    least_row, least_col = divmod(int(row.probability.argmin()), len(row.seen.cols))
    y, x, side = int(row.seen.rows[least_row]), int(row.seen.cols[least_col]), row.seen.square
    colour = (row.colour / 255).tolist()
    axes.add_patch(Rectangle((x - 0.5, y - 0.5), side, side, facecolor=colour, edgecolor="none"))
    _title(axes, f"(a) {row.title}")


def _activity(axes: Axes, row: OcclusionRow) -> None:
    shown = _over_image(axes, row, row.seen.activity.numpy(), cmap="viridis")
    _colour_bar(axes, shown)
    _title(axes, f"(b) activity of {row.seen.layer}, unit {row.seen.unit}")


def _probability(axes: Axes, row: OcclusionRow) -> None:
    shown = _over_image(axes, row, row.probability.numpy(), cmap="viridis", vmin=0, vmax=1)
    _colour_bar(axes, shown)
    _title(axes, f"(d) probability of {row.names[row.label]}")


def _over_image(axes: Axes, row: OcclusionRow, values: np.ndarray, **style: Any) -> AxesImage:
    """Draw values (R, C) where the square's middle was, on the image, pale, so that positions can be compared."""
    axes.imshow(1 - 0.45 * (1 - row.input_image.permute(1, 2, 0).numpy() / 255))
    top, bottom = _edges(row.seen.rows, row.seen.square)
    left, right = _edges(row.seen.cols, row.seen.square)
    shown = axes.imshow(values, extent=(left, right, bottom, top), interpolation="nearest", **style)
    axes.set_xlim(-0.5, row.input_image.shape[2] - 0.5)
    axes.set_ylim(row.input_image.shape[1] - 0.5, -0.5)
    return shown


def _edges(first_pixels: Tensor, square: int) -> tuple[float, float]:
    """Where a map's outer edges lie, in pixels: half a step beyond the middles of the first and the last square."""
    step = float(first_pixels[1] - first_pixels[0]) if len(first_pixels) > 1 else 1.0
    middle = (square - 1) / 2
    return float(first_pixels[0]) + middle - step / 2, float(first_pixels[-1]) + middle + step / 2


def _colour_bar(axes: Axes, shown: AxesImage) -> None:
    beside = axes.inset_axes((1.015, 0, 0.035, 1))
    beside.figure.colorbar(shown, cax=beside)
    beside.tick_params(labelsize=7.5, length=2, pad=1)


def _projections(axes: Axes, row: OcclusionRow) -> None:
    """Two by two, the image's own first and framed."""
    side = PROJECTION_SIDE
    tiles = recon_tiles(torch.stack(list(row.projections[:4])), side)
    axes.imshow(on_grid(tiles, 2, PROJECTION_GAP, places=4))
    axes.add_patch(Rectangle((-0.5, -0.5), side, side, fill=False, edgecolor="tab:red", linewidth=2.5))
    _title(axes, "(c) that map projected")
    axes.spines[:].set_visible(False)


def _labels(axes: Axes, row: OcclusionRow) -> None:
    classes, counts = row.labels.unique(return_counts=True)
    order = torch.argsort(counts, descending=True, stable=True)
    shares, named = (counts[order] / counts.sum()).tolist(), classes[order][:MOST_NAMED]
    kinds = torch.full(row.labels.shape, len(named))
    for kind, label in enumerate(named):
        kinds[row.labels == label] = kind
    colours = [*LABEL_COLOURS[: len(named)], OTHER_LABELS]
    _over_image(axes, row, kinds.numpy(), cmap=ListedColormap(colours), vmin=-0.5, vmax=len(named) + 0.5)
    texts = [f"{row.names[label]}, {_percent(share)}" for label, share in zip(named.tolist(), shares, strict=False)]
    if len(classes) > MOST_NAMED:
        texts.append(f"other ({len(classes) - len(named)}), {_percent(sum(shares[len(named) :]))}")
    handles = [Patch(color=colour) for colour in colours[: len(texts)]]
    axes.legend(handles, texts, loc="upper left", bbox_to_anchor=(1, 1), fontsize=8.5, frameon=False, handlelength=1)
    _title(axes, "(e) most probable label")


def _percent(share: float) -> str:
    return "below 1 %" if share < 0.01 else f"{100 * share:.0f} %"
