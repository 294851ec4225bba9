"""What a pass over some of the images found, and how it adds up with what passes over the others found."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deconv.errors import BadInput
from deconv.mining.topk import TopK
from deconv.network import Network
from deconv.network.receptive_field import ReceptiveField
from deconv.records import LayerPeaks, Peaks
from deconv.records.formats import reading


@dataclass(eq=False)
class Partial:
    """The strongest peaks among some images. `merge` is commutative and associative, as that of the tables is.

    tables: by layer.  input_size: (H, W) of the images, None where none could be read.  unreadable: (image, key,
    reason).
    errors: by layer (C,) float64, see `deconv.mining.bfloat16`; empty where they were not measured.
    """

    tables: dict[str, TopK]
    input_size: tuple[int, int] | None = None
    unreadable: list[tuple[int, str, str]] = field(default_factory=list)
    errors: dict[str, np.ndarray] = field(default_factory=dict)

    @staticmethod
    def empty(network: Network, layers: list[str], k: int) -> Partial:
        """Of no image at all."""
        return Partial({layer: TopK(network.channels(layer), k) for layer in layers})

    def merge(self, other: Partial) -> None:
        """Add what was found among other images. Raises BadInput if those were of another size."""
        if None not in (self.input_size, other.input_size) and self.input_size != other.input_size:
            raise BadInput(
                f"images differ in size: {self.input_size} and {other.input_size}; boxes need one size for all. "
                "Give the preprocessing a size."
            )
        self.input_size = self.input_size or other.input_size
        for layer, table in self.tables.items():
            table.merge(other.tables[layer])
        self.unreadable = sorted(self.unreadable + other.unreadable)
        zero = np.zeros(1)
        names = self.errors.keys() | other.errors.keys()
        self.errors = {
            name: np.maximum(self.errors.get(name, zero), other.errors.get(name, zero)) for name in sorted(names)
        }

    def peaks(self, network: Network) -> dict[str, LayerPeaks]:
        """The tables as records, with boxes in the pixels of the input images."""
        fields = {layer: network.receptive_field(layer, self.input_size) for layer in self.tables}
        return {layer: layer_peaks(table, fields[layer]) for layer, table in self.tables.items()}

    def save(self, path: Path, network: Network, keys: dict[int, str], about: dict[str, Any]) -> None:
        """Write a file of peaks, with the rest of this and `about` as its provenance."""
        rest = {
            "input_size": self.input_size,
            "unreadable": self.unreadable,
            "errors": {layer: values.tolist() for layer, values in self.errors.items()},
        }
        Peaks(self.peaks(network), keys, about | {"found": rest}).save(path)

    @staticmethod
    def load(path: Path) -> tuple[Partial, dict[str, Any]]:
        """What `save` wrote: (partial, about). Raises BadInput for a file that is damaged or something else."""
        peaks = Peaks.load(path)
        about = dict(peaks.provenance)
        rest = about.pop("found", None)
        if rest is None:
            raise BadInput(f"{path} holds no shard; expected a record of one: choose another folder, or delete it.")
        with reading(path):
            partial = Partial(
                {layer: _table(found) for layer, found in peaks.items()},
                None if rest["input_size"] is None else (rest["input_size"][0], rest["input_size"][1]),
                [(number, key, reason) for number, key, reason in rest["unreadable"]],
                {layer: np.array(values) for layer, values in rest["errors"].items()},
            )
        return partial, about


def merged(*parts: Path | Partial) -> Partial:
    """Some records, or what others were merged to, as one. The first, if it is no record, is written to."""
    whole, *rest = parts
    total = _loaded(whole)
    for part in rest:
        total.merge(_loaded(part))
    return total


def layer_peaks(table: TopK, field: ReceptiveField) -> LayerPeaks:
    """A table as a record: nan for missing scores, -1 for their places and boxes."""
    score, image, row, col = (torch.from_numpy(part) for part in (table.score, table.image, table.row, table.col))
    box = field.boxes(torch.stack([row, col], dim=2).view(-1, 2).long()).view(*row.shape, 4)
    found = image >= 0
    return LayerPeaks(score.where(found, float("nan")), image, row, col, box.where(found[..., None], -1))


def _loaded(part: Path | Partial) -> Partial:
    return Partial.load(part)[0] if isinstance(part, Path) else part


def _table(peaks: LayerPeaks) -> TopK:
    table = TopK(*peaks.score.shape)
    table.score = peaks.score.where(peaks.found, float("-inf")).numpy()
    table.image, table.row, table.col = (part.numpy() for part in (peaks.image, peaks.row, peaks.col))
    return table
