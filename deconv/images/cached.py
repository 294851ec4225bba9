"""Decoded photographs kept on disk as the input images that a network sees, so that each file is decoded once."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import torch

from deconv.errors import BadInput, UnreadableImage, first_line
from deconv.files import write_json, write_whole
from deconv.images import Source
from deconv.images.batches import batches
from deconv.images.preprocessing import Preprocessing
from deconv.progress import track

BATCH = 64


@dataclass(frozen=True, kw_only=True)
class CachedSource(Source):
    """A source whose input images are read from a memory-mapped array instead of being decoded.

    input_images: uint8 (images, H, W, 3).  reasons: why an image could not be read, by its number.
    """

    input_images: np.ndarray = field(repr=False, compare=False)
    reasons: dict[int, str] = field(compare=False)
    preprocessing: Preprocessing
    content: str

    @property
    def content_hash(self) -> str:
        """That of the source which was cached."""
        return self.content

    def input_image(self, index: int, preprocessing: Preprocessing) -> torch.Tensor:
        """Frame number `index`, uint8 (3, H, W). Raises UnreadableImage, and BadInput for another preprocessing."""
        if preprocessing != self.preprocessing:
            raise BadInput("these cached input images are of another preprocessing; cache the source with this one.")
        if index in self.reasons:
            raise UnreadableImage(self.reasons[index])
        return torch.from_numpy(self.input_images[index].copy()).permute(2, 0, 1)


def cached(source: Source, preprocessing: Preprocessing, folder: str | Path) -> CachedSource:
    """The source with its input images in `folder`, decoded now if they are not there yet.

    Keyed by the content of the source and the preprocessing: anything else makes another file. One image takes
    H x W x 3 bytes. Raises BadInput if the preprocessing has no size, or more than half of the images are unreadable.
    """
    if preprocessing.size is None:
        raise BadInput(
            "the cache of input images needs input images of one size; give the preprocessing a size, or use no cache."
        )
    provenance = json.dumps([source.content_hash, preprocessing.as_dict()], sort_keys=True)
    path = Path(folder) / f"{hashlib.sha256(provenance.encode()).hexdigest()}.npy"
    if not path.exists():
        _fill(source, preprocessing, path)
    input_images, reasons = _load(path, (len(source), *preprocessing.size, 3))
    return CachedSource(
        **{part.name: getattr(source, part.name) for part in fields(Source)},
        input_images=input_images,
        reasons=reasons,
        preprocessing=preprocessing,
        content=source.content_hash,
    )


def _load(path: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, dict[int, str]]:
    try:
        reasons = json.loads(_reasons_path(path).read_text(encoding="utf-8"))
        input_images = np.load(path, mmap_mode="r")
        if (input_images.dtype, input_images.shape) != (np.uint8, shape):
            raise ValueError(f"{input_images.dtype} of shape {input_images.shape}; expected uint8 of {shape}")
        return input_images, {int(index): str(reason) for index, reason in reasons.items()}
    except Exception as error:  # damaged files raise many types
        raise BadInput(
            f"the cached input images {path} cannot be read ({first_line(error)}); expected what an earlier run "
            f"has left: "
            "delete them to decode the photographs again"
        ) from error


def _fill(source: Source, preprocessing: Preprocessing, path: Path) -> None:
    """The input images one after another, in one pass, without holding them in memory; the reasons first, the input
    images last."""
    assert preprocessing.size is not None
    skipped: list[tuple[int, str, str]] = []
    input_images = batches(source, preprocessing, BATCH, skipped=skipped)

    def write(file) -> None:  # type: ignore[no-untyped-def]
        shape = (len(source), *preprocessing.size, 3)  # type: ignore[misc]
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        start, size = file.tell(), int(np.prod(shape[1:]))
        for index, batch in track(input_images, "decoding", len(source), size=lambda part: len(part[0])):
            for number, input_image in zip(index.tolist(), batch.permute(0, 2, 3, 1), strict=True):
                file.seek(start + number * size)
                file.write(input_image.numpy().tobytes())
        file.truncate(start + len(source) * size)
        write_json(_reasons_path(path), {str(index): reason for index, _, reason in skipped})

    write_whole(path, write)


def _reasons_path(path: Path) -> Path:
    return path.with_suffix(".unreadable.json")
