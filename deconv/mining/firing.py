"""Counts how a layer's units fire while it is mined: what is kept grows with units, not with images, and adds up.

Everything is exact in any order, so that any cut of the images gives the same: counts are whole numbers; which images
are drawn, and over which units are correlated, is decided by lots, and an image's lot hangs on its key alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from deconv.errors import BadInput
from deconv.mining.by_class import SUM_AXES, ClassSums, joined_sums, split_sums
from deconv.mining.lots import Sample
from deconv.mining.topk import TopK
from deconv.records.by_class import Classes
from deconv.records.firing import ALIKE, BINS, CORRELATED, DRAWN, OCTAVES, PARTS, STEPS, Firing
from deconv.records.formats import Axes, load_tensors, reading, save_tensors

MANTISSA = 23 - 4
"""Bits of a float32 below those that tell a bin: its sign and exponent, and the four bits after these."""
BIAS = 127
"""Of the exponent of a float32."""
LOWEST = np.int64(-BIAS)
"""The octave of a unit that has not fired: no number is smaller."""
AT_ONCE = 128
"""Images that are counted together: what that costs beside the images goes with units times bins."""
TALLY_AXES: Axes = {
    "counts": (torch.int64, f"U {BINS}"),
    "octave": (torch.int64, "U"),
    "lot": (torch.float32, f"U {STEPS} {DRAWN}"),
    "drawn": (torch.int64, f"U {STEPS} {DRAWN}"),
    "image_lots": (torch.float32, "n"),
    "image_ids": (torch.int64, "n"),
    "strongest": (torch.float32, "n U"),
    **SUM_AXES,
}
OF_IMAGES = ("image_lots", "image_ids")
"""Those that are the same for all layers, beside those of classes."""


class Tally:
    """Counts how `units` units fire; `see` and `merge` are commutative and associative.

    correlated: how many images, those with the largest lots, units are correlated over.
    least: a lot that is known to be smaller than all of theirs; what has a smaller one is not kept for it.

    >>> from deconv.mining.lots import lots_of
    >>> tally = Tally(1)
    >>> tally.see(np.array([[1.0], [3.0]], dtype=np.float32), np.array([0, 1]), lots_of(["a", "b"]))
    >>> tally.firing().fires_on(0)
    2
    """

    def __init__(self, units: int, correlated: int = CORRELATED, least: float = 0.0):
        self.images = 0
        self.octave = np.full(units, LOWEST)
        self.counts = np.zeros((units, BINS), dtype=np.int64)
        self.drawn = TopK(units * STEPS, DRAWN)
        """By unit and step the images with the largest lots, as if these were scores; positions are not kept."""
        self.sample = Sample(units, correlated, least)
        """Of the images over which units are correlated."""
        self.sums = ClassSums(units)
        """Over those images that have a class."""
        self.waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        """What was seen and is not counted yet, of fewer than AT_ONCE images."""

    def see(
        self,
        maxima: Float[np.ndarray, "n units"],
        image_ids: Int64[np.ndarray, " n"],
        lots: Float[np.ndarray, " n"],
        classes: Int64[np.ndarray, " n"] | None = None,
    ) -> None:
        """Count the strongest activations, float32, of n images of these classes, now or with the next ones."""
        self.waiting.append((maxima, image_ids, lots, np.full_like(image_ids, -1) if classes is None else classes))
        if sum(len(image_ids) for _, image_ids, _, _ in self.waiting) >= AT_ONCE:
            self.count()

    def count(self) -> None:
        """Count what is waiting."""
        if not self.waiting:
            return
        maxima, image_ids, lots, classes = (np.concatenate(column) for column in zip(*self.waiting, strict=True))
        self.waiting = []
        self.images += len(maxima)
        if (labelled := classes >= 0).any():
            self.sums.see(maxima[labelled], classes[labelled])
        self.sample.offer(lots, image_ids, maxima)
        self._raise(_octaves(maxima.max(axis=0)))
        image, unit = np.nonzero(maxima > 0)
        absolute = maxima[image, unit].view(np.int32).astype(np.int64) >> MANTISSA
        first = (self.octave - OCTAVES + 1 + BIAS) * PARTS  # what `absolute` is where a unit's bins begin
        row = unit * BINS + np.maximum(absolute - first[unit], 0)
        self.counts += np.bincount(row, minlength=self.counts.size).reshape(self.counts.shape)
        row //= BINS // STEPS
        enters = lots[image] >= self.drawn.weakest[row]
        self._draw(row[enters], lots[image[enters]], image_ids[image[enters]])

    def merge(self, other: Tally) -> None:
        """Add what was counted over other images."""
        self.count()
        other.count()
        self.sample.merge(other.sample)
        self.sums.merge(other.sums)
        self._raise(other.octave)
        other = other._copy()
        other._raise(self.octave)
        self.images += other.images
        self.counts += other.counts
        self.drawn.merge(other.drawn)

    @property
    def labelled(self) -> int:
        """How many of the images have a class."""
        self.count()
        return int(self.sums.images.sum())

    def firing(self, classes: Classes | None = None) -> Firing:
        """Return what was counted; classes: those that its images are of, if it is also to be told by class."""
        self.count()
        alike, correlation = self._alike()
        octave = np.where(self.counts.any(axis=1), self.octave, 0)
        drawn = self.drawn.image.reshape(len(octave), STEPS, DRAWN)
        tensors = map(torch.from_numpy, (self.counts, octave, drawn, alike, correlation))
        by_class = None if classes is None else self.sums.by_class(classes, self.sample.by_image()[2])
        return Firing(self.images, *tensors, by_class=by_class)

    def _draw(self, row: np.ndarray, lots: np.ndarray, image_ids: np.ndarray) -> None:
        nowhere = np.zeros(len(row), dtype=np.int64)
        self.drawn.offer(row, lots, image_ids, nowhere, nowhere)

    def _raise(self, octave: np.ndarray) -> None:
        """Move the bins of units to higher octaves; what is below all bins is put into the first."""
        risen = np.flatnonzero((octave > self.octave) & self.counts.any(axis=1))
        by_octaves = (octave - self.octave)[risen].clip(max=OCTAVES)
        for unit, by in zip(risen.tolist(), by_octaves.tolist(), strict=True):
            counts, moved = self.counts[unit].copy(), PARTS * by
            self.counts[unit] = np.concatenate([counts[moved:], np.zeros(moved, dtype=np.int64)])
            self.counts[unit, 0] += counts[:moved].sum()
            self._raise_drawn(unit, STEPS // OCTAVES * by)
        self.octave = np.maximum(self.octave, octave)

    def _raise_drawn(self, unit: int, moved: int) -> None:
        rows = slice(unit * STEPS, (unit + 1) * STEPS)
        lots, image_ids = self.drawn.score[rows].copy(), self.drawn.image[rows].copy()
        step, place = np.nonzero(image_ids >= 0)
        self.drawn.clear(rows)
        row = unit * STEPS + np.maximum(step - moved, 0)
        self._draw(row, lots[step, place], image_ids[step, place])

    def _copy(self) -> Tally:
        """A copy of what moves with the octaves."""
        copy = Tally(len(self.octave))
        copy.images, copy.octave, copy.counts = self.images, self.octave, self.counts.copy()
        copy.drawn.merge(self.drawn)
        return copy

    def _alike(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (units (units, ALIKE) int64, their correlations float32)."""
        units = len(self.octave)
        values = self.sample.by_image()[2].astype(np.float64)
        n = max(len(values), 1)
        covariance = values.T @ values / n - np.outer(values.sum(axis=0), values.sum(axis=0)) / n**2
        spread = np.sqrt(np.diag(covariance).clip(min=0))
        varies = self.counts.any(axis=1) & (spread > 1e-6 * np.abs(values.sum(axis=0) / n))
        scale = np.where(varies, spread, 1.0)
        # Rounded, so that the order of summation does not decide between equals.
        correlation = (covariance / np.outer(scale, scale)).clip(-1, 1).round(4)
        correlation[~varies] = correlation[:, ~varies] = -np.inf
        np.fill_diagonal(correlation, -np.inf)
        order = np.argsort(-correlation, axis=1, kind="stable")[:, :ALIKE]
        best = np.take_along_axis(correlation, order, axis=1)
        alike, values = np.full((units, ALIKE), -1), np.full((units, ALIKE), np.nan, dtype=np.float32)
        alike[:, : order.shape[1]] = np.where(best > 0, order, -1)
        values[:, : order.shape[1]] = np.where(best > 0, best, np.nan)
        return alike, values


def _octaves(values: np.ndarray) -> np.ndarray:
    """Return the exponent of the power of two that each float32 lies in; LOWEST where it is not above zero."""
    positive = np.maximum(values, 0).astype(np.float32)
    return np.where(positive > 0, (positive.view(np.int32).astype(np.int64) >> 23) - BIAS, LOWEST)


def save_tallies(path: Path, tallies: Mapping[str, Tally]) -> None:
    """Write the tallies of all layers, which have seen the same images."""
    parts, any_layer = [_tensors(tally) for tally in tallies.values()], next(iter(tallies.values()))
    of_units = [name for name in parts[0] if name not in OF_IMAGES]
    tensors = {name: torch.cat([part[name] for part in parts], _axis(name)) for name in of_units}
    units = [[layer, len(tally.octave)] for layer, tally in tallies.items()]  # a list: what is saved sorts mappings
    tensors |= {name: parts[0][name] for name in OF_IMAGES} | joined_sums([tally.sums for tally in tallies.values()])
    about = {"units": units, "images": any_layer.images, "correlated": any_layer.sample.most}
    about["least_lot"] = float(any_layer.sample.least)
    save_tensors(path, "tallies", tensors, TALLY_AXES, about, checked=True)


def load_tallies(path: Path, layers: Iterable[str]) -> dict[str, Tally]:
    """Return what was saved of these layers, in their order. Raises BadInput for a file that is missing or damaged."""

    def axes(tensors: Mapping[str, Tensor]) -> Axes:
        if "image_lots" not in tensors:
            raise BadInput(
                f"{path} counts how units fire as an earlier deconv did, which drew another sample of the images; "
                f"expected the images with the largest lots: delete {path.parent} to mine again"
            )
        return TALLY_AXES

    with reading(path):
        tensors, about = load_tensors(path, "tallies", axes)
        units = dict(about["units"])
        lots, image_ids = (tensors.pop(name).numpy() for name in OF_IMAGES)
        sums = split_sums({name: tensors.pop(name) for name in SUM_AXES}, list(units.values()))
        columns = {name: values.split(list(units.values()), _axis(name)) for name, values in tensors.items()}
        tallies = {layer: Tally(units[layer], about["correlated"], about["least_lot"]) for layer in units}
        for number, tally in enumerate(tallies.values()):
            column = {name: values[number].contiguous().numpy() for name, values in columns.items()}
            tally.images, tally.octave, tally.counts = about["images"], column["octave"], column["counts"]
            tally.drawn.score, tally.drawn.image = (column[name].reshape(-1, DRAWN) for name in ("lot", "drawn"))
            tally.drawn.row = tally.drawn.col = np.minimum(tally.drawn.image, 0)
            tally.sums = sums[number]
            tally.sample.offer(lots, image_ids, column["strongest"])
        return {layer: tallies[layer] for layer in layers}


def _axis(name: str) -> int:
    """Return the axis of the units in one of TALLY_AXES."""
    return int(name == "strongest")


def _tensors(tally: Tally) -> dict[str, Tensor]:
    """Return the tensors of TALLY_AXES, but those of classes."""
    tally.count()
    lots, image_ids, strongest = tally.sample.by_image()
    shape = (len(tally.octave), STEPS, DRAWN)
    columns = {
        "counts": tally.counts,
        "octave": tally.octave,
        "lot": tally.drawn.score.reshape(shape),
        "drawn": tally.drawn.image.reshape(shape),
        "image_lots": lots,
        "image_ids": image_ids,
        "strongest": strongest,
    }
    return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in columns.items()}
