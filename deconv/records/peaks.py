"""Peaks: where units are strongest, and their file on disk: safetensors, or Parquet where the name says so."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deconv.defaults import plain_defaults
from deconv.errors import shown, unknown
from deconv.notebooks import ShownInNotebooks
from deconv.records.firing import Firing, firing_axes, joined_firing, split_firing
from deconv.records.formats import (
    PARQUET,
    WITH_CLASSES,
    WITH_FIRING,
    Axes,
    Columns,
    check_suffix,
    is_parquet,
    load_tensors,
    needed_parquet,
    reading,
    save_tensors,
)
from deconv.records.layer_peaks import LayerPeaks
from deconv.records.units import as_frame, unit_columns

if TYPE_CHECKING:
    import pandas
    import pyarrow

MOST_LISTED = 8
"""Layers that a repr names."""
SIDES = ("y0", "x0", "y1", "x1")
COLUMNS = ("layer", "channel", "rank", "score", "image", "key", "row", "col", *SIDES)
"""Of a table of peaks, one a row."""
PEAK_AXES: Axes = {
    **{name: (torch.int64, "n") for name in COLUMNS if name not in ("score", "key")},
    "score": (torch.float32, "n"),
    "image_ids": (torch.int64, "m"),
    "keys": (torch.uint8, "b"),
}
"""Of the same in safetensors: `layer` is a number, and the keys of the images stand apart, as JSON."""


@dataclass(frozen=True, eq=False)
class Peaks(ShownInNotebooks, Mapping[str, LayerPeaks]):
    """Peaks by layer: a mapping from the names of layers to their `LayerPeaks`.

    - image_keys: the key of each image that holds a peak, by its id.
    - provenance: what the peaks were made of.
    - firing: by layer, how units fire over all images, where the mining counted it.

    >>> import deconv, torch
    >>> _ = torch.manual_seed(0)
    >>> network = deconv.Network(torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU()), (1, 8, 8))
    >>> peaks = deconv.mine(network, torch.randn(20, 1, 8, 8), ["1"], k=3)
    >>> peaks
    <Peaks: 1 (4 units), 3 peaks each>
    >>> from tempfile import mkdtemp
    >>> list(deconv.Peaks.load(peaks.save(mkdtemp() + "/peaks.safetensors")))
    ['1']
    """

    layers: dict[str, LayerPeaks]
    image_keys: dict[int, str]
    provenance: dict[str, Any] = field(default_factory=dict)
    firing: Mapping[str, Firing] | None = None

    def __post_init__(self) -> None:
        named = {name: replace(peaks, layer=name) for name, peaks in self.layers.items()}
        object.__setattr__(self, "layers", named)  # as frozen dataclasses set what follows from the rest

    def __getitem__(self, layer: str) -> LayerPeaks:
        if layer not in self.layers:
            raise unknown("layer of these peaks", layer, self.layers)
        return self.layers[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __repr__(self) -> str:
        listed = [f"{shown(name)} ({len(peaks.score)} units)" for name, peaks in self.layers.items()]
        if len(listed) > MOST_LISTED:
            listed = [*listed[: MOST_LISTED - 1], f"... {len(listed) - MOST_LISTED + 1} more layers"]
        k = max((peaks.score.shape[1] for peaks in self.layers.values()), default=0)
        return f"<Peaks: {', '.join(listed) or 'no layers'}, {k} peaks each>"

    @plain_defaults()
    def save(self, path: str | Path) -> Path:
        """Write a safetensors file; where the name ends in .parquet, a table of COLUMNS, with rows for missing peaks.

        A table has no room for `firing`, and leaves it out: `units_to_pandas` has a table of its own for that.
        Raises BadInput for another suffix, and for a .parquet where there is no pyarrow (the extra `parquet`).
        """
        check_path(path)
        columns = self._all_rows()
        if Path(path).suffix == PARQUET:
            table: Path = needed_parquet(path).save_peaks(path, columns, self.provenance)
            return table
        image_ids, names = sorted(self.image_keys), list(self.layers)
        keys = json.dumps([self.image_keys[image_id] for image_id in image_ids]).encode()
        tensors = {name: torch.from_numpy(values) for name, values in columns.items() if values.dtype != object}
        rows_of = torch.tensor([peaks.score.numel() for peaks in self.layers.values()], dtype=torch.int64)
        tensors["layer"] = torch.arange(len(names)).repeat_interleave(rows_of)
        tensors["image_ids"] = torch.tensor(image_ids, dtype=torch.int64)
        tensors["keys"] = torch.frombuffer(bytearray(keys), dtype=torch.uint8)
        fields: dict[str, Any] = {"layers": names, "provenance": self.provenance}
        if self.firing is None:
            return save_tensors(path, "peaks", tensors, PEAK_AXES, fields, checked=True)
        counted, said = joined_firing([self.firing[name] for name in names])
        axes, version = {**PEAK_AXES, **firing_axes(counted)}, WITH_CLASSES if "classes" in said else WITH_FIRING
        return save_tensors(path, "peaks", tensors | counted, axes, fields | said, checked=True, version=version)

    @staticmethod
    def load(path: str | Path) -> Peaks:
        """Read what `save` wrote. Raises BadInput for a file that is missing, damaged, of another kind or newer.

        A table needs pyarrow, as in `save`.
        """
        with reading(path):
            return _from_table(path) if is_parquet(path) else _from_tensors(path)

    def to_arrow(self) -> pyarrow.Table:
        """Return an Arrow table of the peaks, one a row: the columns that `to_pandas` names.

        Raises BadInput where there is no pyarrow (the extra `parquet`).
        """
        return needed_parquet("of peaks").arrow_table(self._rows())

    def to_pandas(self) -> pandas.DataFrame:
        """Return a data frame of the peaks, one a row: layer by layer, unit by unit, strongest first.

        Its columns are layer, channel, rank (0 for the strongest), score, image, key, row, col, and y0, x0, y1, x1 of
        the receptive field; they are named as the arguments of `deconv.project` that take them.
        Raises BadInput where there is no pandas (the extra `pandas`).
        """
        return as_frame(self._rows(), "peaks")

    def units_to_pandas(self) -> pandas.DataFrame:
        """Return a data frame of units, one a row: `deconv.records.units.unit_columns` has its columns, and raises."""
        return as_frame(unit_columns(self), "units")

    def _rows(self) -> Columns:
        """The columns of the table, without rows for missing peaks."""
        columns = self._all_rows()
        return {name: values[columns["image"] >= 0] for name, values in columns.items()}

    def _all_rows(self) -> Columns:
        parts = [_columns(layer, peaks, self.image_keys) for layer, peaks in self.layers.items()]
        return {name: np.concatenate([part[name] for part in parts or [_no_rows()]]) for name in COLUMNS}


def check_path(path: str | Path) -> None:
    """Raise BadInput for a path that peaks could not be saved to: another suffix, a .parquet where pyarrow is not."""
    check_suffix(path, PARQUET)
    if Path(path).suffix == PARQUET:
        needed_parquet(path)


def _columns(layer: str, peaks: LayerPeaks, keys: Mapping[int, str]) -> Columns:
    channels, k = peaks.score.shape
    image, box = peaks.image.flatten(), peaks.box.reshape(-1, 4)
    tensors = {
        "channel": torch.arange(channels).repeat_interleave(k),
        "rank": torch.arange(k).repeat(channels),
        "score": peaks.score.flatten(),
        "image": image,
        "row": peaks.row.flatten(),
        "col": peaks.col.flatten(),
        **{name: box[:, i].contiguous() for i, name in enumerate(SIDES)},
    }
    words = {"layer": [layer] * len(image), "key": [keys.get(image_id) for image_id in image.tolist()]}
    numbers = {name: column.numpy() for name, column in tensors.items()}
    columns = numbers | {name: np.array(values, dtype=object) for name, values in words.items()}
    return {name: columns[name] for name in COLUMNS}


def _no_rows() -> Columns:
    empty, box = torch.zeros((0, 0), dtype=torch.int64), torch.zeros((0, 0, 4), dtype=torch.int64)
    return _columns("", LayerPeaks(empty.float(), empty, empty, empty, box), {})


def _from_table(path: str | Path) -> Peaks:
    """The peaks of a Parquet file."""
    columns, provenance = needed_parquet(path).load_peaks(path)
    names = list(dict.fromkeys(columns["layer"].tolist()))
    keys = dict(zip(columns["image"].tolist(), columns.pop("key").tolist(), strict=True))
    image_keys = {image_id: keys[image_id] for image_id in sorted(keys) if image_id >= 0}
    columns["layer"] = np.array([names.index(name) for name in columns["layer"]], dtype=np.int64)
    return Peaks(_layers_from(columns, names), image_keys, provenance)


def _from_tensors(path: str | Path) -> Peaks:
    """The peaks of a safetensors file, with how units fire where it says so."""
    tensors, saved = load_tensors(path, "peaks", _axes_of)
    counted = {name: tensors.pop(name) for name in firing_axes(tensors)}
    names, provenance = saved["layers"], saved["provenance"]
    keys = json.loads(tensors.pop("keys").numpy().tobytes())
    image_keys = dict(zip(tensors.pop("image_ids").tolist(), keys, strict=True))
    kinds = {type(name) for name in [*names, *keys]}
    if not isinstance(provenance, dict) or not kinds <= {str}:
        raise ValueError("its layers, its keys or its provenance are of another kind")
    columns = {name: tensor.numpy() for name, tensor in tensors.items()}
    if not set(columns["layer"].tolist()) == set(range(len(names))):
        raise ValueError(f"its rows are not of its {len(names)} layers")
    layers = _layers_from(columns, names)
    units = {name: len(peaks.score) for name, peaks in layers.items()}
    return Peaks(layers, image_keys, provenance, split_firing(counted, saved, units))


def _axes_of(tensors: Mapping[str, Tensor]) -> Axes:
    return {**PEAK_AXES, **firing_axes(tensors)}


def _layers_from(columns: Columns, names: Sequence[str]) -> dict[str, LayerPeaks]:
    """The peaks by layer, of columns in which `layer` is a number among the names."""
    number = columns.pop("layer")
    return {name: _layer_from(columns, number == n) for n, name in enumerate(names)}


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
