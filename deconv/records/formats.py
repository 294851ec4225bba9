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

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from deconv.errors import BadInput, DeconvError, first_line
from deconv.files import write_whole

FORMAT = 2
"""Version of the saved forms; a newer one is refused, an older one read."""
RENAMED = {"frame": "input_size", "made_of": "provenance"}
"""Keys of format 1, and what they are called since."""
MOST_ROWS = 2**26
"""Of a table. Repeated values pack so well that the size of a file says nothing about their number."""

Wanted = Mapping[str, tuple[torch.dtype, str]]
"""By name a tensor's dtype and axes, as "N 3 h w": numbers are sizes, and a letter is one size wherever it stands."""


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Whatever a file that is missing or damaged makes the libraries raise, as BadInput."""
    if not os.path.isfile(path):  # unlike Path.is_file, false for names that are too long
        raise BadInput(f"{path} does not exist; expected a record written by deconv.")
    try:
        yield
    except DeconvError:
        raise
    except Exception as error:  # each library has errors of its own for a damaged file
        raise BadInput(
            f"{path} cannot be read ({first_line(error)}); it is damaged or no record. Make it again."
        ) from error


def save_table(path: str | Path, kind: str, table: pa.Table, provenance: Mapping[str, Any]) -> Path:
    """Write a Parquet file in which a damaged page is noticed."""
    whole = table.replace_schema_metadata(_metadata(kind, provenance))
    return write_whole(path, lambda file: pq.write_table(whole, file, write_page_checksum=True))


def load_table(path: str | Path, kind: str, schema: pa.Schema) -> tuple[pa.Table, dict[str, Any]]:
    """(table, provenance). To be called within `reading`."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        if file.metadata.num_rows > MOST_ROWS:
            raise ValueError(f"it has {file.metadata.num_rows} rows, more than {MOST_ROWS}")
        provenance = _check_metadata(path, kind, file.schema_arrow.metadata)
        if not file.schema_arrow.equals(schema):
            raise ValueError(f"its columns are {', '.join(file.schema_arrow.names)}, or of other types")
        table = file.read()
    table.validate(full=True)
    return table, provenance


def save_tensors(path: str | Path, kind: str, tensors: Mapping[str, Tensor], provenance: Mapping[str, Any]) -> Path:
    """Write a safetensors file."""
    whole = {name: value.contiguous() for name, value in tensors.items()}
    return write_whole(path, save(whole, metadata=_metadata(kind, provenance)))


def load_tensors(path: str | Path, kind: str, wanted: Wanted) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, provenance). To be called within `reading`."""
    with safe_open(str(path), framework="pt") as file:
        provenance = _check_metadata(path, kind, file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    _check_tensors(tensors, wanted)
    return tensors, provenance


def _check_tensors(tensors: Mapping[str, Tensor], wanted: Wanted) -> None:
    if tensors.keys() != wanted.keys():
        raise ValueError(f"its tensors are {', '.join(tensors)}; expected {', '.join(wanted)}")
    sizes: dict[str, int] = {}
    for name, (dtype, axes) in wanted.items():
        shape = tuple(tensors[name].shape)
        known = [int(axis) if axis.isdigit() else sizes.get(axis) for axis in axes.split()]
        fits = len(shape) == len(known) and all(size in (None, given) for size, given in zip(known, shape, strict=True))
        if not fits or tensors[name].dtype != dtype:
            raise ValueError(f"its {name} is {tensors[name].dtype} {shape}; expected {dtype} ({axes})")
        sizes |= zip(axes.split(), shape, strict=True)


def _metadata(kind: str, provenance: Mapping[str, Any]) -> dict[str, str]:
    """One entry only: safetensors orders several at random, and the bytes should be the same each time."""
    return {"deconv": json.dumps({"kind": kind, "format": FORMAT, "provenance": provenance}, sort_keys=True)}


def _check_metadata(path: str | Path, kind: str, metadata: Mapping[Any, Any] | None) -> dict[str, Any]:
    found = {_text(name): value for name, value in (metadata or {}).items()}
    about = json.loads(_text(found.get("deconv", '{"kind": "something else", "format": 0}')))
    if about["kind"] != kind:
        raise BadInput(f"{path} holds {about['kind']}; expected {kind} written by deconv.")
    if about["format"] > FORMAT:
        raise BadInput(f"{path} has format {about['format']}; this deconv reads up to {FORMAT}. Update deconv.")
    provenance: dict[str, Any] = about["provenance"]
    if not isinstance(provenance, dict):
        raise TypeError("its provenance is not a JSON object")
    return provenance if about["format"] > 1 else {RENAMED.get(name, name): value for name, value in provenance.items()}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else value
