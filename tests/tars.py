"""Tar shards that several tests use: small noisy images, each with its class."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from tests.samples import SIZE


def png(seed: int = 0) -> bytes:
    held = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(held, "png")
    return held.getvalue()


def tar_of(members: Mapping[str, bytes]) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return held.getvalue()


def shard(first: int = 0, count: int = 3) -> bytes:
    """Images `first` and on, the class of each being its number plus ten; texts that are no image beside them."""
    members: dict[str, bytes] = {"about.txt": b"no image"}
    for number in range(first, first + count):
        members |= {f"{number}.png": png(number), f"{number}.cls": b"%d\n" % (10 + number), f"{number}.json": b"{}"}
    return tar_of(members)


def put(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


def pixels(number: int) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(png(number))))
