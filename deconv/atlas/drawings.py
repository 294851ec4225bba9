"""Geometry of the small drawings in the pages: whole numbers and strings that a template puts into SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from deconv.atlas.contents import Layer
from deconv.records import clip

BoxYX = tuple[int, int, int, int]
PAD_STEP, MOST_PAD = 5, 40
"""Per cent of the drawing's side left free around an image for boxes that reach outside; assets/atlas.css has a class
for each."""


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram in a drawing of HISTOGRAM pixels, and what it says."""

    x: float
    y: float
    width: float
    height: float
    text: str


HISTOGRAM = (480, 130)
"""Width and height of the drawing; the bar of the images that do not fire the unit takes the first 40 pixels."""


def histogram(counts: Sequence[int], quiet: int, width: float) -> tuple[Bar, list[Bar]]:
    """Return the bar of the images that do not fire the unit, and those of steps of equal width from zero.

    The height goes with the square root of the count, so that a single image among thousands is still seen.
    """
    across, height = HISTOGRAM
    most = math.sqrt(max([*counts, quiet, 1]))
    step = (across - 40) / max(len(counts), 1)

    def bar(x: float, wide: float, count: int, text: str) -> Bar:
        tall = round(math.sqrt(count) / most * (height - 4), 1)
        return Bar(round(x, 1), round(height - tall, 1), round(wide, 1), tall, f"{count} {text}")

    bars = []
    for n, count in enumerate(counts):
        text = f"from {n * width:.3g} to {(n + 1) * width:.3g}"
        bars.append(bar(40.0 + n * step, step - 2, count, text))
    return bar(0.0, 26.0, quiet, "do not fire it"), bars


def pad_percent(box: BoxYX, input_size: tuple[int, int]) -> int:
    """Return how much to leave free around the input image, at most MOST_PAD, to see the box (y0, x0, y1, x1) whole."""
    height, width = input_size
    y0, x0, y1, x1 = box
    most = max(-y0 / height, -x0 / width, y1 / height - 1, x1 / width - 1, 0)
    return min(math.ceil(100 * most / (1 + 2 * most) / PAD_STEP) * PAD_STEP, MOST_PAD)


def padded_view(input_size: tuple[int, int], percent: int) -> str:
    """Return the viewBox of a drawing of the input image with `percent` of its sides free all around."""
    height, width = input_size
    free = percent / (100 - 2 * percent)
    numbers = (-width * free, -height * free, width * (1 + 2 * free), height * (1 + 2 * free))
    return " ".join(f"{number:.6g}" for number in numbers)


def spotlight(box: BoxYX, input_size: tuple[int, int]) -> str:
    """Return the path of the input image without the box: what to make darker."""
    height, width = input_size
    (rows, _), (cols, _) = clip(box[0], box[2], height), clip(box[1], box[3], width)
    return f"M0 0H{width}V{height}H0ZM{cols.start} {rows.start}V{rows.stop}H{cols.stop}V{rows.start}Z"


def centred(field: tuple[int, int], input_size: tuple[int, int]) -> BoxYX:
    """Return the box of a receptive field in the middle of the input image, cut to it."""
    tall, wide = min(field[0], input_size[0]), min(field[1], input_size[1])
    y0, x0 = (input_size[0] - tall) // 2, (input_size[1] - wide) // 2
    return y0, x0, y0 + tall, x0 + wide


@dataclass(frozen=True)
class Stack:
    """A layer as a stack of maps: the corners of its sheets, back to front, and their sides, in a 100 x 60 drawing."""

    corners: list[tuple[float, float]]
    width: float
    height: float


def stack(layer: Layer, largest: int) -> Stack:
    """Return sheets whose side goes with the square root of the map's side, their number with the log of the units."""
    height, width = (6 + 34 * math.sqrt(side / largest) for side in layer.map_size)
    sheets = max(round(math.log2(layer.channels)), 1)
    return Stack([(round(3.6 * n, 1), round(50 - height - 1.6 * n, 1)) for n in reversed(range(sheets))], width, height)
