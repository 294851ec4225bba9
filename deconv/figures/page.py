"""Pages on which pictures and charts stand side by side, placed in pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deconv.figures import DPI, MARGIN

GAP = 6

LINE = 15

TITLE: dict[str, Any] = {"fontsize": 12, "weight": "bold"}

NOTE: dict[str, Any] = {"fontsize": 8.5, "color": "0.25"}

CHART = 420
"""Least pixels of a chart down, its title and labels included."""


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
