"""Figure 5's experiment, run small: its numbers, its pictures, and what it says of mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from deconv.command.cli import main
from tests.commands import refusal, words
from tests.samples import noise

SMALL = [
    "experiment=fig5_invariance", "model=squeezenet", "model.weights=random", "model.size=[67,67]", "source=folder",
    "translation=[-8,8,4]", "scale=[1,1.2,0.1]", "rotation=[0,270,90]",
]  # fmt: skip
LABELS = "labels=[tench,3,golden_retriever]"


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    photographs = noise(tmp_path_factory.mktemp("photographs"), 3, (90, 120), grain=6)
    return [*SMALL, f"source.root={photographs}"]


@pytest.fixture(scope="module")
def finished(said: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    assert main([*said, LABELS, f"folder={folder}"]) == 0
    return folder


def test_it_leaves_its_pictures_and_every_number(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["layers"] == ["conv1", "fire9"]
    assert [image["label"]["class"] for image in summary["images"]] == [0, 3, 207]
    assert summary["provenance"]["fill"] == "reflect" and len(summary["provenance"]["weights"]) == 64
    for kind, amounts in (
        ("translation", [-8, -4, 0, 4, 8]),
        ("scale", [1, 1.1, 1.2]),
        ("rotation", [0, 90, 180, 270]),
    ):
        found = summary["moves"][kind]
        assert found["amounts"] == amounts and found["most_filled"] == 0
        for layer in ("conv1", "fire9"):
            distance = np.array(found["distance"][layer])
            unmoved = amounts.index({"scale": 1}.get(kind, 0))
            assert distance.shape == (3, len(amounts))
            assert (distance[:, unmoved] < 1e-5).all() and (np.delete(distance, unmoved, 1) > 1e-3).all()
        assert np.array(found["probability"]).shape == (3, len(amounts))
    smallest = summary["moves"]["translation"]
    assert smallest["smallest_move_amounts"] == [-4, 4]
    by_hand = np.array(smallest["distance"]["conv1"])[:, [1, 3]].mean()
    assert smallest["mean_distance"]["smallest_move"]["conv1"] == pytest.approx(by_hand, abs=1e-5)
    assert (finished / "fig5.png").stat().st_size > 20_000 and (finished / "fig5.pdf").stat().st_size > 10_000


def test_the_same_configuration_gives_the_same_bytes(said: list[str], finished: Path, tmp_path: Path) -> None:
    assert main([*said, LABELS, f"folder={tmp_path / 'again'}"]) == 0
    for name in ("summary.json", "fig5.png", "fig5.pdf"):
        assert (tmp_path / "again" / name).read_bytes() == (finished / name).read_bytes(), name


def test_without_room_what_is_filled_is_said(said: list[str], tmp_path: Path) -> None:
    arguments = ["room=1", "fill=mean", "images=[2.png,0]", "layers=[fire2,fire5]", "rotation=[0,0,1]", "scale=[1,1,1]"]
    assert main([*words(said, arguments), f"folder={tmp_path}"]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [image["key"] for image in summary["images"]] == ["2.png", "0.png"]
    assert [image["label"]["given"] for image in summary["images"]] == [False, False]
    assert summary["layers"] == ["fire2", "fire5"]
    assert summary["moves"]["translation"]["most_filled"] == pytest.approx(8 / 67, abs=1e-5)
    assert summary["moves"]["scale"]["low_over_top_at_the_smallest_move"] is None


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["images=[4.png]"], "image '4.png' is not in the source folder"),
        (["images=[0.png]"], "expected two or more"),
        (["labels=[tench]"], "labels: given 1 for 3 images"),
        (["labels=[tench,goldfish,tigre cat]"], "did you mean 'tiger cat'"),
        (["labels=[0,1,1000]"], "label 1000: this network has classes 0 to 999"),
        (["layers=[conv1]"], "layers: given 1; expected two"),
        (["layers=[conv1,conv9]"], "unknown layer 'conv9'"),
        (["scale=[1,2]"], "scale=[1, 2]: expected [first, last, step]"),
        (["fill=wrap"], "fill=wrap: expected reflect or mean"),
        (["room=0.5"], "room=0.5"),
        (["model=zfnet64_trunk"], "no class outputs"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], expected: str, said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refusal(words(said, arguments), tmp_path, capsys)
