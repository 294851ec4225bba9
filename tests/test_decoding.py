"""Image files of every kind become RGB as a person would expect, or are refused with the reason."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from deconv.errors import UnreadableImage
from deconv.images import decoding
from deconv.images.members import Member
from tests.hostile.making import picture, png

RED = (250, 10, 20)


def decode(path: Path) -> np.ndarray:
    return decoding.decode(Member(path))


def save(path: Path, image: Image.Image | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or picture()).save(path, **options)
    return path


def tiff_of_12_bits(samples: bytes) -> bytes:
    """A grey TIFF of two pixels in one row."""
    tags = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 3)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 12) + samples + b"\0" + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp"])
def test_lossless_formats_keep_every_pixel(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(tmp_path / f"a.{suffix}", picture(), **options)
    pixels = decode(path)
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous and pixels.flags.writeable
    assert np.array_equal(pixels, np.asarray(picture()))


@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"progressive": True}])
@pytest.mark.parametrize("shape", [(40, 60), (33, 47), (1, 1)])
def test_the_two_jpeg_decoders_agree(tmp_path: Path, options: dict[str, Any], shape: tuple[int, int]) -> None:
    path = save(tmp_path / "a.jpg", picture(*shape), quality=85, **options)
    fast = decoding._torchvision_pixels(np.fromfile(path, np.uint8))
    with Image.open(path) as image:
        slow = decoding.pillow_pixels(image)
    assert np.abs(fast.astype(int) - slow).max() <= 2
    assert np.array_equal(decode(path), fast)


def test_without_torchvisions_decoder_pillow_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = decode(save(tmp_path / "a.jpg"))
    monkeypatch.setattr(decoding, "_HAS_FAST_JPEG", False)
    monkeypatch.setattr(decoding, "_torchvision_pixels", None)
    assert np.abs(decode(tmp_path / "a.jpg").astype(int) - before).max() <= 2


def test_only_plain_jpegs_take_the_fast_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, fast = [], decoding._torchvision_pixels

    def spy(data: np.ndarray) -> np.ndarray:
        taken.append(data)
        return fast(data)

    monkeypatch.setattr(decoding, "_torchvision_pixels", spy)
    for name, mode in [("grey.jpg", "L"), ("cmyk.jpg", "CMYK"), ("a.png", "RGB")]:
        decode(save(tmp_path / name, picture().convert(mode)))
    assert not taken
    decode(save(tmp_path / "plain.jpg"))
    assert taken


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tiff"])
@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_becomes_three_equal_colours(tmp_path: Path, suffix: str, mode: str) -> None:
    if (suffix, mode) == ("jpg", "1"):
        mode = "L"  # JPEG has no two-level images
    pixels = decode(save(tmp_path / f"a.{suffix}", Image.new("L", (8, 8), 255).convert(mode)))
    assert pixels.shape == (8, 8, 3) and (pixels == 255).all()


def test_palettes_are_looked_up(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, *RED])
    assert (decode(save(tmp_path / "a.png", image)) == RED).all()
    assert (decode(save(tmp_path / "a.png", image, transparency=1)) == 255).all()


@pytest.mark.parametrize(("alpha", "expected"), [(255, RED), (0, (255, 255, 255)), (51, (254, 206, 208))])
@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_transparency_lies_on_white(tmp_path: Path, suffix: str, alpha: int, expected: tuple[int, ...]) -> None:
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    pixels = decode(save(tmp_path / f"a.{suffix}", Image.new("RGBA", (4, 4), (*RED, alpha)), **options))
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_grey_with_transparency_lies_on_white_too(tmp_path: Path) -> None:
    assert (decode(save(tmp_path / "a.png", Image.new("LA", (4, 4), (100, 0)))) == 255).all()
    assert (decode(save(tmp_path / "b.png", Image.new("LA", (4, 4), (100, 255)))) == 100).all()


@pytest.mark.parametrize("suffix", ["jpg", "tiff"])
def test_cmyk_red_is_red(tmp_path: Path, suffix: str) -> None:
    pixels = decode(save(tmp_path / f"a.{suffix}", Image.new("CMYK", (8, 8), (0, 255, 255, 0))))
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_grey_is_scaled_by_its_range(tmp_path: Path, suffix: str) -> None:
    samples = np.array([[0, 128, 129, 255, 32768, 65535]], np.uint16)
    pixels = decode(save(tmp_path / f"a.{suffix}", Image.fromarray(samples)))
    assert pixels[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]
    assert (pixels == pixels[:, :, :1]).all()


def test_12_bit_grey_is_scaled_by_its_range(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff_of_12_bits(b"\x80\x0f\xff"))  # 0x800 and 0xfff
    assert decode(tmp_path / "a.tif")[0, :, 0].tolist() == [128, 255]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_colour_is_scaled_to_within_a_step(tmp_path: Path, suffix: str) -> None:
    samples = np.random.default_rng(0).integers(0, 65536, (6, 7, 3), dtype=np.uint16)
    path = tmp_path / f"a.{suffix}"
    if suffix == "tif":
        tifffile.imwrite(path, samples, photometric="rgb")
    else:
        path.write_bytes(png(7, 6, 16, 2, b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)))
    assert np.abs(decode(path) - samples / 257).max() <= 1


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_samples_without_an_agreed_range_are_refused(tmp_path: Path, kind: type) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.ones((4, 4), kind))
    with pytest.raises(UnreadableImage, match="no agreed range; save it with 8 or 16 bits"):
        decode(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_obeyed(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"a.{suffix}", picture(24, 40), exif=exif)
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)
    assert upright.shape == ((24, 40, 3) if orientation < 5 else (40, 24, 3))
    assert np.abs(decode(path) - upright).max() <= 2
