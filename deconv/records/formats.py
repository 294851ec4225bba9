"""The files that records are saved in, Parquet and safetensors: what they are made of, checked when they are read.

A file that was cut, damaged or made by somebody else is refused in one line. Nothing in it is run, and no more memory
taken than a record of its size may need.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from deconv.errors import BadInput, DeconvError, first_line
from deconv.files import write_whole
from deconv.records.provenance import Provenance, check_same

FORMAT = 3
"""Version of the saved forms; a newer one is refused, an older one read."""
RENAMED = {"frame": "input_size", "made_of": "provenance"}
"""Keys of format 1, and what they are called since."""
MOST_ROWS = 2**26
"""Largest table that is read: compressed Parquet can hold far more rows than its size suggests."""
MEASURES = "measures"
"""The kind of a table of measured units; in format 1 its metadata are its provenance and nothing else."""

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


def save_table(path: str | Path, kind: str, table: pa.Table, provenance: Mapping[str, Any]) -> Path:
    """Write a Parquet file in which a damaged page is noticed."""
    whole = table.replace_schema_metadata(_metadata(kind, provenance))
    return write_whole(path, lambda file: pq.write_table(whole, file, write_page_checksum=True))


def load_table(path: str | Path, kind: str, schema: pa.Schema | None = None) -> tuple[pa.Table, Provenance]:
    """Return (table, provenance); schema: the columns that it must have. To be called within `reading`."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        if file.metadata.num_rows > MOST_ROWS:
            raise ValueError(f"it has {file.metadata.num_rows} rows, more than {MOST_ROWS}")
        provenance = _check_metadata(path, kind, file.schema_arrow.metadata)
        if schema is not None and not file.schema_arrow.equals(schema):
            raise ValueError(f"its columns are {', '.join(file.schema_arrow.names)}, or of other types")
        table = file.read()
    table.validate(full=True)
    return table, provenance


def save_columns(path: str | Path, columns: Columns, provenance: Mapping[str, Any]) -> Path:
    """Write the measures of units, columns of one length, as a Parquet table."""
    return save_table(path, MEASURES, pa.table(columns), provenance)


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
        table, provenance = load_table(path, MEASURES)
        return {name: table[name].to_numpy() for name in table.column_names}, provenance


def save_tensors(
    path: str | Path, kind: str, tensors: Mapping[str, Tensor], axes: Axes, provenance: Mapping[str, Any]
) -> Path:
    """Write a safetensors file. Raises BadInput for tensors that `load_tensors` would refuse."""
    try:
        _check_tensors(tensors, axes)
    except ValueError as error:
        raise BadInput(f"{path} cannot be written: {error}") from error
    whole = {name: value.contiguous() for name, value in tensors.items()}
    return write_whole(path, save(whole, metadata=_metadata(kind, provenance)))


def load_tensors(
    path: str | Path, kind: str, axes: Axes, older: Mapping[str, str] | None = None
) -> tuple[dict[str, Tensor], Provenance]:
    """Return (tensors, provenance). To be called within `reading`.

    older: {name: other}, tensors that files of an older format lack, and those whose values they had.
    """
    with safe_open(str(path), framework="pt") as file:
        provenance = _check_metadata(path, kind, file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    for name, other in (older or {}).items():
        tensors.setdefault(name, tensors[other].clone())
    _check_tensors(tensors, axes)
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


def _metadata(kind: str, provenance: Mapping[str, Any]) -> dict[str, str]:
    """One entry only: safetensors orders several at random, and the bytes should be the same each time."""
    return {"deconv": json.dumps({"kind": kind, "format": FORMAT, "provenance": provenance}, sort_keys=True)}


def _check_metadata(path: str | Path, kind: str, metadata: Mapping[Any, Any] | None) -> Provenance:
    texts = {_text(name): value for name, value in (metadata or {}).items()}
    saved = json.loads(_text(texts.get("deconv", '{"kind": "something else", "format": 0}')))
    if kind == MEASURES and "kind" not in saved:
        saved = {"kind": MEASURES, "format": 1, "provenance": saved}
    if saved["kind"] != kind:
        raise BadInput(f"{path} holds {saved['kind']}; expected {kind} written by deconv")
    if saved["format"] > FORMAT:
        raise BadInput(f"{path} has format {saved['format']}; this deconv reads up to {FORMAT}: update deconv")
    provenance: Provenance = saved["provenance"]
    if not isinstance(provenance, dict):
        raise TypeError("its provenance is not a JSON object")
    return provenance if saved["format"] > 1 else {RENAMED.get(name, name): value for name, value in provenance.items()}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else value
