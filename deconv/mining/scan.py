"""One pass over images: images in, tables of the strongest peaks out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deconv.errors import BadInput
from deconv.images import Shards, Source, StreamedSource
from deconv.images.batches import batches, check_readable
from deconv.mining.firing import Tally
from deconv.mining.lots import lots_of
from deconv.mining.partials import Partial, key_of
from deconv.mining.topk import TopK
from deconv.network import Network
from deconv.network.receptive_field import ReceptiveField
from deconv.progress import track

MOST_UNREADABLE = 2**20
"""Images of a streamed source, whose half is not known before its end; what is said of one takes some 400 bytes."""
EXTREMES = 8
"""Images that a scan in bfloat16 remembers for the largest pixels, and for the strongest activation at each layer."""


@dataclass(frozen=True, eq=False)
class Scan:
    """What to look for in images, and how: everything about a pass but the images, so that it can run anywhere.

    - layers, k, per_image, batch_size: as in `deconv.mine`.
    - precision: the type that activations are computed in.
    - candidates: by layer, scores that a scan in bfloat16 found; how far they are off is measured on the way.
    - correlated: how many images units are correlated over, if it is counted how they fire; 0 if it is not.
    """

    network: Network
    layers: list[str]
    k: int
    per_image: int
    batch_size: int
    precision: torch.dtype = torch.float32
    candidates: dict[str, TopK] | None = None
    correlated: int = 0

    def empty(self, least_lot: float = 0.0) -> Partial:
        """Return what is found in no image at all: where `run` starts.

        least_lot: images of smaller lots are known not to be among those over which units are correlated.
        """
        tables = {layer: TopK(self.network.channels(layer), self.k) for layer in self.layers}
        errors = {layer: np.zeros(len(table.score)) for layer, table in (self.candidates or {}).items()}
        extremes = TopK(1 + len(tables), EXTREMES) if self.precision != torch.float32 else None
        return Partial(tables, errors=errors, extremes=extremes, tallies=self._empty_tallies(least_lot))

    def _empty_tallies(self, least_lot: float) -> dict[str, Tally]:
        layers = self.layers if self.correlated else []
        return {layer: Tally(self.network.channels(layer), self.correlated, least_lot) for layer in layers}

    def run(
        self, images: Source | Tensor, image_ids: np.ndarray, partial: Partial, most_skipped: int | None = None
    ) -> Iterator[int]:
        """Look at images, adding what is found to `partial`; yield the number of images in each batch.

        A batch holds what can be read of `batch_size` images that follow one another in `image_ids`, and never more:
        the last bit of an activation may depend on what it was computed together with
        (https://pytorch.org/docs/stable/notes/numerical_accuracy.html).

        - images: a source, or preprocessed images (M, C, H, W), whose ids are 0 to M - 1.
        - image_ids: (n,) int64, ascending.
        - most_skipped: how many images may be unreadable, by default half of them.

        Raises BadInput for images of several sizes, for NaN or infinite activations, and where it is counted how units
        fire for images of more classes than there is memory for.
        """
        rectified = {layer: self.network.rectified(layer) for layer in self.layers}
        fields: dict[str, ReceptiveField] = {}
        if partial.tallies and (labels := _labels_of(images, image_ids)) is not None:
            partial.expect_classes(labels)
        for batch_ids, batch in self._batches(images, image_ids, partial, most_skipped):
            partial.check_size((batch.shape[2], batch.shape[3]))
            if not fields:
                fields = {layer: self.network.receptive_field(layer, partial.input_size) for layer in self.layers}
            largest: list[np.ndarray] = []  # of each image: its pixels', then each layer's; kept by scans in bfloat16
            if partial.extremes is not None:
                largest.append(batch.abs().amax(dim=(1, 2, 3)).float().cpu().numpy())
            if partial.tallies:
                lots = lots_of(key_of(images, image_id) for image_id in batch_ids.tolist())
                labels = _labels_of(images, batch_ids)
            for layer, maps, maxima in self.network.forward_with_maxima(batch, self.layers, self.precision):
                scores = maxima.float().cpu().numpy()
                _check_finite(images, batch_ids, scores, layer)
                if partial.extremes is not None:
                    largest.append(np.abs(scores).max(axis=1))
                if self.candidates:
                    errors = score_errors(self.candidates[layer], batch_ids, scores)
                    partial.errors[layer] = np.maximum(partial.errors[layer], errors)
                if partial.tallies:
                    partial.tallies[layer].see(scores, batch_ids, lots, labels)
                least = 0.0 if rectified[layer] else -np.inf
                _offer(partial.tables[layer], maps, scores, batch_ids, self.per_image, fields[layer], least)
                del maps  # its memory is free before the next layer is computed
            if partial.extremes is not None:
                offer_images(partial.extremes, batch_ids, np.stack(largest))
            yield len(batch_ids)

    def _batches(
        self, images: Source | Tensor, image_ids: np.ndarray, partial: Partial, most_skipped: int | None
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Yield (image ids (n,), preprocessed images (n, C, H, W)), n up to batch_size."""
        if isinstance(images, Tensor):
            checked = self.network.check_images(images)
            for start in range(0, len(image_ids), self.batch_size):
                chunk = image_ids[start : start + self.batch_size]
                contiguous = chunk[-1] - chunk[0] == len(chunk) - 1  # a slice needs no copy
                yield chunk, checked[chunk[0] : chunk[-1] + 1] if contiguous else checked[torch.from_numpy(chunk)]
            return
        preprocessing = self.network.needed_preprocessing()
        for batch_ids, input_images in batches(
            images, preprocessing, self.batch_size, image_ids, partial.unreadable, most_skipped
        ):
            yield batch_ids.numpy(), preprocessing.normalize(input_images)


Search = Callable[[str, Scan, np.ndarray | None], Partial]
"""(what a scan is for, the scan, the ids of the images to look at) -> what it finds, however they are divided.

None stands for all images of a streamed source, which are not numbered through.
"""


def in_memory(images: Source | Tensor) -> Search:
    """Return a search in one go, with nothing on disk."""

    def search(stage: str, scan: Scan, image_ids: np.ndarray | None) -> Partial:
        partial = scan.empty()
        if image_ids is None:
            assert isinstance(images, StreamedSource)
            for _ in track(scan_shards(scan, images.shards, images.shards.numbers, partial), "mining", None, size=int):
                check_readable(images, partial.unreadable, partial.images, MOST_UNREADABLE)
            check_readable(images, partial.unreadable, partial.images, partial.images // 2)
        elif len(image_ids):
            for _ in track(scan.run(images, image_ids, partial), "mining", len(image_ids), size=int):
                pass
            partial.add_images(images, len(image_ids))
        return partial

    return search


def scan_shards(
    scan: Scan,
    shards: Shards,
    numbers: range,
    partial: Partial,
    digests: list[bytes] | None = None,
    following: int | None = None,
) -> Iterator[int]:
    """Look at shards of a streamed source, adding to `partial` and `digests`; yield the images in each batch.

    No batch holds images of two shards.  following: the shard that is read after those.
    """
    for number, opened in zip(numbers, shards.pieces(numbers, following), strict=True):
        image_ids = np.array(opened.images.ids, dtype=np.int64)
        yield from scan.run(opened.images, image_ids, partial, most_skipped=len(image_ids))
        partial.add_images(opened.images, len(image_ids))
        if digests is not None:
            digests.append(shards.digest_of(number, opened.state))
    left_out = set(shards.left_out)
    partial.left_out += [address for number in numbers if (address := shards.address(number)) in left_out]


def offer_images(table: TopK, image_ids: np.ndarray, values: np.ndarray) -> None:
    """Offer images to a table that ranks them, not peaks, by several values: (rows of the table, n)."""
    rows, count = values.shape
    images, nowhere = np.tile(image_ids, rows), np.zeros(rows * count, dtype=np.int64)
    table.offer(np.repeat(np.arange(rows), count), values.ravel(), images, nowhere, nowhere)


def score_errors(candidates: TopK, image_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return how far scores of each unit (C,) are off, at most: those of candidates that lie in these images.

    image_ids: (n,).  scores: (n, C) of these images, in float32.
    """
    order = np.argsort(image_ids)
    row = order[np.searchsorted(image_ids, candidates.image, sorter=order).clip(max=len(image_ids) - 1)]
    exact = np.take_along_axis(scores.T, row, axis=1)
    difference = np.abs(exact - np.where(image_ids[row] == candidates.image, candidates.score, exact))
    largest: np.ndarray = difference.max(axis=1)
    return largest


def _labels_of(images: Source | Tensor, image_ids: np.ndarray) -> np.ndarray | None:
    """The class of each image (n,) int64; None if they have none."""
    labels = None if isinstance(images, Tensor) else images.labels_of(image_ids.tolist())
    return None if labels is None else np.array(labels, dtype=np.int64)


def _check_finite(images: Source | Tensor, image_ids: np.ndarray, scores: np.ndarray, layer: str) -> None:
    """The maximum of a map is NaN where any of its positions is."""
    bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if len(bad):
        raise BadInput(
            f"image {key_of(images, int(image_ids[bad[0]]))!r} gives NaN or infinite activations at {layer!r}; check "
            "the image and the weights"
        )


def _offer(
    table: TopK,
    maps: Tensor,
    scores: np.ndarray,
    image_ids: np.ndarray,
    per_image: int,
    field: ReceptiveField,
    least: float,
) -> None:
    """Offer the peaks above `least` of maps (n, C, H, W), whose maxima are `scores` (n, C), to the table.

    Positions are looked for only in the images that can enter a unit's table.
    """
    enters = (scores >= table.weakest) & (scores > least)
    crowded = enters.sum(axis=0) > table.k
    enters[:, crowded] &= _among_best(scores[:, crowded], image_ids, table.k)
    which, channel = enters.nonzero()
    if not len(which):
        return
    chosen = maps[torch.from_numpy(which).to(maps.device), torch.from_numpy(channel).to(maps.device)]
    for score, position in _peaks_of_maps(chosen, per_image, field):
        real = score > least
        row, col = np.divmod(position[real], maps.shape[3])
        table.offer(channel[real], score[real], image_ids[which[real]], row, col)


def _among_best(scores: np.ndarray, image_ids: np.ndarray, k: int) -> np.ndarray:
    """(n, C) bool: the k images of this batch that each unit would keep, by (-score, image)."""
    by_image = np.argsort(image_ids)
    order = by_image[np.argsort(-scores[by_image], axis=0, kind="stable")[:k]]
    best = np.zeros_like(scores, dtype=bool)
    np.put_along_axis(best, order, True, axis=0)
    return best


def _peaks_of_maps(maps: Tensor, per_image: int, field: ReceptiveField) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The per_image strongest peaks of each map (P, H, W): (score (P,) float32, flat position (P,)), strongest first.

    Of equal values the first in reading order; the box of each next one overlaps none before by more than half.
    """
    width = maps.shape[2]
    remaining = maps.flatten(1)
    for _ in range(min(per_image, remaining.shape[1])):
        position = remaining.argmax(dim=1)
        score = remaining.gather(1, position[:, None])[:, 0]
        yield score.float().cpu().numpy(), position.cpu().numpy()
        if per_image > 1:
            same = _same_peak(position, remaining.shape[1], width, field)
            remaining = remaining.masked_fill(same, float("-inf"))


def _same_peak(position: Tensor, positions: int, width: int, field: ReceptiveField) -> Tensor:
    """(P, positions) bool: whose boxes overlap that of position[p] by more than half of their area."""
    every = torch.arange(positions, device=position.device)
    rows_apart = (every // width - (position // width)[:, None]).abs() * field.stride[0]
    cols_apart = (every % width - (position % width)[:, None]).abs() * field.stride[1]
    shared_height, shared_width = (field.size[0] - rows_apart).clamp_min(0), (field.size[1] - cols_apart).clamp_min(0)
    return 2 * shared_height * shared_width > field.size[0] * field.size[1]
