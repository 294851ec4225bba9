"""What an experiment does once it has mined, counted from its options before it begins: for `deconv --dry-run`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from deconv.command.shared import WithUnits
from deconv.explanations.functions import Explanation
from deconv.images import Source, StreamedSource
from deconv.network import Network
from deconv.projection.rules import Rule


@dataclass(frozen=True)
class Projections:
    """So many reconstructions of peaks of a layer, at most, by a rule or a function."""

    layer: str
    by: Rule | Explanation
    count: int


@dataclass(frozen=True)
class Ahead:
    """All that comes after mining, at most: fewer units may fire, and on fewer images.

    - projections: the reconstructions. kept: whether they are kept, each with its patch.
    - passes: images, or patches, that the network answers to beside these; the time of an image is that of mining it.
    - notes: what else is to be told, lines of a name and a text.
    """

    projections: Sequence[Projections]
    kept: bool = False
    passes: int = 0
    notes: Sequence[tuple[str, str]] = ()


def projections(counts: Mapping[str, int], explanations: Iterable[Rule | Explanation | None]) -> list[Projections]:
    """Return so many reconstructions of each layer by each explanation; None stands for one that asks no network.

    >>> [(each.layer, each.by.name, each.count) for each in projections({"conv1": 6}, [Rule(), None])]
    [('conv1', 'deconvnet', 6)]
    """
    explained = [each for each in explanations if each is not None]
    return [Projections(layer, each, count) for layer, count in counts.items() for each in explained]


def units_shown(options: WithUnits, network: Network, layer: str) -> int:
    """Return how many units of a layer are looked at, if all that were chosen fire."""
    chosen = options.n_units if options.units is None else len(options.units)
    return min(chosen, network.channels(layer))


def count_images(images: Source) -> int:
    """Return how many images there are; of streamed shards, if all have as many as the first."""
    if isinstance(images, StreamedSource):
        return len(images.shards.numbers) * len(images.shards.sample())
    return len(images)
