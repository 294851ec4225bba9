"""Makes broken, foreign and hostile files, and limits the memory that reading them may take."""

from __future__ import annotations

import io
import json
import os
import resource
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save

import deconv
from deconv.models import build
from tests.samples import images, network

MIB = 2**20
NOBODY = 65534


# --- images -----------------------------------------------------------------------------------------------------------


def picture(height: int = 40, width: int = 60) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def encoded(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    held = io.BytesIO()
    (image or picture()).save(held, kind, **options)
    return held.getvalue()


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def animation(kind: str) -> bytes:
    """Three pictures, the first of them red."""
    first, *rest = (Image.new("RGB", (8, 6), colour) for colour in ("red", "green", "blue"))
    return encoded(kind, first, save_all=True, append_images=rest, lossless=True)


def turned() -> bytes:
    """60 x 40 pixels to be shown as 40 x 60."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded("PNG", picture(60, 40), exif=exif)


def png(width: int, height: int, depth: int, colour: int, rows: bytes, texts: int = 0) -> bytes:
    """A PNG written out by hand, for what Pillow cannot or would not write; each text unpacks to 4 MiB."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    text = chunk(b"zTXt", b"text\0\0" + zlib.compress(bytes(4 * MIB))) * texts if texts else b""
    return b"\x89PNG\r\n\x1a\n" + header + text + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")


def jpeg_bomb(side: int) -> bytes:
    """A small JPEG that says it has side x side pixels."""
    content = bytearray(encoded("JPEG"))
    frame = content.index(b"\xff\xc0") + 5
    content[frame : frame + 4] = struct.pack(">HH", side, side)
    return bytes(content)


def deep_grey(megapixels: int, texts: int = 0) -> bytes:
    """16-bit grey, all of it 257."""
    width = 1000 * megapixels
    return png(width, 1000, 16, 0, (b"\0" + b"\1\1" * width) * 1000, texts)


# --- shards -----------------------------------------------------------------------------------------------------------


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """The header of a member, whose size may be negative."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, max(size, 0)
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    if size < 0:
        block[124:136] = b"\xff" * 4 + size.to_bytes(8, "big", signed=True)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(**said: str) -> bytes:
    body = b"".join(_pax_line(f"{name.replace('__', '.')}={value}\n") for name, value in said.items())
    return header("pax", len(body), tarfile.XHDTYPE) + body.ljust(512, b"\0")


def _pax_line(text: str) -> bytes:
    return f"{len(text) + 3} {text}".encode()  # of two digits


SPARSE = pax(GNU__sparse__major="1", GNU__sparse__minor="0") + header("a.png", 512) + b"zz\n".ljust(512, b"\0")


# --- weights ----------------------------------------------------------------------------------------------------------


class Payload:
    """Leaves a folder behind when a careless reader unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@cache
def squeezenet() -> dict[str, torch.Tensor]:
    return build("squeezenet", "random").state_dict()


def changed(**tensors: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """squeezenet's tensors, with some replaced, added, or, where None is given, left out; __ stands for a dot."""
    given = {name.replace("__", "."): value for name, value in tensors.items()}
    return {name: value for name, value in (squeezenet() | given).items() if value is not None}


def pth(content: object) -> bytes:
    held = io.BytesIO()
    torch.save(content, held)
    return held.getvalue()


def weights(suffix: str, tensors: dict[str, torch.Tensor]) -> bytes:
    return save(tensors) if suffix == "safetensors" else pth(tensors)


def packed_pth() -> bytes:
    """100 MiB of zeros in some hundred kB."""
    held = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(pth({"w": torch.zeros(25 * MIB)}))) as plain,
        zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for part in plain.infolist():
            small.writestr(part.filename, plain.read(part))
    return held.getvalue()


# --- records ----------------------------------------------------------------------------------------------------------


@cache
def peaks() -> deconv.Peaks:
    return deconv.mine(network(), images(7), ["one", "two"], k=9)


@cache
def reconstructions() -> deconv.Reconstructions:
    return deconv.project_peaks(network(), images(7), "two", peaks()["two"], [0, 2])


@cache
def patches() -> deconv.Patches:
    recon = reconstructions()
    return deconv.cut_patches(torch.zeros((7, 3, 20, 20), dtype=torch.uint8), recon.image, recon.box, {"of": "a test"})


def said_of(kind: str, **differences: Any) -> bytes:
    """What a record says about itself, in JSON."""
    return json.dumps({"kind": kind, "format": 1, "provenance": {}} | differences).encode()


def table_of(path: Path, said: bytes | None = None, columns: dict[str, pa.Array] | None = None, rows: int = -1) -> Path:
    """Saved peaks, rewritten with another word about themselves, other columns or fewer rows."""
    table = pq.read_table(peaks().save(path))
    table = table.slice(0, rows) if rows >= 0 else table
    for name, values in (columns or {}).items():
        table = table.set_column(table.column_names.index(name), name, values)
    pq.write_table(table.replace_schema_metadata({b"deconv": said or said_of("peaks")}), path)
    return path


def said_in(path: Path) -> dict[str, str]:
    """What a safetensors file says about itself."""
    with safe_open(str(path), framework="pt") as file:
        return file.metadata()


# --- what stands in the way -------------------------------------------------------------------------------------------


@contextmanager
def at_most(mib: int) -> Iterator[None]:
    """Whatever asks for more memory than this, on top of what the process has, does not get it."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + mib * MIB, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def as_nobody(folder: Path) -> Iterator[None]:
    """In the folder, without root's right to read everything."""
    here, root = Path.cwd(), os.geteuid() == 0
    os.chdir(folder)  # nobody may not walk to it
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        os.chdir(here)
