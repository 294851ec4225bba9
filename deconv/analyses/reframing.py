"""The network's input image cut from a moved, enlarged or turned photograph, by one resampling of the photograph.

These are the pictures that `invariance` measures; how one is cut is a subject of its own, so it has its own module.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from deconv.errors import bad_value, check_choice
from deconv.images.preprocessing import Preprocessing

OUTSIDE_FILLS = ("reflect", "mean")
Number = float | int


@dataclass(frozen=True)
class Move:
    """What happens to the picture: it is moved down, then enlarged and turned, both about the input image's centre.

    down: pixels of the input image. scale: times larger. degrees: counter-clockwise.
    """

    down: Number = 0.0
    scale: Number = 1.0
    degrees: Number = 0.0


@dataclass(frozen=True, eq=False)
class Reframing:
    """How input images are cut from one photograph, 0..255.

    size: (H, W) of the input image. step: photograph pixels for each input image pixel, along rows and columns.
    start: the position (row, column) in the photograph under the input image's first pixel. fill: what is shown where
    an input image leaves the photograph, "reflect" (its mirror image) or "mean" (`mean`, 0..255). room: how many times
    larger than usual the photograph lies under the input image.
    """

    photograph: Float[Tensor, "3 h w"]
    size: tuple[int, int]
    step: tuple[float, float]
    start: tuple[float, float]
    fill: str
    mean: Float[Tensor, " 3"]
    room: float

    def input_image(self, move: Move) -> tuple[UInt8[Tensor, "3 H W"], float]:
        """Return the input image, and the share of its pixels that lie outside the photograph."""
        rows, cols = self._places(move)
        reach = tuple(max(1.0, step / move.scale) for step in self.step)
        pixels = sample(self.photograph, rows, cols, (reach[0], reach[1]))
        height, width = self.photograph.shape[1:]
        outside = (rows < -0.5) | (rows > height - 0.5) | (cols < -0.5) | (cols > width - 0.5)
        if self.fill == "mean":
            pixels = torch.where(outside, self.mean[:, None, None], pixels)
        return pixels.round().clamp(0, 255).to(torch.uint8), float(outside.double().mean())

    def _places(self, move: Move) -> tuple[Tensor, Tensor]:
        """Row and column (H, W) float64 in the photograph, under each pixel of the input image."""
        rows, cols = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in self.size), indexing="ij")
        row, col = (
            start + step * (places + (side - 1) / 2)
            for start, step, places, side in zip(
                self.start, self.step, _before(rows, cols, self.size, move), self.size, strict=True
            )
        )
        return row, col


def _before(rows: Tensor, cols: Tensor, size: tuple[int, int], move: Move) -> tuple[Tensor, Tensor]:
    """Where what an input image shows at (rows, cols) was before the move, in pixels from the input image's centre."""
    y, x = (rows - (size[0] - 1) / 2) / move.scale, (cols - (size[1] - 1) / 2) / move.scale
    cos, sin = _cos_sin(move.degrees)
    return y * cos + x * sin - move.down, x * cos - y * sin


def _cos_sin(degrees: Number) -> tuple[float, float]:
    """Exact at quarter turns, where the nearest floats would leave the pixel grid."""
    quarter = {0.0: (1.0, 0.0), 90.0: (0.0, 1.0), 180.0: (-1.0, 0.0), 270.0: (0.0, -1.0)}.get(float(degrees) % 360)
    return quarter or (math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))


def reframing(
    image: UInt8[np.ndarray, "h w 3"],
    preprocessing: Preprocessing,
    moves: Sequence[Move],
    fill: str = "reflect",
    room: Number | None = None,
) -> Reframing:
    """Return how input images are cut from a photograph in RGB, for some moves of it.

    room: how many times larger the photograph is laid under the input image than `preprocessing` lays it; None is as
    much as keeps every move within the photograph; with 1 the unmoved input image is that of `preprocessing`.
    A photograph finer than the largest scale needs is reduced to that first, antialiased.
    Raises UnknownName for another fill, BadInput for a `room` below 1 and a preprocessing without a size.
    """
    check_choice("fill", fill, OUTSIDE_FILLS)
    if room is not None and room < 1:
        raise bad_value("room", room, "1 or more, or None")
    if preprocessing.size is None:
        raise bad_value("preprocessing.size", None, "the size of the input image")
    size = (preprocessing.size[0], preprocessing.size[1])
    usual = _laid(image.shape[:2], size, preprocessing.resize)
    enlarged = _room_needed(usual, size, moves) if room is None else float(room)
    laid = [enlarged * side for side in usual]
    picture = _reduced(image, [math.ceil(side * max((move.scale for move in moves), default=1)) for side in laid])
    step = [have / lies for have, lies in zip(picture.shape[1:], laid, strict=True)]
    # Without room this is torchvision's centre crop, which begins at a whole pixel.
    edges = [
        round((lies - side) / 2) if enlarged == 1 else (lies - side) / 2 for lies, side in zip(laid, size, strict=True)
    ]
    start = [(edge + 0.5) * by - 0.5 for edge, by in zip(edges, step, strict=True)]
    mean = torch.tensor(preprocessing.mean, dtype=torch.float32) * 255
    return Reframing(picture, size, (step[0], step[1]), (start[0], start[1]), fill, mean, enlarged)


def _room_needed(usual: Sequence[int], size: tuple[int, int], moves: Sequence[Move]) -> float:
    """The least room, 1 or more, with which no input image leaves a photograph laid at `usual` (height, width)."""
    rows, cols = torch.tensor([0.0, size[0] - 1.0])[:, None], torch.tensor([0.0, size[1] - 1.0])
    furthest = [0.0, 0.0]
    for move in moves:
        places = _before(rows, cols, size, move)
        furthest = [max(most, float(away.abs().max())) for most, away in zip(furthest, places, strict=True)]
    half_pixel = 0.5  # the centre crop's rounding
    return max(1.0, *(2 * (most + half_pixel) / side for most, side in zip(furthest, usual, strict=True)))


def _reduced(image: np.ndarray, size: Sequence[int]) -> Tensor:
    """The photograph as (3, h, w) float32, antialiased down to `size` (height, width) if it is larger than that."""
    picture = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()
    if size[0] < image.shape[0] and size[1] < image.shape[1]:
        picture = transforms.resize(picture, list(size), antialias=True)
    return picture


def _laid(shape: tuple[int, int], size: Sequence[int], resize: int | None) -> list[int]:
    """Height and width, in pixels of the input image, to which preprocessing resizes a photograph."""
    cover = size if resize is None else (resize, resize)
    ratio = max(side / have for side, have in zip(cover, shape, strict=True))
    return [math.floor(have * ratio + 1e-6) for have in shape]


def sample(
    photograph: Float[Tensor, "C h w"],
    rows: Float[Tensor, "H W"],
    cols: Float[Tensor, "H W"],
    reach: tuple[float, float],
) -> Float[Tensor, "C H W"]:
    """Return the photograph at some positions, weighted by triangles that fall to zero `reach` pixels away.

    With reach 1 that is bilinear interpolation; with the factor by which a picture is reduced it is the antialiased
    bilinear resize of torchvision. Outside, the photograph is mirrored about its border pixels' outer edges.
    """
    top, left = rows.floor().long(), cols.floor().long()
    down, across = (_taps(places, first, by) for places, first, by in ((rows, top, reach[0]), (cols, left, reach[1])))
    colours_last = photograph.permute(1, 2, 0).contiguous()
    total = torch.zeros((*rows.shape, photograph.shape[0]))
    for y, row_weight in down:
        for x, col_weight in across:
            pixels = colours_last[_mirrored(top + y, photograph.shape[1]), _mirrored(left + x, photograph.shape[2])]
            total += pixels * (row_weight * col_weight).float()[..., None]
    return total.permute(2, 0, 1)


def _taps(places: Tensor, first: Tensor, reach: float) -> list[tuple[int, Tensor]]:
    """Steps from `first`, and the weight of the pixel there for each place; the weights of all steps sum to one."""
    steps = range(-math.ceil(reach) + 1, math.ceil(reach) + 1)
    weights = [(1 - (first + step - places).abs() / reach).clamp_min(0) for step in steps]
    total = torch.stack(weights).sum(0)
    return [(step, weight / total) for step, weight in zip(steps, weights, strict=True)]


def _mirrored(places: Tensor, size: int) -> Tensor:
    """Places folded back into 0 to size - 1: -1 is 0, size is size - 1."""
    folded = places.remainder(2 * size)
    return torch.minimum(folded, 2 * size - 1 - folded)
