"""deconv/files: whole files, JSON, versions, the hash of weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch

from deconv.errors import BadInput
from deconv.files import safe_name, write_json, write_whole
from deconv.files.versions import versions
from deconv.records.provenance import weights_hash


def test_write_whole_takes_bytes_and_writers_and_makes_the_folder(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "a" / "b.bin", b"one")
    assert path.read_bytes() == b"one"
    write_whole(str(path), lambda file: file.write(b"two"))
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in path.parent.iterdir()] == ["b.bin"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "x", b"old")

    def half(file: BinaryIO) -> None:
        file.write(b"ne")
        file.flush()
        assert path.read_bytes() == b"old"
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, half)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_the_same_bytes_whatever_the_order(tmp_path: Path) -> None:
    one = write_json(tmp_path / "1.json", {"b": np.float32(0.5), "a": torch.tensor([1, 2]), "path": tmp_path})
    two = write_json(tmp_path / "2.json", {"path": tmp_path, "a": np.array([1, 2]), "b": 0.5})
    assert one.read_bytes() == two.read_bytes()
    assert one.read_text().endswith("}\n")
    assert json.loads(one.read_text()) == {"a": [1, 2], "b": 0.5, "path": str(tmp_path)}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
def test_json_refuses_what_it_cannot_hold_and_writes_nothing(tmp_path: Path, value: object) -> None:
    with pytest.raises(BadInput, match=r"numbers\.json as JSON"):
        write_json(tmp_path / "numbers.json", {"x": value})
    assert list(tmp_path.iterdir()) == []


def test_versions_name_what_decides_the_numbers() -> None:
    found = versions()
    assert {"deconv", "python", "torch", "torchvision", "numpy"} <= set(found)
    assert found["torch"] == torch.__version__.split("+")[0]


def test_weights_hash_ignores_order_and_memory_layout() -> None:
    weight = torch.arange(24.0).reshape(1, 2, 3, 4)
    same = {"b": torch.tensor(3), "w": weight.to(memory_format=torch.channels_last)}
    assert weights_hash({"w": weight, "b": torch.tensor(3)}) == weights_hash(same)


@pytest.mark.parametrize(
    "other",
    [
        {"w": torch.ones(2, 3), "b": torch.zeros(0)},
        {"w": torch.ones(3, 2), "c": torch.zeros(0)},
        {"w": torch.ones(3, 2, dtype=torch.bfloat16), "b": torch.zeros(0)},
        {
            "w": torch.ones(3, 2).index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(1.0001)),
            "b": torch.zeros(0),
        },
        {"w": torch.ones(3, 2)},
    ],
    ids=["shape", "name", "dtype", "value", "missing"],
)
def test_weights_hash_sees_every_difference(other: dict[str, torch.Tensor]) -> None:
    assert weights_hash({"w": torch.ones(3, 2), "b": torch.zeros(0)}) != weights_hash(other)


NAMES = [
    "layer1.0.relu",
    "layer1.0.relu_1",
    "a/b",
    "a b",
    "a_b",
    "a:b",
    "\u00e9",
    "\u00e8",
    "x" * 60,
    "x" * 61,
    "x" * 62,
    "..",
    "",
]


def test_no_two_names_are_one_file(tmp_path: Path) -> None:
    files = [f"{safe_name(name)}.png" for name in NAMES]
    assert len(set(files)) == len(NAMES) and all(len(file) <= 64 and "/" not in file for file in files)
    assert files[:2] == ["layer1.0.relu.png", "layer1.0.relu_1.png"]
    for file in files:
        (tmp_path / file).touch()
    assert len(list(tmp_path.iterdir())) == len(NAMES)
