"""Every experiment, composed and run small; and the README's Python, run as written."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from deconv.command.cli import main
from deconv.command.shipped import choices
from deconv.records import Patches, Peaks, Reconstructions
from tests.commands import refusal, words

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["model=alexnet", "model.weights=random", "model.size=[96,96]", "layers=[conv1,conv3]", "n_units=3", "k=4"]


def run(*arguments: str) -> None:
    assert main([*arguments]) == 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    run("experiment=fig2_features", *SMALL, f"folder={folder}")
    return folder


def test_every_experiment_is_tested() -> None:
    for name in set(choices("experiment")) - {"fig2_features"}:  # that one is tested here
        assert (ROOT / "tests" / f"test_{name}.py").is_file(), name


def test_bfloat16_draws_the_same_figure(finished: Path, tmp_path: Path) -> None:
    run("experiment=fig2_features", *SMALL, "precision=bfloat16", f"folder={tmp_path / 'fast'}")
    assert (tmp_path / "fast" / "fig2.png").read_bytes() == (finished / "fig2.png").read_bytes()


def test_fig2_leaves_its_records_pictures_and_numbers(finished: Path) -> None:
    peaks = Peaks.load(finished / "peaks.parquet")
    summary = json.loads((finished / "summary.json").read_text())
    assert list(peaks) == ["conv1", "conv3"] and peaks["conv3"].score.shape == (384, 4)
    for layer, numbers in summary["layers"].items():
        recon = Reconstructions.load(finished / f"{layer}.reconstructions.safetensors")
        patches = Patches.load(finished / f"{layer}.patches.safetensors")
        assert recon.channel.unique().tolist() == numbers["units"] and len(numbers["units"]) == 3
        assert torch.allclose(recon.score, peaks[layer].scores_of(numbers["units"]), rtol=1e-5)
        assert torch.equal(recon.box, patches.box) and len(recon) == 12
    for picture in ("fig2", "conv1", "conv3"):
        assert (finished / f"{picture}.png").stat().st_size > 10_000
        assert (finished / f"{picture}.pdf").stat().st_size > 10_000


def test_the_same_configuration_gives_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    run("experiment=fig2_features", *SMALL, "batch_size=16", f"folder={tmp_path / 'again'}")
    names = {path.name for path in finished.iterdir()} - {"run.log"}
    assert names == {path.name for path in (tmp_path / "again").iterdir()} - {"run.log"}
    for name in names:
        assert (finished / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_a_rule_is_named_or_spelled(tmp_path: Path) -> None:
    small = words(SMALL, ["layers=[conv1]", "n_units=1", "k=1"])
    for folder, rule in {"named": ["rule=guided"], "spelled": ["rule.relu=both", "rule.lrn=derivative"]}.items():
        run("experiment=fig2_features", *small, *rule, f"folder={tmp_path / folder}")
    for name in ("summary.json", "conv1.reconstructions.safetensors", "fig2.png"):
        assert (tmp_path / "named" / name).read_bytes() == (tmp_path / "spelled" / name).read_bytes(), name


def test_a_run_started_again_takes_up_its_peaks(finished: Path) -> None:
    before = (finished / "peaks.parquet").stat().st_mtime_ns
    run("experiment=fig2_features", *SMALL, f"folder={finished}")
    assert (finished / "peaks.parquet").stat().st_mtime_ns == before


def test_peaks_of_another_setting_are_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment=fig2_features", *words(SMALL, ["k=5"]), f"folder={finished}"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "made with k 4; this run has 5" in said[0]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["layers=[conv9]"], "unknown layer 'conv9'; expected one of conv1"),
        (["units=[99999]"], "unit 99999: layer conv1 has units 0 to 63"),
        (["rule=guidd"], "unknown rule 'guidd'; expected one of deconvnet, guided, gradient"),
        (["rule.relu=forwards"], "the rule's relu 'forwards'; expected one of backward, forward, both, none"),
        (["rule.switches=other"], "rule.switches=other: this experiment has no images to lend them"),
        (["source=folder", "source.root=/nowhere"], "/nowhere"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = words(["experiment=fig2_features"], SMALL, arguments)
    assert expected in refusal(said, tmp_path / "run", capsys)


def test_the_readme_python_runs_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    assert len(block.strip().splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() == "fire5.png"
    assert (tmp_path / "fire5.png").stat().st_size > 50_000
