"""experiment=train from the command line: what it leaves, that it goes on, and that mistakes are one line."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from deconv.command.cli import main
from deconv.figures.train import curves_figure, save_curves
from deconv.models import build
from deconv.records.provenance import weights_hash
from deconv.training.metrics import Row
from tests.commands import refusal, words
from tests.labelled import folder_of

ROOT = Path(__file__).resolve().parent.parent
SMALL = [
    "experiment=train", "model=torchvision", "model.arch=shufflenet_v2_x0_5", "model.size=[32,32]", "model.resize=null",
    "source=folder", "training.epochs=2", "training.batch_size=8", "training.snapshots=[1]", "held_out=0.25",
]  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory.mktemp("photos"), each=16, side=32)


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    assert main([*SMALL, f"source.root={photos}", f"folder={folder}"]) == 0
    return folder


def test_a_network_of_ones_own_is_trained_with_the_outputs_that_it_has(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = "nn.Conv2d(3, n, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten()"
    code = f"from torch import nn\ndef net(n=2): return nn.Sequential({layers})"
    (tmp_path / "own.py").write_text(code)
    own = ["experiment=train", "model=python", f"model.target={tmp_path / 'own.py'}:net", *SMALL[3:]]
    assert main([*own, f"source.root={photos}", f"folder={tmp_path / 'run'}"]) == 0
    assert safetensors.torch.load_file(tmp_path / "run/weights.safetensors")["0.weight"].shape == (2, 3, 5, 5)
    capsys.readouterr()
    line = refusal([*own, f"source.root={photos}", "model.args.n=1"], tmp_path / "other", capsys)
    assert "(2, 2 or more) for the classes 0 to 1" in line


def summary(folder: Path) -> dict:
    read: dict = json.loads((folder / "summary.json").read_text())
    return read


def test_a_run_leaves_weights_that_its_summary_tells_of(finished: Path, photos: Path) -> None:
    told = summary(finished)
    weights = safetensors.torch.load_file(finished / "weights.safetensors")
    assert told["weights"] == weights_hash(weights) and weights["fc.weight"].shape == (2, 1024)
    assert told["images"] == {"training": 24, "validation": 8} and told["last_epoch"]["epoch"] == 2
    assert told["provenance"]["model"] == {"name": "torchvision", "arch": "shufflenet_v2_x0_5"}
    assert (finished / "snapshots/epoch-001.safetensors").is_file() and (finished / "curves.png").is_file()
    assert json.loads((finished / "times.json").read_text())["epochs"] == 2


def test_the_rounded_weights_are_the_weights_in_half_the_size(finished: Path) -> None:
    path, whole = finished / "weights.float16.safetensors", finished / "weights.safetensors"
    assert summary(finished)["float16"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.stat().st_size < 0.55 * whole.stat().st_size
    for name, value in safetensors.torch.load_file(path).items():
        assert value.dtype == (torch.float16 if value.is_floating_point() else torch.int64)
        torch.testing.assert_close(value, safetensors.torch.load_file(whole)[name].to(value.dtype))
    module = build("torchvision", path, arch="shufflenet_v2_x0_5", classes=2)
    assert all(value.dtype == torch.float32 for value in module.parameters())


def test_a_run_through_the_cache_gives_the_same_bytes(finished: Path, photos: Path, tmp_path: Path) -> None:
    assert main([*SMALL, f"source.root={photos}", "cache=" + str(tmp_path / "frames"), f"folder={tmp_path / 'b'}"]) == 0
    for name in ("summary.json", "metrics.csv", "weights.safetensors", "weights.float16.safetensors", "curves.png"):
        assert (finished / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_a_run_that_is_killed_goes_on_in_its_folder(finished: Path, photos: Path, tmp_path: Path) -> None:
    """By SIGKILL, after its first epoch."""
    command = [sys.executable, "-m", "deconv.command.cli", *SMALL, f"source.root={photos}", f"folder={tmp_path}"]
    code = (
        "import os, signal, sys; from deconv.training import state as training_state; real = training_state.save\n"
        "def save(*arguments): real(*arguments); os.kill(os.getpid(), signal.SIGKILL)\n"
        "training_state.save = save\n"
        "from deconv.command.cli import main; main(sys.argv[1:])"
    )
    killed = subprocess.run([sys.executable, "-c", code, *command[3:]], cwd=ROOT, capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert (tmp_path / "state.pt").is_file() and not (tmp_path / "summary.json").exists()
    assert main(command[3:]) == 0
    for name in ("summary.json", "metrics.csv", "weights.safetensors"):
        assert (finished / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_zfnet64_is_built_for_the_classes_and_validated_on_other_images(photos: Path, tmp_path: Path) -> None:
    others = folder_of(tmp_path / "others", each=2, side=64)
    arguments = ["model=zfnet64", "source=folder", f"source.root={photos}", f"validation={others}"]
    small = ["training.epochs=1", "training.batch_size=32", "training.snapshots=[]", f"folder={tmp_path / 'run'}"]
    assert main(["experiment=train", *arguments, *small]) == 0
    assert summary(tmp_path / "run")["images"] == {"training": 32, "validation": 4}
    weights = tmp_path / "run" / "weights.float16.safetensors"
    assert build("zfnet64", weights, classes=2)(torch.zeros(1, 3, 64, 64)).shape == (1, 2)
    tuned = [f"model.weights={weights}", "training.lr=1e-9", "training.epochs=1", "training.batch_size=32"]
    assert main(["experiment=train", *arguments, *tuned, f"folder={tmp_path / 'tuned'}"]) == 0
    before, after = (
        safetensors.torch.load_file(path / "weights.safetensors") for path in (tmp_path / "run", tmp_path / "tuned")
    )
    torch.testing.assert_close(before, after, atol=1e-3, rtol=1e-3)  # went on from there, not from random weights


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["source=bundled"], "the source bundled has no labels"),
        (["training.schedule=cosine"], "expected one of trapezoid, one_cycle, plateau"),
        (["training.lr=-1.0"], "training.lr: given -1.0; expected a number above 0"),
        (["training.learning_rate=1"], "unknown option 'training.learning_rate'"),
        (["held_out=1.5"], "held_out=1.5 of 32 images"),
        (["validation=/nowhere"], "there is no folder /nowhere"),
        (["model.classes=1"], "(2, 2 or more) for the classes 0 to 1: build it with classes=2"),
        (["model=zfnet64_trunk"], "and with its classifier"),
        (["model=squeezenet"], "classes: given 2; expected none for squeezenet"),
        (["model=torchvision", "model.weights=DEFAULT"], "which have 1000 outputs"),
        (["device=gpu"], "device: given gpu; expected cpu"),
        (["training.batch_size=100"], "24 images to train on make no batch of 100"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    arguments: list[str], expected: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = ["experiment=train", "model=zfnet64", "source=folder", "held_out=0.25", "training.batch_size=8"]
    if "source=bundled" not in arguments:
        usual.append(f"source.root={photos}")
    assert expected in refusal(words(usual, arguments), tmp_path, capsys)


def test_classes_of_other_names_are_refused(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    others = folder_of(tmp_path / "others", each=2, classes=("bright", "dusk"))
    line = refusal([*SMALL, f"source.root={photos}", f"validation={others}"], tmp_path / "run", capsys)
    assert "('bright', 'dusk'); expected those trained on, ('bright', 'dark')" in line


def test_the_curves_are_those_of_the_metrics(tmp_path: Path) -> None:
    rows = [Row(n, 0.1, 2 - n / 10, 0.1 * n, 2.1 - n / 10, 0.1 * n + 0.01, 0.1 * n + 0.02) for n in (1, 2, 3)]
    loss, accuracy = curves_figure(rows).axes
    shown = [[np.asarray(line.get_ydata()).tolist() for line in axes.lines] for axes in (loss, accuracy)]
    assert shown[0] == [[row.train_loss for row in rows], [row.val_loss for row in rows]]
    assert shown[1] == [[getattr(row, name) for row in rows] for name in ("train_top1", "val_top1", "val_top5")]
    assert all(np.asarray(line.get_xdata()).tolist() == [1, 2, 3] for axes in (loss, accuracy) for line in axes.lines)
    assert [line.get_color() for line in accuracy.lines] == ["C0", "C1", "C1"]
    assert [line.get_label() for line in loss.lines] == ["training crops", "validation"]
    assert save_curves(rows, tmp_path) == tmp_path / "curves.png" and (tmp_path / "curves.pdf").is_file()
