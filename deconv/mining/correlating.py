"""How strongly the units of two networks fire on the same images, counted in one pass by an engine.

Sums grow with pairs of units, not with images. What a shard counted is added in the order of the shards, so that one
process and many give the same bytes; other shards may move the sixth decimal of a correlation, the last that is kept.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from deconv.engines import Engine
from deconv.errors import BadInput
from deconv.images import Source
from deconv.images.batches import Unreadable, batches
from deconv.mining.moments import Moments
from deconv.mining.streaming import Shard, Step, in_order, pass_over
from deconv.network import Network

LayerPair = tuple[str, str]
"""A layer of the network, and the layer of the other that its units are matched with."""


@dataclass(frozen=True, eq=False)
class Matching:
    """What is counted over images: pairs of layers of two networks; sample: the images that chance is measured on."""

    networks: tuple[Network, Network]
    pairs: Sequence[LayerPair]
    sample: frozenset[int]
    batch_size: int

    @property
    def layers(self) -> tuple[list[str], list[str]]:
        """The layers of each network, each once."""
        first, second = (list(dict.fromkeys(pair[n] for pair in self.pairs)) for n in range(2))
        return first, second

    def nothing(self) -> tuple[dict[LayerPair, Moments], list[dict[str, list[np.ndarray]]]]:
        """Return where counting begins: moments by pair, and by layer of each network the maxima, batch by batch."""
        first, second = self.networks
        moments = {(a, b): Moments(first.channels(a), second.channels(b)) for a, b in self.pairs}
        return moments, [{layer: [] for layer in layers} for layers in self.layers]


@dataclass(frozen=True, eq=False)
class Counted:
    """What some images gave: moments by pair, and by layer of each network the maxima on those of the sample."""

    moments: dict[LayerPair, Moments]
    sampled: tuple[dict[str, Float32[np.ndarray, "n _C"]], dict[str, Float32[np.ndarray, "n _C"]]]


def correlate(
    networks: tuple[Network, Network],
    images: tuple[Source, Source],
    pairs: Sequence[LayerPair],
    sample: int,
    batch_size: int,
    engine: Engine,
) -> Counted:
    """Return the moments of each pair of layers over all images, and the maxima on about `sample` evenly spaced ones.

    images: the same ones, as a source for each network. Raises BadInput for images of which more than half cannot be
    read.
    """
    image_ids = list(images[0].ids)
    matching = Matching(networks, pairs, frozenset(image_ids[:: -(-len(image_ids) // sample)]), batch_size)
    total, sampled = matching.nothing()
    for counted in in_order(pass_over(engine, count_shard, matching, images, batch_size, "matching")):
        for pair, moments in total.items():
            moments.merge(copy.deepcopy(counted.moments[pair]))  # which may be written to, as an engine's may not
        for samples, of_shard in zip(sampled, counted.sampled, strict=True):
            for layer, values in of_shard.items():
                samples[layer].append(values)
    first, second = ({layer: np.concatenate(values) for layer, values in of.items()} for of in sampled)
    return Counted(total, (first, second))


def count_shard(matching: Matching, shard: Shard) -> Iterator[Step[Counted]]:
    """Count the images of a shard; yield after each batch, and once more with what they gave."""
    networks = matching.networks
    moments, sampled = matching.nothing()
    skipped: list[Unreadable] = []
    seen = 0
    for ids, inputs in _inputs(networks, shard, matching.batch_size, skipped):
        maxima = tuple(
            {layer: values.float().cpu().numpy() for layer, _, values in each.forward_with_maxima(batch, layers)}
            for each, batch, layers in zip(networks, inputs, matching.layers, strict=True)
        )
        for (layer, other_layer), total in moments.items():
            total.see(maxima[0][layer], maxima[1][other_layer])
        kept = [n for n, image_id in enumerate(ids) if image_id in matching.sample]
        for samples, of_batch in zip(sampled, maxima, strict=True):
            for layer, values in of_batch.items():
                samples[layer].append(values[kept])
        seen += len(ids)
        yield Step(shard.number, seen)
    first, second = (
        {
            layer: np.concatenate([np.empty((0, network.channels(layer)), np.float32), *values])
            for layer, values in samples.items()
        }
        for network, samples in zip(networks, sampled, strict=True)
    )
    yield Step(shard.number, len(shard.image_ids), Counted(moments, (first, second)), tuple(skipped))


def _inputs(
    networks: tuple[Network, Network], shard: Shard, batch_size: int, skipped: list[Unreadable]
) -> Iterator[tuple[list[int], tuple[Tensor, Tensor]]]:
    """(ids of images, what each network takes of them), batch by batch; each image is decoded once if that serves."""
    first, second = (network.needed_preprocessing() for network in networks)
    images, other_images = shard.sources
    most = len(shard.image_ids)
    decoded = batches(images, first, batch_size, shard.image_ids, skipped, most)
    if first == second:
        for ids, pixels in decoded:
            normalized = first.normalize(pixels)
            yield ids.tolist(), (normalized, normalized)
        return
    both = zip(decoded, batches(other_images, second, batch_size, shard.image_ids, None, most), strict=True)
    for (ids, pixels), (other_ids, other_pixels) in both:
        if not torch.equal(ids, other_ids):
            raise BadInput("the images changed while they were read; expected the same ones for both: start again")
        yield ids.tolist(), (first.normalize(pixels), second.normalize(other_pixels))
