"""Labelled input images, decoded once and kept in memory as uint8, and the crops that training sees of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from deconv.errors import BadInput
from deconv.images import Source, require_labels
from deconv.images.batches import batches
from deconv.images.preprocessing import Preprocessing
from deconv.progress import track

DECODE_AT_ONCE = 256


@dataclass(frozen=True)
class Labelled:
    """Input images (N, H, W, 3) uint8, square, their classes (N,) int64, and the preprocessing that they are of."""

    images: torch.Tensor
    labels: torch.Tensor
    preprocessing: Preprocessing

    def __post_init__(self) -> None:
        given = tuple(self.images.shape)
        if len(given) != 4 or given[1] != given[2] or given[3] != 3 or given[0] != len(self.labels) or not given[0]:
            raise BadInput(
                f"images {given} and labels {tuple(self.labels.shape)}; training needs (N, S, S, 3) and (N,), square "
                "frames and one label for each: give model.size=[64,64] or the like"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def side(self) -> int:
        """The input images' height and width, in pixels."""
        return int(self.images.shape[1])


def load(source: Source, preprocessing: Preprocessing, indices: Sequence[int] | None = None) -> Labelled:
    """All images of the source, or those of `indices`, decoded into memory: H x W x 3 bytes each.

    Unreadable images are left out, with a warning. Raises BadInput for a source without labels, a preprocessing
    without a size, no images, or more than half of them unreadable.
    """
    labels = torch.tensor(require_labels(source), dtype=torch.int64)
    asked = list(source.ids) if indices is None else list(indices)
    if preprocessing.size is None or not asked:
        raise BadInput(f"{len(asked)} images of size {preprocessing.size}: training needs images, all of one size")
    images = torch.empty((len(asked), *preprocessing.size, 3), dtype=torch.uint8)
    kept: list[int] = []
    input_images = batches(source, preprocessing, DECODE_AT_ONCE, asked)
    for index, batch in track(input_images, f"decoding {source.name}", len(asked), size=lambda part: len(part[0])):
        images[len(kept) : len(kept) + len(index)] = batch.permute(0, 2, 3, 1)
        kept += index.tolist()
    return Labelled(images[: len(kept)], labels[[source.position(image_id) for image_id in kept]], preprocessing)


def split(count: int, held_out: float) -> tuple[list[int], list[int]]:
    """The numbers 0 to count - 1 in two: to train on, and evenly spaced to validate on; 0.1 is every tenth.

    Raises BadInput unless `held_out` is a share that leaves images on both sides.
    """
    share = held_out if 0 < held_out < 1 else 0.0
    held = [number for number in range(count) if int((number + 1) * share) > int(number * share)]
    if not held:  # a share below 1 leaves the first image to train on
        raise BadInput(
            f"held_out={held_out} of {count} images: expected a share between 0 and 1 that leaves images to train "
            "on and to validate on, as 0.1"
        )
    return sorted(set(range(count)) - set(held)), held


def shuffled_crops(
    data: Labelled, size: int, crop_range: tuple[int, int], batch_size: int, generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One shuffled epoch of (crops (batch_size, size, size, 3) uint8, classes); the last incomplete batch is left out.

    Each batch draws one crop side from `crop_range` (pixels, inclusive); each image its own place and flip.
    """
    order = torch.randperm(len(data), generator=generator)
    for chosen in order.split(batch_size):
        if len(chosen) == batch_size:
            yield random_crops(data.images[chosen], size, crop_range, generator), data.labels[chosen]


def random_crops(
    images: torch.Tensor, size: int, crop_range: tuple[int, int], generator: torch.Generator
) -> torch.Tensor:
    """Crops of images (n, H, W, 3) uint8 as (n, size, size, 3), each at its own place and half of them mirrored."""
    n, height, width = images.shape[:3]
    side = int(torch.randint(crop_range[0], crop_range[1] + 1, (), generator=generator))
    along = torch.arange(side)
    rows = torch.randint(height - side + 1, (n, 1), generator=generator) + along
    columns = torch.randint(width - side + 1, (n, 1), generator=generator) + along
    mirrored = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    crops = images[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return crops if side == size else _resize(crops, size)


def _resize(images: torch.Tensor, size: int) -> torch.Tensor:
    pixels = images.permute(0, 3, 1, 2)
    return functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True).permute(0, 2, 3, 1)
