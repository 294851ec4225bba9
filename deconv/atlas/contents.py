"""What an atlas shows, and the name of each of its files; names given by people decide no path."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deconv.files import safe_name
from deconv.mining.firing import Firing
from deconv.records import LayerPeaks

Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer: its place in the atlas (from 1), geometry in pixels as (rows, columns), and records.

    metrics: further numbers to sort units by, {name: one for each unit, None where there is none}.
    """

    name: str
    number: int
    map_size: Pair
    field: Pair
    stride: Pair
    input_size: Pair
    peaks: LayerPeaks
    firing: Firing
    metrics: Mapping[str, Sequence[float | None]]

    @property
    def folder(self) -> str:
        """Its folder in the site, safe whatever the name is, and no other layer's."""
        return f"{self.number:02d}-{safe_name(self.name)}"

    @property
    def channels(self) -> int:
        """How many units it has."""
        return len(self.peaks.score)

    @property
    def k(self) -> int:
        """Peaks of each unit."""
        return self.peaks.score.shape[1]

    @property
    def living(self) -> list[int]:
        """The units that fire on some image."""
        return self.peaks.found.any(dim=1).nonzero()[:, 0].tolist()

    @property
    def dead(self) -> list[int]:
        """The units that fire on none."""
        return (~self.peaks.found.any(dim=1)).nonzero()[:, 0].tolist()

    @property
    def across(self) -> int:
        """Tiles in a row of the square that shows a unit's peaks."""
        return math.ceil(math.sqrt(self.k))

    @property
    def down(self) -> int:
        """Rows of that square."""
        return math.ceil(self.k / self.across)


@dataclass(frozen=True, eq=False)
class Atlas:
    """All of it: the layers in order, the name and class of each image that is shown, and what it was made of."""

    title: str
    layers: tuple[Layer, ...]
    keys: Mapping[int, str]
    classes: Mapping[int, str]
    rules: Sequence[str]
    provenance: Mapping[str, Any]
    mined: str | None

    @property
    def units(self) -> int:
        """How many units all layers have."""
        return sum(layer.channels for layer in self.layers)

    @property
    def images(self) -> int:
        """How many images were mined and could be read."""
        return self.layers[0].firing.images


def unit_page(unit: int) -> str:
    """The file of a unit's page, in its layer's folder."""
    return f"unit-{unit:04d}.html"


def image_file(image: int) -> str:
    """The file of a whole image, in the site; its number, never the name that it had."""
    return f"images/{image:06d}.jpg"
