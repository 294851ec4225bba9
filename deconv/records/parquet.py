"""Peaks and parts as Parquet and Arrow tables, for other tools; measures as older versions saved them.

Only this module knows pyarrow, which the extra `parquet` brings: `deconv.records.formats.needed_parquet` gives it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deconv.files import write_whole
from deconv.records.formats import MEASURES, Columns, check_metadata, metadata_of
from deconv.records.provenance import Provenance

MOST_ROWS = 2**26
"""Largest table that is read: compressed Parquet can hold far more rows than its size suggests."""
WORDS = ("layer", "key")
SCHEMA = pa.schema(
    [
        ("layer", pa.dictionary(pa.int32(), pa.string())),
        *[(name, pa.int64()) for name in ("channel", "rank")],
        ("score", pa.float32()),
        ("image", pa.int64()),
        ("key", pa.string()),
        *[(name, pa.int64()) for name in ("row", "col", "y0", "x0", "y1", "x1")],
    ]
)

PART_SCHEMA = pa.schema(
    [
        *[(name, pa.int64()) for name in ("peak", "image")],
        ("layer", pa.dictionary(pa.int32(), pa.string())),
        ("channel", pa.int64()),
        ("share", pa.float32()),
        *[(name, pa.int64()) for name in ("row", "col")],
    ]
)


def arrow_table(columns: Columns) -> pa.Table:
    """Return the columns of peaks as an Arrow table; a key is null where there is no image."""
    return pa.table({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA)


def save_peaks(path: str | Path, columns: Columns, provenance: Mapping[str, Any]) -> Path:
    """Write a Parquet file of peaks."""
    return _save(path, "peaks", arrow_table(columns), provenance)


def parts_table(columns: Columns) -> pa.Table:
    """Return the columns of parts as an Arrow table."""
    return pa.table({name: columns[name] for name in PART_SCHEMA.names}, schema=PART_SCHEMA)


def save_parts(path: str | Path, columns: Columns, provenance: Mapping[str, Any]) -> Path:
    """Write a Parquet file of parts."""
    return _save(path, "parts", parts_table(columns), provenance)


def load_peaks(path: str | Path) -> tuple[Columns, Provenance]:
    """Return (columns, provenance) of peaks. To be called within `reading`."""
    table, provenance = _load(path, "peaks", SCHEMA)
    missing = [name for name in table.column_names if name != "key" and table[name].null_count]
    if missing:
        raise ValueError(f"values of {', '.join(missing)} are missing")
    words = {name: np.array(table[name].to_pylist(), dtype=object) for name in WORDS}
    return {name: words[name] if name in words else table[name].to_numpy() for name in table.column_names}, provenance


def save_measures(path: str | Path, columns: Columns, provenance: Mapping[str, Any]) -> Path:
    """Write columns of measures as a Parquet file; texts are of type object."""
    table = pa.table({name: pa.array(values.tolist()) for name, values in columns.items()})
    return _save(path, MEASURES, table, provenance)


def load_measures(path: str | Path) -> tuple[Columns, Provenance]:
    """Return (columns, provenance) of measures. To be called within `reading`."""
    table, provenance = _load(path, MEASURES)
    return {name: table[name].to_numpy() for name in table.column_names}, provenance


def _save(path: str | Path, kind: str, table: pa.Table, provenance: Mapping[str, Any]) -> Path:
    """Write a table in which a damaged page is noticed."""
    whole = table.replace_schema_metadata(metadata_of(kind, provenance))
    return write_whole(path, lambda file: pq.write_table(whole, file, write_page_checksum=True))


def _load(path: str | Path, kind: str, schema: pa.Schema | None = None) -> tuple[pa.Table, Provenance]:
    """Return (table, provenance); schema: the columns that it must have."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        if file.metadata.num_rows > MOST_ROWS:
            raise ValueError(f"it has {file.metadata.num_rows} rows, more than {MOST_ROWS}")
        provenance = check_metadata(path, kind, file.schema_arrow.metadata)
        if schema is not None and not file.schema_arrow.equals(schema):
            raise ValueError(f"its columns are {', '.join(file.schema_arrow.names)}, or of other types")
        table = file.read()
    table.validate(full=True)
    return table, provenance
