"""Images whose texts, profiles or EXIF are broken or large are read: their pixels are good."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from deconv.errors import UnreadableImage
from deconv.images.decoding import decode
from deconv.images.members import Member
from deconv.images.metadata import without_metadata
from tests.hostile.making import encoded, picture
from tests.promises import REFUSED

MANY = 3 * 2**20
TURNED = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
"""EXIF that says to turn a picture by a quarter."""


def pixels(path: Path, content: bytes) -> np.ndarray:
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of damaged files
        return decode(Member(path))


def chunk(kind: bytes, body: bytes, crc: int | None = None) -> bytes:
    return (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) if crc is None else crc)
    )


def png(*chunks: bytes, after: bool = False, image: Image.Image | None = None) -> bytes:
    """With chunks before its pixels, or after them."""
    content = encoded("PNG", image)
    start = content.index(b"IEND") - 4 if after else content.index(b"IDAT") - 4
    return content[:start] + b"".join(chunks) + content[start:]


def jpeg(*segments: tuple[int, bytes]) -> bytes:
    content = encoded("JPEG")
    packed = (b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body for marker, body in segments)
    return content[:2] + b"".join(packed) + content[2:]


def webp(change: Callable[[bytearray, int], object], **metadata: Any) -> bytes:
    """With metadata, changed from their chunk on."""
    content = bytearray(encoded("WEBP", lossless=True, exact=True, **metadata))
    name = {"exif": b"EXIF", "icc_profile": b"ICCP", "xmp": b"XMP "}[next(iter(metadata))]
    change(content, content.index(name))
    return bytes(content)


def tiff(tag: int, kind: int, count: int, value: int) -> bytes:
    held = io.BytesIO()
    tifffile.imwrite(held, np.asarray(picture()), photometric="rgb", extratags=[(65000, 4, 1, value, True)])
    content = bytearray(held.getvalue())
    start = content.index(struct.pack("<HH", 65000, 4))
    content[start : start + 8] = struct.pack("<HHI", tag, kind, count)
    return bytes(content)


def packed(content: bytes) -> bytes:
    return zlib.compress(content)


ICC = chunk(b"iCCP", b"name\0\0" + packed(bytes(MANY)))
PNGS = {
    "a large profile": png(ICC),
    "a profile packed in an unknown way": png(chunk(b"iCCP", b"name\0\7abc")),
    "a profile of no bytes": png(chunk(b"iCCP", b"")),
    "a profile that is none": png(chunk(b"iCCP", b"name\0\0abc")),
    "a large text": png(chunk(b"tEXt", b"name\0" + b"a" * MANY)),
    "a large packed text": png(chunk(b"zTXt", b"name\0\0" + packed(bytes(MANY)))),
    "a large text behind the pixels": png(chunk(b"zTXt", b"name\0\0" + packed(bytes(MANY))), after=True),
    "a large international text": png(chunk(b"iTXt", b"name\0\1\0\0\0" + packed(b"a" * MANY))),
    "seventy texts": png(*[chunk(b"tEXt", b"%d\0" % n + b"a" * 2**20) for n in range(70)]),
    "a text whose sum is wrong": png(chunk(b"tEXt", b"name\0text", 1)),
    "a gamma whose sum is wrong": png(chunk(b"gAMA", b"\0\0\0\1", 1)),
    "a private chunk whose sum is wrong": png(chunk(b"prVt", b"own", 1)),
    "a short gamma": png(chunk(b"gAMA", b"\0")),
    "a short resolution": png(chunk(b"pHYs", b"\0")),
    "a short intent": png(chunk(b"sRGB", b"")),
    "short chromaticities": png(chunk(b"cHRM", b"\0")),
    "short transparency": png(chunk(b"tRNS", b"\0")),
    "a short animation": png(chunk(b"acTL", b"\0")),
    "a frame out of order": png(chunk(b"acTL", struct.pack(">II", 2, 0)), chunk(b"fcTL", bytes(26))),
    "EXIF that is none": png(chunk(b"eXIf", b"garbage")),
    "EXIF of no bytes": png(chunk(b"eXIf", b"")),
    "EXIF that points beyond its end": png(chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff")),
    "EXIF in a text of no numbers": png(chunk(b"zTXt", b"Raw profile type exif\0\0" + packed(b"\nexif\n 4\nzz\n"))),
    "large EXIF in a text": png(chunk(b"zTXt", b"Raw profile type exif\0\0" + packed(b"\nexif\n4\n" + b"0" * MANY))),
    "a text that is cut": png(chunk(b"tEXt", b"name\0" + b"a" * 100), after=True)[:-60],
    "a chunk of no name": png(chunk(b"\1\2\3\4", b"a"), after=True),
}
JPEGS = {
    "EXIF that is none": jpeg((0xE1, b"Exif\0\0garbage")),
    "EXIF that points beyond its end": jpeg((0xE1, b"Exif\0\0MM\0*\xff\xff\xff\xff")),
    "a profile that is none": jpeg((0xE2, b"ICC_PROFILE\0\1\5garbage")),
    "no more pictures": jpeg((0xE2, b"MPF\0garbage")),
    "a short JFIF": jpeg((0xE0, b"JFIF")),
    "a short Adobe": jpeg((0xEE, b"Adobe")),
    "Photoshop's that is cut": jpeg((0xED, b"Photoshop 3.0\0008BIM\4\4\0\0\xff\xff\xff\xff")),
}
WEBPS = {
    "EXIF that is none": webp(lambda content, at: None, exif=b"garbage"),
    "EXIF longer than the file": webp(
        lambda content, at: content.__setitem__(slice(at + 4, at + 8), b"\0\0\1\0"), exif=TURNED
    ),
    "EXIF that is cut": webp(lambda content, at: content.__delitem__(slice(at + 12, None)), exif=TURNED),
    "EXIF that is missing": webp(lambda content, at: content.__delitem__(slice(at, None)), exif=TURNED),
    "a profile that is none": webp(lambda content, at: None, icc_profile=b"garbage"),
    "XMP longer than the file": webp(
        lambda content, at: content.__setitem__(slice(at + 4, at + 8), b"\0\0\1\0"), xmp=b"x" * 9
    ),
}
TIFFS = {
    "EXIF beyond the file": tiff(34665, 4, 1, 10**7),
    "EXIF at its own place": tiff(34665, 4, 1, 8),
    "XMP that is a number": tiff(700, 4, 1, 5),
    "XMP that is a fraction": tiff(700, 5, 1, 8),
    "XMP that is ASCII": tiff(700, 2, 1, 5),
    "a profile of 4 GB": tiff(34675, 7, 2**32 - 1, 8),
    "GPS that is text": tiff(34853, 2, 5, 8),
}
ALL = {"png": PNGS, "jpg": JPEGS, "webp": WEBPS, "tif": TIFFS}


@REFUSED
@pytest.mark.parametrize(("suffix", "name"), [(suffix, name) for suffix, files in ALL.items() for name in files])
def test_good_pixels_are_read_whatever_stands_beside_them(tmp_path: Path, suffix: str, name: str) -> None:
    found = pixels(tmp_path / f"a.{suffix}", ALL[suffix][name])
    if suffix == "jpg":
        assert np.array_equal(found, pixels(tmp_path / "b.jpg", encoded("JPEG")))
    else:
        assert np.array_equal(found, np.asarray(picture()))


@pytest.mark.parametrize(
    "content",
    [
        png(ICC, chunk(b"eXIf", TURNED)),
        png(chunk(b"eXIf", TURNED), chunk(b"gAMA", b"\0")),
        png(chunk(b"eXIf", TURNED), chunk(b"zTXt", b"Raw profile type exif\0\0" + packed(b"\nexif\n 4\nzz\n"))),
        png(chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'), chunk(b"tEXt", b"a\0b", 1)),
        jpeg((0xE0, b"JFIF"), (0xE1, b"Exif\0\0" + TURNED)),
        webp(lambda content, at: content.extend(b"XMP \xff\xff\0\0x"), exif=TURNED),
    ],
)
def test_an_orientation_that_can_be_read_is_obeyed(tmp_path: Path, content: bytes) -> None:
    assert pixels(tmp_path / "a", content).shape == (60, 40, 3)


def test_transparency_is_kept(tmp_path: Path) -> None:
    content = png(chunk(b"tRNS", struct.pack(">HHH", 9, 9, 9)), ICC, image=Image.new("RGB", (4, 4), (9, 9, 9)))
    assert (pixels(tmp_path / "a.png", content) == 255).all()


@REFUSED
@pytest.mark.parametrize(
    "content",
    [
        png(ICC)[:-900],
        png(chunk(b"PLTX", b"x", 1)),
        png(ICC).replace(b"IDAT", b"IDAX"),
        jpeg((0xE0, b"JFIF"))[:60],
        webp(lambda content, at: content.__delitem__(slice(60, None)), exif=TURNED),
        tiff(700, 4, 1, 5)[:300],
        png(chunk(b"gAMA", b"\0"))[:45],
        b"\x89PNG\r\n\x1a\n",
        b"II*\0",
        b"RIFF\0\0\0\0WEBP",
        b"\xff\xd8\xff",
    ],
)
def test_pixels_that_are_cut_are_refused_still(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UnreadableImage, match=r"cannot be read \(.+\)"):
        pixels(tmp_path / "a", content)


@pytest.mark.parametrize(
    ("suffix", "name"), [("png", "a large text"), ("tif", "XMP that is a number"), ("jpg", "a short JFIF")]
)
def test_a_bare_file_holds_nothing_that_may_be_missing(suffix: str, name: str) -> None:
    turned, bare = without_metadata(ALL[suffix][name])
    with Image.open(io.BytesIO(bare)) as image:
        assert image.size == (60, 40) and not {"exif", "icc_profile", "name", "xmp", "jfif"} & image.info.keys()
    assert len(bare) <= len(turned) <= len(ALL[suffix][name]) + 200
