"""Layer by layer: does a network answer to a picture as to the patch it came from, and do a rule's signals stay apart?

Forward: Geirhos et al. (ICML 2024, arXiv 2306.04719) and Hamblin et al. (2024, arXiv 2402.10039) ask whether a
network processes a feature visualisation as it does photographs, or gets to the same activation by another path.
Backward: Sixt et al. (ICML 2020, arXiv 1912.09818) send random vectors back from a layer; where the signals converge to
one direction, nothing of what lies above can be seen in the picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from deconv.compare.controls import Opened
from deconv.compare.judging import Measurements, Study, differences, intervals
from deconv.compare.peak_set import PeakSet
from deconv.compare.predicting import by_unit
from deconv.compare.reactivation import as_input
from deconv.compare.tasks import unit_after
from deconv.compare.which_image import OTHER_PATCHES
from deconv.projection.by_layer import answers_alike, layers_on_the_way, signals_alike
from deconv.projection.rules import Rule

SECOND_PATCH = "second_patch"
BASELINES = (SECOND_PATCH, OTHER_PATCHES)
"""What photographs themselves come to: the patch of the unit's second strongest peak, and one of another unit."""
FORWARD, WEIGHTED, RANDOM, UNITS = "forward", "forward_weighted", "backward_random", "backward_units"
"""Columns are "forward/conv1", ...: how alike the answers to picture and patch are at each layer; the same, weighted by
what bears on the unit, up to its own layer, where it bears alone; and of a rule how alike, whatever the sign, two
signals are that come back, of two random vectors, and of the unit and another one that fires there."""


@dataclass(frozen=True, eq=False)
class PathStudy(Study):
    """What is followed: the strongest peaks of some units of each layer, by explanations; the rest is as in `Study`.

    peaks: two of each unit, where it fires on two images.
    """

    def provenance(self, layer: str, name: str) -> dict[str, Any]:
        """Return all that decides the record of a layer by an explanation or one of BASELINES."""
        on_the_way = layers_on_the_way(self.network, layer, list(self.units))
        made_of = {"layer": layer, "layers": on_the_way, "units": self.units[layer], "peaks": self.peaks.provenance}
        return self.described(name) | made_of | {"seed": self.seed}

    def measure(self) -> Measurements:
        """Return what is measured, from records that are there, else measured and recorded."""
        return self.kept(BASELINES, partial(_follow_layer, self), "following")


@dataclass(frozen=True, eq=False)
class LayerPaths:
    """What all tasks of one layer share; peaks: of each unit two, the strongest first.  layers: those on the way."""

    peaks: PeakSet
    units: list[int]
    layers: list[str]
    explanations: Mapping[str, Opened]
    names: list[str]


def _follow_layer(study: PathStudy, layer: str, names: list[str]) -> dict[str, dict[str, np.ndarray]]:
    """Return {explanation: columns} of all units of a layer."""
    units, layers = study.units[layer], layers_on_the_way(study.network, layer, list(study.units))
    shared = LayerPaths(study.gather(layer, units, 2), units, layers, study.explanations, names)
    return by_unit(study, follow_units, shared, layer, names, "following")


def follow_units(shared: LayerPaths, units: list[int]) -> Iterator[list[dict[str, dict[str, float]]]]:
    """Yield, for each unit, {explanation: {column: cosine}}."""
    chosen = shared.peaks.subset(torch.isin(shared.peaks.channel, torch.tensor(units)))
    peaks = chosen.subset(chosen.strongest())
    columns = {name: {"unit": peaks.channel.numpy()} for name in shared.names}
    windows, inside = peaks.windows.numpy(), peaks.inside
    plain, *inputs = (
        np.stack([as_input(*row) for row in zip(pictures, windows, inside, strict=True)])
        for pictures in (np.zeros_like(windows), *_pictures(shared, peaks))
    )
    asked = (
        peaks.network, peaks.layer, shared.layers, peaks.positions, _tensor(plain), peaks.windows,
        [_tensor(each) for each in inputs],
    )  # fmt: skip
    for name, plainly, weighted in zip(
        shared.names, answers_alike(*asked), answers_alike(*asked, channel=peaks.channel), strict=True
    ):
        del weighted[peaks.layer]
        columns[name] |= {f"{FORWARD}/{layer}": values.numpy() for layer, values in plainly.items()}
        columns[name] |= {f"{WEIGHTED}/{layer}": values.numpy() for layer, values in weighted.items()}
        explanation = shared.explanations.get(name)
        if isinstance(explanation, Rule):
            columns[name] |= _converging(shared, peaks, explanation)
    yield [
        {name: {column: float(values[n]) for column, values in of.items()} for name, of in columns.items()}
        for n in range(len(peaks.peaks))
    ]


def _pictures(shared: LayerPaths, peaks: PeakSet) -> list[Float[np.ndarray, "N 3 h w"]]:
    """The pictures of the peaks by each name."""
    explained = [name for name in shared.names if name not in BASELINES]
    pictures = dict(zip(explained, peaks.reconstruct_all([shared.explanations[n] for n in explained]), strict=True))
    for name in BASELINES:
        if name in shared.names:
            pictures[name] = np.stack([_patch_beside(shared, unit, name) for unit in peaks.channel.tolist()])
    return [pictures[name] for name in shared.names]


def _patch_beside(shared: LayerPaths, unit: int, name: str) -> Float64[np.ndarray, "3 h w"]:
    """Another patch than the unit's strongest, less its mean colour; all zero where there is none."""
    rank = 1 if name == SECOND_PATCH else 0
    shown = unit if name == SECOND_PATCH else unit_after(shared.units, unit)
    of_unit = shared.peaks.subset(shared.peaks.channel == shown)
    if len(of_unit.peaks) <= rank or (name == OTHER_PATCHES and shown == unit):
        return np.zeros(shared.peaks.windows.shape[1:])
    one = of_unit.subset(torch.tensor([rank]))
    window, inside = one.windows[0].double().numpy(), one.inside[0]
    return (window - window[:, inside].mean(axis=1)[:, None, None]) * inside


def _converging(shared: LayerPaths, peaks: PeakSet, rule: Rule) -> dict[str, np.ndarray]:
    """Return {column: (N,)}: how alike signals of two random vectors, and of two units, are at each layer."""
    random = torch.stack([_random_vectors(peak, peaks.activations.shape[1], peaks.seed) for peak in peaks.keys], dim=1)
    pairs = [(random[0], random[1]), (_alone(peaks), _alone(peaks.others))]
    alike = signals_alike(peaks.network, peaks.layer, shared.layers, peaks.positions, peaks.windows, pairs, rule)
    return {
        f"{start}/{layer}": values.abs().numpy()  # signals that are each other's negative lie on one line too
        for start, of_pair in zip((RANDOM, UNITS), alike, strict=True)
        for layer, values in of_pair.items()
    }


def _random_vectors(peak: tuple[int, ...], units: int, seed: int) -> Float[Tensor, "2 units"]:
    drawn = np.random.default_rng([seed, *b"signals", *peak]).standard_normal((2, units))
    return torch.from_numpy(drawn).float()


def _alone(peaks: PeakSet) -> Float[Tensor, "N units"]:
    """The activation of each peak's unit, all others of its layer zero."""
    activations = torch.from_numpy(peaks.activations)
    alone = torch.zeros_like(activations)
    peak = torch.arange(len(alone))
    alone[peak, peaks.channel] = activations[peak, peaks.channel]
    return alone


def _tensor(pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(pictures.astype(np.float32))


def summarise(study: PathStudy, measured: Measurements) -> dict[str, Any]:
    """Return means over units with 95 % intervals, by layer, and how far the tested explanation is ahead, forward.

    "layers_tested_minus" is the mean of the units' differences, which are paired.
    """
    names = [*study.explanations, *BASELINES]
    return {
        "layers": {layer: {n: intervals(c, study.seed) for n, c in of.items()} for layer, of in measured.items()},
        "tested": names[0],
        "layers_tested_minus": {
            layer: differences(of, names, study.seed, [n for n in of[names[0]] if n.startswith(FORWARD)])
            for layer, of in measured.items()
        },
        "rules": study.options(),
        "units": study.units,
        "provenance": study.peaks.provenance,
    }
