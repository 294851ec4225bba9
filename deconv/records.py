"""What the stages hand on: peaks, patches and reconstructions, frozen, saved whole and loaded bit for bit.

Peaks are Parquet tables, pixels are safetensors files; both carry `provenance`, a JSON object that says what the record
was made of (weights hash, layer, source and its content hash, preprocessing, rule, versions).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from deconv.errors import BadInput, UnknownName
from deconv.runs import write_whole

FORMAT = 1
"""Version of the saved forms; a newer one is refused."""


@dataclass(frozen=True, eq=False)
class LayerPeaks:
    """The k strongest peaks of every unit of one layer, strongest first by (-score, image, row, col).

    score (C, k) float32, nan where missing;  image, row, col (C, k) int64, image -1 where missing;
    box (C, k, 4) int64: y0, x0, y1, x1 of the receptive field in the frame's pixels, unclipped.
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
        metadata = _metadata("peaks", self.provenance)
        table = pa.concat_tables(tables or [_table("", _no_peaks(), {})]).replace_schema_metadata(metadata)
        return write_whole(path, lambda file: pq.write_table(table, file))

    @staticmethod
    def load(path: str | Path) -> Peaks:
        """Read what `save` wrote. Raises BadInput for a file that is missing, cut short, of another kind or newer."""
        table = _read(path, lambda: pq.read_table(path))
        provenance = _check_metadata(path, "peaks", table.schema.metadata)
        columns = {name: table[name].to_numpy() for name in table.column_names if name not in ("layer", "key")}
        keys = {i: key for i, key in zip(columns["image"].tolist(), table["key"].to_pylist(), strict=True) if i >= 0}
        layer_of_row = np.array(table["layer"].to_pylist(), dtype=object)
        layers = {name: _layer_from(columns, layer_of_row == name) for name in dict.fromkeys(layer_of_row)}
        return Peaks(layers, dict(sorted(keys.items())), provenance)


def _no_peaks() -> LayerPeaks:
    empty = torch.zeros((0, 0), dtype=torch.int64)
    return LayerPeaks(empty.float(), empty, empty, empty, torch.zeros((0, 0, 4), dtype=torch.int64))


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
    box = torch.stack([part[name] for name in ("y0", "x0", "y1", "x1")], dim=1)
    score, image, row, col = (part[name].view(channels, k) for name in ("score", "image", "row", "col"))
    return LayerPeaks(score, image, row, col, box.view(channels, k, 4))


@dataclass(frozen=True, eq=False)
class Patches:
    """Receptive-field boxes cut out of their images.

    pixels (N, 3, h, w) uint8, zero outside the image;  inside (N, h, w) bool, False outside the image;
    box (N, 4) int64: y0, x0, y1, x1 in the frame's pixels, unclipped;  image (N,) int64.
    """

    pixels: Tensor
    inside: Tensor
    box: Tensor
    image: Tensor
    provenance: dict[str, Any] = field(default_factory=dict)

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file."""
        tensors = {"pixels": self.pixels, "inside": self.inside, "box": self.box, "image": self.image}
        return _save_tensors(path, "patches", tensors, self.provenance)

    @staticmethod
    def load(path: str | Path) -> Patches:
        """Read what `save` wrote. Raises BadInput for a file that is missing, cut short, of another kind or newer."""
        tensors, provenance = _load_tensors(path, "patches")
        return Patches(**tensors, provenance=provenance)


@dataclass(frozen=True, eq=False)
class Reconstructions:
    """The pixels that a rule gives for N peaks of one layer.

    pixels (N, 3, h, w) float32, signed, in units of the network's input; (h, w) is the receptive-field size; zero
    outside the image.  score (N,) float32: the activation, recomputed.  box (N, 4) int64: y0, x0, y1, x1, unclipped.
    image, channel, row, col (N,) int64: the peaks.  frame: (H, W) of the images.
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
    frame: tuple[int, int]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pixels)

    def paste(self) -> Tensor:
        """The same pixels in the frame of the whole image, zero elsewhere: (N, 3, H, W) float32."""
        frames = self.pixels.new_zeros((len(self), self.pixels.shape[1], *self.frame))
        for frame, pixels, (y0, x0, y1, x1) in zip(frames, self.pixels, self.box.tolist(), strict=True):
            (rows, box_rows), (cols, box_cols) = clip(y0, y1, self.frame[0]), clip(x0, x1, self.frame[1])
            frame[:, rows, cols] = pixels[:, box_rows, box_cols]
        return frames

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file."""
        tensors = {name: getattr(self, name) for name in RECONSTRUCTION_TENSORS}
        about = {"layer": self.layer, "rule": self.rule, "frame": list(self.frame), "made_of": self.provenance}
        return _save_tensors(path, "reconstructions", tensors, about)

    @staticmethod
    def load(path: str | Path) -> Reconstructions:
        """Read what `save` wrote. Raises BadInput for a file that is missing, cut short, of another kind or newer."""
        tensors, about = _load_tensors(path, "reconstructions")
        frame = (about["frame"][0], about["frame"][1])
        return Reconstructions(about["layer"], about["rule"], **tensors, frame=frame, provenance=about["made_of"])


RECONSTRUCTION_TENSORS = ("pixels", "score", "box", "image", "channel", "row", "col")


def clip(low: int, high: int, size: int) -> tuple[slice, slice]:
    """The part of [low, high) that lies in [0, size): counted from 0, and counted from low."""
    first, last = min(max(low, 0), size), min(max(high, 0), size)
    return slice(first, last), slice(first - low, last - low)


def _metadata(kind: str, provenance: dict[str, Any]) -> dict[str, str]:
    """One entry only: safetensors orders several at random, and the bytes should be the same each time."""
    return {"deconv": json.dumps({"kind": kind, "format": FORMAT, "provenance": provenance}, sort_keys=True)}


def _check_metadata(path: str | Path, kind: str, metadata: Mapping[Any, Any] | None) -> dict[str, Any]:
    found = {str(_text(name)): _text(value) for name, value in (metadata or {}).items()}
    about: dict[str, Any] = json.loads(found.get("deconv", '{"kind": "something else", "format": 0}'))
    if about["kind"] != kind:
        raise BadInput(f"{path} holds {about['kind']}; expected {kind} written by deconv.")
    if about["format"] > FORMAT:
        raise BadInput(f"{path} has format {about['format']}; this deconv reads up to {FORMAT}. Update deconv.")
    return about["provenance"]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _read(path: str | Path, read: Any) -> Any:
    if not Path(path).is_file():
        raise BadInput(f"{path} does not exist; expected a record written by deconv.")
    try:
        return read()
    except Exception as error:  # each library has errors of its own for a damaged file
        raise BadInput(f"{path} cannot be read ({error}); it is damaged or no record. Make it again.") from error


def _save_tensors(path: str | Path, kind: str, tensors: dict[str, Tensor], provenance: dict[str, Any]) -> Path:
    whole = {name: value.contiguous() for name, value in tensors.items()}
    return write_whole(path, save(whole, metadata=_metadata(kind, provenance)))


def _load_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    def read() -> tuple[dict[str, Tensor], dict[str, str]]:
        with safe_open(str(path), framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata()

    tensors, metadata = _read(path, read)
    return tensors, _check_metadata(path, kind, metadata)
