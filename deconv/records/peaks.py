"""Peaks: where units are strongest, and their table on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from deconv.errors import check_indices, unknown
from deconv.records.formats import load_table, reading, save_table


@dataclass(frozen=True, eq=False)
class LayerPeaks:
    """The k strongest peaks of every unit of one layer, strongest first by (-score, image, row, col).

    - score: the activation; nan where there are fewer than k peaks.
    - image, row, col: the image id and the position on the layer's map; -1 where there are fewer than k peaks.
    - box: the receptive field.

    >>> import deconv, torch
    >>> image = torch.tensor([[4, 0], [2, -1]])
    >>> score, zeros, box = torch.tensor([[3.0, 1.5], [2.0, torch.nan]]), torch.zeros_like(image), torch.zeros(2, 2, 4)
    >>> peaks = deconv.records.LayerPeaks(score, image, zeros, zeros, box.long())
    >>> peaks
    <LayerPeaks: 2 units, 2 peaks each, 0 dead units>
    >>> [column.tolist() for column in peaks.of([1, 0])]
    [[2, 4, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]]
    """

    score: Float[Tensor, "units k"]
    image: Int64[Tensor, "units k"]
    row: Int64[Tensor, "units k"]
    col: Int64[Tensor, "units k"]
    box: Int64[Tensor, "units k 4"]

    def __repr__(self) -> str:
        units, k = self.score.shape
        dead = int((~self.found.any(dim=1)).sum())
        return f"<LayerPeaks: {units} units, {k} peaks each, {dead} dead units>"

    @property
    def found(self) -> Bool[Tensor, "units k"]:
        """Which entries hold a peak."""
        return self.image >= 0

    def of(
        self, units: Iterable[int]
    ) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"], Int64[Tensor, " n"], Int64[Tensor, " n"]]:
        """Return (image, channel, row, col) of all peaks of some units: unit by unit, strongest first.

        Raises BadInput for a unit that the layer does not have.
        """
        chosen = self._chosen(units)
        exists = self.found[chosen]
        channel = chosen[:, None].expand_as(exists)
        return self.image[chosen][exists], channel[exists], self.row[chosen][exists], self.col[chosen][exists]

    def scores_of(self, units: Iterable[int]) -> Float[Tensor, " n"]:
        """Return the scores of all peaks of some units, in the order of `of`."""
        chosen = self._chosen(units)
        return self.score[chosen][self.found[chosen]]

    def _chosen(self, units: Iterable[int]) -> Tensor:
        return torch.tensor(check_indices("units", units, len(self.score), "units"), dtype=torch.int64)


@dataclass(frozen=True, eq=False)
class Peaks(Mapping[str, LayerPeaks]):
    """Peaks by layer: a mapping from the names of layers to their `LayerPeaks`.

    - image_keys: the key of each image that holds a peak, by its id.
    - provenance: what the peaks were made of.

    >>> import deconv, torch
    >>> _ = torch.manual_seed(0)
    >>> network = deconv.Network(torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU()), (1, 8, 8))
    >>> peaks = deconv.mine(network, torch.randn(20, 1, 8, 8), ["1"], k=3)
    >>> peaks
    <Peaks: 1 (4 units), 3 peaks each>
    >>> from tempfile import mkdtemp
    >>> list(deconv.Peaks.load(peaks.save(mkdtemp() + "/peaks.parquet")))
    ['1']
    """

    layers: dict[str, LayerPeaks]
    image_keys: dict[int, str]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, layer: str) -> LayerPeaks:
        if layer not in self.layers:
            raise unknown("layer of these peaks", layer, self.layers)
        return self.layers[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __repr__(self) -> str:
        layers = ", ".join(f"{name} ({len(peaks.score)} units)" for name, peaks in self.layers.items())
        k = max((peaks.score.shape[1] for peaks in self.layers.values()), default=0)
        return f"<Peaks: {layers or 'no layers'}, {k} peaks each>"

    def save(self, path: str | Path) -> Path:
        """Write a Parquet table with columns layer, channel, rank, score, image, key, row, col, y0, x0, y1, x1."""
        tables = [_table(layer, peaks, self.image_keys) for layer, peaks in self.layers.items()]
        return save_table(path, "peaks", pa.concat_tables(tables or [_no_rows()]), self.provenance)

    @staticmethod
    def load(path: str | Path) -> Peaks:
        """Read what `save` wrote. Raises BadInput for a file that is missing, damaged, of another kind or newer."""
        with reading(path):
            table, provenance = load_table(path, "peaks", _no_rows().schema)
            _check_nulls(table)
            columns = {name: table[name].to_numpy() for name in table.column_names if name not in ("layer", "key")}
            keys = zip(columns["image"].tolist(), table["key"].to_pylist(), strict=True)
            layer_of_row = np.array(table["layer"].to_pylist(), dtype=object)
            layers = {name: _layer_from(columns, layer_of_row == name) for name in dict.fromkeys(layer_of_row)}
            return Peaks(layers, {image_id: key for image_id, key in sorted(keys) if image_id >= 0}, provenance)


def _no_rows() -> pa.Table:
    empty = torch.zeros((0, 0), dtype=torch.int64)
    box = torch.zeros((0, 0, 4), dtype=torch.int64)
    return _table("", LayerPeaks(empty.float(), empty, empty, empty, box), {})


def _check_nulls(table: pa.Table) -> None:
    empty = [name for name in table.column_names if name != "key" and table[name].null_count]
    if empty:
        raise ValueError(f"values of {', '.join(empty)} are missing")


def _table(layer: str, peaks: LayerPeaks, keys: dict[int, str]) -> pa.Table:
    channels, k = peaks.score.shape
    image = peaks.image.flatten()
    box = peaks.box.reshape(-1, 4)
    columns = {
        "layer": pa.array([layer] * (channels * k), pa.string()).dictionary_encode(),
        "channel": torch.arange(channels).repeat_interleave(k).numpy(),
        "rank": torch.arange(k).repeat(channels).numpy(),
        "score": peaks.score.flatten().numpy(),
        "image": image.numpy(),
        "key": pa.array([keys.get(i) for i in image.tolist()], pa.string()),
        "row": peaks.row.flatten().numpy(),
        "col": peaks.col.flatten().numpy(),
        **{name: box[:, i].contiguous().numpy() for i, name in enumerate(("y0", "x0", "y1", "x1"))},
    }
    return pa.table(columns)


def _layer_from(columns: dict[str, np.ndarray], rows: np.ndarray) -> LayerPeaks:
    layer = {name: torch.from_numpy(values[rows].copy()) for name, values in columns.items()}
    channels, k = int(layer["channel"].max()) + 1, int(layer["rank"].max()) + 1
    _check_grid(layer, channels, k)
    box = torch.stack([layer[name] for name in ("y0", "x0", "y1", "x1")], dim=1)
    score, image, row, col = (layer[name].view(channels, k) for name in ("score", "image", "row", "col"))
    return LayerPeaks(score, image, row, col, box.view(channels, k, 4))


def _check_grid(layer: dict[str, Tensor], channels: int, k: int) -> None:
    """Raise ValueError unless each rank of each channel is there once, in order, and each image has a score."""
    rows = len(layer["channel"])
    if channels * k != rows or not (
        torch.equal(layer["channel"] * k + layer["rank"], torch.arange(rows)) and int(layer["rank"].min()) == 0
    ):
        raise ValueError(f"its {rows} rows are not {k} peaks for each of {channels} units, in order")
    if not torch.equal(layer["score"].isnan(), layer["image"] < 0):
        raise ValueError("a peak without an image has a score, or one with an image has none")
