"""One pass over images: what `mine` and its exact bfloat16 form are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from deconv.errors import BadInput
from deconv.network import Network
from deconv.progress import track
from deconv.receptive_field import ReceptiveField
from deconv.records import LayerPeaks
from deconv.sources import Source, batches
from deconv.topk import TopK

Observer = Callable[[str, np.ndarray, np.ndarray], None]


class Scan:
    """The k strongest peaks of every unit of some layers over the images seen so far.

    tables: by layer.  frame: (H, W) of the images.  unreadable: (id, key, reason) of what could not be read.
    precision: the type that activations are computed in.
    """

    def __init__(
        self,
        network: Network,
        images: Source | Tensor,
        layers: list[str],
        k: int,
        per_image: int = 1,
        precision: torch.dtype = torch.float32,
    ):
        self.network, self.images, self.per_image, self.precision = network, images, per_image, precision
        self.tables = {layer: TopK(network.channels(layer), k) for layer in layers}
        self.rectified = {layer: network.rectified(layer) for layer in layers}
        self.frame: tuple[int, int] | None = None
        self.unreadable: list[tuple[int, str, str]] = []

    def run(self, batch_size: int, indices: np.ndarray | None = None, observe: Observer | None = None) -> None:
        """See all images, or those of `indices`.

        observe(layer, image ids (n,), strongest activations (n, C)) is called for each batch.
        Raises BadInput for images of several sizes, for NaN or infinite activations, and for no image at all.
        """
        for index, batch in self._batches(batch_size, indices):
            fields = self._fields((batch.shape[2], batch.shape[3]))
            for layer, maps, maxima in self.network.forward_with_maxima(batch, self.tables, self.precision):
                strongest = maxima.float().cpu().numpy()
                self._check_finite(strongest, index, layer)
                if observe is not None:
                    observe(layer, index, strongest)
                self._offer(layer, maps, strongest, index, fields[layer])
                del maps  # before the next layer is computed
        if self.frame is None:
            raise BadInput("images: given none that can be read; expected at least one.")

    def peaks(self) -> dict[str, LayerPeaks]:
        """The tables as records."""
        assert self.frame is not None, "run first"
        fields = self._fields(self.frame)
        return {layer: layer_peaks(table, fields[layer]) for layer, table in self.tables.items()}

    def key(self, image: int) -> str:
        """What the source calls an image; its number where there is no source."""
        return str(image) if isinstance(self.images, Tensor) else self.images.keys[image]

    def _fields(self, frame: tuple[int, int]) -> dict[str, ReceptiveField]:
        if self.frame is None:
            self.frame = frame
            self._receptive_fields = {layer: self.network.receptive_field(layer, frame) for layer in self.tables}
        if frame != self.frame:
            raise BadInput(
                f"images differ in size: {self.frame} and {frame}; boxes need one frame for all. "
                "Give the preprocessing a size."
            )
        return self._receptive_fields

    def _batches(self, batch_size: int, indices: np.ndarray | None) -> Iterator[tuple[np.ndarray, Tensor]]:
        """(image ids (n,), preprocessed images (n, 3, H, W)), n up to batch_size."""
        wanted = np.arange(len(self.images)) if indices is None else indices
        if isinstance(self.images, Tensor):
            images = self.network.check_images(self.images)
            parts = (wanted[at : at + batch_size] for at in range(0, len(wanted), batch_size))
            for part in track(parts, "mining", len(wanted), size=len):
                whole = part[-1] - part[0] == len(part) - 1  # a slice needs no copy
                yield part, images[part[0] : part[-1] + 1] if whole else images[torch.from_numpy(part)]
            return
        look = self.network.needed_preprocessing()
        found = batches(self.images, look, batch_size, indices=wanted.tolist(), skipped=self.unreadable)
        for index, frames in track(found, "mining", len(wanted), size=lambda batch: len(batch[0])):
            yield index.numpy(), look.normalize(frames)

    def _check_finite(self, strongest: np.ndarray, index: np.ndarray, layer: str) -> None:
        """A maximum is NaN where any place is."""
        bad = np.flatnonzero(~np.isfinite(strongest).all(axis=1))
        if len(bad):
            raise BadInput(
                f"image {self.key(int(index[bad[0]]))!r} gives NaN or infinite activations at {layer!r}; "
                "check the image and the weights."
            )

    def _offer(self, layer: str, maps: Tensor, scores: np.ndarray, index: np.ndarray, field: ReceptiveField) -> None:
        """Find positions only for the images that can enter a unit's table."""
        table, least = self.tables[layer], 0.0 if self.rectified[layer] else -np.inf
        enters = (scores >= table.weakest) & (scores > least)
        crowded = enters.sum(axis=0) > table.k
        enters[:, crowded] &= _among_best(scores[:, crowded], index, table.k)
        which, channel = enters.nonzero()
        if not len(which):
            return
        chosen = maps[torch.from_numpy(which).to(maps.device), torch.from_numpy(channel).to(maps.device)]
        for score, place in _peaks_of_maps(chosen, self.per_image, field):
            real = score > least
            row, col = np.divmod(place[real], maps.shape[3])
            table.offer(channel[real], score[real], index[which[real]], row, col)


def _among_best(scores: np.ndarray, images: np.ndarray, k: int) -> np.ndarray:
    """(N, C) bool: the k images of this batch that each unit would keep, by (-score, image)."""
    by_image = np.argsort(images)
    order = by_image[np.argsort(-scores[by_image], axis=0, kind="stable")[:k]]
    best = np.zeros_like(scores, dtype=bool)
    np.put_along_axis(best, order, True, axis=0)
    return best


def _peaks_of_maps(maps: Tensor, per_image: int, field: ReceptiveField) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The per_image strongest peaks of each map (P, H, W): (score (P,) float32, flat place (P,)), strongest first.

    Of equal values the first in reading order; the box of each next one overlaps none before by more than half.
    """
    width = maps.shape[2]
    remaining = maps.flatten(1)
    for _ in range(min(per_image, remaining.shape[1])):
        place = remaining.argmax(dim=1)
        score = remaining.gather(1, place[:, None])[:, 0]
        yield score.float().cpu().numpy(), place.cpu().numpy()
        if per_image > 1:
            same = _same_peak(place, remaining.shape[1], width, field)
            remaining = remaining.masked_fill(same, float("-inf"))


def _same_peak(place: Tensor, places: int, width: int, field: ReceptiveField) -> Tensor:
    """(P, places) bool: whose boxes overlap that of place[p] by more than half of their area."""
    every = torch.arange(places, device=place.device)
    sides = []
    for of, axis in ((lambda p: p // width, 0), (lambda p: p % width, 1)):
        moved = (of(every)[None] - of(place)[:, None]).abs() * field.stride[axis]
        sides.append((field.size[axis] - moved).clamp_min(0))
    return 2 * sides[0] * sides[1] > field.size[0] * field.size[1]


def layer_peaks(table: TopK, field: ReceptiveField) -> LayerPeaks:
    """A table as a record: nan for missing scores, -1 for their places and boxes."""
    score, image, row, col = (torch.from_numpy(part) for part in (table.score, table.image, table.row, table.col))
    y0 = field.start[0] + row * field.stride[0]
    x0 = field.start[1] + col * field.stride[1]
    box = torch.stack([y0, x0, y0 + field.size[0], x0 + field.size[1]], dim=2)
    found = image >= 0
    return LayerPeaks(score.where(found, float("nan")), image, row, col, box.where(found[..., None], -1))
