"""Measure the rows that are asked for, or all: a table on the terminal, JSON in outputs/bench/."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks import (
    architectures,
    atlas,
    cuda,
    decoding,
    end_to_end,
    engine,
    memory,
    mining,
    occlusion,
    projection,
    scale,
)
from benchmarks.rows import Row, number, table
from benchmarks.scene import Scene
from benchmarks.timing import machine
from deconv.files import write_json
from deconv.files.versions import versions

ROWS: dict[str, Callable[[Scene], Iterator[Row]]] = {
    "floor": mining.floor_rows,
    "mining": mining.peer_rows,
    "projection": projection.rows,
    "architectures": architectures.rows,
    "decoding": decoding.rows,
    "memory": memory.rows,
    "scale": scale.rows,
    "end_to_end": end_to_end.rows,
    "atlas": atlas.rows,
    "occlusion": occlusion.rows,
    "engine": engine.rows,
    "cuda": cuda.rows,
}
PEERS = ("captum", "zennit", "zennit-crp")
WIDTH = 160
"""Columns of the table where the output is no terminal."""
OUTPUTS = Path(__file__).resolve().parent.parent / "outputs" / "bench"


def main() -> None:
    """Measure, show, save."""
    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else WIDTH)
    record = {"machine": machine(), "versions": all_versions(), "weights": "random, seed 0", "quick": arguments.quick}
    console.print(about(record), highlight=False)
    path = OUTPUTS / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}.json"
    OUTPUTS.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=OUTPUTS, prefix="scratch-") as scratch:
        scene = Scene(arguments.photographs, Path(scratch), arguments.quick, arguments.repeats)
        for row in measured(arguments.rows or list(ROWS), scene, console):
            rows.append(row)
            told = {"rows": [row.as_dict() for row in rows], "load_after": machine()["load"]}
            write_json(path, record | told | {"photographs": scene.says()})  # each time: a run may be stopped
    console.print(table(rows))
    console.print(path)


def parse() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("rows", nargs="*", help=f"some of {', '.join(ROWS)}; default: all")
    parser.add_argument("--photographs", type=Path, help="a folder of images; default: those in installed packages")
    parser.add_argument("--quick", action="store_true", help="fewer images and laps: does it run, not how fast is it")
    parser.add_argument("--repeats", type=int, help="laps of each work (default 5, quick 2)")
    parser.add_argument("--threads", type=int, help="threads for torch (default: as torch chooses)")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.rows if name not in ROWS]
    if unknown:
        parser.error(f"rows: given {', '.join(unknown)}; expected some of {', '.join(ROWS)}")
    arguments.repeats = arguments.repeats or (2 if arguments.quick else 5)
    return arguments


def measured(names: list[str], scene: Scene, console: Console) -> Iterator[Row]:
    """The rows in turn, each told as soon as it is there."""
    for name in names:
        for row in ROWS[name](scene):
            console.print(f"{name}: {row.what}: {number(row.reached, row.unit)} ({row.note})", highlight=False)
            yield row


def about(record: dict[str, Any]) -> str:
    """The machine, the threads and the versions in a few lines."""
    lines = [", ".join(f"{name} {value}" for name, value in record[part].items()) for part in ("machine", "versions")]
    return "\n".join([*lines, "weights are random (seed 0); a load above 0.5 makes the numbers doubtful"])


def all_versions() -> dict[str, str]:
    """Of deconv, what it stands on, and the peers."""
    return versions() | {name: _version(name) for name in PEERS}


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
