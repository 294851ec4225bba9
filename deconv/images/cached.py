"""Decoded photographs kept on disk as the input images that a network sees, so that each file is decoded once."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from deconv.errors import BadInput, UnreadableImage, first_line
from deconv.files import claimed, remove_leftovers, reserve, write_json, write_whole
from deconv.images import MapDataset, Source, check_source
from deconv.images.batches import Unreadable, batches
from deconv.images.preprocessing import Preprocessing
from deconv.progress import track
from deconv.records.provenance import digest

BATCH = 64


@dataclass(frozen=True, kw_only=True, repr=False)
class CachedSource(Source):
    """A source whose input images are read from a memory-mapped array instead of being decoded.

    - input_images: the pixels, in the order of `keys`.
    - reasons: why an image could not be read, by its position.
    - preprocessing: what made the input images.
    - content: the content hash of the source that was cached.
    """

    input_images: UInt8[np.ndarray, "n H W C"] = field(compare=False)
    reasons: dict[int, str] = field(compare=False)
    preprocessing: Preprocessing
    content: str

    @property
    def content_hash(self) -> str:
        """The content hash of the source that was cached."""
        return self.content

    @property
    def known_content(self) -> str:
        """The content hash of the source that was cached, whose files are not read again."""
        return self.content

    def input_image(self, image_id: int, preprocessing: Preprocessing) -> UInt8[Tensor, "C H W"]:
        """Return a cached input image. Raises UnreadableImage, and BadInput for another preprocessing."""
        if preprocessing != self.preprocessing:
            raise BadInput("these cached input images are of another preprocessing; cache the source with this one")
        index = self.index_of(image_id)
        if index in self.reasons:
            raise UnreadableImage(self.reasons[index])
        return torch.from_numpy(self.input_images[index].copy()).permute(2, 0, 1)


def cached(source: Source | MapDataset, preprocessing: Preprocessing, folder: str | Path) -> CachedSource:
    """Return the source with its input images in `folder`, decoded now if they are not there yet.

    A file in the folder belongs to the content of a source and a preprocessing: anything else makes another file. One
    image takes H x W bytes a channel. Raises BadInput if the preprocessing has no size, more than half of the images
    are unreadable, the disk is full or may not be written to, or another process decodes into the folder.

    >>> import deconv
    >>> from tempfile import mkdtemp
    >>> preprocessing = deconv.Preprocessing((64, 64), 64, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    >>> photographs = deconv.bundled().part(range(3))
    >>> deconv.cached(photographs, preprocessing, mkdtemp()).input_images.shape
    (3, 64, 64, 3)
    """
    source = check_source(source)
    if preprocessing.size is None:
        raise BadInput(
            "the cache of input images needs input images of one size; give the preprocessing a size, or use no cache"
        )
    path = Path(folder) / f"{digest([source.content_hash, preprocessing.as_dict()])}.npy"
    shape = (len(source), *preprocessing.size, preprocessing.channels)
    remove_leftovers(path.parent)
    if not path.exists():
        with claimed(path.parent):
            if not path.exists():  # else whoever held the folder has decoded them
                _fill(source, preprocessing, path, shape)
    input_images, reasons = _load(path, shape)
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
        return input_images, {int(position): str(reason) for position, reason in reasons.items()}
    except Exception as error:  # damaged files raise many types
        raise BadInput(
            f"the cached input images {path} cannot be read ({first_line(error)}); expected what an earlier run left: "
            "delete them to decode the photographs again"
        ) from error


def _fill(source: Source, preprocessing: Preprocessing, path: Path, shape: tuple[int, ...]) -> None:
    """Write the input images in one pass, without holding them in memory; the reasons first, the input images last."""
    skipped: list[Unreadable] = []

    def write(file: BinaryIO) -> None:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        start, size = file.tell(), int(np.prod(shape[1:]))
        reserve(file, start + len(source) * size)
        decoded = batches(source, preprocessing, BATCH, skipped=skipped)
        for image_ids, batch in track(decoded, "decoding", len(source), size=lambda step: len(step[0])):
            for image_id, pixels in zip(image_ids.tolist(), batch.permute(0, 2, 3, 1), strict=True):
                file.seek(start + source.index_of(image_id) * size)
                file.write(pixels.numpy().tobytes())
        file.truncate(start + len(source) * size)
        write_json(_reasons_path(path), {str(source.index_of(image_id)): reason for image_id, _, reason in skipped})

    write_whole(path, write)


def _reasons_path(path: Path) -> Path:
    return path.with_suffix(".unreadable.json")
