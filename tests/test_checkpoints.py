"""Checkpoints as training frameworks write them, read where one reading fits; other files, which are named."""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from deconv.command.cli import main
from deconv.errors import BadInput
from deconv.models import build
from deconv.models.loading import load_file
from tests.hostile.making import Payload
from tests.promises import REFUSED

State = dict[str, Tensor]


def net(seed: int = 0, classes: int = 5) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, classes)]
    module = nn.Sequential()
    module.add_module("features", nn.Sequential(*layers[:3]))
    module.add_module("head", nn.Sequential(*layers[3:]))
    return module.eval()


def trained() -> State:
    return net(1).state_dict()


def named(prefix: str, state: State | None = None) -> State:
    return {f"{prefix}{name}": value for name, value in (state or trained()).items()}


def as_parameters() -> State:
    return {name: nn.Parameter(value, requires_grad=False) for name, value in trained().items()}


def inside(wrapper: str) -> State:
    """As if the features alone had been wrapped for training."""
    return {name.replace("features.", f"features.{wrapper}."): value for name, value in trained().items()}


def optimizer() -> dict[str, Any]:
    module = net()
    made = torch.optim.Adam(module.parameters())
    module(torch.randn(2, 3, 4, 4)).sum().backward()
    made.step()
    return made.state_dict()


def others() -> State:
    return {"criterion.weight": torch.ones(5), "metric.count": torch.ones(())}


def weights_in(path: Path) -> State:
    module = net()
    load_file(module, path)
    return module.state_dict()


def written(path: Path, content: object) -> Path:
    if path.suffix == ".safetensors":
        assert isinstance(content, dict)
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


def same(one: State, other: State) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items()) and one.keys() == other.keys()


PREFIXES = ["module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder.", "my_own_name."]
PREFIXES += ["model._orig_mod.", "module.model.net.", "student.backbone.", "_fsdp_wrapped_module."]
PLACES = ["state_dict", "model", "model_state", "model_state_dict", "net", "ema", "ema_state_dict", "params", "weights"]
PLACES += ["module", "network", "my_own_key"]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_names_with_a_prefix_are_read(
    tmp_path: Path, prefix: str, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "deconv")
    assert same(weights_in(written(tmp_path / f"w{suffix}", named(prefix))), trained())
    assert f"w{suffix} are read as names without '{prefix}'" in caplog.text


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
@pytest.mark.parametrize("place", PLACES)
def test_nested_weights_are_read(tmp_path: Path, place: str, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "deconv")
    beside = {
        "optimizer": optimizer(),
        "epoch": 3,
        "hyper_parameters": {"lr": 0.1},
        "best": torch.tensor(0.5),
        "x": None,
    }
    assert same(weights_in(written(tmp_path / "w.ckpt", {**beside, place: named(prefix)})), trained())
    assert f"read as ['{place}']" in caplog.text and (not prefix or f"without '{prefix}'" in caplog.text)


@REFUSED
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"checkpoint": {"model": {"weights": trained()}}}, "['checkpoint']['model']['weights']"),
        ({"states": [optimizer(), named("module.")]}, "['states'][1], names without 'module.'"),
        ({**named("model."), **others()}, "names without 'model.', 2 other tensors left aside"),
        ({"state_dict": {**named("encoder.module."), **named("decoder.", others())}}, "['state_dict'], names without"),
        ({"features": {"x": torch.ones(1)}, "model": trained()}, "['model']"),
        (inside("module"), "names without wrappers inside"),
        (
            {"state_dict": named("module.", inside("_orig_mod"))},
            "['state_dict'], names without 'module.', names without",
        ),
        ({"args": argparse.Namespace(lr=0.1), "state_dict": trained()}, "['state_dict']"),
        ({"path": PurePosixPath("a"), "score": np.float64(0.5), "model": trained()}, "['model']"),
        ({"history": np.arange(3.0), "model": trained(), "callbacks": {net().__class__: 1}}, "['model']"),
    ],
)
def test_checkpoints_are_read_and_the_log_says_how(
    tmp_path: Path, content: object, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "deconv")
    assert same(weights_in(written(tmp_path / "w.pth", content)), trained())
    assert f"w.pth are read as {said}" in caplog.text


@pytest.mark.parametrize("protocol_of_old", [False, True])
@pytest.mark.parametrize("content", [trained(), {**trained(), "epoch": 3}, as_parameters()])
def test_plain_weights_are_not_spoken_of(
    tmp_path: Path, content: Any, protocol_of_old: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "deconv")
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not protocol_of_old)
    assert same(weights_in(tmp_path / "w.pth"), trained())
    assert not caplog.text


def test_a_network_whose_own_names_begin_like_a_wrapper_reads_its_state_dict(tmp_path: Path) -> None:
    module, other = (nn.ModuleDict({"module": net(seed)}) for seed in (0, 1))
    for content in (other.state_dict(), {"state_dict": named("module.", other.state_dict())}):
        load_file(module, written(tmp_path / "w.pth", content))
        assert same(module.state_dict(), other.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_other_precisions_become_the_networks(tmp_path: Path, dtype: torch.dtype, suffix: str) -> None:
    kept = {name: value.to(dtype) if value.is_floating_point() else value for name, value in trained().items()}
    found = weights_in(written(tmp_path / f"w{suffix}", named("module.", kept)))
    assert same(found, {name: value.to(trained()[name].dtype) for name, value in kept.items()})


@pytest.mark.parametrize("name", ["w.bin", "w.pt", "pytorch_model.bin", "no suffix"])
def test_safetensors_are_known_by_their_bytes(tmp_path: Path, name: str) -> None:
    written(tmp_path / "w.safetensors", trained()).rename(tmp_path / name)
    assert same(weights_in(tmp_path / name), trained())


# --- what fits in no way, or in several -----------------------------------------------------------------------------


@REFUSED
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"model": trained(), "ema": net(2).state_dict()}, r"in 2 ways that fit Sequential: \['model'\]; \['ema'\]"),
        (named("a.") | named("b."), "names without 'a.', 8 other .*; names without 'b.'"),
        ({"state_dict": named("q.") | named("k.")}, r"\['state_dict'\], names without 'k.'.*names without 'q.'"),
        ({"model": (state := trained()), "ema": state}, r"\['model'\]; \['ema'\]; expected one: .*save the weights"),
    ],
)
def test_two_readings_that_fit_are_named(tmp_path: Path, content: Any, said: str) -> None:
    if "a.head.1.bias" in content:
        content = {name: value for name, value in content.items() if "num_batches" not in name}
    with pytest.raises(BadInput, match=said) as caught:
        weights_in(written(tmp_path / "w.pth", content))
    assert len(str(caught.value).splitlines()) == 1


def without(name: str, state: State | None = None) -> State:
    return {key: value for key, value in (state or trained()).items() if key != name}


@REFUSED
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"model": without("head.1.bias")}, r"read as \['model'\], 1 missing \(head\.1\.bias\)"),
        (named("module.", without("head.1.bias")), r"names without 'module\.', 1 missing \(head\.1\.bias\)"),
        (named("module.", {**trained(), "queue": torch.ones(3)}), r"1 not in the network \(queue\)"),
        (
            {"state_dict": {**trained(), "features.0.weight": torch.zeros(4, 3, 7, 7)}},
            r"1 of another shape \(features\.0\.weight \(4, 3, 7, 7\), not \(4, 3, 3, 3\)\)",
        ),
        (
            {"model": without("head.1.bias"), "ema": without("head.1.weight")},
            r"\['model'\], 1 missing \(head.1.bias\); or tensors read as \['ema'\], 1 missing",
        ),
        (
            {"model": {"features.0.weight": torch.full((4, 3, 3, 3), np.nan)} | without("features.0.weight")},
            "1 with NaN",
        ),
    ],
)
def test_what_fits_in_no_way_is_named_by_the_nearest(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(BadInput, match=rf"w\.pth do not fit Sequential: tensors .*{said}") as caught:
        weights_in(written(tmp_path / "w.pth", content))
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 1000


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], "text", {"model": {}}, {3: torch.ones(1)}, None])
def test_files_without_named_tensors_say_so(tmp_path: Path, content: object) -> None:
    with pytest.raises(BadInput, match=r"holds no named tensors; expected a state dict: save it with"):
        weights_in(written(tmp_path / "w.pth", content))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("zfnet64", {"maps": [4, 4], "widths": [8]}),
        ("zfnet64", {"maps": [4, 4], "widths": []}),
        ("torchvision", {"arch": "shufflenet_v2_x0_5"}),
        ("torchvision", {"arch": "squeezenet1_1"}),
    ],
)
def test_another_number_of_classes_says_what_to_give(
    tmp_path: Path, name: str, given: dict[str, Any], nested: bool
) -> None:
    state = build(name, "random", classes=7, **given).state_dict()
    path = written(tmp_path / "w.pth", {"state_dict": named("module.", state)} if nested else state)
    with pytest.raises(
        BadInput, match=r"^classes: given (200|1000); expected 7, as many outputs as the weights in .*w\.pth"
    ):
        build(name, path, **given)
    assert same(build(name, path, classes=7, **given).state_dict(), state)


def test_extra_tensors_in_a_shipped_networks_file_are_named(tmp_path: Path) -> None:
    given: dict[str, Any] = {"maps": [4, 4], "widths": [8], "classes": 3}
    state = {**build("zfnet64", "random", **given).state_dict(), "total_ops": torch.ones(1), "mean": torch.ones(3)}
    with pytest.raises(BadInput, match=r"2 not in the network \(\w+, \w+\)"):
        build("zfnet64", written(tmp_path / "w.safetensors", state), **given)


# --- files of another kind ------------------------------------------------------------------------------------------


class Own(nn.Sequential):
    """A class of a user's."""


def scripted(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(torch.jit.trace(net(), torch.zeros(1, 3, 4, 4)), path)


def zipped(members: dict[str, bytes]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)

    return write


def saved(content: object) -> Callable[[Path], None]:
    return lambda path: torch.save(content, path)


def of_bytes(content: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content)


INDEX = json.dumps({"metadata": {}, "weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}).encode()
FOREIGN: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "TorchScript": ("w.pt", scripted, r"is a TorchScript archive.*torch\.jit\.load\('.*w\.pt'\)\.state_dict\(\)"),
    "TorchScript called .pth": ("w.pth", scripted, "is a TorchScript archive"),
    "torch.export": (
        "w.pt2",
        zipped({"w/archive_format": b"pt2", "w/models/model.json": b"{}"}),
        r"torch\.export\.load",
    ),
    "a module": (
        "w.pth",
        saved(net()),
        r"a whole module of class torch\.nn\.\S*\.Sequential, .*state_dict",
    ),
    "a user's module": ("w.pth", saved(Own(nn.Conv2d(3, 4, 3))), r"a whole module of class \S*test_checkpoints\.Own"),
    "a module in a checkpoint": ("w.pt", saved({"epoch": 1, "model": net()}), "a whole module of class .* as 'model'"),
    "an object": ("w.pt", saved(argparse.Namespace(a=1)), r"an object of class argparse\.Namespace"),
    "a zip of texts": ("w.pth", zipped({"a.txt": b"", "b.txt": b""}), "is a zip of a.txt, b.txt; .*unpack it"),
    "an empty zip of one folder": ("w.pt", zipped({"a/": b""}), "is a zip of a/"),
    "npz": ("w.npz", lambda path: np.savez(path, a=np.ones(3)), "an archive of NumPy arrays"),
    "npy": ("w.npy", lambda path: np.save(path, np.ones(3)), "a NumPy array"),
    "Keras": ("w.keras", zipped({"config.json": b"{}", "model.weights.h5": b""}), "a Keras model"),
    "HDF5": ("w.h5", of_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)), "an HDF5 file, as Keras"),
    "an index": (
        "m.safetensors.index.json",
        of_bytes(INDEX),
        r"is an index, .* 2 files .*\(1\.s\w+, 2\.s\w+\)",
    ),
    "an index called .safetensors": ("m.safetensors", of_bytes(INDEX), "is an index"),
    "a config": ("config.json", of_bytes(b'{"model_type": "resnet"}'), "is JSON text, without tensors"),
    "ONNX": ("w.onnx", of_bytes(b"\x08\x08\x12\x07pytorch" + bytes(100)), "is an ONNX model"),
    "ONNX called .pth": ("w.pth", of_bytes(b"\x08\x08\x12\x07pytorch" + bytes(100)), "is an ONNX model"),
    "SavedModel": ("saved_model.pb", of_bytes(b"\x08\x01\x12\x10" + bytes(100)), "is a file of TensorFlow"),
    "TensorFlow's checkpoint": ("m.ckpt.data-00000-of-00001", of_bytes(bytes(100)), "is a file of TensorFlow"),
    "TFLite": ("w.tflite", of_bytes(b"\x1c\0\0\0TFL3" + bytes(100)), "is a TensorFlow Lite model"),
    "Git LFS": (
        "w.safetensors",
        of_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
        "pointer of Git LFS.*git lfs pull",
    ),
    "a web page": ("w.pth", of_bytes(b"\n<!DOCTYPE html><html>"), "is a web page"),
    "gzip": ("w.pth.gz", of_bytes(gzip.compress(b"weights")), "is a compressed file; .*unpack it"),
    "a pickle": ("w.pkl", of_bytes(pickle.dumps({"a": net()})), "cannot be read"),
    "an old module": (
        "w.pth",
        lambda path: torch.save(net(), path, _use_new_zipfile_serialization=False),
        r"cannot be read \(UnpicklingError: it asks for torch\.nn\.modules\.container\.Sequential\)",
    ),
}


@REFUSED
@pytest.mark.parametrize("kind", FOREIGN)
def test_files_of_another_kind_are_named_in_one_line(tmp_path: Path, kind: str) -> None:
    name, write, said = FOREIGN[kind]
    write(tmp_path / name)
    with pytest.raises(BadInput, match=said) as caught:
        weights_in(tmp_path / name)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no weights file .*, which is a folder"):
        weights_in(tmp_path)


def leave(trace: str) -> None:
    Path(trace).mkdir()


class Called(Payload):
    """Asks for a function that torch does not block by the name of its module."""

    def __reduce__(self) -> tuple[Any, ...]:
        return leave, (str(self.path),)


class Gotten(Payload):
    """Asks for a function of an object."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path(self.path).mkdir, ()


@REFUSED
@pytest.mark.parametrize("evil", [Payload, Called, Gotten])
def test_nothing_in_a_checkpoint_is_run(tmp_path: Path, evil: type[Payload]) -> None:
    trace = tmp_path / "trace"
    path = written(tmp_path / "w.pth", {"callbacks": evil(trace), "state_dict": trained()})
    if evil is not Called:
        with pytest.raises(BadInput, match="cannot be read"):
            weights_in(path)
    else:
        assert same(weights_in(path), trained())
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()  # so the payload would have worked


def test_a_container_that_holds_itself_ends(tmp_path: Path) -> None:
    inner: list[Any] = []
    for _ in range(60):
        inner = [inner, inner]
    content: dict[str, Any] = {"many": inner, "model": trained()}
    content["self"] = content
    assert same(weights_in(written(tmp_path / "w.pth", content)), trained())


@pytest.mark.parametrize("nested", [False, True])
def test_the_command_says_it_in_its_words(tmp_path: Path, nested: bool, capsys: pytest.CaptureFixture[str]) -> None:
    state = build("zfnet64", "random", classes=7, maps=[4, 4], widths=[8]).state_dict()
    path = written(tmp_path / "w.pth", {"state_dict": state, "epoch": 3} if nested else state)
    small = [
        "experiment=fig2_features",
        "model=zfnet64",
        "model.maps=[4,4]",
        "model.widths=[8]",
        f"folder={tmp_path}/run",
    ]
    assert main([*small, f"model.weights={path}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("deconv: model.classes: given 200; expected 7, as many outputs as the weights in ")


def test_weights_of_another_network_are_told_in_short(tmp_path: Path) -> None:
    other = {"layer.conv.weight": torch.zeros(1), "layer.conv.bias": torch.zeros(2)}
    with pytest.raises(BadInput, match=r"w\.pth are of another network: of the \d+ tensors of Sequential it has 0 by"):
        weights_in(written(tmp_path / "w.pth", other))
    wider = {name: torch.zeros(3, 3, 3, 3, 3) for name in net().state_dict()}
    with pytest.raises(BadInput, match=r"and has \S+ as \(3, 3, 3, 3, 3\), not \(\d+,.*build the network that"):
        weights_in(written(tmp_path / "wider.pth", wider))
