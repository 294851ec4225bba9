"""The atlas's pictures: tiles as the figures have them, where the pages look for them, and light even for noise."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deconv.atlas import pages, site, sprites
from deconv.atlas.contents import Atlas, Layer
from deconv.figures import pictures
from deconv.mining.firing import Tally
from deconv.records import LayerPeaks
from tests import atlases

MOST_BYTES = 3_000_000


def noise(size: tuple[int, int], seed: int = 0) -> sprites.Pixels:
    """Nine peaks of a unit: signed noise, patches of noise, some of them partly outside."""
    generator = torch.Generator().manual_seed(seed)
    inside = torch.ones(9, *size, dtype=torch.bool)
    inside[1, : size[0] // 2] = inside[2, :, size[1] // 3 :] = False
    patch = torch.randint(0, 256, (9, 3, *size), generator=generator, dtype=torch.uint8) * inside[:, None]
    mask = torch.zeros(9, *size, dtype=torch.bool)
    mask[:, size[0] // 4 : size[0] // 2, size[1] // 3 :] = True
    return sprites.Pixels(torch.randn(9, 3, *size, generator=generator), patch, inside, mask)


def layer_of(units: int, field: int) -> Layer:
    """A layer whose units all fire on the same nine images."""
    place = torch.arange(9).repeat(units, 1)
    box = torch.tensor([0, 0, field, field]).expand(units, 9, 4)
    peaks = LayerPeaks(torch.rand(units, 9, generator=torch.Generator().manual_seed(0)), place, place, place, box)
    firing = Tally(units).firing()
    return Layer("features.10.cat", 1, (12, 12), (field, field), field, (8, 8), (224, 224), peaks, firing, {})


def test_a_thumbnail_keeps_its_contrast_and_has_no_hatching() -> None:
    pixels = noise((160, 160))
    small = pictures.recon_tiles(pixels.recon, 38, keep_contrast=True)
    assert small.shape == (9, 38, 38, 3) and small.std() > 40  # noise made smaller after scaling would be flat
    outside = pictures.patch_tiles(pixels.patch, pixels.inside, 38)[1, :17]
    assert np.unique(outside).size == 1 and 128 < outside[0, 0, 0] < 255


def test_a_page_of_512_units_of_noise_weighs_under_three_megabytes() -> None:
    layer, unit = layer_of(512, 39), noise((39, 39))
    sheets = [sprites.sheet_picture(kind, dict.fromkeys(range(sprites.SHEET), unit), layer) for kind in sprites.KINDS]
    source = {"name": "noise", "images": 9, "content": "0" * 64}
    provenance = {"source": source, "weights": "0" * 64, "k": 9, "per_image": 1}
    atlas = Atlas("noise", (layer,), {n: f"{n}.png" for n in range(9)}, {}, ["deconvnet"], provenance, None)
    page = pages.layer_page(atlas, layer).encode()
    shared = sum(len(site.asset(name)) for name in site.ASSETS)
    assert all(10_000 < len(sheet) <= sprites.SHEET_BYTES for sheet in sheets)
    assert len(page) + shared + 512 // sprites.SHEET * 2 * sprites.SHEET_BYTES < MOST_BYTES


def test_a_smooth_picture_is_saved_at_the_best_quality() -> None:
    ramp = torch.linspace(-1, 1, 64).expand(9, 3, 64, 64).contiguous()
    unit = noise((64, 64))._replace(recon=ramp)
    sheet = sprites.sheet_picture("recon", dict.fromkeys(range(8), unit), layer_of(8, 64))
    with Image.open(io.BytesIO(sheet)) as opened:
        tile = np.asarray(opened.convert("RGB"), dtype=float)[:39, :39].mean(axis=2)
    assert len(sheet) < sprites.SHEET_BYTES / 4
    assert np.abs(tile - pictures.recon_tiles(ramp, 39, keep_contrast=True)[0].mean(axis=2)).mean() < 4


def test_a_plate_and_a_sheet_hold_the_tiles_where_the_pages_look_for_them(tmp_path: Path) -> None:
    front = atlases.write(tmp_path)
    with Image.open(front.parent / "02-two/unit-0002.png") as opened:
        plate = np.asarray(opened.convert("RGB"))
    side = plate.shape[0] // 3
    assert plate.shape == (3 * side, 9 * side, 3)
    for kind, left in (("recon", 0), ("patch", 3 * side), ("masked", 6 * side)):
        with Image.open(front.parent / f"02-two/{kind}-00.webp") as opened:
            assert opened.size == (sprites.COLUMNS * sprites.CELL, sprites.ROWS * sprites.CELL)
            sheet = np.asarray(opened.convert("RGB")).astype(float)
        large = Image.fromarray(plate[:, left : left + 3 * side]).resize((119, 119))
        cells = [sheet[:119, 120 * unit : 120 * unit + 119] for unit in range(6)]
        alike = [np.corrcoef(cell.ravel(), np.asarray(large, dtype=float).ravel())[0, 1] for cell in cells]
        assert np.argmax(alike) == 2 and alike[2] > 0.3


def test_the_bytes_are_the_same_however_many_threads_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    for threads in (1, 7):
        monkeypatch.setattr(site, "THREADS", threads)
        home = atlases.write(tmp_path / str(threads)).parent
        written.append({path.relative_to(home): path.read_bytes() for path in home.rglob("*.*")})
    assert len(written[0]) > 100 and written[0] == written[1]
