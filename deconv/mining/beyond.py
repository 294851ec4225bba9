"""Beyond the top: the peaks of units in images that were drawn of weaker activations, down to the weakest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from deconv.defaults import plain_defaults
from deconv.errors import BadInput, check_count, check_indices
from deconv.images import MapDataset, Source, check_images
from deconv.images.batches import whole_batches
from deconv.mining.partials import layer_peaks
from deconv.mining.topk import TopK
from deconv.network import Network
from deconv.progress import track
from deconv.records import Firing, LayerPeaks, Peaks
from deconv.records.firing import DRAWN, QUANTILES


@plain_defaults()
def peaks_beyond(
    network: Network,
    images: Source | MapDataset | Tensor,
    peaks: Peaks,
    units: Mapping[str, Iterable[int]] | None = None,
    batch_size: int = 64,
) -> dict[str, LayerPeaks]:
    """Return by layer the peaks in the images that were drawn at the quantiles of how units fire.

    Those of a unit stand in the order of `peaks.firing[layer].steps(unit)`, of a step strongest first; the rest is -1.
    Their positions are computed anew, in one pass over these images.

    - peaks: with `firing`; images: those that they were mined from, or the part that holds the drawn ones.
    - units: by layer those that are looked at, by default all; others have no peak.

    Raises BadInput for peaks that were mined without `firing`, for a unit that the layer does not have, and if an image
    can no longer be read; UnknownName for a layer that these peaks lack.

    >>> import deconv
    >>> module = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1, bias=False), torch.nn.ReLU())
    >>> _ = torch.nn.init.ones_(module[0].weight)
    >>> network = deconv.Network(module, (1, 1, 2))
    >>> images = torch.tensor([[0, 1], [2, 0], [0, 3], [0, 0.5]]).view(4, 1, 1, 2)
    >>> peaks = deconv.mine(network, images, ["1"], k=1, firing=True)
    >>> beyond = peaks_beyond(network, images, peaks)["1"]
    >>> [step.name for step in peaks.firing["1"].steps(0)]
    ['99 % and 90 %', 'median', 'weakest']
    >>> beyond.score[0, :3].tolist(), beyond.image[0, :4].tolist(), beyond.col[0, :3].tolist()
    ([3.0, 1.0, 0.5], [2, 0, 3, -1], [1, 1, 1])
    """
    images, batch_size = check_images(images, network.input_shape[0]), check_count("batch_size", batch_size)
    if peaks.firing is None:
        raise BadInput("these peaks were mined without firing=True; expected peaks that say how units fire: mine again")
    chosen = {layer: range(len(peaks[layer].score)) for layer in peaks} if units is None else units
    firing = {layer: peaks.firing[layer] for layer in peaks if layer in chosen}
    for layer in chosen:
        check_indices("units", chosen[layer], len(peaks[layer].score), "units")
    drawn = {layer: _drawn(firing[layer], chosen[layer]) for layer in firing}
    tables = {layer: TopK(*image.shape) for layer, image in drawn.items()}
    image_ids = np.unique(np.concatenate([image[image >= 0] for image in drawn.values()]))
    for batch_ids, batch in _batches(network, images, image_ids, batch_size):
        for layer, maps, _ in network.forward_with_maxima(batch, drawn):
            _locate(tables[layer], maps, batch_ids, drawn[layer])
            del maps  # its memory is free before the next layer is computed
    height, width = peaks.provenance["input_size"]
    fields = {layer: network.receptive_field(layer, (height, width)) for layer in drawn}
    return {layer: layer_peaks(_in_order(tables[layer], firing[layer]), fields[layer]) for layer in drawn}


def drawn_images(firing: Mapping[str, Firing]) -> list[int]:
    """Return the ids of the images that were drawn at the quantiles of how units fire, ascending.

    >>> import deconv
    >>> images = torch.tensor([3.0, 1.0, 0.0]).view(3, 1, 1, 1)
    >>> network = deconv.Network(torch.nn.Sequential(torch.nn.ReLU()), (1, 1, 1))
    >>> drawn_images(deconv.mine(network, images, ["0"], firing=True).firing)
    [0, 1]
    """
    drawn = [_drawn(of_layer, range(len(of_layer.counts))) for of_layer in firing.values()]
    image_ids: list[int] = np.unique(np.concatenate([image[image >= 0] for image in drawn])).tolist()
    return image_ids


def _drawn(firing: Firing, units: Iterable[int]) -> Int64[np.ndarray, "units n"]:
    """Return the images that were drawn of each of these units, step by step; -1 for what is left over."""
    image = np.full((len(firing.counts), len(QUANTILES) * DRAWN), -1)
    for unit in units:
        image_ids = [image_id for step in firing.steps(unit) for image_id in step.drawn]
        image[unit, : len(image_ids)] = image_ids
    return image


def _batches(
    network: Network, images: Source | Tensor, image_ids: np.ndarray, batch_size: int
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yield (image ids (n,), preprocessed images (n, C, H, W)) of images that must all be there."""
    if isinstance(images, Tensor):
        for start in range(0, len(image_ids), batch_size):
            batch_ids = image_ids[start : start + batch_size]
            yield batch_ids, images[torch.from_numpy(batch_ids)]
        return
    preprocessing = network.needed_preprocessing()
    decoded = whole_batches(images, preprocessing, batch_size, image_ids.tolist())
    for ids, input_images in track(decoded, "looking beyond the top", len(image_ids), size=lambda batch: len(batch[0])):
        yield ids.numpy(), preprocessing.normalize(input_images)


def _locate(table: TopK, maps: Tensor, batch_ids: np.ndarray, drawn: np.ndarray) -> None:
    """Write the strongest position of each unit into its places that hold an image of this batch; ids ascend."""
    unit, place = np.nonzero(np.isin(drawn, batch_ids))
    which = np.searchsorted(batch_ids, drawn[unit, place])
    chosen = maps[torch.from_numpy(which).to(maps.device), torch.from_numpy(unit).to(maps.device)].flatten(1)
    position = chosen.argmax(dim=1)  # of equal values the first, as in mining
    table.score[unit, place] = chosen.gather(1, position[:, None])[:, 0].float().cpu().numpy()
    table.image[unit, place] = batch_ids[which]
    table.row[unit, place], table.col[unit, place] = np.divmod(position.cpu().numpy(), maps.shape[3])


def _in_order(table: TopK, firing: Firing) -> TopK:
    """Return the table with the images of each step strongest first."""
    for unit in np.flatnonzero(table.image[:, 0] >= 0).tolist():
        lengths = [len(step.drawn) for step in firing.steps(unit)]
        step = np.repeat(np.arange(len(lengths)), lengths)
        order = np.lexsort((table.image[unit, : len(step)], -table.score[unit, : len(step)], step))
        for column in (table.score, table.image, table.row, table.col):
            column[unit, : len(step)] = column[unit, order]
    return table
