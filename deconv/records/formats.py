"""The files that records are saved in, safetensors: what they are made of, checked when they are read.

Peaks may also be a Parquet table (`deconv.records.parquet`), which needs a library that an extra brings.

A file that was cut, damaged or made by somebody else is refused in one line. Nothing in it is run, and no more memory
taken than a record of its size may need.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from deconv.errors import BadInput, DeconvError, bad_value, first_line, needed
from deconv.files import write_whole
from deconv.records.provenance import Provenance, check_same, weights_hash

FORMAT = 3
"""Version of the saved forms; an older one is read."""
WITH_FIRING = 4
"""That of peaks with counts of how units fire."""
WITH_CLASSES = 5
"""That of those that say it by class."""
IN_HALVES = 6
"""That of reconstructions kept as float16, the newest: one that is newer still is refused."""
RENAMED = {"frame": "input_size", "made_of": "provenance"}
"""Keys of format 1, and what they are called since."""
MEASURES = "measures"
"""The kind of a table of measured units; in format 1 its metadata are its provenance and nothing else."""
SAFETENSORS, PARQUET = ".safetensors", ".parquet"

Axes = Mapping[str, tuple[torch.dtype, str]]
"""By name a tensor's dtype and axes, as "N 4 h w": numbers are sizes, and a letter is one size wherever it stands."""
Columns = dict[str, np.ndarray]
"""By name the columns of a table, all of one length."""


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn whatever a missing or damaged file makes the libraries raise into BadInput."""
    if not os.path.isfile(path):  # unlike Path.is_file, false for names that are too long
        raise BadInput(f"{path} does not exist; expected a record written by deconv")
    try:
        yield
    except DeconvError:
        raise
    except Exception as error:  # each library has errors of its own for a damaged file
        raise BadInput(
            f"{path} cannot be read ({first_line(error)}); it is damaged or no record: make it again"
        ) from error


def check_suffix(path: str | Path, *others: str) -> None:
    """Raise BadInput unless a record's name ends in .safetensors, or in one of the others.

    >>> check_suffix("peaks.csv", ".parquet")
    Traceback (most recent call last):
    deconv.errors.BadInput: path: given peaks.csv; expected a file whose name ends in .safetensors or .parquet
    """
    possible = (SAFETENSORS, *others)
    if not isinstance(path, str | PathLike):
        raise bad_value("path", path, f"the path of a file whose name ends in {' or '.join(possible)}")
    if Path(path).suffix not in possible:
        raise bad_value("path", Path(path).name, f"a file whose name ends in {' or '.join(possible)}")


def save_columns(path: str | Path, columns: Columns, provenance: Mapping[str, Any]) -> Path:
    """Write the measures of units, columns of numbers of one length, in their order."""
    tensors = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in columns.items()}
    fields = {"columns": list(columns), "provenance": provenance}
    return save_tensors(path, MEASURES, tensors, _axes_of_columns(tensors), fields, checked=True)


def load_columns(path: Path, provenance: Mapping[str, Any]) -> Columns | None:
    """Return the columns at `path`; None if there is no such file.

    Raises RecordMismatch, naming the difference, if it was made of anything else; BadInput if it cannot be read.
    """
    if not path.exists():
        return None
    columns, saved = read_columns(path)
    check_same(path, saved, provenance, "Choose another folder, or delete that file to measure again.")
    return columns


def read_columns(path: str | Path) -> tuple[Columns, Provenance]:
    """Return (columns, provenance), whatever they were made of. Raises BadInput if the file is missing or damaged."""
    with reading(path):
        if is_parquet(path):
            return needed_parquet(path).load_measures(path)
        tensors, saved = load_tensors(path, MEASURES, _axes_of_columns)
        return {name: tensors[name].numpy() for name in saved["columns"]}, saved["provenance"]


def save_table(path: str | Path, columns: Columns, provenance: Mapping[str, Any]) -> Path:
    """Write columns of measures as a Parquet table, for other tools. Raises BadInput where there is no pyarrow."""
    written: Path = needed_parquet(path).save_measures(path, columns, provenance)
    return written


def _axes_of_columns(columns: Mapping[str, Tensor]) -> Axes:
    return {name: (values.dtype, "n") for name, values in columns.items()}


def is_parquet(path: str | Path) -> bool:
    """Return whether a file is a Parquet table, by its first bytes."""
    with open(path, "rb") as file:
        return file.read(4) == b"PAR1"


def needed_parquet(path: str | Path) -> ModuleType:
    """Return `deconv.records.parquet`. Raises BadInput, naming the file, where there is no pyarrow."""
    with needed(f"the table {path}", "pyarrow", extra="parquet"):
        from deconv.records import parquet
    return parquet


def save_tensors(
    path: str | Path,
    kind: str,
    tensors: Mapping[str, Tensor],
    axes: Axes,
    provenance: Mapping[str, Any],
    checked: bool = False,
    version: int | None = None,
) -> Path:
    """Write a safetensors file, of FORMAT unless it is of another version.

    Raises BadInput for another suffix, and for tensors that `load_tensors` would refuse.

    checked: keep the SHA-256 of the tensors with them, by which `load_tensors` notices a flipped bit.
    """
    check_suffix(path)
    try:
        _check_tensors(tensors, axes)
    except ValueError as error:
        raise BadInput(f"{path} cannot be written: {error}") from error
    whole = {name: value.contiguous() for name, value in tensors.items()}
    checksum = weights_hash(whole) if checked else ""
    return write_whole(path, save(whole, metadata=metadata_of(kind, provenance, checksum, version)))


def load_tensors(
    path: str | Path,
    kind: str,
    axes: Axes | Callable[[Mapping[str, Tensor]], Axes],
    older: Mapping[str, str] | None = None,
) -> tuple[dict[str, Tensor], Provenance]:
    """Return (tensors, provenance). To be called within `reading`.

    axes: those of the tensors, or a function that says from the tensors what theirs must be.
    older: {name: other}, tensors that files of an older format lack, and those whose values they had.
    """
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata()
        provenance = check_metadata(path, kind, metadata)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    for name, other in (older or {}).items():
        tensors.setdefault(name, tensors[other].clone())
    _check_tensors(tensors, axes(tensors) if callable(axes) else axes)
    checksum = json.loads(metadata["deconv"]).get("tensors", "")
    if checksum and checksum != weights_hash(tensors):
        raise ValueError("its numbers are not those that were written")
    return tensors, provenance


def _check_tensors(tensors: Mapping[str, Tensor], axes: Axes) -> None:
    if tensors.keys() != axes.keys():
        raise ValueError(f"its tensors are {', '.join(tensors)}; expected {', '.join(axes)}")
    sizes: dict[str, int] = {}
    for name, (dtype, names) in axes.items():
        shape = tuple(tensors[name].shape)
        known = [int(axis) if axis.isdigit() else sizes.get(axis) for axis in names.split()]
        fits = len(shape) == len(known) and all(size in (None, side) for size, side in zip(known, shape, strict=True))
        if not fits or tensors[name].dtype != dtype:
            raise ValueError(f"its {name} is {tensors[name].dtype} {shape}; expected {dtype} ({names})")
        sizes |= zip(names.split(), shape, strict=True)


def metadata_of(
    kind: str, provenance: Mapping[str, Any], checksum: str = "", version: int | None = None
) -> dict[str, str]:
    """Return what a file says of itself; checksum: of its tensors.

    One entry only: safetensors orders several at random, and the bytes should be the same each time.
    """
    said = {"kind": kind, "format": version or FORMAT, "provenance": provenance}
    said |= {"tensors": checksum} if checksum else {}
    return {"deconv": json.dumps(said, sort_keys=True)}


def check_metadata(path: str | Path, kind: str, metadata: Mapping[Any, Any] | None) -> Provenance:
    """Return the provenance. Raises BadInput for a record of another kind, or newer, ValueError for a damaged one."""
    texts = {_text(name): value for name, value in (metadata or {}).items()}
    saved = json.loads(_text(texts.get("deconv", '{"kind": "something else", "format": 0}')))
    if kind == MEASURES and "kind" not in saved:
        saved = {"kind": MEASURES, "format": 1, "provenance": saved}
    if saved["kind"] != kind:
        raise BadInput(f"{path} holds {saved['kind']}; expected {kind} written by deconv")
    if saved["format"] > IN_HALVES:
        raise BadInput(f"{path} has format {saved['format']}; this deconv reads up to {IN_HALVES}: update deconv")
    provenance: Provenance = saved["provenance"]
    if not isinstance(provenance, dict):
        raise TypeError("its provenance is not a JSON object")
    return provenance if saved["format"] > 1 else {RENAMED.get(name, name): value for name, value in provenance.items()}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else value
