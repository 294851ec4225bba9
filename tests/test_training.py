"""Training on synthetic images: what each rule does, and that a killed run ends as one that was never killed."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn
from torchvision.models import get_model

from deconv.errors import BadInput, DeconvError, RecordMismatch
from deconv.training import evaluate, limit_filter_rms, loop, train
from deconv.training import state as training_state
from deconv.training.metrics import Row
from deconv.training.recipe import Settings, dropout_rate, learning_rate
from tests.labelled import TINY, bright_and_dark, tiny_network

KEPT = ("weights.safetensors", "metrics.csv", "snapshots/epoch-003.safetensors")


def run(folder: Path, settings: Settings = TINY, provenance: dict[str, Any] | None = None, **more: Any) -> list[Row]:
    data, validation = bright_and_dark(128), bright_and_dark(40, seed=5)
    return train(tiny_network(), data, validation, settings, folder, provenance, **more)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row]]:
    folder = tmp_path_factory.mktemp("finished")
    return folder, run(folder)


def changed(**changes: Any) -> Settings:
    return dataclasses.replace(TINY, **changes)


# --- a run and its folder -------------------------------------------------------------------------------------------


def test_training_learns_and_leaves_its_files(finished: tuple[Path, list[Row]]) -> None:
    folder, rows = finished
    assert rows[-1].val_top1 > 0.9 and rows[-1].val_loss < 0.3  # 0.5 and 0.69 by chance
    with open(folder / "metrics.csv") as file:
        lines = list(csv.DictReader(file))
    assert [int(line["epoch"]) for line in lines] == [1, 2, 3, 4]
    assert float(lines[-1]["val_loss"]) == pytest.approx(rows[-1].val_loss, rel=1e-5)
    assert rows[0].images_per_s > 0 and not any("second" in name or name.endswith("_s") for name in lines[0])
    assert not list(folder.rglob("*.part*"))


def test_what_is_asked_for_after_an_epoch_is_done_before_its_state_is_saved(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []

    def after_epoch(rows: Sequence[Row], folder: Path) -> None:
        state = folder / "state.pt"
        saved = len(torch.load(state, weights_only=True)["rows"]) if state.is_file() else 0
        calls.append((len(rows), saved))

    run(tmp_path, changed(epochs=3), after_epoch=after_epoch)
    assert calls == [(1, 0), (2, 1), (3, 2)]
    run(tmp_path, changed(epochs=3), after_epoch=after_epoch)  # nothing is left to train
    assert len(calls) == 3


def test_snapshots_are_kept_at_the_asked_epochs_and_differ(finished: tuple[Path, list[Row]]) -> None:
    folder, _ = finished
    names = sorted(path.name for path in (folder / "snapshots").iterdir())
    assert names == ["epoch-001.safetensors", "epoch-003.safetensors"]
    first, third = (safetensors.torch.load_file(folder / "snapshots" / name) for name in names)
    assert first.keys() == tiny_network().state_dict().keys()
    assert not torch.equal(first["0.weight"], third["0.weight"])


def kill_at_step(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = loop.learning_rate, itertools.count(1)

    def rate(*arguments: Any) -> float:  # asked for once before each step
        if next(calls) == number:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(loop, "learning_rate", rate)


def kill_while_saving(name: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = training_state.write_whole, itertools.count(1)

    def write(path: Path, content: Any) -> Path:
        if path.name == name and next(calls) == number:
            raise KeyboardInterrupt
        return real(path, content)

    monkeypatch.setattr(training_state, "write_whole", write)


@pytest.mark.parametrize("moment", ["first epoch", "third epoch", "before its state", "after its state"])
def test_a_killed_run_ends_as_one_never_killed(
    moment: str, finished: tuple[Path, list[Row]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if moment == "before its state":
        kill_while_saving("state.pt", 2, monkeypatch)
    else:  # 8 steps an epoch: in the first, in the third, and before the third's first
        kill_at_step({"first epoch": 3, "third epoch": 20, "after its state": 17}[moment], monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert (tmp_path / "state.pt").exists() == (moment != "first epoch")
    monkeypatch.undo()
    torch.manual_seed(99)  # the state of the caller's generator must not matter
    never_killed, rows = finished
    assert run(tmp_path) == rows
    for name in KEPT:
        assert (tmp_path / name).read_bytes() == (never_killed / name).read_bytes(), name


def test_a_seed_decides_the_run_and_leaves_torchs_generator_alone(
    finished: tuple[Path, list[Row]], tmp_path: Path
) -> None:
    model, before = tiny_network(), torch.get_rng_state()
    rows = train(model, bright_and_dark(128), bright_and_dark(40, seed=5), changed(seed=3), tmp_path)
    assert rows != finished[1] and torch.equal(torch.get_rng_state(), before)
    assert not model.training


def test_a_finished_run_is_not_trained_again_and_a_longer_one_goes_on(tmp_path: Path) -> None:
    rows = run(tmp_path, changed(schedule="plateau"))
    before = (tmp_path / "state.pt").stat().st_mtime_ns
    assert run(tmp_path, changed(schedule="plateau")) == rows
    assert (tmp_path / "state.pt").stat().st_mtime_ns == before
    longer = run(tmp_path, changed(schedule="plateau", epochs=5))
    assert longer[:4] == rows and len(longer) == 5
    with pytest.raises(RecordMismatch, match="has 5 epochs; 4 were asked for"):
        run(tmp_path, changed(schedule="plateau"))


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    run(tmp_path, changed(epochs=1), {"content": "a"})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(RecordMismatch, match=r"made with settings\.lr 0\.05; this run has 0\.01"):
        run(tmp_path, changed(epochs=1, lr=0.01), {"content": "a"})
    with pytest.raises(RecordMismatch, match="made with content a; this run has b"):
        run(tmp_path, changed(epochs=1), {"content": "b"})
    (tmp_path / "state.pt").write_bytes(before[tmp_path / "state.pt"][:500])
    with pytest.raises(BadInput, match="cannot be read .* delete it"):
        run(tmp_path, changed(epochs=1), {"content": "a"})
    del before[tmp_path / "state.pt"]
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_state_of_an_older_version_is_resumed(tmp_path: Path) -> None:
    """It calls its provenance "made_of", and says other things of the images."""
    source = {"name": "folder", "images": 128, "content": "c0"}
    now = {"device": "cpu", "training": {"source": source, "labels": "a1"}, "validation": 0.1}
    older = {"device": "cpu", "training": {"source": "folder", "content": "c0", "labels": "f9"}, "validation": 0.1}
    rows = run(tmp_path, provenance=now)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    del state["provenance"]
    torch.save(state | {"made_of": older}, tmp_path / "state.pt")
    other = {**now, "training": {"source": {**source, "content": "c1"}, "labels": "a1"}}
    with pytest.raises(RecordMismatch, match=r"made with training\.source\.content c0; this run has c1"):
        run(tmp_path, TINY, other)
    assert run(tmp_path, changed(epochs=5), now)[:4] == rows
    assert torch.load(tmp_path / "state.pt", weights_only=True)["provenance"] == now


def test_a_loss_that_is_not_a_number_stops_and_the_last_good_state_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plateau = changed(schedule="plateau", whole_epochs=0)
    good = run(tmp_path / "good", dataclasses.replace(plateau, epochs=2))
    real = loop.learning_rate
    monkeypatch.setattr(loop, "learning_rate", lambda s, done, top1: 1e30 if done >= 2 else real(s, done, top1))
    with pytest.raises(DeconvError, match=r"in epoch 3, step \d+, at learning rate 1e\+30.*keeps epoch 2") as caught:
        run(tmp_path / "bad", plateau)
    assert "\n" not in str(caught.value)
    for name in ("weights.safetensors", "metrics.csv"):
        assert (tmp_path / "bad" / name).read_bytes() == (tmp_path / "good" / name).read_bytes()
    assert run(tmp_path / "bad", dataclasses.replace(plateau, epochs=2)) == good


def test_every_epoch_is_a_line_of_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "deconv")
    run(tmp_path, changed(epochs=2))
    assert [message.partition(":")[0] for message in caplog.messages] == ["epoch 1 of 2", "epoch 2 of 2"]
    assert "validation loss" in caplog.messages[0] and caplog.messages[0].endswith(" min left")


# --- what cannot be trained -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (tiny_network(classes=1), r"gives \(2, 1\) for 2 images of 16 pixels; expected scores \(2, 2 or more\)"),
        (nn.Sequential(nn.Conv2d(3, 4, 3)), r"gives \(2, 4, 14, 14\).*with its classifier"),
        (nn.Sequential(nn.Flatten(), nn.Linear(768, 2)), r"takes no images of 14 pixels.*crop_size=1\.0"),
        (get_model("googlenet", weights=None, init_weights=False), "gives GoogLeNetOutputs while it trains"),
    ],
    ids=["too few classes", "no scores", "one size only", "auxiliary outputs"],
)
def test_a_model_that_does_not_fit_is_refused_before_anything_is_written(
    model: nn.Module, message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=message):
        train(model, bright_and_dark(32), bright_and_dark(8), TINY, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_fewer_images_than_a_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="15 images to train on make no batch of 16"):
        train(tiny_network(), bright_and_dark(15), bright_and_dark(8), TINY, tmp_path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"schedule": "plateu"}, "did you mean 'plateau'"),
        ({"epochs": 0}, "epochs: given 0; expected 1 or more"),
        ({"lr": 0.0}, "lr: given 0.0; expected a number above 0"),
        ({"lr": float("nan")}, "lr: given nan"),
        ({"dropout": 1.0}, "expected a number from 0 up to, but not, 1"),
        ({"rms_limit": -0.1}, "None for no limit"),
        ({"crop_range": (0.9, 0.5)}, r"as \(0\.75, 1\.0\)"),
        ({"crop_range": (0.5, 1.5)}, r"as \(0\.75, 1\.0\)"),
        ({"decay_epochs": -1.0}, "expected 0 or more"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(DeconvError, match=message):
        Settings(**setting)


# --- the rules ------------------------------------------------------------------------------------------------------


def test_filters_above_the_limit_are_scaled_back_as_the_plain_version_does() -> None:
    torch.manual_seed(0)
    convolutions, linear = [nn.Conv2d(3, 6, 5), nn.Conv2d(6, 4, 3)], nn.Linear(4, 4)
    for layer in convolutions:
        scales = torch.linspace(0.0, 0.3, layer.out_channels).view(-1, 1, 1, 1)
        layer.weight = nn.Parameter(torch.randn(layer.weight.shape) * scales)
    expected = [[plainly_limited(one.flatten().tolist(), 0.1) for one in layer.weight] for layer in convolutions]
    untouched = linear.weight.clone()
    limit_filter_rms(nn.Sequential(*convolutions, linear), 0.1)
    for layer, wanted in zip(convolutions, expected, strict=True):
        torch.testing.assert_close(layer.weight.flatten(1), torch.tensor(wanted))
    assert torch.equal(linear.weight, untouched)


def plainly_limited(weights: list[float], limit: float) -> list[float]:
    rms = (sum(weight**2 for weight in weights) / len(weights)) ** 0.5
    return [weight * limit / rms for weight in weights] if rms > limit else weights


def test_training_holds_filters_to_the_limit_only_if_asked(tmp_path: Path) -> None:
    def largest_rms(limit: float | None) -> float:
        folder = tmp_path / str(limit)
        run(folder, changed(rms_limit=limit, epochs=1))
        weights = safetensors.torch.load_file(folder / "weights.safetensors")["0.weight"]
        return weights.square().mean((1, 2, 3)).sqrt().max().item()

    assert largest_rms(0.02) <= 0.02 * 1.0001
    assert largest_rms(None) > 0.02


def test_trapezoid_rises_holds_and_falls() -> None:
    settings = Settings(epochs=20, lr=1.0, warmup_epochs=2.0, decay_epochs=8.0)
    rates = [learning_rate(settings, done, []) for done in (1.0, 2.0, 12.0, 16.0, 19.99)]
    assert rates == pytest.approx([0.51, 1, 1, 0.5, 0.00125])


def test_one_cycle_falls_from_its_peak_to_zero() -> None:
    settings = Settings(epochs=20, lr=1.0, warmup_epochs=2.0, schedule="one_cycle")
    rates = [learning_rate(settings, done, []) for done in (0.0, 1.0, 2.0, 11.0, 20.0)]
    assert rates == pytest.approx([0.01, 0.51, 1, 0.5, 0])


def test_plateau_lowers_tenfold_after_each_stall() -> None:
    settings = Settings(lr=1.0, schedule="plateau", patience=2)
    top1 = [0.1, 0.2, 0.2, 0.19, 0.21, 0.2, 0.2]
    rates = [learning_rate(settings, float(done), top1[:done]) for done in range(8)]
    assert rates == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.1, 0.01])


def test_dropout_rises_from_nothing_to_its_rate() -> None:
    assert [dropout_rate(Settings(), epoch) for epoch in (1, 2, 6, 11, 30)] == pytest.approx([0, 0.05, 0.25, 0.5, 0.5])
    assert dropout_rate(Settings(dropout_epochs=0), 1) == 0.5


def test_evaluation_counts_as_the_plain_version_does() -> None:
    model, data = tiny_network(classes=7).eval(), bright_and_dark(30)
    with torch.no_grad():
        scores = model(data.preprocessing.normalize(data.images.permute(0, 3, 1, 2)))
    ranks = [int((row > row[label]).sum()) for row, label in zip(scores, data.labels, strict=True)]
    losses = [-float(row.softmax(0)[label].log()) for row, label in zip(scores, data.labels, strict=True)]
    wanted = (sum(losses) / 30, sum(rank < 1 for rank in ranks) / 30, sum(rank < 5 for rank in ranks) / 30)
    assert evaluate(model.train(), data, bfloat16=False) == pytest.approx(wanted, rel=1e-5)
    assert evaluate(model, data, bfloat16=True)[0] == pytest.approx(wanted[0], rel=0.02)
