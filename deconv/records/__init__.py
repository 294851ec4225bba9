"""What the stages hand on: peaks, patches and reconstructions, frozen, saved whole and loaded bit for bit.

Peaks are Parquet tables, pixels are safetensors files; both carry `provenance`, a JSON object that says what the record
was made of (weights hash, layer, source and its content hash, preprocessing, rule, versions).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from deconv.errors import UnknownName
from deconv.records.formats import Wanted, load_table, load_tensors, reading, save_table, save_tensors


@dataclass(frozen=True, eq=False)
class LayerPeaks:
    """The k strongest peaks of every unit of one layer, strongest first by (-score, image, row, col).

    score (C, k) float32, nan where missing;  image, row, col (C, k) int64, image -1 where missing;
    box (C, k, 4) int64: y0, x0, y1, x1 of the receptive field in the pixels of the input image, unclipped.
    """

    score: Tensor
    image: Tensor
    row: Tensor
    col: Tensor
    box: Tensor

    @property
    def found(self) -> Tensor:
        """(C, k) bool: places that hold a peak."""
        return self.image >= 0

    def of(self, units: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(image, channel, row, col), each (N,), of all peaks of some units: unit by unit, strongest first."""
        chosen = torch.tensor(units, dtype=torch.int64)
        found = self.found[chosen]
        channel = chosen[:, None].expand_as(found)
        return self.image[chosen][found], channel[found], self.row[chosen][found], self.col[chosen][found]

    def scores_of(self, units: list[int]) -> Tensor:
        """(N,) scores in the order of `of`."""
        return self.score[units][self.found[units]]


@dataclass(frozen=True, eq=False)
class Peaks(Mapping[str, LayerPeaks]):
    """Peaks by layer, the keys of the images they lie in, and what they were made of."""

    layers: dict[str, LayerPeaks]
    image_keys: dict[int, str]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, layer: str) -> LayerPeaks:
        if layer not in self.layers:
            raise UnknownName(f"these peaks have no layer {layer!r}; they have {', '.join(self.layers)}.")
        return self.layers[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

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
            return Peaks(layers, {i: key for i, key in sorted(keys) if i >= 0}, provenance)


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
    part = {name: torch.from_numpy(values[rows].copy()) for name, values in columns.items()}
    channels, k = int(part["channel"].max()) + 1, int(part["rank"].max()) + 1
    _check_grid(part, channels, k)
    box = torch.stack([part[name] for name in ("y0", "x0", "y1", "x1")], dim=1)
    score, image, row, col = (part[name].view(channels, k) for name in ("score", "image", "row", "col"))
    return LayerPeaks(score, image, row, col, box.view(channels, k, 4))


def _check_grid(part: dict[str, Tensor], channels: int, k: int) -> None:
    """Every rank of every channel once, in order, and a score just where there is an image."""
    rows = len(part["channel"])
    if channels * k != rows or not (
        torch.equal(part["channel"] * k + part["rank"], torch.arange(rows)) and int(part["rank"].min()) == 0
    ):
        raise ValueError(f"its {rows} rows are not {k} peaks for each of {channels} units, in order")
    if not torch.equal(part["score"].isnan(), part["image"] < 0):
        raise ValueError("a peak without an image has a score, or one with an image has none")


@dataclass(frozen=True, eq=False)
class Patches:
    """Receptive-field boxes cut out of their images.

    pixels (N, 3, h, w) uint8, zero outside the image;  inside (N, h, w) bool, False outside the image;
    box (N, 4) int64: y0, x0, y1, x1 in the pixels of the input image, unclipped;  image (N,) int64.
    """

    pixels: Tensor
    inside: Tensor
    box: Tensor
    image: Tensor
    provenance: dict[str, Any] = field(default_factory=dict)

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file."""
        tensors = {"pixels": self.pixels, "inside": self.inside, "box": self.box, "image": self.image}
        return save_tensors(path, "patches", tensors, self.provenance)

    @staticmethod
    def load(path: str | Path) -> Patches:
        """Read what `save` wrote. Raises BadInput for a file that is missing, damaged, of another kind or newer."""
        with reading(path):
            tensors, provenance = load_tensors(path, "patches", PATCH_TENSORS)
            _check_boxes(tensors)
            return Patches(**tensors, provenance=provenance)


@dataclass(frozen=True, eq=False)
class Reconstructions:
    """The pixels that a rule gives for N peaks of one layer.

    pixels (N, 3, h, w) float32, signed, in units of the network's input; (h, w) is the receptive-field size; zero
    outside the image.  score (N,) float32: the activation, recomputed.  box (N, 4) int64: y0, x0, y1, x1, unclipped.
    image, channel, row, col (N,) int64: the peaks.  input_size: (H, W) of the images.
    """

    layer: str
    rule: str
    pixels: Tensor
    score: Tensor
    box: Tensor
    image: Tensor
    channel: Tensor
    row: Tensor
    col: Tensor
    input_size: tuple[int, int]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pixels)

    def paste(self) -> Tensor:
        """The same pixels where they lie in the whole image, zero elsewhere: (N, 3, H, W) float32."""
        pictures = self.pixels.new_zeros((len(self), self.pixels.shape[1], *self.input_size))
        for picture, pixels, (y0, x0, y1, x1) in zip(pictures, self.pixels, self.box.tolist(), strict=True):
            (rows, box_rows), (cols, box_cols) = clip(y0, y1, self.input_size[0]), clip(x0, x1, self.input_size[1])
            picture[:, rows, cols] = pixels[:, box_rows, box_cols]
        return pictures

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file."""
        tensors: dict[str, Tensor] = {name: getattr(self, name) for name in RECONSTRUCTION_TENSORS}
        fields = {
            "layer": self.layer,
            "rule": self.rule,
            "input_size": list(self.input_size),
            "provenance": self.provenance,
        }
        return save_tensors(path, "reconstructions", tensors, fields)

    @staticmethod
    def load(path: str | Path) -> Reconstructions:
        """Read what `save` wrote. Raises BadInput for a file that is missing, damaged, of another kind or newer."""
        with reading(path):
            tensors, saved = load_tensors(path, "reconstructions", RECONSTRUCTION_TENSORS)
            _check_boxes(tensors)
            layer, rule, (height, width), provenance = (
                saved[name] for name in ("layer", "rule", "input_size", "provenance")
            )
            kinds = [type(value) for value in (layer, rule, height, width, provenance)]
            if kinds != [str, str, int, int, dict] or min(height, width) < 1:
                raise ValueError("its layer, rule, input size or provenance is of another kind")
            return Reconstructions(layer, rule, **tensors, input_size=(height, width), provenance=provenance)


PATCH_TENSORS: Wanted = {
    "pixels": (torch.uint8, "N 3 h w"),
    "inside": (torch.bool, "N h w"),
    "box": (torch.int64, "N 4"),
    "image": (torch.int64, "N"),
}
RECONSTRUCTION_TENSORS: Wanted = {
    "pixels": (torch.float32, "N 3 h w"),
    "score": (torch.float32, "N"),
    "box": (torch.int64, "N 4"),
    "image": (torch.int64, "N"),
    "channel": (torch.int64, "N"),
    "row": (torch.int64, "N"),
    "col": (torch.int64, "N"),
}


def _check_boxes(tensors: dict[str, Tensor]) -> None:
    (top, left, bottom, right), size = tensors["box"].T, tensors["pixels"].shape[2:]
    if not bool((bottom - top == size[0]).all() and (right - left == size[1]).all()):
        raise ValueError(f"a box is not of the {size[0]} x {size[1]} pixels that its picture has")


def clip(low: int, high: int, size: int) -> tuple[slice, slice]:
    """The part of [low, high) that lies in [0, size): counted from 0, and counted from low."""
    first, last = min(max(low, 0), size), min(max(high, 0), size)
    return slice(first, last), slice(first - low, last - low)
