"""Reconstructions and patches as few, small picture files: a sheet of thumbnails for 32 units, a plate for each unit.

Thumbnails are WebP, lighter than JPEG at this size. Plates are JPEG, which is quicker to make; where a receptive field
is so small that its pixels are drawn as squares, PNG keeps them sharp and is smaller still.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from deconv.atlas.contents import Layer
from deconv.figures.pictures import lay, masked_tiles, patch_tiles, recon_tiles
from deconv.projection.masks import SMOOTHING, mask_of
from deconv.records import Patches, Reconstructions
from deconv.records.firing import DRAWN

KINDS = ("recon", "patch", "masked")
"""What is shown of a peak: its reconstruction, its patch, and that pale but for what the reconstruction is about."""
CELL = 120
"""Pixels a side of one unit's square in a sheet."""
ROWS, COLUMNS = 4, 8
SHEET = ROWS * COLUMNS
SHEET_BYTES = 82_000
"""A sheet that is heavier, as noise is, takes the next of QUALITIES: 512 units are 32 sheets, and with their page
below 3 MB."""
QUALITIES = (50, 38, 26, 14, 6, 0)
GROUND = 128
"""The grey between tiles; zero looks like it in a reconstruction, so that JPEG's blocks mix nothing in."""
LEAST_SIDE, MOST_SIDE = 96, 168
"""Pixels a side of a tile in a plate: smaller receptive fields are enlarged whole times, larger ones made smaller."""
BLOCK = 16
"""JPEG keeps colour in blocks of 16 pixels; a tile that starts a block does not bleed into its neighbour."""


class Pixels(NamedTuple):
    """Reconstructions and patches of n peaks of one unit, strongest first.

    inside: which pixels lie in the image.  mask: which of them the reconstruction is about; None where only the
    reconstructions are drawn.
    """

    recon: Float[Tensor, "n C h w"]
    patch: UInt8[Tensor, "n C h w"]
    inside: Bool[Tensor, "n h w"]
    mask: Bool[Tensor, "n h w"] | None


def by_unit(recon: Reconstructions, patches: Patches, layer: Layer, all_kinds: bool) -> dict[int, Pixels]:
    """Return what pictures show of each unit, from records of that layer that hold one unit after the other.

    all_kinds: whether they show all KINDS, or reconstructions alone, which need no masks.
    """
    recon = recon.zoomed(layer.side)
    patches = patches.cut_to(recon.box)
    units, counts = recon.channel.unique_consecutive(return_counts=True)
    peaks = counts.tolist()
    columns = [column.split(peaks) for column in (recon.pixels, patches.pixels, patches.inside)]
    masks = mask_of(recon, sigma=layer.side * SMOOTHING).split(peaks) if all_kinds else [None] * len(units)
    return dict(zip(units.tolist(), map(Pixels, *columns, masks), strict=True))


@dataclass(frozen=True)
class Plate:
    """Where the tiles of a unit's picture lie: the KINDS beside each other, each row by row.

    side: pixels of a tile; pitch: pixels from one tile to the next; across, down: tiles in a row, and rows.
    """

    side: int
    pitch: int
    across: int
    down: int
    suffix: str

    def corner(self, rank: int, kind: str = "recon") -> tuple[int, int]:
        """Return (x, y) of the tile of the peak of that rank."""
        return (rank % self.across + KINDS.index(kind) * self.across) * self.pitch, rank // self.across * self.pitch

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels, with all kinds."""
        return len(KINDS) * self.across * self.pitch, self.down * self.pitch

    @property
    def recon_width(self) -> int:
        """Pixels across of a picture with reconstructions alone."""
        return self.across * self.pitch

    def beyond_corner(self, row: int, column: int, kind: str = "recon") -> tuple[int, int]:
        """Return (x, y) of a tile of the plate of what lies beyond the strongest peaks: rows of DRAWN tiles a kind."""
        return (column + KINDS.index(kind) * DRAWN) * self.pitch, row * self.pitch

    def beyond_size(self, rows: int) -> tuple[int, int]:
        """Return (width, height) in pixels of that plate, of two kinds."""
        return 2 * DRAWN * self.pitch, rows * self.pitch

    def beyond_file(self, unit: int) -> str:
        """Return its file in the layer's folder."""
        return f"unit-{unit:04d}-beyond{self.suffix}"

    def file(self, unit: int, rule: int = 0) -> str:
        """Return its file in the layer's folder, for the rule of that number; the first rule's has all kinds."""
        return f"unit-{unit:04d}{f'-rule{rule}' if rule else ''}{self.suffix}"


def plate_of(layer: Layer) -> Plate:
    """Return the plate for what is shown of a layer's receptive field, and its number of peaks."""
    field = max(layer.shown)
    if field <= LEAST_SIDE // 2:
        side = field * (LEAST_SIDE // field)
        return Plate(side, side, layer.across, layer.down, ".png")
    side = min(field, MOST_SIDE)
    return Plate(side, math.ceil(side / BLOCK) * BLOCK, layer.across, layer.down, ".jpg")


def sheet_file(kind: str, number: int) -> str:
    """Return the file of a sheet of thumbnails of one of the KINDS, in the layer's folder."""
    return f"{kind}-{number:02d}.webp"


def position_in_sheet(unit: int) -> tuple[int, int]:
    """Return (row, column) of a unit's square in its sheet."""
    return divmod(unit % SHEET, COLUMNS)


def sheet_picture(kind: str, units: Mapping[int, Pixels], layer: Layer) -> bytes:
    """Return the bytes of a sheet of thumbnails of one of the KINDS, of the units that share it."""
    page = np.full((ROWS * CELL, COLUMNS * CELL, 3), GROUND, dtype=np.uint8)
    side = tile_side(layer)
    for unit, pixels in units.items():
        row, col = position_in_sheet(unit)
        lay(page, _tiles(kind, pixels, side), col * CELL, row * CELL, side + 1, layer.across)
    for quality in QUALITIES:
        content = _encode(page, "WEBP", quality=quality, method=2)
        if len(content) <= SHEET_BYTES:
            break
    return content


def tile_side(layer: Layer) -> int:
    """Return the pixels a side of one tile in a sheet."""
    return CELL // layer.across - 1


def plate_picture(plate: Plate, pixels: Pixels, all_kinds: bool) -> bytes:
    """Return the bytes of a unit's plate: of all kinds, or its reconstructions alone."""
    width, height = plate.size
    page = np.full((height, width if all_kinds else plate.recon_width, 3), GROUND, dtype=np.uint8)
    for kind in KINDS if all_kinds else KINDS[:1]:
        left = plate.corner(0, kind)[0]
        lay(page, _tiles(kind, pixels, plate.side), left, 0, plate.pitch, plate.across)
    return _encode_plate(plate, page)


def _encode_plate(plate: Plate, page: np.ndarray) -> bytes:
    return _encode(page, "PNG") if plate.suffix == ".png" else _encode(page, "JPEG", quality=84)


def beyond_picture(plate: Plate, pixels: Pixels, rows: Sequence[int]) -> bytes:
    """Return the bytes of the plate of what lies beyond a unit's strongest peaks: so many peaks in each row."""
    width, height = plate.beyond_size(len(rows))
    page = np.full((height, width, 3), GROUND, dtype=np.uint8)
    for kind in KINDS[:2]:
        tiles = _tiles(kind, pixels, plate.side)
        for row, (first, last) in enumerate(pairwise(accumulate(rows, initial=0))):
            left, top = plate.beyond_corner(row, 0, kind)
            lay(page, tiles[first:last], left, top, plate.pitch, DRAWN)
    return _encode_plate(plate, page)


def photograph(input_image: UInt8[Tensor, "C H W"]) -> bytes:
    """Return a whole image, of one channel or three, as JPEG."""
    pixels = input_image.permute(1, 2, 0).contiguous().numpy()
    return _encode(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels, "JPEG", quality=80)


def _tiles(kind: str, pixels: Pixels, side: int) -> np.ndarray:
    if kind == "recon":
        return recon_tiles(pixels.recon, side, keep_contrast=True)
    if kind == "masked":
        assert pixels.mask is not None, "drawn with all kinds"
        return masked_tiles(pixels.patch, pixels.inside, pixels.mask, side)
    return patch_tiles(pixels.patch, pixels.inside, side)


def _encode(page: np.ndarray, form: str, **options: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(page).save(file, form, **options)
    return file.getvalue()
