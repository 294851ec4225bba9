"""The images of a source as batches of input images, decoded ahead of their reader by a pool of threads."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Iterator, Sequence

import numpy as np
import torch

from deconv.errors import BadInput, UnreadableImage
from deconv.images import Source, check_indices
from deconv.images.ahead import map_ahead
from deconv.images.preprocessing import Preprocessing

log = logging.getLogger("deconv")

BATCHES_AHEAD = 3


def batches(
    source: Source,
    preprocessing: Preprocessing,
    batch_size: int,
    indices: Iterable[int] | np.ndarray | torch.Tensor | None = None,
    skipped: list[tuple[int, str, str]] | None = None,
    most_skipped: int | None = None,
) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
    """Input images in order: pairs of indices int64 (n,) and input images uint8 (n, 3, H, W), n at most `batch_size`.

    A pool of threads decodes a few batches ahead. A batch holds those that can be read of `batch_size` images asked for
    one after the other, so that an unreadable one moves no other into another batch. All input images of a batch have
    one
    shape: a change of shape starts a new batch. `indices` asks for some images only. An unreadable image is logged,
    appended to `skipped` as (index, key, reason) and left out; as soon as more than `most_skipped` are (by default half
    of the asked images), BadInput is raised.
    """
    asked = list(range(len(source))) if indices is None else [int(index) for index in indices]
    check_indices(source, asked)
    if batch_size < 1:
        raise BadInput(f"batch_size is {batch_size}; expected 1 or more")
    most = len(asked) // 2 if most_skipped is None else most_skipped
    return _batches(source, preprocessing, batch_size, asked, [] if skipped is None else skipped, most)


def whole_batches(
    source: Source, preprocessing: Preprocessing, batch_size: int, indices: Iterable[int]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """`batches` of images that must all be there. Raises BadInput at the first that cannot be read any more."""
    skipped: list[tuple[int, str, str]] = []
    for batch in batches(source, preprocessing, batch_size, indices, skipped):
        if skipped:
            break
        yield batch
    if skipped:
        raise BadInput(f"an image of these peaks is gone or damaged: {skipped[0][2]}")


def _batches(
    source: Source,
    preprocessing: Preprocessing,
    batch_size: int,
    asked: list[int],
    skipped: list[tuple[int, str, str]],
    most_skipped: int,
) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
    def input_image(index: int) -> torch.Tensor | UnreadableImage:
        try:
            return source.input_image(index, preprocessing)
        except UnreadableImage as error:
            return error

    batch: list[tuple[int, torch.Tensor]] = []
    already_skipped = len(skipped)
    results = zip(asked, map_ahead(input_image, asked, BATCHES_AHEAD * batch_size), strict=True)
    for position, (index, result) in enumerate(results):
        if batch and position % batch_size == 0:
            yield _collate(batch)
            batch = []
        if isinstance(result, UnreadableImage):
            skipped.append((index, source.keys[index], str(result)))
            _report_skipped(source, skipped[already_skipped:], len(asked), most_skipped)
            continue
        if batch and batch[0][1].shape != result.shape:
            yield _collate(batch)
            batch = []
        batch.append((index, result))
    if batch:
        yield _collate(batch)


def _collate(batch: Sequence[tuple[int, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    # Stacked with the colours innermost, the input images stay in channels_last memory.
    input_images = torch.stack([input_image.permute(1, 2, 0) for _, input_image in batch]).permute(0, 3, 1, 2)
    return torch.tensor([index for index, _ in batch], dtype=torch.int64), input_images


def _report_skipped(source: Source, skipped: Sequence[tuple[int, str, str]], asked: int, most: int) -> None:
    """Logs the last of them, and gives up once they are too many."""
    _, key, reason = skipped[-1]
    log.warning("skipped %s: %s", key, reason)
    if len(skipped) > most:
        first = "; ".join(reason for _, _, reason in skipped[:3])
        raise BadInput(
            f"{len(skipped)} of the {asked} images of the source {source.name} cannot be read; expected at least "
            f"half of them to be whole: repair or remove these first: {first}"
        )
