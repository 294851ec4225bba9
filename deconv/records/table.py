"""The measured units of one layer by one rule: a Parquet table that says what it was made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deconv.errors import RecordMismatch
from deconv.files import write_whole
from deconv.records.formats import reading

Columns = dict[str, np.ndarray]


def save(path: Path, columns: Mapping[str, np.ndarray], provenance: Mapping[str, Any]) -> Path:
    """Write columns of one length (U,) and `provenance`, plain JSON."""
    table = pa.table(dict(columns)).replace_schema_metadata({"deconv": json.dumps(provenance, sort_keys=True)})
    return write_whole(path, lambda file: pq.write_table(table, file, write_page_checksum=True))


def load(path: Path, provenance: Mapping[str, Any]) -> Columns | None:
    """The columns at `path`; None if there is no such file.

    Raises RecordMismatch, naming the difference, if it was made of anything else, BadInput if it cannot be read.
    """
    if not path.exists():
        return None
    columns, found = read(path)
    _check_same(path, found, json.loads(json.dumps(provenance)), "")
    return columns


def read(path: Path) -> tuple[Columns, Any]:
    """The columns at `path`, and what they were made of. Raises BadInput if it is missing or cannot be read."""
    with reading(path):
        table = pq.read_table(path, page_checksum_verification=True)
        provenance = json.loads(table.schema.metadata[b"deconv"])
    return {name: table[name].to_numpy() for name in table.column_names}, provenance


def _check_same(path: Path, found: Any, wanted: Any, name: str) -> None:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            _check_same(path, found.get(key), wanted.get(key), f"{name}.{key}" if name else key)
    elif found != wanted:
        raise RecordMismatch(
            f"{path} was made with {name} {found}; this run has {wanted}. "
            "Choose another folder, or delete that file to measure again."
        )
