"""Images in, tables of the strongest peaks out: what every pass over images is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from deconv.errors import BadInput
from deconv.images import Source
from deconv.images.batches import batches
from deconv.mining.topk import TopK
from deconv.network import Network
from deconv.network.receptive_field import ReceptiveField

Observer = Callable[[str, np.ndarray, np.ndarray], None]


class Scan:
    """The k strongest peaks of every unit of some layers over the images seen so far.

    tables: by layer.  input_size: (H, W) of the images.  unreadable: (id, key, reason) of what could not be read.
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
        self.input_size: tuple[int, int] | None = None
        self.unreadable: list[tuple[int, str, str]] = []

    def steps(
        self, batch_size: int, indices: np.ndarray, observe: Observer | None = None, most_skipped: int | None = None
    ) -> Iterator[int]:
        """See the images `indices`, batch by batch; yields how many each batch held.

        A batch holds what can be read of `batch_size` images that follow one another in `indices`, and never more: the
        last bit of an activation may depend on what it was computed together with
        (https://pytorch.org/docs/stable/notes/numerical_accuracy.html).
        observe(layer, image ids (n,), strongest activations (n, C)) is called for each batch.
        most_skipped: how many unreadable images there may be, by default half of them.
        Raises BadInput for images of several sizes and for NaN or infinite activations.
        """
        for index, batch in self._batches(batch_size, indices, most_skipped):
            fields = self._fields((batch.shape[2], batch.shape[3]))
            for layer, maps, maxima in self.network.forward_with_maxima(batch, self.tables, self.precision):
                strongest = maxima.float().cpu().numpy()
                self._check_finite(strongest, index, layer)
                if observe is not None:
                    observe(layer, index, strongest)
                self._offer(layer, maps, strongest, index, fields[layer])
                del maps  # before the next layer is computed
            yield len(index)

    def key(self, image: int) -> str:
        """What the source calls an image; its number where there is no source."""
        return str(image) if isinstance(self.images, Tensor) else self.images.keys[image]

    def _fields(self, input_size: tuple[int, int]) -> dict[str, ReceptiveField]:
        if self.input_size is None:
            self.input_size = input_size
            self._receptive_fields = {layer: self.network.receptive_field(layer, input_size) for layer in self.tables}
        if input_size != self.input_size:
            raise BadInput(
                f"images differ in size: {self.input_size} and {input_size}; boxes need one size for all. "
                "Give the preprocessing a size."
            )
        return self._receptive_fields

    def _batches(
        self, batch_size: int, indices: np.ndarray, most_skipped: int | None
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        """(image ids (n,), preprocessed images (n, 3, H, W)), n up to batch_size."""
        if isinstance(self.images, Tensor):
            images = self.network.check_images(self.images)
            for at in range(0, len(indices), batch_size):
                part = indices[at : at + batch_size]
                whole = part[-1] - part[0] == len(part) - 1  # a slice needs no copy
                yield part, images[part[0] : part[-1] + 1] if whole else images[torch.from_numpy(part)]
            return
        look = self.network.needed_preprocessing()
        for index, input_images in batches(
            self.images, look, batch_size, indices.tolist(), self.unreadable, most_skipped=most_skipped
        ):
            yield index.numpy(), look.normalize(input_images)

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
