"""Reconstructions, patches and filters as square tiles, and tiles on a grid: the one place that scales for display.

A reconstruction is signed. It is shown symmetric about mid-grey: zero is mid-grey, and the PERCENTILE-th percentile of
its absolute values is full black or white. Each reconstruction has its own scale. Pictures of one channel are grey;
those of two, or of more than three channels, are shown as an energy map. All tiles are arrays of uint8 colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from scipy.ndimage import binary_erosion, generate_binary_structure
from torch import Tensor

PERCENTILE = 99.0
WHITE = 255
HATCH_LINE, HATCH_GROUND, HATCH_WIDTH = 158, 219, 3
"""The two greys of what lies outside an image, and the pixels that a line of its hatching is wide; every third is."""
FADED = 0.3
"""What is left of a patch's darkness where its mask does not cover it, in grey; the rest is white."""
OUTLINE = (255, 140, 0)
"""The colour of a mask's outline: orange, which is far from most photographs' and seen on dark and light."""
ACROSS_EDGES = generate_binary_structure(2, 1)[None, :, :, None]
"""In a batch of masks (N, side, side, 1), the pixels that share an edge with one: one not covered makes an outline."""
LEAST_HATCHED = 64
"""Pixels a side; in a smaller tile lines would be all that one sees, and it gets their mean."""


def display(reconstructions: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C h w"]:
    """Return signed pixels in 0..1 with zero at 0.5, each reconstruction on its own scale; all-zero is mid-grey.

    >>> display(torch.tensor([[[[-2.0, 0.0, 2.0]]]])).tolist()
    [[[[0.0, 0.5, 1.0]]]]
    """
    return (0.5 + 0.5 * reconstructions / _scale(reconstructions)).clamp(0, 1)


def energy(reconstructions: Float[Tensor, "N C h w"]) -> Float[Tensor, "N 1 h w"]:
    """Return the root of the sum of squares over channels, in 0..1, each on its own scale: black is zero.

    >>> energy(torch.tensor([3.0, -4.0]).view(1, 2, 1, 1)).tolist()
    [[[[1.0]]]]
    """
    length = reconstructions.square().sum(dim=1, keepdim=True).sqrt()
    return (length / _scale(length)).clamp(0, 1)


def _scale(pixels: Tensor) -> Tensor:
    """(N, 1, 1, 1): the percentile of each picture's absolute values that is shown as full black or white."""
    flat = pixels.abs().flatten(1)
    rank = max(round(flat.shape[1] * PERCENTILE / 100), 1)
    scale = flat.kthvalue(rank, dim=1).values
    scale = torch.where(scale > 0, scale, flat.amax(dim=1))  # only a few pixels are set
    return torch.where(scale > 0, scale, 1.0).view(-1, 1, 1, 1)


def has_colours(channels: int) -> bool:
    """Whether pictures of so many channels are shown as they are, in colour or grey, and not as an energy map."""
    return channels in (1, 3)


def as_bytes(pictures: Float[Tensor, "N C h w"]) -> UInt8[Tensor, "N C h w"]:
    """Return pictures in 0..1 as 0..255."""
    return (pictures * 255 + 0.5).to(torch.uint8)


def recon_tiles(
    pixels: Float[Tensor, "N C h w"], side: int, keep_contrast: bool = False
) -> UInt8[np.ndarray, "N side side 3"]:
    """Return signed pixels as tiles, each scaled for display by its own values, the long side filling the tile.

    keep_contrast: make pictures smaller before they are scaled, not after it, by which thumbnails would become pale.
    """
    factor = side / max(pixels.shape[2:])
    if keep_contrast and factor < 1:
        pixels = F.interpolate(pixels, _size(pixels, factor), mode="bilinear", antialias=True)
    return tiles(as_bytes(display(pixels) if has_colours(pixels.shape[1]) else energy(pixels)), side)


def patch_tiles(
    pixels: UInt8[Tensor, "N C h w"], inside: Bool[Tensor, "N h w"], side: int
) -> UInt8[np.ndarray, "N side side 3"]:
    """Return patches as tiles, hatched where `inside` is False: outside the image."""
    if not has_colours(pixels.shape[1]):
        pixels = pixels.float().square().mean(dim=1, keepdim=True).sqrt().round().to(torch.uint8)
    shown = tiles(pixels, side)
    if inside.all():
        return shown
    outside = _square(_fitted((~inside)[:, None].to(torch.uint8) * 255, side), side, around=0) > 127
    return np.where(outside, _hatch(side), shown)


def masked_tiles(
    pixels: UInt8[Tensor, "N C h w"], inside: Bool[Tensor, "N h w"], mask: Bool[Tensor, "N h w"], side: int
) -> UInt8[np.ndarray, "N side side 3"]:
    """Return patches as tiles, as they are where their mask covers them, pale and grey elsewhere, with its outline."""
    shown = patch_tiles(pixels, inside, side)
    covered = _square(_fitted(mask[:, None].to(torch.uint8) * 255, side), side, around=0) > 127
    pale = WHITE - FADED * (WHITE - shown.mean(axis=3, keepdims=True))
    faded = np.where(covered, shown, pale.astype(np.uint8))
    outline = covered & ~binary_erosion(covered, ACROSS_EDGES, border_value=1)
    return np.where(outline, np.array(OUTLINE, dtype=np.uint8), faded)


def tiles(pictures: UInt8[Tensor, "N C h w"], side: int) -> UInt8[np.ndarray, "N side side 3"]:
    """Return pictures of one or three channels as tiles: the long side fills the tile, the rest is white.

    Pictures smaller than the tile are enlarged without smoothing, larger ones made smaller smoothly.

    >>> tiles(torch.zeros(1, 1, 4, 2, dtype=torch.uint8), 4)[0, 0, :, 0].tolist()
    [255, 0, 0, 255]
    """
    square = _square(_fitted(pictures, side), side)
    return square if square.shape[3] == 3 else square.repeat(3, axis=3)


def _fitted(pictures: Tensor, side: int) -> Tensor:
    """uint8 (n, c, h, w) whose long side is `side`."""
    factor = side / max(pictures.shape[2:])
    if factor == 1:
        return pictures
    if factor > 1:
        return F.interpolate(pictures, _size(pictures, factor), mode="nearest-exact")
    return F.interpolate(pictures, _size(pictures, factor), mode="bilinear", antialias=True)


def _size(pictures: Tensor, factor: float) -> list[int]:
    return [max(round(length * factor), 1) for length in pictures.shape[2:]]


def _square(pictures: Tensor, side: int, around: int = WHITE) -> np.ndarray:
    """uint8 (n, c, h, w) in the middle of tiles (n, side, side, c)."""
    height, width = pictures.shape[2:]
    top, left = (side - height) // 2, (side - width) // 2
    tile = np.full((len(pictures), side, side, pictures.shape[1]), around, dtype=np.uint8)
    tile[:, top : top + height, left : left + width] = pictures.permute(0, 2, 3, 1).numpy()
    return tile


@cache
def _hatch(side: int) -> np.ndarray:
    """The tile (side, side, 1) of a patch that lies outside its image altogether."""
    ys, xs = np.mgrid[:side, :side]
    hatch = np.where((ys + xs) // HATCH_WIDTH % 3 == 0, HATCH_LINE, HATCH_GROUND).astype(np.uint8)[..., None]
    return hatch if side >= LEAST_HATCHED else np.full_like(hatch, round(hatch.mean()))


def lay(
    page: UInt8[np.ndarray, "H W 3"],
    tiles: UInt8[np.ndarray, "N h w 3"] | Sequence[np.ndarray],
    left: int,
    top: int,
    pitch: int,
    across: int,
) -> None:
    """Put tiles on a page, row by row, `across` in a row, their corners `pitch` pixels apart from (left, top) on."""
    for n, tile in enumerate(tiles):
        y, x = top + n // across * pitch, left + n % across * pitch
        page[y : y + tile.shape[0], x : x + tile.shape[1]] = tile


def on_grid(
    tiles: UInt8[np.ndarray, "N side side 3"], across: int, gap: int, places: int | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """Return tiles as one picture, row by row, `across` in a row, white between them and in places left over.

    places: the number of tiles that the picture has room for; None is as many as there are.

    >>> on_grid(np.zeros((3, 10, 10, 3), np.uint8), across=2, gap=1).shape
    (21, 21, 3)
    """
    count, side = len(tiles) if places is None else places, tiles.shape[1]
    down, pitch = -(-count // across), side + gap
    page = np.full((max(down * pitch - gap, 0), across * pitch - gap, 3), WHITE, dtype=np.uint8)
    lay(page, tiles[:count], 0, 0, pitch, across)
    return page
