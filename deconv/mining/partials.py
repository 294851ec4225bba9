"""What a pass over some of the images found, and how it adds up with what passes over the others found."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deconv.errors import BadInput
from deconv.images import Source
from deconv.images.batches import Unreadable
from deconv.mining.by_class import check_sums
from deconv.mining.firing import Tally, load_tallies, save_tallies
from deconv.mining.topk import TopK
from deconv.network import Network
from deconv.network.receptive_field import ReceptiveField
from deconv.records import LayerPeaks, Peaks
from deconv.records.formats import reading


@dataclass(eq=False)
class Partial:
    """The strongest peaks among some images; `merge` is commutative and associative, as that of the tables is.

    - tables: by layer.
    - input_size: (H, W) of the input images; None if none could be read.
    - unreadable: (image id, key, reason), by id.
    - errors: by layer, how far each unit's scores in bfloat16 were off (C,) float64, see `deconv.mining.bfloat16`;
      empty if that was not measured.
    - extremes: of a scan in bfloat16 the images with the largest pixels, in the first row, and with the strongest
      activation at each layer, in the others.
    - tallies: by layer, how units fire; empty if that is not counted.
    - keys: what the source calls each image that holds a peak.
    - images: how many were looked at.
    - left_out: the addresses of broken shards of a streamed source.
    """

    tables: dict[str, TopK]
    input_size: tuple[int, int] | None = None
    unreadable: list[Unreadable] = field(default_factory=list)
    errors: dict[str, np.ndarray] = field(default_factory=dict)
    extremes: TopK | None = None
    tallies: dict[str, Tally] = field(default_factory=dict)
    keys: dict[int, str] = field(default_factory=dict)
    images: int = 0
    left_out: list[str] = field(default_factory=list)

    def add_images(self, images: Source | Tensor, count: int) -> None:
        """Take up the keys of those images, just looked at, that hold a peak now."""
        self.images += count
        self.keys = {
            image_id: self.keys[image_id] if image_id in self.keys else key_of(images, image_id)
            for image_id in self.image_ids
        }

    def check_size(self, input_size: tuple[int, int]) -> None:
        """Keep the size of the first input image. Raises BadInput for another one."""
        if self.input_size not in (None, input_size):
            raise BadInput(
                f"images differ in size: {self.input_size} and {input_size}; boxes need one size for all: give the "
                "preprocessing a size"
            )
        self.input_size = input_size

    def expect_classes(self, labels: np.ndarray) -> None:
        """Make room to count by class over images of these labels (n,). Raises BadInput for more than memory holds."""
        for tally in self.tallies.values():
            tally.sums.expect(labels)
        self._check_classes()

    def _check_classes(self) -> None:
        sums = [tally.sums for tally in self.tallies.values()]
        if sums:
            check_sums(sum(len(each.window) for each in sums), len(sums[0].number))

    def merge(self, other: Partial) -> None:
        """Add what was found among other images.

        Raises BadInput if those were of another size, and if all are of more classes than there is memory for.
        """
        if other.input_size is not None:
            self.check_size(other.input_size)
        for layer, table in self.tables.items():
            table.merge(other.tables[layer])
        self.unreadable = sorted(self.unreadable + other.unreadable)
        if self.extremes and other.extremes:
            self.extremes.merge(other.extremes)
        for layer, tally in self.tallies.items():
            tally.merge(other.tallies[layer])
        self._check_classes()
        keys = self.keys | other.keys
        self.keys = {image_id: keys[image_id] for image_id in self.image_ids}
        self.images += other.images
        self.left_out = sorted(self.left_out + other.left_out)
        zero = np.zeros(1)
        layers = self.errors.keys() | other.errors.keys()
        self.errors = {
            layer: np.maximum(self.errors.get(layer, zero), other.errors.get(layer, zero)) for layer in sorted(layers)
        }

    @property
    def image_ids(self) -> list[int]:
        """The images that hold a peak, ascending."""
        ids = np.unique(np.concatenate([table.image.ravel() for table in self.tables.values()]))
        return [int(image_id) for image_id in ids if image_id >= 0]

    def peaks(self, network: Network) -> dict[str, LayerPeaks]:
        """Return the tables as records, with boxes in the pixels of the input images."""
        fields = {layer: network.receptive_field(layer, self.input_size) for layer in self.tables}
        return {layer: layer_peaks(table, fields[layer]) for layer, table in self.tables.items()}

    def save(self, path: Path, network: Network, provenance: dict[str, Any]) -> None:
        """Write a file of peaks, with the rest of this and `provenance` as its provenance; before it one of tallies."""
        if self.tallies:
            save_tallies(tallies_path(path), self.tallies)
        rest = {
            "counted": bool(self.tallies),
            "input_size": self.input_size,
            "images": self.images,
            "left_out": self.left_out,
            "unreadable": self.unreadable,
            "errors": {layer: values.tolist() for layer, values in self.errors.items()},
            "extremes": None if self.extremes is None else [self.extremes.score.tolist(), self.extremes.image.tolist()],
        }
        Peaks(self.peaks(network), self.keys, provenance | {"found": rest}).save(path)

    @staticmethod
    def load(path: Path) -> tuple[Partial, dict[str, Any]]:
        """Return (partial, provenance) as they were saved. Raises BadInput for a file that is damaged or another."""
        peaks = Peaks.load(path)
        provenance = dict(peaks.provenance)
        rest = provenance.pop("found", None)
        if rest is None:
            raise BadInput(f"{path} holds no shard; expected a record of one: choose another folder, or delete it")
        with reading(path):
            partial = Partial(
                tables={layer: _table(layer_of_file) for layer, layer_of_file in peaks.items()},
                input_size=None if rest["input_size"] is None else (rest["input_size"][0], rest["input_size"][1]),
                unreadable=[(image_id, key, reason) for image_id, key, reason in rest["unreadable"]],
                errors={layer: np.array(values) for layer, values in rest["errors"].items()},
                extremes=None if rest["extremes"] is None else _extremes(*rest["extremes"]),
                tallies=load_tallies(tallies_path(path), peaks) if rest["counted"] else {},
                keys=peaks.image_keys,
                images=rest.get("images", 0),
                left_out=rest.get("left_out", []),
            )
        return partial, provenance


def key_of(images: Source | Tensor, image_id: int) -> str:
    """Return what a source calls an image; of a tensor, its index."""
    return str(image_id) if isinstance(images, Tensor) else images.key(image_id)


def tallies_path(path: Path) -> Path:
    """Return where the tallies of a partial are, whose peaks are at `path`."""
    return path.with_suffix(f".firing{path.suffix}")


def merged(*parts: Path | Partial) -> Partial:
    """Return what saved and merged partials hold together. The first, if it is no path, is written to."""
    total = _loaded(parts[0])
    for part in parts[1:]:  # one in memory at a time
        total.merge(_loaded(part))
    return total


def layer_peaks(table: TopK, field: ReceptiveField) -> LayerPeaks:
    """Return a table as a record: nan for missing scores, -1 for their positions and boxes."""
    score, image, row, col = map(torch.from_numpy, (table.score, table.image, table.row, table.col))
    box = field.boxes(torch.stack([row, col], dim=2).view(-1, 2).long()).view(*row.shape, 4)
    exists = image >= 0
    return LayerPeaks(score.where(exists, float("nan")), image, row, col, box.where(exists[..., None], -1))


def _loaded(part: Path | Partial) -> Partial:
    return Partial.load(part)[0] if isinstance(part, Path) else part


def _extremes(scores: list[list[float]], image_ids: list[list[int]]) -> TopK:
    table = TopK(len(scores), len(scores[0]))
    table.score, table.image = np.array(scores, dtype=np.float32), np.array(image_ids, dtype=np.int64)
    return table


def _table(peaks: LayerPeaks) -> TopK:
    table = TopK(*peaks.score.shape)
    table.score = peaks.score.where(peaks.found, float("-inf")).numpy()
    table.image, table.row, table.col = (column.numpy() for column in (peaks.image, peaks.row, peaks.col))
    return table
