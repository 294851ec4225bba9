"""Sums units' strongest activations by the class of the image while they are mined: exact, so that any order adds up.

Activations are float32, which sums of float64 do not hold exactly where weak and strong ones meet. They are summed as
whole numbers in two windows of 16 octaves each, the one that the unit's strongest activation lies in and the one below,
each in steps that every float32 in it is a multiple of. What is weaker than both, by more than 2^16, is left out.
Windows begin at fixed powers of two, so that what is left out hangs on the strongest activation and not on the order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from deconv.errors import bad_value
from deconv.records.by_class import DIGITS, ByClass, Classes, selectivity_of
from deconv.records.formats import Axes

OCTAVES = 16
"""Of a window: a float32 in it is a whole number below 2^(16 + 24) of its steps, and 2^23 of those fit into int64."""
MANTISSA = 23
LOWEST = np.int64(-10)
"""The window of a unit that has not fired: the smallest float32, 2^-149, lies in it, and no number in a lower one."""
SHUFFLES = 3
"""How often labels are shuffled, to tell how selective a unit is by chance."""
CLASSES_AT_ONCE = 256
"""Classes of shuffled labels that are averaged together: so many rows of as many numbers as there are images."""
MOST_SUMS = 2**26
"""Sums of all units and classes together: 16 bytes each."""
SUM_AXES: Axes = {
    "class_number": (torch.int64, "P"),
    "class_images": (torch.int64, "P"),
    "class_window": (torch.int64, "U"),
    "class_sums": (torch.int64, "2 P U"),
}
"""Of the P classes that images were of."""


def check_sums(units: int, classes: int) -> None:
    """Raise BadInput for more sums than there is memory for."""
    if units * classes > MOST_SUMS:
        raise bad_value(
            "firing", True, f"at most {MOST_SUMS // units} classes for {units} units, for which there is memory, not "
            f"{classes}", "take fewer layers, or images without labels",
        )  # fmt: skip


class ClassSums:
    """Sums the strongest activations of units by class; `see` and `merge` are commutative and associative.

    Classes are taken up as they come, so that nobody need know them beforehand.

    >>> sums = ClassSums(1)
    >>> sums.see(np.array([[1.0], [3.0], [0.5]], dtype=np.float32), np.array([4, 4, 7]))
    >>> sums.number.tolist(), sums.means().tolist()
    ([4, 7], [[2.0, 0.5]])
    """

    def __init__(self, units: int):
        self.number = np.zeros(0, dtype=np.int64)
        """The number of each class, ascending."""
        self.images = np.zeros(0, dtype=np.int64)
        self.window = np.full(units, LOWEST)
        self.sums = np.zeros((2, 0, units), dtype=np.int64)
        """By class, of the unit's window and of the one below."""

    def expect(self, classes: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Make room for images of these classes, and return their places; for many at once it is cheaper."""
        joined = np.union1d(self.number, classes)
        if len(joined) > len(self.number):
            before, images, sums = np.searchsorted(joined, self.number), self.images, self.sums
            self.images, self.sums = (
                np.zeros(len(joined), np.int64),
                np.zeros((2, len(joined), sums.shape[2]), np.int64),
            )
            self.number, self.images[before], self.sums[:, before] = joined, images, sums
        return np.searchsorted(self.number, classes)

    def see(self, maxima: Float[np.ndarray, "n units"], classes: Int64[np.ndarray, " n"]) -> None:
        """Add the strongest activations, float32, on n images of these classes."""
        order = np.argsort(classes, kind="stable")
        present, first, count = np.unique(classes[order], return_index=True, return_counts=True)
        values, places = maxima[order].astype(np.float64), self.expect(present)
        self._raise(_window(values.max(axis=0)))
        self.images[places] += count
        for n, window in enumerate((self.window, self.window - 1)):
            least, end = np.ldexp(1.0, OCTAVES * window), np.ldexp(1.0, OCTAVES * (window + 1))
            chosen = np.where((values >= least) & (values < end), values, 0)
            whole = (chosen * np.ldexp(1.0, MANTISSA - OCTAVES * window)).astype(np.int64)
            self.sums[n, places] += np.add.reduceat(whole, first, axis=0)

    def merge(self, other: ClassSums) -> None:
        """Add what was summed over other images."""
        self._raise(other.window)
        raised, places = ClassSums(len(other.window)), self.expect(other.number)
        raised.window, raised.sums = other.window, other.sums.copy()
        raised._raise(self.window)
        self.images[places] += other.images
        self.sums[:, places] += raised.sums

    def means(self) -> Float[np.ndarray, "units classes"]:
        """Return the means over the images of each class, float64."""
        scale = [np.ldexp(1.0, OCTAVES * window - MANTISSA) for window in (self.window, self.window - 1)]
        total = self.sums[0] * scale[0] + self.sums[1] * scale[1]
        mean: np.ndarray = total.T / np.maximum(self.images, 1)
        return mean

    def by_class(self, classes: Classes, strongest: Float[np.ndarray, "n units"]) -> ByClass:
        """Return what was summed; strongest: the activations on a sample of the images, by which chance is told."""
        seen = self.images > 0
        means, images = self.means()[:, seen], self.images[seen]
        chance = selectivity_by_chance(strongest, images).astype(np.float32)
        chance[np.isnan(selectivity_of(means))] = np.nan
        return ByClass(classes, *map(torch.from_numpy, (images, means.astype(np.float32), chance)))

    def seen(self) -> tuple[int, ...]:
        """Return the numbers of the classes of which there was an image, ascending."""
        return tuple(self.number[self.images > 0].tolist())

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of SUM_AXES, which leave out classes that no image was of."""
        present = np.flatnonzero(self.images)
        columns = (self.number[present], self.images[present], self.window, np.ascontiguousarray(self.sums[:, present]))
        return dict(zip(SUM_AXES, map(torch.from_numpy, columns), strict=True))

    @staticmethod
    def of_tensors(tensors: Mapping[str, Tensor]) -> ClassSums:
        """Return what `tensors` gave."""
        number, images, window, sums = (tensors[name].numpy() for name in SUM_AXES)
        total = ClassSums(len(window))
        total.number, total.images, total.window, total.sums = number, images, window, sums
        return total

    def _raise(self, window: np.ndarray) -> None:
        """Move units to higher windows; what is below both is left out."""
        by = window - self.window
        self.sums[1][:, by > 0] = np.where(by == 1, self.sums[0], 0)[:, by > 0]
        self.sums[0][:, by > 0] = 0
        self.window = np.maximum(self.window, window)


def _window(values: Float[np.ndarray, " units"]) -> Int64[np.ndarray, " units"]:
    """Return the window that each value lies in; LOWEST where it is not above zero."""
    exponent = np.frexp(values)[1].astype(np.int64) - 1
    return np.where(values > 0, exponent // OCTAVES, LOWEST)


def selectivity_by_chance(
    strongest: Float[np.ndarray, "n units"], images: Int64[np.ndarray, " classes"]
) -> Float[np.ndarray, " units"]:
    """Return about the selectivity that each unit would have, were the labels shuffled.

    It is 1 for a unit that fires so rarely that no image drawn fires it: one image makes it 1 whatever its label is.

    strongest: the activations on all images, or on a sample of them, from which images are then drawn.
    images: how many each class has.
    """
    n, total, draw = len(strongest), int(images.sum()), np.random.default_rng(0)
    values = np.maximum(strongest, 0).astype(np.float64)
    ends, indices = np.cumsum(images), []
    for _ in range(SHUFFLES if n else 0):
        drawn = draw.permutation(n) if n == total else draw.integers(0, n, total)
        means = np.zeros((len(images), values.shape[1]))
        for start in range(0, len(images), CLASSES_AT_ONCE):
            of = images[start : start + CLASSES_AT_ONCE]
            members = drawn[ends[start] - images[start] : ends[start + len(of) - 1]]
            cell = np.repeat(np.arange(len(of)), of) * n + members
            times = np.bincount(cell, minlength=len(of) * n).reshape(len(of), n)
            means[start : start + len(of)] = times @ values / np.maximum(of, 1)[:, None]
        index = selectivity_of(means.T)
        indices.append(np.where(np.isnan(index), 1.0, index))
    # Rounded, so that the order of summation does not decide.
    chance: np.ndarray = np.mean(indices or [np.ones(values.shape[1])], axis=0).round(DIGITS)
    return chance


def joined_sums(layers: Sequence[ClassSums]) -> dict[str, Tensor]:
    """Return the tensors of all layers, which have seen the same images."""
    tensors = [each.tensors() for each in layers]
    axis_of = {"class_window": 0, "class_sums": 2}
    joined = {name: torch.cat([each[name] for each in tensors], axis) for name, axis in axis_of.items()}
    return tensors[0] | joined


def split_sums(tensors: Mapping[str, Tensor], units: Sequence[int]) -> list[ClassSums]:
    """Return what `joined_sums` joined, layer by layer."""
    windows, sums = tensors["class_window"].split(units), tensors["class_sums"].split(units, 2)
    return [
        ClassSums.of_tensors(
            {
                **tensors,
                "class_images": tensors["class_images"].clone(),
                "class_window": window.clone(),
                "class_sums": total.clone(memory_format=torch.contiguous_format),
            }
        )
        for window, total in zip(windows, sums, strict=True)
    ]
