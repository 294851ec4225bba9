"""One pass over the images finds, for every unit of every asked layer, its k strongest peaks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deconv.errors import BadInput, RecordMismatch
from deconv.network import Network
from deconv.progress import track
from deconv.receptive_field import ReceptiveField
from deconv.records import LayerPeaks, Peaks
from deconv.runs import versions
from deconv.sources import Source, batches
from deconv.topk import TopK


def mine(
    network: Network,
    images: Source | Tensor,
    layers: Iterable[str],
    k: int = 9,
    batch_size: int = 64,
    per_image: int = 1,
) -> Peaks:
    """The k strongest peaks of every unit of each layer, over all images, in one pass.

    images: a Source (its photographs pass through the network's preprocessing) or preprocessed images (M, 3, H, W).
    per_image: how many peaks of one image may count for one unit; peaks whose boxes overlap by more than half are one.
    Ranked by (-score, image, row, col), score being the raw activation, so that the answer does not depend on
    batch_size. A unit that fires on fewer than k images has places with image -1 and score nan; at a rectified layer
    a score of zero is not firing.
    Memory grows with units x k, not with the number of images.

    Raises UnknownName (a layer), BadInput (k, batch_size or per_image below 1; no images; NaN or infinite activations,
    naming the image; more than half of a source's images unreadable).
    """
    names = list(dict.fromkeys(layers))
    for name, value in (("k", k), ("batch_size", batch_size), ("per_image", per_image)):
        if value < 1:
            raise BadInput(f"{name}: given {value}; expected 1 or more.")
    if not len(images):
        raise BadInput("images: given none; expected at least one.")
    if not names:
        raise BadInput(f"layers: given none; expected some of {', '.join(network.layers)}.")
    tables = {name: TopK(network.channels(name), k) for name in names}
    frame: tuple[int, int] | None = None
    skipped: list[Any] = []
    for index, batch in _batches(network, images, batch_size, skipped):
        if frame not in (None, tuple(batch.shape[2:])):
            raise BadInput(
                f"images differ in size: {frame} and {tuple(batch.shape[2:])}; "
                "boxes need one frame for all. Give the preprocessing a size."
            )
        frame = (batch.shape[2], batch.shape[3])
        for name, maps in network.forward(batch, names).items():
            strongest = maps.amax(dim=(2, 3)).cpu()
            _check_finite(strongest, index, images, name)
            field = network.receptive_field(name, frame)
            _offer(tables[name], maps, strongest, index, per_image, field, network.rectified(name))
    if frame is None:
        raise BadInput("images: given none that can be read; expected at least one.")
    found = {name: _layer_peaks(table, network.receptive_field(name, frame)) for name, table in tables.items()}
    about = _settings(network, images, names, k, per_image)
    about |= {"frame": list(frame), "unreadable": [list(item) for item in skipped]}
    return Peaks(found, _keys(found, images), about)


def mine_into(
    path: Path,
    network: Network,
    images: Source,
    layers: Iterable[str],
    k: int,
    batch_size: int = 64,
    per_image: int = 1,
) -> Peaks:
    """Peaks saved at `path`: loaded if they are there and made of the same things, else mined and saved.

    Raises RecordMismatch, naming the difference, if what is there was made of anything else; and what `mine` raises.
    """
    names = list(dict.fromkeys(layers))
    if path.exists():
        peaks = Peaks.load(path)
        _check_same(path, peaks.provenance, _settings(network, images, names, k, per_image))
        return peaks
    peaks = mine(network, images, names, k, batch_size, per_image)
    peaks.save(path)
    return peaks


def _check_same(path: Path, found: Any, wanted: Any, name: str = "") -> None:
    """Raise RecordMismatch at the first setting that differs."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key, value in wanted.items():
            _check_same(path, found.get(key), value, f"{name}.{key}" if name else key)
    elif found != wanted:
        raise RecordMismatch(
            f"{path} was made with {name} {found}; this run has {wanted}. "
            "Choose another folder, or delete that file to mine again."
        )


def _batches(
    network: Network, images: Source | Tensor, batch_size: int, skipped: list[Any]
) -> Iterator[tuple[Tensor, Tensor]]:
    """(image ids (n,), preprocessed images (n, 3, H, W)), n up to batch_size."""
    if isinstance(images, Tensor):
        images = network.check_images(images)
        parts = zip(torch.arange(len(images)).split(batch_size), images.split(batch_size), strict=True)
        yield from track(parts, "mining", len(images), size=lambda batch: len(batch[0]))
        return
    preprocessing = network.needed_preprocessing()
    found = batches(images, preprocessing, batch_size, skipped=skipped)
    for index, frames in track(found, "mining", len(images), size=lambda batch: len(batch[0])):
        yield index, preprocessing.normalize(frames)


def _check_finite(strongest: Tensor, index: Tensor, images: Source | Tensor, layer: str) -> None:
    """Raise BadInput for NaN or infinite activations; strongest (N, C), for a maximum is NaN where any place is."""
    bad = strongest.isfinite().all(dim=1).logical_not().nonzero().flatten()
    if len(bad):
        raise BadInput(
            f"image {_key(images, int(index[bad[0]]))!r} gives NaN or infinite activations at {layer!r}; "
            "check the image and the weights."
        )


def _offer(
    table: TopK, maps: Tensor, strongest: Tensor, index: Tensor, per_image: int, field: ReceptiveField, rectified: bool
) -> None:
    """Find positions only for the images that can enter a unit's table."""
    scores, images = strongest.numpy(), index.numpy()
    enters = scores >= table.weakest
    if rectified:
        enters &= scores > 0
    crowded = enters.sum(axis=0) > table.k
    enters[:, crowded] &= _among_best(scores[:, crowded], images, table.k)
    which, channel = enters.nonzero()
    if not len(which):
        return
    chosen = maps[torch.from_numpy(which).to(maps.device), torch.from_numpy(channel).to(maps.device)]
    for score, place in _peaks_of_maps(chosen, per_image, field):
        real = score > (0 if rectified else -np.inf)
        row, col = np.divmod(place[real], maps.shape[3])
        table.offer(channel[real], score[real], images[which[real]], row, col)


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
    shares = []
    for of, axis in ((lambda p: p // width, 0), (lambda p: p % width, 1)):
        moved = (of(every)[None] - of(place)[:, None]).abs() * field.stride[axis]
        shares.append((1 - moved / field.size[axis]).clamp_min(0))
    return shares[0] * shares[1] > 0.5


def _layer_peaks(table: TopK, field: ReceptiveField) -> LayerPeaks:
    score, image, row, col = (torch.from_numpy(part) for part in (table.score, table.image, table.row, table.col))
    y0 = field.start[0] + row * field.stride[0]
    x0 = field.start[1] + col * field.stride[1]
    box = torch.stack([y0, x0, y0 + field.size[0], x0 + field.size[1]], dim=2)
    found = image >= 0
    return LayerPeaks(score.where(found, float("nan")), image, row, col, box.where(found[..., None], -1))


def _keys(found: dict[str, LayerPeaks], images: Source | Tensor) -> dict[int, str]:
    used = {int(i) for peaks in found.values() for i in peaks.image[peaks.found].unique()}
    return {image: _key(images, image) for image in sorted(used)}


def _key(images: Source | Tensor, image: int) -> str:
    return str(image) if isinstance(images, Tensor) else images.keys[image]


def _settings(network: Network, images: Source | Tensor, layers: list[str], k: int, per_image: int) -> dict[str, Any]:
    """Everything that decides the peaks."""
    source = {"name": "tensor"} if isinstance(images, Tensor) else {"name": images.name, "content": images.content_hash}
    return {
        "weights": network.weights_hash,
        "layers": layers,
        "source": source | {"images": len(images)},
        "preprocessing": network.preprocessing.as_dict() if network.preprocessing else None,
        "k": k,
        "per_image": per_image,
        "versions": versions(),
    }
