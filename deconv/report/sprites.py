"""Reconstructions and patches as few, small picture files: a sheet of thumbnails for 32 units, a plate for each unit.

Thumbnails are WebP, half the weight of JPEG at this size. Plates are JPEG, which is forty times quicker to make; where
a receptive field is so small that its pixels are drawn as squares, PNG keeps them sharp and is smaller still.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from deconv import figures
from deconv.records import Patches, Reconstructions
from deconv.report.contents import Layer

CELL = 120
"""Pixels a side of one unit's square in a sheet."""
ROWS, COLUMNS = 4, 8
SHEET = ROWS * COLUMNS
GROUND = 0.5
"""Between tiles; also what zero looks like in a reconstruction, so that JPEG's blocks mix nothing in."""
LEAST_SIDE, MOST_SIDE = 96, 168
"""Pixels a side of a tile in a plate: smaller receptive fields are enlarged whole times, larger ones made smaller."""
BLOCK = 16
"""JPEG keeps colour in blocks of 16 pixels; a tile that starts a block does not bleed into its neighbour."""


@dataclass(frozen=True)
class Plate:
    """Where the tiles of a unit's picture lie: reconstructions left, patches right, row by row, `side` pixels each."""

    side: int
    pitch: int
    across: int
    down: int
    suffix: str

    def corner(self, rank: int, patch: bool = False) -> tuple[int, int]:
        """(x, y) of a tile."""
        return (rank % self.across + patch * self.across) * self.pitch, rank // self.across * self.pitch

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) with reconstructions and patches."""
        return 2 * self.across * self.pitch, self.down * self.pitch

    def file(self, unit: int, rule: int = 0) -> str:
        """Its file in the layer's folder, for the rule of that number; the first rule's has the patches too."""
        return f"unit-{unit:04d}{f'-rule{rule}' if rule else ''}{self.suffix}"


def plate_of(layer: Layer) -> Plate:
    """The plate for a layer's receptive field and number of peaks."""
    field = max(layer.field)
    if field <= LEAST_SIDE // 2:
        side = field * (LEAST_SIDE // field)
        return Plate(side, side, layer.across, layer.down, ".png")
    side = min(field, MOST_SIDE)
    return Plate(side, math.ceil(side / BLOCK) * BLOCK, layer.across, layer.down, ".jpg")


def sheet_file(kind: str, number: int) -> str:
    """The file of a sheet of "recon" or "patch" thumbnails, in the layer's folder."""
    return f"{kind}-{number:02d}.webp"


def thumbnails(tiles: dict[int, np.ndarray], layer: Layer) -> bytes:
    """A sheet: {place in it: tiles (n, s, s, 3) of one unit}, s being `tile_side(layer)`."""
    page = np.full((ROWS * CELL, COLUMNS * CELL, 3), GROUND, dtype=np.float32)
    pitch = tile_side(layer) + 1
    for place, shown in tiles.items():
        _lay(page, shown, place % COLUMNS * CELL + 1, place // COLUMNS * CELL + 1, pitch, layer.across)
    return _encode(page, "WEBP", quality=62, method=4)


def tile_side(layer: Layer) -> int:
    """Pixels a side of one tile in a sheet."""
    return (CELL - 2) // layer.across - 1


def plate_picture(plate: Plate, recon: np.ndarray, patches: np.ndarray | None) -> bytes:
    """A plate: tiles (n, side, side, 3) of one unit, strongest first."""
    width, height = plate.size
    page = np.full((height, width if patches is not None else width // 2, 3), GROUND, dtype=np.float32)
    _lay(page, recon, 0, 0, plate.pitch, plate.across)
    if patches is not None:
        _lay(page, patches, plate.across * plate.pitch, 0, plate.pitch, plate.across)
    return _encode(page, "PNG") if plate.suffix == ".png" else _encode(page, "JPEG", quality=84)


def photograph(frame: torch.Tensor) -> bytes:
    """A whole image uint8 (3, H, W), as JPEG."""
    return _save(Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy()), "JPEG", quality=80)


def recon_tiles(recon: Reconstructions, some: torch.Tensor, sides: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """The reconstructions numbered `some`, scaled for display, as tiles of each side."""
    pixels = recon.pixels[some]
    return tuple(figures.tiles(figures.display(_reduced(pixels, side)), side) for side in sides)


def patch_tiles(patches: Patches, some: torch.Tensor, side: int, smaller: int) -> tuple[np.ndarray, np.ndarray]:
    """The patches numbered `some` as tiles of `side`, and these again as smaller ones."""
    chosen = Patches(patches.pixels[some], patches.inside[some], patches.box[some], patches.image[some])
    large = figures.patch_tiles(chosen, side)
    return large, figures.tiles(torch.from_numpy(large).float().permute(0, 3, 1, 2), smaller)


def _reduced(pixels: torch.Tensor, side: int) -> torch.Tensor:
    """Signed pixels whose long side is `side` at most: made smaller before scaling, thumbnails keep contrast."""
    factor = side / max(pixels.shape[2:])
    if factor >= 1:
        return pixels
    size = [max(round(length * factor), 1) for length in pixels.shape[2:]]
    return F.interpolate(pixels, size, mode="bilinear", antialias=True)


def _lay(page: np.ndarray, tiles: np.ndarray, left: int, top: int, pitch: int, across: int) -> None:
    side = tiles.shape[1]
    for n, tile in enumerate(tiles):
        y, x = top + n // across * pitch, left + n % across * pitch
        page[y : y + side, x : x + side] = tile


def _encode(page: np.ndarray, form: str, **options: int) -> bytes:
    return _save(Image.fromarray((page * 255 + 0.5).astype(np.uint8)), form, **options)


def _save(picture: Image.Image, form: str, **options: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()
