"""The images of a source as batches of input images, decoded ahead of their reader by a pool of threads."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from deconv.errors import BadInput, UnreadableImage, check_count
from deconv.images import Source
from deconv.images.ahead import map_ahead
from deconv.images.preprocessing import Preprocessing

log = logging.getLogger("deconv")

BATCHES_AHEAD = 3

Unreadable = tuple[int, str, str]
"""(image id, key, reason) of an image that cannot be read."""


def batches(
    source: Source,
    preprocessing: Preprocessing,
    batch_size: int,
    image_ids: Iterable[int] | np.ndarray | Tensor | None = None,
    skipped: list[Unreadable] | None = None,
    most_skipped: int | None = None,
) -> Generator[tuple[Int64[Tensor, " n"], UInt8[Tensor, "n C H W"]], None, None]:
    """Yield (image ids, input images), n at most `batch_size`, in order.

    A pool of threads decodes a few batches ahead. A batch holds those that can be read of `batch_size` images that
    follow one another, so that an unreadable image moves no other into another batch. All input images of a batch have
    one shape: a change of shape starts a new batch.

    - image_ids: the images, in this order; by default all.
    - skipped: a list to which (image id, key, reason) of each unreadable image is appended; it is logged and left out.
    - most_skipped: how many images may be unreadable, by default half of them; BadInput is raised as soon as more are.

    Raises BadInput for an id that is not there and a batch_size below 1.
    """
    chosen = list(source.ids) if image_ids is None else [int(image_id) for image_id in image_ids]
    source.check_ids(chosen)
    check_count("batch_size", batch_size)
    most = len(chosen) // 2 if most_skipped is None else most_skipped
    return _batches(source, preprocessing, batch_size, chosen, [] if skipped is None else skipped, most)


def whole_batches(
    source: Source, preprocessing: Preprocessing, batch_size: int, image_ids: Iterable[int]
) -> Iterator[tuple[Int64[Tensor, " n"], UInt8[Tensor, "n C H W"]]]:
    """Yield `batches` of images that must all be there. Raises BadInput at the first that can no longer be read."""
    skipped: list[Unreadable] = []
    for batch in batches(source, preprocessing, batch_size, image_ids, skipped):
        if skipped:
            break
        yield batch
    if skipped:
        raise BadInput(f"an image of these peaks is gone or damaged: {skipped[0][2]}")


def _batches(
    source: Source,
    preprocessing: Preprocessing,
    batch_size: int,
    image_ids: list[int],
    skipped: list[Unreadable],
    most_skipped: int,
) -> Generator[tuple[Tensor, Tensor], None, None]:
    def input_image(image_id: int) -> Tensor | UnreadableImage:
        try:
            return source.input_image(image_id, preprocessing)
        except UnreadableImage as error:
            return error

    # closed here, for an interrupt in this function would leave its threads to whoever keeps the traceback
    with closing(map_ahead(input_image, image_ids, BATCHES_AHEAD * batch_size)) as results:
        yield from _batched(source, batch_size, image_ids, results, skipped, most_skipped)


def _batched(
    source: Source,
    batch_size: int,
    image_ids: list[int],
    results: Iterator[Tensor | UnreadableImage],
    skipped: list[Unreadable],
    most_skipped: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    batch: list[tuple[int, Tensor]] = []
    already_skipped = len(skipped)
    for count, (image_id, result) in enumerate(zip(image_ids, results, strict=True)):
        if batch and count % batch_size == 0:
            yield _collate(batch)
            batch = []
        if isinstance(result, UnreadableImage):
            skipped.append((image_id, source.key(image_id), str(result)))
            log.warning("skipped %s: %s", source.key(image_id), result)
            check_readable(source, skipped[already_skipped:], len(image_ids), most_skipped)
            continue
        if batch and batch[0][1].shape != result.shape:
            yield _collate(batch)
            batch = []
        batch.append((image_id, result))
    if batch:
        yield _collate(batch)


def _collate(batch: Sequence[tuple[int, Tensor]]) -> tuple[Tensor, Tensor]:
    # Stacked with the colours innermost, the input images stay in channels_last memory.
    input_images = torch.stack([input_image.permute(1, 2, 0) for _, input_image in batch]).permute(0, 3, 1, 2)
    return torch.tensor([image_id for image_id, _ in batch], dtype=torch.int64), input_images


def check_readable(source: Source, unreadable: Sequence[Unreadable], images: int, most: int) -> None:
    """Raise BadInput, naming the first of them, if more than `most` of `images` images are unreadable."""
    if len(unreadable) > most:
        first = "; ".join(reason for _, _, reason in unreadable[:3])
        raise BadInput(
            f"{len(unreadable)} of the {images} images of the source {source.name} cannot be read; expected at least "
            f"half of them to be whole: repair or remove these first: {first}"
        )
