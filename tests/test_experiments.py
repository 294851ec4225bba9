"""Every experiment, composed and run small; and the README's Python, run as written."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import deconv
from deconv.command.cli import main
from deconv.figures import features
from deconv.figures.page import MARGIN, TILE
from deconv.figures.pictures import recon_tiles
from deconv.files.shipped import choices
from deconv.images import bundled
from deconv.models import shipped
from deconv.records import Patches, Peaks, Reconstructions
from tests.commands import refusal, words
from tests.drawn import assert_drawn
from tests.labelled import folder_of
from tests.samples import noise

ROOT = Path(__file__).resolve().parent.parent
NETWORK = ["model=zfnet64", "model.weights=random", "model.maps=[64,8,8,8,8]", "model.trunk=true", "model.size=[96,96]"]
SMALL = [*NETWORK, "layers=[conv1,conv3]", "n_units=3", "k=4"]


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
    peaks = Peaks.load(finished / "peaks.safetensors")
    summary = json.loads((finished / "summary.json").read_text())
    assert list(peaks) == ["conv1", "conv3"] and peaks["conv3"].score.shape == (8, 4)
    for layer, numbers in summary["layers"].items():
        recon = Reconstructions.load(finished / f"{layer}.reconstructions.safetensors")
        patches = Patches.load(finished / f"{layer}.patches.safetensors")
        assert recon.channel.unique().tolist() == numbers["units"] and len(numbers["units"]) == 3
        assert torch.allclose(recon.score, peaks[layer].scores_of(numbers["units"]), rtol=1e-5)
        assert torch.equal(recon.box, patches.box) and len(recon) == 12
    assert_drawn(finished, "fig2", "conv1", "conv3")


def test_fig2_says_which_classes_the_images_of_a_unit_share(tmp_path: Path) -> None:
    photographs = folder_of(tmp_path / "photos", each=3, side=64)
    small = words(SMALL, ["model.size=[64,64]", "layers=[conv1]", "source=folder", f"source.root={photographs}"])
    run("experiment=fig2_features", *small, f"folder={tmp_path / 'run'}")
    peaks = Peaks.load(tmp_path / "run/peaks.safetensors")
    numbers = json.loads((tmp_path / "run/summary.json").read_text())["layers"]["conv1"]
    for unit, classes in zip(numbers["units"], numbers["classes"], strict=True):
        images = [image for image in peaks["conv1"].image[unit].tolist() if image >= 0]
        bright = sum(peaks.image_keys[image].startswith("bright") for image in images)
        counts = {"bright": bright, "dark": len(images) - bright}
        said = [f"{name} {count}" for name, count in counts.items() if count > 1]
        assert (classes is None) == (not said)
        assert classes is None or sorted(classes.removesuffix(f" of {len(images)}").split(", ")) == sorted(said)


def test_a_rule_is_named_or_spelled(tmp_path: Path) -> None:
    small = words(SMALL, ["layers=[conv1]", "n_units=1", "k=1"])
    for folder, rule in {"named": ["rule=guided"], "spelled": ["rule.relu=both", "rule.lrn=derivative"]}.items():
        run("experiment=fig2_features", *small, *rule, f"folder={tmp_path / folder}")
    for name in ("summary.json", "conv1.reconstructions.safetensors", "fig2.png"):
        assert (tmp_path / "named" / name).read_bytes() == (tmp_path / "spelled" / name).read_bytes(), name


@pytest.fixture(scope="module")
def reference(finished: Path) -> Path:
    """The peaks of the finished run, unit n of each layer n + 1 times as strong."""
    peaks = Peaks.load(finished / "peaks.safetensors")
    larger = {}
    for layer, mined in peaks.items():
        times = torch.arange(1, len(mined.score) + 1)[:, None]
        larger[layer] = replace(mined, score=(mined.score.double() * times).float())
    return replace(peaks, layers=larger).save(finished.parent / "reference.safetensors")


def test_units_are_chosen_and_captioned_by_how_strongly_they_are_excited(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels: list[str] = []
    expected: list[str] = []
    panels = features.unit_panels

    def kept(*arguments: Any, **options: Any) -> tuple[features.UnitPanel, ...]:
        made = panels(*arguments, **options)
        labels.extend(panel.label for panel in made)
        return made

    monkeypatch.setattr(features, "unit_panels", kept)
    run("experiment=fig2_features", *SMALL, "choose=strongest", f"reference={reference}", f"folder={tmp_path / 'run'}")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    peaks, images = Peaks.load(tmp_path / "run/peaks.safetensors"), len(bundled())
    for layer, numbers in summary["layers"].items():
        firing = peaks[layer].found.any(1).nonzero()[:, 0].tolist()
        assert numbers["units"] == firing[:3]  # unit n has a share of 1 / (n + 1)
        assert numbers["share_of_strongest"] == [round(1 / (unit + 1), 4) for unit in numbers["units"]]
        shares = {unit: f"{1 / (unit + 1):.2f}" for unit in numbers["units"]}
        expected += [f"unit {unit}, {share} of its strongest over {images} images" for unit, share in shares.items()]
    assert labels == expected and len(labels) == 6
    assert summary["reference"]["source"]["images"] == images


def test_without_a_reference_no_share_is_told(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert "reference" not in summary and "share_of_strongest" not in summary["layers"]["conv1"]


def test_the_shipped_network_brings_its_reference(tmp_path: Path) -> None:
    photographs = noise(tmp_path / "photos", 3, (72, 96), 5)
    said = ["experiment=fig2_features", "source=folder", f"source.root={photographs}", "n_units=2", "k=1"]
    folders = [tmp_path / name for name in ("whole", "trunk", "other")]
    run(*said, "model=zfnet64", "layers=[fc7]", "choose=strongest", f"folder={folders[0]}")
    run(*said, "model=zfnet64_trunk", "model.size=[80,80]", "layers=[features.1]", f"folder={folders[1]}")
    run(*said, "model=zfnet64", "layers=[conv1]", "model.std=[1.0,1.0,1.0]", f"folder={folders[2]}")
    whole, trunk, other = (json.loads((folder / "summary.json").read_text()) for folder in folders)
    assert whole["reference"]["layers"][-1] == "output" and len(whole["layers"]["fc7"]["share_of_strongest"]) == 2
    assert len(trunk["layers"]["features.1"]["share_of_strongest"]) == 2
    assert "reference" not in other and "not compared" in (folders[2] / "run.log").read_text()


def test_a_run_started_again_takes_up_its_peaks(finished: Path) -> None:
    before = (finished / "peaks.safetensors").stat().st_mtime_ns
    run("experiment=fig2_features", *SMALL, f"folder={finished}")
    assert (finished / "peaks.safetensors").stat().st_mtime_ns == before


def test_peaks_of_another_setting_are_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment=fig2_features", *words(SMALL, ["k=5"]), f"folder={finished}"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "made with k 4; this run has 5" in said[0]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["layers=[conv9]"], "unknown layer 'conv9'; expected one of conv1"),
        (["units=[99999]"], "units: given 99999; expected a whole number, 0 to 63"),
        (["rule.relu=forwards"], "the rule's relu 'forwards'; expected one of backward, forward, both, none"),
        (["rule=guidd"], "unknown rule 'guidd'; expected one of deconvnet, deconvnet_beyond, gradient"),
        (["rule.switches=other"], "rule.switches=other: only compare_rules has other images"),
        (["source=folder", "source.root=/nowhere"], "/nowhere"),
        (["choose=strongst"], "unknown choice of units 'strongst'; expected one of random, strongest"),
        (
            ["choose=strongest"],
            "choose=strongest: nothing says how strong the units of this network can be; expected ref",
        ),
        (["choose=strongest", "units=[3]"], "choose=strongest chooses units, and units names them"),
        (["reference=/nowhere"], "/nowhere does not exist; expected a record"),
        ([f"reference={shipped.reference_path('zfnet64')}"], "the reference was made with weights"),
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
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    (block,) = [block for block in blocks if "fire5.png" in block]  # the others run in test_docs
    assert len(block.strip().splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"deconv": deconv}  # imported by the block before
    exec(compile(block, "README.md", "exec"), names)
    assert capsys.readouterr().out.strip() == "fire5.png"
    assert [path.name for path in tmp_path.iterdir()] == ["fire5.png"]
    with Image.open(tmp_path / "fire5.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    first = recon_tiles(names["recon"].zoomed().pixels[:1], TILE)[0]
    column = pixels[:, MARGIN : MARGIN + TILE]
    assert any(np.array_equal(column[y : y + TILE], first) for y in range(len(column)))
