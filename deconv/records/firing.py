"""How the units of a layer fire over all images: counts, some images of every strength, and who fires alike.

An image counts by its strongest activation of the unit. Bins are sixteen equal parts of each of the eight powers of two
that end above the unit's strongest activation: counts of whole numbers, which add up exactly in any order, though the
strongest activation is known only at the end, because what is weaker than all bins is in the first one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from deconv.errors import check_indices
from deconv.records.by_class import CLASS_AXES, ByClass, joined_by_class, split_by_class
from deconv.records.formats import Axes

PARTS = 16
"""Bins of a power of two, and the width of all bins of the highest one is 1 / PARTS of where it begins."""
OCTAVES = 8
"""Powers of two, down from the one that the unit's strongest activation lies in."""
BINS = PARTS * OCTAVES
STEPS = BINS // 4
"""Ranges, of four bins each, that images are drawn from: a quarter of a power of two."""
DRAWN = 4
"""Images that are drawn of each step."""
CORRELATED = 4096
"""Images over which units are correlated, those with the largest lots: all where there are no more, 16 KB a unit."""
ALIKE = 6
"""Units that are named as the most alike, at most."""
QUANTILES = {"99 %": 0.99, "90 %": 0.9, "median": 0.5, "weakest": 0.0}
"""What stands below the strongest images: shares of the images that fire the unit that are no stronger."""
FIRING_AXES: Axes = {
    "counts": (torch.int64, f"U {BINS}"),
    "octave": (torch.int64, "U"),
    "drawn": (torch.int64, f"U {STEPS} {DRAWN}"),
    "alike": (torch.int64, f"U {ALIKE}"),
    "correlation": (torch.float32, f"U {ALIKE}"),
}


@dataclass(frozen=True)
class FiringStep:
    """Images that fire a unit about as strongly as at a quantile.

    - name: of the quantile, or of several that lie in one step.
    - low, high: the activations that the step lies between, high excluded.
    - images: how many lie there.  drawn: the ids of those that were drawn.
    """

    name: str
    low: float
    high: float
    images: int
    drawn: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Firing:
    """How the units of a layer fire over `images` images; an image counts by its strongest activation of the unit.

    - counts: the number of images in each bin; images that do not fire the unit are in none.
    - octave: the power of two, by its exponent, that the unit's strongest activation lies in; 0 for a dead unit.
    - drawn: the ids of images drawn at random from each step of four bins, by a lot that hangs on the image's key
      alone; -1 where there are fewer.
    - alike: the units whose strongest activations correlate most with the unit's own over the images, or over 4,096 of
      them that were drawn; -1 where there are fewer.  correlation: Pearson's with each of those, nan without one.
    - by_class: how strongly they fire on the images of each class, where the source knows labels.

    >>> import deconv
    >>> module = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1, bias=False), torch.nn.ReLU())
    >>> _ = torch.nn.init.ones_(module[0].weight)
    >>> network = deconv.Network(module, (1, 1, 1))
    >>> images = torch.tensor([1.0, 2.0, 3.0, 3.1, 0.0]).view(5, 1, 1, 1)
    >>> firing = deconv.mine(network, images, ["1"], firing=True).firing["1"]
    >>> firing.fires_on(0), firing.images
    (4, 5)
    >>> counts, width = firing.histogram(0)
    >>> [(step * width, count) for step, count in enumerate(counts) if count]
    [(1.0, 1), (2.0, 1), (3.0, 2)]
    >>> median = firing.steps(0)[1]
    >>> median.name, median.low, median.high, median.drawn
    ('median', 2.0, 2.5, (1,))
    """

    images: int
    counts: Int64[Tensor, "units bins"]
    octave: Int64[Tensor, " units"]
    drawn: Int64[Tensor, "units steps m"]
    alike: Int64[Tensor, "units most"]
    correlation: Float32[Tensor, "units most"]
    by_class: ByClass | None = field(default=None, kw_only=True)

    def __repr__(self) -> str:
        return f"<Firing: {len(self.counts)} units over {self.images} images>"

    def fires_on(self, unit: int) -> int:
        """Return the number of images with an activation above zero."""
        return int(self.counts[self._checked(unit)].sum())

    @cached_property
    def sparsity(self) -> list[float | None]:
        """0 for a unit that fires alike on all images, 1 for one that fires on a single image; None for a dead unit.

        Source: Vinje and Gallant 2000 (doi 10.1126/science.287.5456.1273), after Treves and Rolls. Each image counts as
        the middle of its bin, which is off by 3 % of its activation at most.
        """
        edges = np.stack([bin_edges(octave) for octave in self.octave.tolist()])
        middles, counts = (edges[:, :-1] + edges[:, 1:]) / 2, self.counts.numpy()
        total, squares, n = (counts * middles).sum(axis=1), (counts * middles**2).sum(axis=1), self.images
        return [
            round(float((1 - t * t / (n * s)) / (1 - 1 / n)), 4) if s > 0 and n > 1 else None
            for t, s in zip(total, squares, strict=True)
        ]

    def most_alike(self, unit: int) -> list[tuple[int, float]]:
        """Return (unit, correlation) of those that fire most alike, most first."""
        unit = self._checked(unit)
        pairs = zip(self.alike[unit].tolist(), self.correlation[unit].tolist(), strict=True)
        return [(other, value) for other, value in pairs if other >= 0]

    def histogram(self, unit: int) -> tuple[list[int], float]:
        """Return (counts, width): of equal steps from zero to the one that the unit's strongest activation lies in.

        There are 17 to 32 of them, exact: borders of bins are borders of steps. A dead unit has none.
        """
        counts = self.counts[self._checked(unit)]
        octave, part = np.divmod(np.arange(BINS), PARTS)
        step = (PARTS + part) >> (OCTAVES - 1 - octave)
        steps = np.bincount(step, weights=counts.numpy(), minlength=2 * PARTS).astype(np.int64)
        last = int(np.flatnonzero(steps)[-1]) if steps.any() else -1
        return steps[: last + 1].tolist(), 2.0 ** int(self.octave[unit]) / PARTS

    def steps(self, unit: int, quantiles: Mapping[str, float] = QUANTILES) -> list[FiringStep]:
        """Return the steps that quantiles of the images that fire the unit lie in, from strong to weak, each once.

        quantiles: {name: share of these images that are no stronger}.
        """
        counts = self.counts[self._checked(unit)].tolist()
        if not any(counts):
            return []
        reached = list(accumulate(counts))
        edges = bin_edges(int(self.octave[unit]))
        names: dict[int, list[str]] = {}
        for name, share in quantiles.items():
            rank = max(int(np.ceil(share * reached[-1])), 1)
            names.setdefault(next(n for n, count in enumerate(reached) if count >= rank) // 4, []).append(name)
        return [
            FiringStep(
                " and ".join(names[step]),
                float(edges[4 * step]),
                float(edges[4 * step + 4]),
                sum(counts[4 * step : 4 * step + 4]),
                tuple(image for image in self.drawn[unit, step].tolist() if image >= 0),
            )
            for step in sorted(names, reverse=True)
        ]

    def _checked(self, unit: int) -> int:
        (checked,) = check_indices("unit", [unit], len(self.counts), "units")
        return checked

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by the names of FIRING_AXES."""
        return {name: getattr(self, name) for name in FIRING_AXES}


def bin_edges(octave: int) -> np.ndarray:
    """Return where the bins of a unit begin and the last one ends (BINS + 1), its strongest being in that power of two.

    >>> bin_edges(1)[[0, 1, 16, 112, 113, 128]].tolist()
    [0.0, 0.0166015625, 0.03125, 2.0, 2.125, 4.0]
    """
    exponents, parts = np.divmod(np.arange(BINS + 1), PARTS)
    edges: np.ndarray = np.ldexp(1 + parts / PARTS, exponents + octave - OCTAVES + 1)
    edges[0] = 0
    return edges


def firing_axes(tensors: Mapping[str, Tensor]) -> Axes:
    """Return those axes of a file of peaks that are of how units fire: none, without or with classes."""
    return {**(FIRING_AXES if "counts" in tensors else {}), **(CLASS_AXES if "class_mean" in tensors else {})}


def joined_firing(layers: Sequence[Firing]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of all layers' units, one after the other, and what is said beside them, the same for all."""
    tensors = [firing.tensors() for firing in layers]
    joined = {name: torch.cat([each[name] for each in tensors]) for name in FIRING_AXES}
    said: dict[str, Any] = {"images": layers[0].images}
    by_class = [firing.by_class for firing in layers if firing.by_class is not None]
    if by_class:
        of_classes, names = joined_by_class(by_class)
        joined, said = joined | of_classes, said | names
    return joined, said


def split_firing(
    tensors: Mapping[str, Tensor], said: Mapping[str, Any], units: Mapping[str, int]
) -> dict[str, Firing] | None:
    """Return what `joined_firing` joined, by layer, None of no tensors; units: how many each has.

    Raises ValueError for those of other layers.
    """
    if not tensors:
        return None
    counts = list(units.values())
    if sum(counts) != len(tensors["octave"]):
        raise ValueError(f"it counts {len(tensors['octave'])} units; expected {sum(counts)}")
    columns = [tensors[name].split(counts) for name in FIRING_AXES]
    by_class = list(split_by_class(tensors, said, counts)) if "class_mean" in tensors else [None] * len(counts)
    layers = zip(units, zip(*columns, strict=True), by_class, strict=True)
    return {layer: Firing(int(said["images"]), *each, by_class=classes) for layer, each, classes in layers}
