"""What an atlas shows, and the name of each of its files; names given by people decide no path."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor

from deconv.analyses.by_class import ClassShare
from deconv.analyses.choosing import images_of, listed_shares, strongest_units
from deconv.atlas.trust import Counts, Trust, together
from deconv.files import safe_name
from deconv.images.class_names import spoken
from deconv.records import Firing, LayerPeaks, Peaks, about_centres

Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class MadeOf:
    """What each unit of a layer is made of in a lower one, of all its peaks together, 1 being all of them.

    layer: the lower one's name.  shares: what its units pass on.  around: what paths around it carry.
    """

    layer: str
    shares: Float[Tensor, "units lower_units"]
    around: Float[Tensor, " units"]


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer of an atlas: its number there, counted from 1, its geometry, and its records.

    map_size, field, stride, input_size are (rows, columns), all but the first in pixels of the input image.
    side: of the square about the field's centre that pictures show of it.
    metrics: further numbers to sort units by, {name: one for each unit, None where there is none}.
    reference: the layer's peaks of a larger mining, if there is one.
    beyond: peaks in the images drawn at the quantiles of how units fire, if these are shown.
    made_of: what units of a lower layer pass on of each unit's activations; None if not known.
    class_shares: of each unit's peaks, where images have classes.  class_names: of all classes, in words, by number.
    trust: how far its units' pictures may be trusted; None if that was not measured.
    """

    name: str
    number: int
    map_size: Pair
    field: Pair
    side: int
    stride: Pair
    input_size: Pair
    peaks: LayerPeaks
    firing: Firing
    metrics: Mapping[str, Sequence[float | None]]
    reference: LayerPeaks | None = None
    beyond: LayerPeaks | None = None
    made_of: MadeOf | None = None
    class_shares: Sequence[list[ClassShare]] = ()
    class_names: Mapping[int, str] | None = None
    trust: Trust | None = None

    @property
    def folder(self) -> str:
        """The layer's folder in the site, safe whatever the name is, and no other layer's."""
        return f"{self.number:02d}-{safe_name(self.name)}"

    @cached_property
    def boxes(self) -> Int64[Tensor, "units k 4"]:
        """What pictures show of each peak, in the input image."""
        peaks = self.peaks.box
        return about_centres(peaks.reshape(-1, 4), self.side, self.input_size).view(peaks.shape)

    @property
    def shown(self) -> Pair:
        """The size, in pixels, of what pictures show of a receptive field."""
        height, width = (min(self.side, *sides) for sides in zip(self.field, self.input_size, strict=True))
        return height, width

    @property
    def channels(self) -> int:
        """The number of units."""
        return len(self.peaks.score)

    @property
    def k(self) -> int:
        """The number of peaks of each unit."""
        return self.peaks.score.shape[1]

    @property
    def firing_units(self) -> list[int]:
        """The units that fire on an image."""
        return self.peaks.found.any(dim=1).nonzero()[:, 0].tolist()

    @property
    def units_beyond(self) -> list[int]:
        """The units with peaks beyond the strongest ones, where these are shown."""
        return [] if self.beyond is None else self.beyond.found.any(dim=1).nonzero()[:, 0].tolist()

    @property
    def dead_units(self) -> list[int]:
        """The units that fire on no image."""
        return (~self.peaks.found.any(dim=1)).nonzero()[:, 0].tolist()

    @cached_property
    def shares(self) -> list[float | None]:
        """The strongest score of each unit as a share of its strongest in the reference; empty without one."""
        return [] if self.reference is None else listed_shares(self.peaks, self.reference)

    def most_excited(self, count: int) -> list[int]:
        """Return up to `count` units that fire: beside the reference, or without one by their strongest score alone."""
        if self.reference is not None:
            return strongest_units(self.peaks, self.reference, count)
        strength = self.peaks.score[:, 0].nan_to_num(-math.inf)
        order: list[int] = strength.argsort(descending=True, stable=True).tolist()
        return order[: min(count, len(self.firing_units))]

    @property
    def across(self) -> int:
        """The number of tiles in a row of the square that shows a unit's peaks."""
        return math.ceil(math.sqrt(self.k))

    @property
    def down(self) -> int:
        """The number of rows of that square."""
        return math.ceil(self.k / self.across)


@dataclass(frozen=True, eq=False)
class Atlas:
    """All that the pages show: the layers in order, and the name (`keys`) and class of each image, by its id.

    mined: the day of the mining, if it is known.  reference: peaks of a larger mining, if there are any.
    """

    title: str
    layers: tuple[Layer, ...]
    keys: Mapping[int, str]
    classes: Mapping[int, str]
    rules: Sequence[str]
    provenance: Mapping[str, Any]
    mined: str | None
    reference: Peaks | None = None

    @property
    def units(self) -> int:
        """The number of units of all layers."""
        return sum(layer.channels for layer in self.layers)

    @property
    def trust(self) -> Counts | None:
        """How many units of all layers are above their control; None where it was not measured."""
        return together(layer.trust for layer in self.layers)

    @property
    def images(self) -> int:
        """The number of images that were mined and could be read."""
        return self.layers[0].firing.images

    @property
    def within(self) -> str:
        """The class that all images are of, in words, where they were taken by it."""
        return spoken(self.provenance["source"].get("within") or "")

    @property
    def reference_images(self) -> int:
        """The number of images of the reference."""
        return 0 if self.reference is None else images_of(self.reference)


def unit_page(unit: int) -> str:
    """Return the file of a unit's page, in its layer's folder."""
    return f"unit-{unit:04d}.html"


def image_file(image: int) -> str:
    """Return the file of a whole image, in the site: named by its id, never by the name that it had."""
    return f"images/{image:06d}.jpg"
