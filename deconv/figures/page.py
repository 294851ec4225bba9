"""Pages on which pictures and charts stand side by side, placed in pixels: a pixel of a tile is one of the page.

The size of a text follows from its points; everything else is placed after what stands above it and left of it.
"""

from __future__ import annotations

import math
import textwrap
from typing import Any

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.transforms import IdentityTransform

from deconv.figures import DPI
from deconv.figures.pictures import WHITE

MARGIN = 20
"""Pixels around a page, and between the parts of it."""
TILE = 96
"""Pixels a side of one reconstruction or patch."""
LINE_SPACING = 1.35
HEADING: dict[str, Any] = {"fontsize": 15, "weight": "bold"}
CAPTION: dict[str, Any] = {"fontsize": 9.5, "color": "0.3", "linespacing": LINE_SPACING}
PART_TITLE: dict[str, Any] = {"fontsize": 12, "weight": "bold"}
NOTE: dict[str, Any] = {"fontsize": 8.5, "color": "0.25", "linespacing": LINE_SPACING}
CHART = 420
"""Least pixels of a chart down, its title and labels included."""


def text_height(text: str, style: dict[str, Any]) -> int:
    """Return the pixels that a text takes down: its lines, each of its font's points and the space between lines."""
    return math.ceil((text.count("\n") + 1) * style["fontsize"] * LINE_SPACING * DPI / 72)


def wrapped(text: str, width: int, style: dict[str, Any]) -> str:
    """Return the text with its lines broken where they would be longer than `width` pixels."""
    points = 0.68 if style.get("weight") == "bold" else 0.58  # width of the font's characters, on average
    character = points * style["fontsize"] * DPI / 72
    lines = [textwrap.wrap(line, max(int(width / character), 20)) for line in text.splitlines()]
    return "\n".join(line for parts in lines for line in parts)


def head(caption: str, heading: str = "heading") -> int:
    """Return the pixels that a page's heading and caption take down, with the margins around them."""
    return MARGIN + text_height(heading, HEADING) + text_height(caption, CAPTION) + MARGIN


class Page:
    """A white page of (height, width) pixels; what is put on it is placed by its top left corner (y, x), in pixels."""

    def __init__(self, height: int, width: int, heading: str, caption: str):
        self.pixels = np.full((height, width, 3), WHITE, dtype=np.uint8)
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
        self.text(MARGIN, MARGIN, heading, **HEADING)
        self.text(MARGIN + text_height(heading, HEADING), MARGIN, caption, **CAPTION)

    def picture(self, y: int, x: int, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        """Put a picture there."""
        self.pixels[y : y + picture.shape[0], x : x + picture.shape[1]] = picture

    def text(self, y: float | int, x: float | int, text: str, **style: Any) -> None:
        """Write a text there, a $ as it is; `ha` and `va` as matplotlib has them, left and top by default."""
        height, width = self.pixels.shape[:2]
        self.figure.text(x / width, 1 - y / height, text, parse_math=False, **({"va": "top", "ha": "left"} | style))

    def axes(self, y: int, x: int, height: int, width: int) -> Axes:
        """Return an empty chart of (height, width) pixels there, its labels outside."""
        down, across = self.pixels.shape[:2]
        axes = self.figure.add_axes((x / across, 1 - (y + height) / down, width / across, height / down))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.9")
        return axes

    def finish(self) -> Figure:
        """Return the figure, its pictures drawn pixel by pixel beneath texts and charts."""
        below = self.figure.add_axes((0, 0, 1, 1), label="page", zorder=-1)
        height, width = self.pixels.shape[:2]
        shown = _Pixels(below, interpolation="nearest")
        shown.set_data(self.pixels)
        shown.set_clip_path(below.patch)
        shown.set_extent((-0.5, width - 0.5, height - 0.5, -0.5))
        below.add_image(shown)
        below.set_axis_off()
        return self.figure


class _Pixels(AxesImage):
    """An image that is drawn as it is where each of its pixels is one of the figure's file.

    matplotlib resamples it even then, by way of floats: half the time of writing a page, for the same pixels.
    """

    def make_image(self, renderer: Any, magnification: float = 1.0, unsampled: bool = False) -> tuple[Any, ...]:
        """Return what AxesImage.make_image does: RGBA, the lowest row first, where it lies, and a transformation."""
        height, width = self.get_size()
        corners = np.multiply(self.get_window_extent(renderer).extents, magnification)
        if unsampled or not np.allclose(corners, (0, 0, width, height), rtol=0, atol=0.01):
            return super().make_image(renderer, magnification, unsampled)
        pixels = np.asarray(self.get_array())[::-1]
        return np.dstack([pixels, np.full((height, width), 255, dtype=np.uint8)]), 0, 0, IdentityTransform()


def charts(width: float | int, height: float | int, heading: str, caption: str) -> Figure:
    """Return a figure of so many inches for charts that matplotlib lays out, under a heading and over a caption."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=MARGIN / DPI / 2, h_pad=MARGIN / DPI / 2)
    side = MARGIN / DPI / 2 / width
    figure.suptitle(heading, x=side, ha="left", **HEADING)
    figure.supxlabel(wrapped(caption, round(width * DPI), CAPTION), x=side, ha="left", **CAPTION)
    return figure
