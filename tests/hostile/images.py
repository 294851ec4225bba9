"""Images that are damaged, disguised, enormous or merely unusual."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import deconv
from tests.hostile import making
from tests.hostile.making import animation, cut, encoded, picture
from tests.hostile.rows import Rows, file, line, within
from tests.samples import SIZE, with_preprocessing


def first_image(path: Path) -> np.ndarray:
    return deconv.folder(path.parent).image(0)


def shape(path: Path) -> tuple[int, ...]:
    return first_image(path).shape


def colour(path: Path) -> list[int]:
    """Of the first pixel."""
    return first_image(path)[0, 0].tolist()


@cache
def small() -> deconv.Network:
    return with_preprocessing()


def mined(path: Path) -> list[str]:
    """The keys of the images that have peaks, over all images beside the file."""
    return list(deconv.mine(small(), deconv.folder(path.parent), ["two"], k=2).image_keys.values())


def mined_whole(path: Path) -> deconv.Peaks:
    """As photographs are, neither resized nor cropped, by a network that sees 11 x 11 pixels at once."""
    preprocessing = deconv.Preprocessing(None, None, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3, padding=1), torch.nn.MaxPool2d(9), torch.nn.ReLU())
    return deconv.mine(
        deconv.Network(layers, (3, SIZE, SIZE), preprocessing=preprocessing), deconv.folder(path.parent), ["2"]
    )


def half(kind: str) -> bytes:
    return cut(encoded(kind))


REPLACE = r"expected a whole JPEG, PNG, WebP, BMP, TIFF or PPM image: replace or remove it"
NOT_WHOLE = line(rf"given/a\.\w+ cannot be read \(.+\); {REPLACE}")
FOREIGN = line(rf"given/a\.\w+ cannot be read \(not an image of a format known here\); {REPLACE}")
BOMB = line(rf"given/a\.\w+ cannot be read \(.*pixels.*\); {REPLACE}")

IMAGES: Rows = {
    **{
        f"{name}, cut": (file(f"a.{name}", partial(half, kind)), first_image, NOT_WHOLE)
        for name, kind in {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "bmp": "BMP", "tiff": "TIFF"}.items()
    },
    "no bytes": (file("a.jpg", b""), first_image, FOREIGN),
    "zeros": (file("a.png", bytes(5000)), first_image, FOREIGN),
    "text": (file("a.jpg", b"no image at all"), first_image, FOREIGN),
    "a JPEG's first bytes": (file("a.jpg", b"\xff\xd8\xff\xe0 nor this"), first_image, NOT_WHOLE),
    "a GIF called PNG": (file("a.png", lambda: encoded("GIF")), first_image, FOREIGN),
    "an animated GIF": (
        file("a.gif", lambda: animation("GIF")),
        first_image,
        line("holds no image, but 1 picture of other kinds, the first being a.gif; expected files en"),
    ),
    "an animated WebP": (file("a.webp", lambda: animation("WEBP")), colour, [255, 0, 0]),
    "a JPEG called PNG": (file("a.png", lambda: encoded("JPEG")), shape, (40, 60, 3)),
    "a PNG of 10^8 pixels": (file("a.png", making.png(10_000, 10_000, 8, 2, b"")), within(64, first_image), BOMB),
    "a PNG of 3 * 10^9 pixels": (file("a.png", making.png(60_000, 60_000, 8, 2, b"")), within(64, first_image), BOMB),
    "a JPEG of 3 * 10^9 pixels": (file("a.jpg", lambda: making.jpeg_bomb(60_000)), within(64, first_image), BOMB),
    "one pixel": (file("a.png", lambda: encoded("PNG", picture(1, 1))), mined, ["a.png"]),
    "smaller than the receptive field": (file("a.png", lambda: encoded("PNG", picture(2, 3))), mined, ["a.png"]),
    "too small for a pool": (
        file("a.png", lambda: encoded("PNG", picture(2, 3))),
        mined_whole,
        line(r"cannot be traced for an input of \(3, 2, 3\): .*expected a module"),
    ),
    "a sliver": (
        file("a.png", lambda: encoded("PNG", picture(1, 60_000))),
        lambda path: deconv.Preprocessing((227, 227), None, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).input_image(
            first_image(path)
        ),
        line("1 x 60000 pixels would be enlarged to 227 x 13620000; expected at most 33554432 pixels: crop it"),
    ),
    "a photograph of 50 megapixels": (
        file("a.jpg", lambda: encoded("JPEG", Image.new("RGB", (10_000, 5_000), "red"))),
        within(700, mined),
        ["a.jpg"],
    ),
    "50 megapixels of 16 bits": (file("a.png", lambda: making.deep_grey(50)), within(700, colour), [1, 1, 1]),
    "texts of 4 GB": (file("a.png", lambda: making.deep_grey(1, texts=1000)), within(64, colour), [1, 1, 1]),
    "50 megapixels beside texts of 4 GB": (
        file("a.png", lambda: making.deep_grey(50, texts=1000)),
        within(700, colour),
        [1, 1, 1],
    ),
    "10^8 pixels beside texts": (
        file("a.png", lambda: making.png(10_000, 10_000, 8, 2, b"", texts=3)),
        within(64, first_image),
        BOMB,
    ),
    "16 bits": (file("a.png", lambda: making.deep_grey(1)), colour, [1, 1, 1]),
    "CMYK": (file("a.tif", lambda: encoded("TIFF", Image.new("CMYK", (8, 8), (0, 255, 255, 0)))), colour, [255, 0, 0]),
    "transparent": (file("a.png", lambda: encoded("PNG", Image.new("RGBA", (8, 8)))), colour, [255, 255, 255]),
    "turned by EXIF": (file("a.png", making.turned), shape, (40, 60, 3)),
}
