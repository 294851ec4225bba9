"""Some units of one layer measured by every rule, as one task of an engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deconv.compare.grouping import thumbnails
from deconv.compare.measuring import group, measure
from deconv.compare.scene import Scene
from deconv.network import Network
from deconv.projection.rules import Rule
from deconv.records import LayerPeaks
from deconv.records.formats import Columns

PATCHES = "patches"
"""Stands among the rules where patches themselves are grouped."""


@dataclass(frozen=True, eq=False)
class Contest:
    """What all tasks of one layer share.

    random: the network with its weights shuffled.  input_images (M, 3, H, W) uint8: the photographs that hold the
    peaks of
    all units that are measured, numbered by `numbers` (M,), rising.  names: which of `rules`, or PATCHES, to measure.
    """

    network: Network
    random: Network
    layer: str
    peaks: LayerPeaks
    input_images: Tensor
    numbers: Tensor
    rules: Mapping[str, str | Rule]
    names: Sequence[str]
    seed: int


@dataclass(frozen=True, eq=False)
class Measured:
    """Of some units, by rule: columns (U,), and thumbnails (N, s, s) of all their peaks, which are of `unit` (N,)."""

    units: list[int]
    unit: np.ndarray
    columns: dict[str, Columns]
    small: dict[str, np.ndarray]


def measure_units(contest: Contest, units: list[int]) -> Iterator[Measured]:
    """Measure the strongest peak of each unit by every rule, and shrink the reconstructions of all its peaks."""
    peaks = torch.stack(contest.peaks.of(units), dim=1)
    seen = contest.input_images, contest.numbers, peaks
    scene = Scene(contest.network, contest.layer, *seen, random=contest.random, seed=contest.seed)
    first = torch.cat([torch.ones(1), scene.channel.diff()]) != 0  # each unit's strongest peak
    best, strongest = scene.subset(first), contest.peaks.score[:, 0].numpy()
    names = [name for name in contest.names if name != PATCHES]
    rules = [contest.rules[name] for name in names]
    pictures = dict(zip(names, scene.reconstruct_all(rules), strict=True))
    elsewhere = dict(zip(names, best.others.reconstruct_all(rules), strict=True))
    columns = {name: measure(best, pictures[name][first.numpy()], elsewhere[name], strongest) for name in names}
    if PATCHES in contest.names:
        pictures[PATCHES] = scene.patches
    small = {name: thumbnails(shown) for name, shown in pictures.items()}
    yield Measured(units, scene.channel.numpy(), columns, small)


def joined(parts: Sequence[Measured], names: Sequence[str]) -> dict[str, Columns]:
    """{rule: columns (U,) of all units of a layer}, of parts in any order; what only a whole layer tells among them."""
    ordered = sorted(parts, key=lambda part: part.units)
    units = np.array([unit for part in ordered for unit in part.units])
    unit = np.concatenate([part.unit for part in ordered])
    found = {}
    for name in names:
        measured = [part.columns.get(name, {}) for part in ordered]
        columns = {key: np.concatenate([columns[key] for columns in measured]) for key in measured[0]}
        found[name] = {"unit": units} | columns | group(np.concatenate([part.small[name] for part in ordered]), unit)
    return found
