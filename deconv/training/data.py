"""Labelled input images, decoded once and kept in memory as uint8, and the crops that training sees of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.nn import functional

from deconv.errors import BadInput
from deconv.images import Source, require_labels
from deconv.images.batches import batches
from deconv.images.preprocessing import Preprocessing
from deconv.progress import track

DECODE_AT_ONCE = 256
"""Images that are decoded before they are copied into place."""


@dataclass(frozen=True)
class Labelled:
    """N square input images, their N classes, and the preprocessing that made them.

    Raises BadInput unless there are images, all square, with one class each.

    >>> data = Labelled(
    ...     torch.zeros(5, 64, 64, 3, dtype=torch.uint8),
    ...     torch.tensor([0, 1, 0, 1, 1]),
    ...     Preprocessing((64, 64), None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    ... )
    >>> len(data), data.side
    (5, 64)
    """

    images: UInt8[Tensor, "N H W 3"]
    labels: Int64[Tensor, " labels"]
    preprocessing: Preprocessing

    def __post_init__(self) -> None:
        shape = tuple(self.images.shape)
        if len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3 or shape[0] != len(self.labels) or not shape[0]:
            raise BadInput(
                f"images {shape} and labels {tuple(self.labels.shape)}; expected (N, S, S, 3) and (N,), square images "
                "and one label for each: give a Preprocessing of a square size, such as size=(64, 64)"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def side(self) -> int:
        """The height and width of the input images, in pixels."""
        return int(self.images.shape[1])


def load(source: Source, preprocessing: Preprocessing, indices: Sequence[int] | None = None) -> Labelled:
    """Decode all images of a source, or those of `indices`, into memory: H x W x 3 bytes each.

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
    return Labelled(images[: len(kept)], labels[[source.index_of(image_id) for image_id in kept]], preprocessing)


def split(count: int, held_out: float) -> tuple[list[int], list[int]]:
    """Part the numbers 0 to count - 1 in those to train on and those, evenly spaced, to validate on.

    held_out: the fraction to validate on. Raises BadInput unless it leaves images on both sides.

    >>> split(10, held_out=0.2)
    ([0, 1, 2, 3, 5, 6, 7, 8], [4, 9])
    """
    fraction = held_out if 0 < held_out < 1 else 0.0
    validating = [number for number in range(count) if int((number + 1) * fraction) > int(number * fraction)]
    if not validating:  # a fraction below 1 leaves the first image to train on
        raise BadInput(
            f"held_out={held_out} of {count} images: expected a fraction between 0 and 1 that leaves images to train "
            "on and to validate on, such as 0.1"
        )
    return sorted(set(range(count)) - set(validating)), validating


def shuffled_crops(
    data: Labelled, size: int, crop_range: tuple[int, int], batch_size: int, generator: torch.Generator
) -> Iterator[tuple[UInt8[Tensor, "batch size size 3"], Int64[Tensor, " batch"]]]:
    """Yield one shuffled epoch of crops and their classes; the last batch is left out if it is not full.

    Each batch draws one side of its crops from `crop_range` (pixels, inclusive), each image its own position and flip.
    """
    order = torch.randperm(len(data), generator=generator)
    for chosen in order.split(batch_size):
        if len(chosen) == batch_size:
            yield random_crops(data.images[chosen], size, crop_range, generator), data.labels[chosen]


def random_crops(
    images: UInt8[Tensor, "n H W 3"], size: int, crop_range: tuple[int, int], generator: torch.Generator
) -> UInt8[Tensor, "n size size 3"]:
    """Cut a square from each image, at a random position and mirrored with probability 0.5, and resize it to `size`."""
    n, height, width = images.shape[:3]
    side = int(torch.randint(crop_range[0], crop_range[1] + 1, (), generator=generator))
    along = torch.arange(side)
    rows = torch.randint(height - side + 1, (n, 1), generator=generator) + along
    columns = torch.randint(width - side + 1, (n, 1), generator=generator) + along
    mirrored = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    crops = images[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return crops if side == size else _resize(crops, size)


def _resize(images: Tensor, size: int) -> Tensor:
    pixels = images.permute(0, 3, 1, 2)
    return functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True).permute(0, 2, 3, 1)
