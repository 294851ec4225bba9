"""Units of two networks matched by how their activations over the same images correlate.

Li et al. 2016 (Convergent Learning, arXiv 1511.07543, section 3): which unit of one network does what which unit of
another does. An image counts by a unit's strongest activation on it, which is what mining ranks by, so that maps of any
two sizes can be compared. Memory is bounded by the units: their pairs, and a sample of at most SAMPLE images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from deconv.engines import Engine
from deconv.engines.local import Local
from deconv.errors import BadInput
from deconv.images import Source
from deconv.mining.correlating import LayerPair, correlate
from deconv.mining.moments import DIGITS, SHUFFLES, against_chance
from deconv.network import Network
from deconv.progress import track
from deconv.records.formats import Columns, load_tensors, reading, save_tensors
from deconv.records.provenance import build, check_same

SAMPLE = 4096
"""Images, evenly spaced, at most, that correlations are compared with chance on."""
KIND = "matches"
AXES = {
    "correlation": (torch.float32, "C D"),
    "match": (torch.int64, "C"),
    "sampled": (torch.float32, "C"),
    "chance": (torch.float32, "C"),
}


def match_units(correlation: Float[np.ndarray, "C D"]) -> Int64[np.ndarray, " C"]:
    """Return for each unit the other unit that it is matched with, one to one, the sum of correlations being largest.

    -1 stands for a unit without one: its correlations are nan, or there are fewer others. The assignment is
    scipy.optimize.linear_sum_assignment.

    >>> match_units(np.array([[0.9, 0.8], [0.8, 0.1], [np.nan, np.nan]])).tolist()
    [1, 0, -1]
    """
    rows, cols = _varying(correlation)
    match = np.full(len(correlation), -1, dtype=np.int64)
    matched, others = linear_sum_assignment(correlation[np.ix_(rows, cols)], maximize=True)
    match[rows[matched]] = cols[others]
    return match


def _varying(correlation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the units and of the others that have correlations."""
    known = ~np.isnan(correlation)
    return np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))


@dataclass(frozen=True, eq=False)
class Matches:
    """How the C units of a layer correlate with the D of another network's layer, and which is matched with which.

    - correlation: over all images; nan for units that are the same on all.
    - match: as `match_units` gives it.  sampled, chance: as `against_chance` does.
    - same_place: whether unit n of one is unit n of the other: two sets of weights of one network.
    """

    layers: LayerPair
    correlation: Float[np.ndarray, "C D"]
    match: Int64[np.ndarray, " C"]
    sampled: Float[np.ndarray, " C"]
    chance: Float[np.ndarray, " C"]
    same_place: bool

    @property
    def name(self) -> str:
        """The layer's name, or both where they differ."""
        return "-".join(dict.fromkeys(self.layers))

    @property
    def best(self) -> Int64[np.ndarray, " C"]:
        """The other unit that each correlates with most, whichever others do too; -1 where it has no correlations."""
        return _best(self.correlation)

    @property
    def matched(self) -> Int64[np.ndarray, " M"]:
        """The units that have a match, the best match first."""
        units = np.flatnonzero(self.match >= 0)
        return units[np.argsort(-self.with_match[units], kind="stable")]

    @property
    def with_match(self) -> Float[np.ndarray, " C"]:
        """Each unit's correlation with its match, nan without one."""
        return _at(self.correlation, self.match)

    @property
    def mutual(self) -> Bool[np.ndarray, " C"]:
        """Whether a unit and its match are each other's best."""
        back = _best(self.correlation.T)[self.match]
        return (self.match >= 0) & (self.best == self.match) & (back == np.arange(len(self.match)))

    @property
    def above_chance(self) -> Bool[np.ndarray, " C"]:
        """Whether a unit correlates with its match more than with any unit by chance."""
        return np.nan_to_num(self.sampled, nan=-np.inf) > self.chance

    def columns(self) -> Columns:
        """Return a table of all units: columns of one length, nan and -1 for what is not there."""
        table = {
            "unit": np.arange(len(self.match)),
            "match": self.match,
            "correlation": self.with_match,
            "mutual": self.mutual,
            "best": self.best,
            "best_correlation": _at(self.correlation, self.best),
            "sampled_correlation": self.sampled,
            "chance": self.chance,
        }
        return table | ({"own_correlation": np.diag(self.correlation)} if self.same_place else {})

    def summarise(self) -> dict[str, Any]:
        """Return the layer's numbers; shares are of the units that have a match, pair_correlation is of all pairs."""
        matched, (rows, cols) = self.matched, _varying(self.correlation)
        numbers = {
            "layer": self.layers[0],
            "other_layer": self.layers[1],
            "units": len(self.match),
            "other_units": self.correlation.shape[1],
            "constant": len(self.match) - len(rows),
            "other_constant": self.correlation.shape[1] - len(cols),
            "matched": len(matched),
            **_middle("correlation", self.with_match[matched]),
            **_middle("best_correlation", _at(self.correlation, self.best)[rows]),
            **_middle("pair_correlation", self.correlation[np.ix_(rows, cols)].ravel()),
            **_middle("chance", self.chance[rows]),
            "mutual": _share(self.mutual[matched]),
            "above_chance": _share(self.above_chance[matched]),
        }
        if self.same_place:
            own = np.diag(self.correlation)
            numbers["itself"] = _share(self.match[matched] == matched)
            numbers |= _middle("own_correlation", own[~np.isnan(own)])
        return numbers


def _best(correlation: np.ndarray) -> np.ndarray:
    best = np.where(np.isnan(correlation), -np.inf, correlation).argmax(axis=1)
    return np.where(np.isnan(correlation).all(axis=1), -1, best)


def _at(correlation: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Each unit's correlation with one of the others, nan for -1."""
    return np.where(others < 0, np.nan, correlation[np.arange(len(others)), others])


def _middle(name: str, values: np.ndarray) -> dict[str, float | None]:
    """A mean and a median; None of nothing."""
    mean, median = (values.mean(dtype=np.float64), np.median(values)) if len(values) else (None, None)
    return {
        f"{of}_{name}": None if value is None else round(float(value), DIGITS)
        for of, value in (("mean", mean), ("median", median))
    }


def _share(flags: np.ndarray) -> float | None:
    return round(float(flags.mean()), DIGITS) if len(flags) else None


def spread_pairs(matches: Matches, count: int) -> list[tuple[int, int]]:
    """Return (unit, its match) of evenly spaced ranks, the best match first and the worst last.

    >>> correlation = np.diag([0.9, 0.5, 0.7, 0.1])
    >>> matches = Matches(("a", "a"), correlation, match_units(correlation), np.zeros(4), np.zeros(4), True)
    >>> spread_pairs(matches, 3)
    [(0, 0), (2, 2), (3, 3)]
    """
    ranks = np.linspace(0, len(matches.matched) - 1, min(count, len(matches.matched))).astype(np.int64)
    return [(int(unit), int(matches.match[unit])) for unit in matches.matched[ranks]]


def is_same_network(network: Network, other: Network) -> bool:
    """Return whether two networks have the same tensors, by name and shape: whether only their values may differ."""
    first, second = (
        {name: tensor.shape for name, tensor in each.module.state_dict().items()} for each in (network, other)
    )
    return first == second


def match_networks(
    networks: tuple[Network, Network],
    images: tuple[Source, Source],
    pairs: Sequence[LayerPair],
    files: Mapping[LayerPair, Path],
    batch_size: int,
    seed: int,
    engine: Engine | None = None,
) -> dict[LayerPair, Matches]:
    """Return how the units of each pair of layers match, from records that are there, else in one pass over the images.

    images: the same ones, as a source for each network.  files: where each pair is kept, or taken up from.
    engine: where images are looked at, by default here. Raises RecordMismatch for a record of something else; BadInput
    for a layer of which no unit changes from image to image, and for images of which more than half cannot be read.
    """
    network, other = networks
    parts = network.provenance(), images[0].provenance()
    settings = {"other": other.provenance(), "sample": SAMPLE, "shuffles": SHUFFLES, "seed": seed}
    provenances = {pair: build(*parts, **settings, layer=pair[0], other_layer=pair[1]) for pair in pairs}
    kept = {pair: _load(files[pair], provenances[pair]) for pair in pairs if files[pair].exists()}
    missing = [pair for pair in pairs if pair not in kept]
    for pair, tensors in _matched(networks, images, missing, batch_size, seed, engine or Local()) if missing else ():
        save_tensors(files[pair], KIND, tensors, AXES, provenances[pair], checked=True)
        kept[pair] = tensors
    is_same = is_same_network(network, other)
    return {
        pair: Matches(
            pair,
            **{name: tensor.numpy() for name, tensor in kept[pair].items()},
            same_place=is_same and network.node(pair[0]) == other.node(pair[1]),
        )
        for pair in pairs
    }


def _load(path: Path, provenance: Mapping[str, Any]) -> dict[str, Tensor]:
    with reading(path):
        tensors, saved = load_tensors(path, KIND, AXES)
    check_same(path, saved, provenance, "Choose another folder, or delete that file to match again.")
    return tensors


def _matched(
    networks: tuple[Network, Network],
    images: tuple[Source, Source],
    pairs: Sequence[LayerPair],
    batch_size: int,
    seed: int,
    engine: Engine,
) -> Iterator[tuple[LayerPair, dict[str, Tensor]]]:
    """Each pair of layers with what is kept of it."""
    counted = correlate(networks, images, pairs, SAMPLE, batch_size, engine)
    for (layer, other_layer), total in track(counted.moments.items(), "matching layers", len(pairs), unit="layers"):
        correlation = total.correlation()
        if np.isnan(correlation).all():
            raise BadInput(
                f"layers {layer} and {other_layer}: given {total.images} images, on which no unit of one of them "
                "changes; expected units that do: give more images, or leave the layer out"
            )
        match = match_units(correlation)
        with_match, chance = against_chance(counted.sampled[0][layer], counted.sampled[1][other_layer], match, seed)
        arrays = {"correlation": correlation, "match": match, "sampled": with_match, "chance": chance}
        yield (
            (layer, other_layer),
            {name: torch.from_numpy(np.ascontiguousarray(values)).to(AXES[name][0]) for name, values in arrays.items()},
        )
