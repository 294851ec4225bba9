"""deconv --dry-run: what it says of a run is so, what it refuses the run refuses, and it writes nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import deconv
from deconv.command import planning
from deconv.command.cli import main
from deconv.command.options import EXPERIMENTS
from tests import small
from tests.commands import words
from tests.samples import noise

TINY = ["model=zfnet64", "model.weights=random", "model.classes=2", "model.maps=[6,4,4,4,4]"]


COUNTED = {
    "circuit": 2 * 2 + 2 * (4 * 2 + 4),  # two units; below them four, and four below these, each in the peaks above too
    "compare_rules": 2 * 2 * (2 + 1),  # deconvnet and the gradient: two peaks of two units, and another unit's
    "directions": 2 * 3 * 2 * 2,  # measured and drawn: two units of channels and of two methods, two peaks each
    "fig2_features": 2 * 2 * (2 + 4 * 4),  # two units of two layers: their peaks, and four images at four quantiles
    "match_networks": 2 * 2 * 2 * 2,
    "path_check": 2 * 2,  # by deconvnet; the centre asks no network
    "photograph": 2 * 2 * (1 + 2),
    "predict": 2 * 3,
    "sanity_checks": 2 * 3,  # intact, shuffled, and of another unit
    "virtual_units": 2 * 3 + 2 * 2 * 2 * 3,  # peaks, and as many of two lower units of two clusters
    "which_image": 2 + 2,  # one reference of each unit, once more for its mask
}
"""Reconstructions of the smallest runs, counted by hand."""
TOLD = {
    "compare_rules": {"answering": ": 96 images or patches"},  # 2 units, 3 explanations, 2 curves, 2 fills, 4 shares
    "directions": {"fitting": "nmf, random: 4 directions each on 200 positions"},
    "path_check": {"answering": ": 48 images or patches", "following": "16 signals"},
    "predict": {"squares": "on 3 images"},
    "sanity_checks": {"shuffling": "networks with shuffled weights: 1"},
}
"""What else their plans say."""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


@pytest.fixture
def said(tmp_path: Path) -> list[str]:
    photographs = noise(tmp_path / "photos", 7, (64, 64))
    chosen = ["layers=[conv1,conv2]", "k=2", "n_units=5", "batch_size=2", f"folder={tmp_path / 'run'}"]
    return ["experiment=fig2_features", "source=folder", f"source.root={photographs}", *TINY, *chosen]


def planned(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What the plan says, by the names of its lines."""
    capsys.readouterr()
    assert main(["--dry-run", *arguments]) == 0, capsys.readouterr().err
    lines: dict[str, str] = {}
    name = ""
    for line in capsys.readouterr().out.splitlines():
        name, text = line[:12].strip() or name, line[12:].strip()
        lines[name] = f"{lines[name]}\n{text}" if name in lines else text
    return lines


def test_a_plan_beside_the_run_itself(said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(said, capsys)
    assert not (tmp_path / "run").exists() and not list(Path().iterdir())
    assert plan["experiment"] == "fig2_features" and plan["folder"] == str(tmp_path / "run")
    assert plan["images"] == "7 of the source folder"
    assert re.fullmatch(r"zfnet64: [\d,]+ weights, \d layers, inputs of 3 x 64 x 64", plan["network"])
    assert plan["layers"].splitlines() == [
        "conv1: 6 units, maps of 30 x 30, receptive field 7 x 7",
        "conv2: 4 units, maps of 15 x 15, receptive field 27 x 27",
    ]
    assert plan["peaks"].startswith("2 of each of 10 units: at most 1.68 kB in peaks.")
    assert re.fullmatch(r"about \d+ s: [\d.]+ images/s in float32 here", plan["mining"])
    assert re.match(r"at most about \d+ s: 18 reconstructions or fewer; at most ", plan["projecting"])

    assert main(said) == 0
    recons = [deconv.Reconstructions.load(path) for path in (tmp_path / "run").glob("*.reconstructions.*")]
    patches = [deconv.Patches.load(path) for path in (tmp_path / "run").glob("*.patches.*")]
    assert sum(len(recon) for recon in recons) == 18
    pixels = sum(recon.pixels.nbytes for recon in recons)
    cut = sum(patch.pixels.nbytes + patch.inside.nbytes for patch in patches)
    assert f"{(pixels + cut) / 1000:.0f} kB" == "101 kB" and plan["projecting"].endswith("101 kB with their patches")

    again = planned(said, capsys)
    assert again["folder"].endswith("run, which is there") and "is there: it is taken up" in again["mining"]
    assert again["projecting"] == "18 reconstructions or fewer; at most 101 kB with their patches"


def test_seconds_are_those_of_a_batch_times_their_number(
    said: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that a batch of two images takes a minute of, so that 7 images take 3.5."""
    seconds, forward = [0.0], deconv.Network.forward_with_maxima

    def slowly(network: deconv.Network, images: torch.Tensor, *given: object) -> object:
        seconds[0] += 30 * len(images)
        return forward(network, images, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(deconv.Network, "forward_with_maxima", slowly)
    monkeypatch.setattr(planning.time, "perf_counter", lambda: seconds[0])
    assert planned(said, capsys)["mining"] == "about 3.5 min: 0.0333 images/s in float32 here"


@pytest.mark.parametrize("name", sorted(set(EXPERIMENTS) - {"table3_ablation", "table4_transfer", "table7_layers"}))
def test_every_experiment_has_a_plan_and_writes_nothing(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = small.said(name, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    has_cache = "cache" in EXPERIMENTS[name].__dataclass_fields__
    plan = planned(words(chosen, ["cache=frames"] if has_cache else []), capsys)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert plan["folder"] == f"outputs/{name}/<time>" and " of the source folder" in plan["images"]
    if planning.is_rehearsed(EXPERIMENTS[name]):
        assert "receptive field" in plan["layers"] and " images/s " in plan["mining"] and " in frames" in plan["cache"]
        if name in COUNTED:
            assert f": {COUNTED[name]} reconstructions or fewer" in plan["projecting"] and "drawing" in plan["then"]
        for line, text in TOLD.get(name, {}).items():
            assert text in plan[line]
    else:
        assert "is not told" in plan["checked"]


@pytest.mark.parametrize(
    "mistake", ["layers=[conv9]", "units=[6]", "k=0", "choose=strongest", "source.root=none", "rule.switches=other"]
)
def test_what_a_run_is_refused_with_its_plan_says(
    mistake: str, said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*said, mistake]) == 2
    refused = capsys.readouterr().err
    assert main(["--dry-run", *said, mistake]) == 2
    assert capsys.readouterr().err == refused and refused.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_sweep_has_a_plan_for_each_run(said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "--dry-run", *said, "seed=1,2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    titles = [line for line in lines if line.startswith("run ")]
    assert [title.split(":")[0] for title in titles] == ["run 1 of 2", "run 2 of 2"] and titles[1].endswith("seed=2")
    assert [line for line in lines if line.startswith("folder")][1].endswith(str(tmp_path / "run" / "1"))
    assert not (tmp_path / "run").exists()


def test_durations_and_bytes_in_words() -> None:
    assert [planning._duration(seconds) for seconds in (0.2, 100.0, 150.0, 9000.0)] == [
        "1 s",
        "100 s",
        "2.5 min",
        "2.5 h",
    ]
    assert [planning._bytes(count) for count in (84, 8_400, 2_500_000, 7_000_000_000)] == [
        "1 kB",
        "8.4 kB",
        "2.5 MB",
        "7 GB",
    ]
