"""Records that are damaged, newer, of something else, or made to fill the memory; and frames in a cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

import deconv
from deconv.mining import mine_into
from deconv.mining.partials import Partial
from deconv.records import Patches, Peaks, Reconstructions, formats, parquet
from deconv.records.peaks import COLUMNS
from tests.hostile import making
from tests.hostile.making import said_of, table_of
from tests.hostile.rows import Given, Rows, line, within
from tests.samples import network, photographs, with_preprocessing

Tensors = dict[str, torch.Tensor]
SAVED: dict[str, tuple[Callable[[], Any], Any, str]] = {
    "peaks": (making.peaks, Peaks, "a.safetensors"),
    "table": (making.peaks, Peaks, "a.parquet"),
    "patches": (making.patches, Patches, "a.safetensors"),
    "reconstructions": (making.reconstructions, Reconstructions, "a.safetensors"),
}


def saved(kind: str, damage: Callable[[bytes], bytes] = bytes) -> Given:
    def make(home: Path) -> Path:
        path: Path = SAVED[kind][0]().save(home / SAVED[kind][2])
        path.write_bytes(damage(path.read_bytes()))
        return path

    return make


def newer(kind: str) -> Given:
    def make(home: Path) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(formats, "FORMAT", 99)
            return saved(kind)(home)

    return make


def measured(damage: Callable[[bytes], bytes]) -> Given:
    def make(home: Path) -> Path:
        path = formats.save_columns(home / "a.safetensors", {"unit": np.arange(99)}, {})
        path.write_bytes(damage(path.read_bytes()))
        return path

    return make


def flipped(content: bytes) -> bytes:
    """One bit of the first page of a table, or of the last tensor, both of which are data."""
    index = 100 if content.startswith(b"PAR1") else len(content) - 1
    return content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :]


def table(said: bytes | None = None, rows: int = -1, **columns: Any) -> Given:
    arrays = {name: pa.array(values) for name, values in columns.items()}
    return lambda home: table_of(home / "a.parquet", said, arrays, rows)


def with_few_rows(path: Path) -> Peaks:
    """Where no more than 50 are allowed: so many as fill a memory take minutes to write, if only kilobytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "MOST_ROWS", 50)
        return Peaks.load(path)


def tensors(kind: str, change: Callable[[Tensors], Tensors] = dict, said: bytes | None = None) -> Given:
    """A record with other tensors, or another word about itself."""

    def make(home: Path) -> Path:
        path = saved(kind)(home)
        metadata = making.said_in(path) if said is None else {"deconv": said.decode()}
        save_file(change(load_file(path)), path, metadata)
        return path

    return make


def as_bytes(text: str) -> torch.Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def of_another_network(home: Path) -> Path:
    mine(home, with_preprocessing())
    return home


def mine(home: Path, net: deconv.Network) -> Peaks:
    return mine_into(home / "peaks.safetensors", net, photographs(home / "photos"), ["two"], 3)


def mine_with_another(home: Path) -> Peaks:
    other = network(seed=1)
    other.preprocessing = with_preprocessing().preprocessing
    return mine(home, other)


def frames(damage: Callable[[Path], object]) -> Given:
    """A frame cache with something done to its file of frames."""

    def make(home: Path) -> Path:
        reread(home)
        damage(next((home / "cache").glob("*.npy")))
        return home

    return make


def reread(home: Path) -> deconv.Source:
    preprocessing = with_preprocessing().needed_preprocessing()
    return deconv.cached(photographs(home / "photos"), preprocessing, home / "cache")


OF_TWO_LAYERS = {"layers": ["one", "two"], "provenance": {}}
ROWS = tuple(name for name in COLUMNS if name != "key")
DAMAGED = r"cannot be read \(.*\); it is damaged or no record: make it again"
IN_TENSORS: list[tuple[str, Callable[[Tensors], Tensors], dict[str, Any], str]] = [
    ("rows are missing", lambda t: t | {name: t[name][:95] for name in ROWS}, {}, r"its \d+ rows are not 9 p"),
    ("a row of a third layer", lambda t: t | {"layer": t["layer"] + 1}, {}, "its rows are not of its 2 layers"),
    (
        "a score without an image",
        lambda t: t | {"image": 0 * t["image"] - 1},
        {},
        "a peak without an image has",
    ),
    (
        "keys that are numbers",
        lambda t: t | {"keys": as_bytes("[1, 2, 3, 4, 5, 6, 7]")},
        {},
        "its layers, its k",
    ),
    ("too few keys", lambda t: t | {"keys": as_bytes("[]")}, {}, DAMAGED),
    ("keys that are no JSON", lambda t: t | {"keys": as_bytes("[[[[[")}, {}, DAMAGED),
    ("layers that are a number", dict, {"layers": 3}, DAMAGED),
    ("nothing on their making", dict, {"provenance": None}, DAMAGED),
]
"""Peaks in safetensors: what is wrong, how it comes about, what they say otherwise of themselves, the line."""
RECORDS: Rows = {
    **{
        f"{kind}: {what}": (given(kind), SAVED[kind][1].load, line(said))
        for kind in SAVED
        for what, given, said in [
            ("cut", lambda kind: saved(kind, making.cut), DAMAGED),
            ("no bytes", lambda kind: saved(kind, lambda content: b""), DAMAGED),
            ("text", lambda kind: saved(kind, lambda content: b"no record" * 99), DAMAGED),
            ("not there", lambda kind: lambda home: home / "absent", "absent does not exist; expected a record"),
            ("a name too long", lambda kind: lambda home: Path("x" * 5000), "x does not exist; expected a record"),
            ("of a newer deconv", newer, r"has format 99; this deconv reads up to 6: update deconv"),
        ]
    },
    "reconstructions given as patches": (
        saved("reconstructions"),
        Patches.load,
        line("holds reconstructions; expected pat"),
    ),
    "patches given as reconstructions": (
        saved("patches"),
        Reconstructions.load,
        line("holds patches; expected reconstr"),
    ),
    "peaks given as patches": (saved("peaks"), Patches.load, line("holds peaks; expected patches")),
    "a table of peaks given as patches": (saved("table"), Patches.load, line(DAMAGED)),
    "peaks of another network": (
        of_another_network,
        mine_with_another,
        line("was made with weights .*; this run has .*Choo"),
    ),
    "peaks with a flipped bit": (
        saved("peaks", flipped),
        Peaks.load,
        line(r"cannot be read \(its numbers are not those that were written\)"),
    ),
    "a table of peaks with a flipped bit": (saved("table", flipped), Peaks.load, line(DAMAGED)),
    **{
        f"peaks in tensors: {what}": (
            tensors("peaks", change, said_of("peaks", provenance=OF_TWO_LAYERS | differences)),
            Peaks.load,
            line(said),
        )
        for what, change, differences, said in IN_TENSORS
    },
    "peaks: what they say is no JSON": (table(b"{kind"), Peaks.load, line(DAMAGED)),
    "peaks: what they say is no UTF-8": (table(b"\xff"), Peaks.load, line(DAMAGED)),
    "peaks: what they say is a number": (table(b"3"), Peaks.load, line(DAMAGED)),
    "peaks: they do not say what they are": (table(b"{}"), Peaks.load, line(DAMAGED)),
    "peaks: nothing on their making": (table(said_of("peaks", provenance=None)), Peaks.load, line(DAMAGED)),
    "peaks: their format is a word": (table(said_of("peaks", format="one")), Peaks.load, line(DAMAGED)),
    "peaks: rows are missing": (
        table(rows=50),
        Peaks.load,
        line(r"cannot be read \(its \d+ rows are not 9 peaks for each"),
    ),
    "peaks: a channel of 10^12": (
        table(channel=np.full(99, 10**12)),
        within(64, Peaks.load),
        line("rows are not 9 peaks for each of 1000000000001 units, in order"),
    ),
    "peaks: words for scores": (
        table(score=["high"] * 99),
        Peaks.load,
        line("its columns are layer, .*or of other types"),
    ),
    "peaks: scores are missing": (
        table(score=pa.nulls(99, pa.float32())),
        Peaks.load,
        line("values of score are missing"),
    ),
    "peaks: a score without an image": (
        table(image=np.full(99, -1)),
        Peaks.load,
        line("a peak without an image has a sc"),
    ),
    "peaks of too many rows": (saved("table"), with_few_rows, line("it has 99 rows, more than 50")),
    **{
        f"a shard's record: {what}": (
            table(said_of("peaks", provenance={"found": found})),
            Partial.load,
            line(DAMAGED),
        )
        for what, found in {
            "what was found is a number": 3,
            "nothing on what could not be read": {"frame": None, "errors": {}},
            "a frame of one number": {"frame": [7], "unreadable": [], "errors": {}},
        }.items()
    },
    "a shard's record that is not one": (
        saved("peaks"),
        Partial.load,
        line("holds no shard; expected a record of one"),
    ),
    **{
        f"the table of a comparison: {what}": (
            measured(damage),
            lambda path: formats.load_columns(path, {}),
            line(DAMAGED),
        )
        for what, damage in {"cut": making.cut, "no bytes": lambda content: b"", "a flipped bit": flipped}.items()
    },
    "patches: a tensor is missing": (
        tensors("patches", lambda t: {name: t[name] for name in ("pixels", "inside", "image")}),
        Patches.load,
        line("expected pixels, inside, box, image"),
    ),
    "patches: a tensor too many": (
        tensors("patches", lambda t: t | {"more": torch.zeros(2)}),
        Patches.load,
        line("its tensors are .*more"),
    ),
    "patches of other numbers": (
        tensors("patches", lambda t: t | {"inside": t["inside"].float()}),
        Patches.load,
        line(r"its inside is torch\.float32 \(\d+, 7, 7\); expected torch\.bool \(N h w\)"),
    ),
    "patches of another number of images": (
        tensors("patches", lambda t: t | {"image": t["image"][:3]}),
        Patches.load,
        line(r"its image is torch\.int64 \(3,\); expected torch\.int64 \(N\)"),
    ),
    "reconstructions in boxes of another size": (
        tensors("reconstructions", lambda t: t | {"box": 2 * t["box"]}),
        Reconstructions.load,
        line("a box is not of the 7 x 7 pixels that its picture has"),
    ),
    **{
        f"reconstructions: {what}": (
            tensors("reconstructions", said=said_of("reconstructions", provenance=said)),
            Reconstructions.load,
            line(DAMAGED),
        )
        for what, said in {
            "of no layer": {"rule": "deconvnet", "frame": [20, 20], "provenance": {}},
            "of a layer that is a number": {"layer": 3, "rule": "deconvnet", "frame": [20, 20], "provenance": {}},
            "in a frame of three numbers": {"layer": "two", "rule": "deconvnet", "frame": [1, 2, 3], "provenance": {}},
            "in a frame of less than nothing": {"layer": "two", "rule": "x", "frame": [-1, 2], "provenance": {}},
        }.items()
    },
    **{
        f"cached frames: {what}": (
            frames(damage),
            reread,
            line("the cached input images .* cannot be read .*: delete them to decode the photographs again"),
        )
        for what, damage in {
            "cut": lambda path: path.write_bytes(making.cut(path.read_bytes())),
            "no bytes": lambda path: path.write_bytes(b""),
            "of another shape": lambda path: np.save(path, np.zeros((2, 3), np.uint8)),
            "Python objects": lambda path: np.save(path, np.array([making.Payload(path.parent / "trace")], object)),
            "without their list": lambda path: path.with_suffix(".unreadable.json").unlink(),
        }.items()
    },
}
