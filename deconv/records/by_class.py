"""How strongly the units of a layer fire on the images of each class, and how selective that makes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from deconv.errors import check_indices
from deconv.records.formats import Axes

CLASS_AXES: Axes = {
    "class_number": (torch.int64, "K"),
    "class_images": (torch.int64, "K"),
    "class_mean": (torch.float32, "U K"),
    "chance": (torch.float32, "U"),
}
DIGITS = 4
"""Decimals of an index that are kept."""


@dataclass(frozen=True)
class Classes:
    """The classes that the images of a source are of, as far as these could be read.

    - number: of each class, ascending.  names: theirs, the numbers where they have none.
    - labels: the SHA-256, in hex, of which image is of which class; of a streamed source that of its shards' states.
    """

    number: tuple[int, ...]
    names: tuple[str, ...]
    labels: str


@dataclass(frozen=True, eq=False)
class ByClass:
    """How strongly the units of a layer fire on the images of each class; an image counts by its strongest activation.

    - classes: what they are called.  images: how many of each class could be read.
    - mean: over the images of a class, of the strongest activation where it is above zero, and of zero elsewhere.
    - chance: by unit, about the selectivity that it would have if the labels were shuffled, as measured on 4,096 images
      or fewer; nan where it has none.

    >>> import deconv
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> for name, colour in {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}.items():
    ...     Path("colours", name).mkdir(parents=True)
    ...     Image.new("RGB", (4, 4), colour).save(f"colours/{name}/0.png")
    >>> module = torch.nn.Sequential(torch.nn.Conv2d(3, 1, 1, bias=False), torch.nn.ReLU())
    >>> _ = module[0].weight.data.copy_(torch.tensor([1.0, 0.0, 0.2]).view(1, 3, 1, 1))
    >>> preprocessing = deconv.Preprocessing((4, 4), None, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    >>> network = deconv.Network(module, (3, 4, 4), preprocessing=preprocessing)
    >>> peaks = deconv.mine(network, deconv.folder("colours"), ["1"], firing=True)
    >>> by_class = peaks.firing["1"].by_class
    >>> by_class.preferred(0), by_class.selectivity[0]
    ('red', 0.8182)
    >>> [(name, round(mean, 2)) for name, mean in by_class.strongest(0, 2)]
    [('red', 1.0), ('blue', 0.2)]
    """

    classes: Classes
    images: Int64[Tensor, " classes"]
    mean: Float32[Tensor, "units classes"]
    chance: Float32[Tensor, " units"]

    def __repr__(self) -> str:
        return f"<ByClass: {len(self.mean)} units, {len(self.images)} classes>"

    @cached_property
    def selectivity(self) -> list[float | None]:
        """0 for a unit that fires alike on all classes, 1 for one that fires on a single class; None for a dead unit.

        (a - b) / (a + b), where a is the mean of the class with the largest and b the mean of those of all others.
        It is also None where there is one class only. Few images of a class make it large by `chance`.
        Source: Morcos et al. 2018 (arXiv 1803.06959), "quantifying class selectivity".
        """
        values = selectivity_of(self.mean.numpy().astype(np.float64))
        return [None if np.isnan(value) else float(value) for value in values.round(DIGITS)]

    def preferred(self, unit: int) -> str | None:
        """Return the name of the class that a unit fires most strongly on, on average; None for a dead unit."""
        (first,) = self.strongest(unit, 1)
        return first[0] if first[1] > 0 else None

    def strongest(self, unit: int, count: int = 5) -> list[tuple[str, float]]:
        """Return (name, mean) of up to `count` classes, those with the largest means first."""
        return [(self.classes.names[n], self.mean[unit, n].item()) for n in self.ranked(unit)[:count]]

    def ranked(self, unit: int) -> list[int]:
        """Return the classes, by their places in `classes`, in the order of a unit's means, largest first."""
        (unit,) = check_indices("unit", [unit], len(self.mean), "units")
        order: list[int] = self.mean[unit].argsort(descending=True, stable=True).tolist()
        return order


def selectivity_of(mean: Float[np.ndarray, "units classes"]) -> Float[np.ndarray, " units"]:
    """Return the class selectivity index of means that are 0 or more; nan for dead units and for one class.

    >>> selectivity_of(np.array([[3.0, 1.0, 1.0], [2.0, 2.0, 2.0], [0.0, 0.0, 0.0]])).tolist()
    [0.5, 0.0, nan]
    """
    largest, others = mean.max(axis=1), mean.shape[1] - 1
    if not others:
        return np.full(len(mean), np.nan)
    rest = (mean.sum(axis=1) - largest) / others
    index: np.ndarray = (largest - rest) / np.where(largest > 0, largest + rest, np.nan)
    return index.clip(0, 1)


def joined_by_class(layers: Sequence[ByClass]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of CLASS_AXES of all layers' units, and what is said beside them."""
    classes, first = layers[0].classes, layers[0]
    tensors = {
        "class_number": torch.tensor(classes.number, dtype=torch.int64),
        "class_images": first.images,
        "class_mean": torch.cat([each.mean for each in layers]),
        "chance": torch.cat([each.chance for each in layers]),
    }
    return tensors, {"classes": {"names": list(classes.names), "labels": classes.labels}}


def split_by_class(tensors: Mapping[str, Tensor], said: Mapping[str, Any], units: Sequence[int]) -> Iterator[ByClass]:
    """Yield what `joined_by_class` joined, layer by layer. Raises ValueError where names and numbers do not fit."""
    names, number = said["classes"]["names"], tensors["class_number"].tolist()
    if len(names) != len(number) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"it names {len(names)} classes; expected {len(number)}")
    classes = Classes(tuple(number), tuple(names), said["classes"]["labels"])
    for mean, chance in zip(tensors["class_mean"].split(units), tensors["chance"].split(units), strict=True):
        yield ByClass(classes, tensors["class_images"], mean, chance)
