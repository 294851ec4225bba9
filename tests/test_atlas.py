"""The experiment that writes an atlas, run small: its folder, a run taken up again, mistakes, another run's numbers."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deconv.command.cli import main
from deconv.compare.predicting import answers_path
from deconv.compare.sufficiency import CURVES
from deconv.compare.trials import ACTIVATIONS
from deconv.files import write_json
from deconv.projection.rules import Rule
from deconv.records import Peaks
from deconv.records.formats import save_columns


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, generator = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir()
    for n in range(6):
        Image.fromarray(generator.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((80, 70)).save(
            folder / ("cat", "dog")[n % 2] / f"{n}.png"
        )
    return folder


def times(site: Path) -> dict[str, int]:
    return {str(path.relative_to(site)): path.stat().st_mtime_ns for path in site.rglob("*") if path.is_file()}


def run(photographs: Path, folder: Path, *arguments: str) -> int:
    small = [
        "model=zfnet64",
        "model.weights=random",
        "model.maps=[16,8,8,8,8]",
        "model.widths=[8,8]",
        "layers=[conv1]",
        "k=4",
    ]
    source = ["source=folder", f"source.root={photographs}"]
    return main(["experiment=atlas", *small, *source, *arguments, f"folder={folder}"])


def test_it_leaves_a_site_that_a_second_run_does_not_touch(photographs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert run(photographs, folder, "precision=bfloat16") == 0  # of so few images it is float32, and counts as such
    summary = json.loads((folder / "summary.json").read_text())
    layer, peaks = summary["layers"]["conv1"], Peaks.load(folder / "peaks.safetensors")
    assert layer["units"] == 16 and list(summary["rules"]) == ["deconvnet"] and peaks.firing is not None
    assert set(layer["preferred_class"]) <= {"cat", "dog", None} and peaks.firing["conv1"].by_class is not None
    assert layer["class_selectivity"] == peaks.firing["conv1"].by_class.selectivity
    assert len(layer["selectivity_by_chance"]) == 16
    before, kept = times(folder / "site"), times(folder / "records")
    assert "index.html" in before and len(kept) == 3
    assert run(photographs, folder) == 0
    after = times(folder / "site")
    assert [name for name in after if after[name] != before[name]] == ["atlas.json"]
    assert times(folder / "records") == kept
    replace(peaks, firing=None).save(folder / "peaks.safetensors")  # as of bfloat16: counted afterwards, told no less
    assert run(photographs, folder) == 0 and (folder / "records/firing.safetensors").is_file()
    assert json.loads((folder / "summary.json").read_text())["layers"] == summary["layers"]


def test_the_numbers_of_a_comparison_become_ways_to_sort(photographs: Path, tmp_path: Path) -> None:
    """Among the images of one class, of which no classes are told."""
    folder, other = tmp_path / "run", tmp_path / "other"
    assert run(photographs, folder, "within=cat") == 0
    columns = {"unit": np.array([2, 5]), "area50": np.array([0.25, np.nan])}
    provenance = Peaks.load(folder / "peaks.safetensors").provenance
    save_columns(other / "records" / "conv1.deconvnet.safetensors", columns, {"peaks": provenance, "curves": CURVES})
    assert provenance["source"]["within"] == "cat"
    assert run(photographs, folder, f"compared={other}", "within=cat") == 0
    assert "3 photographs of the class cat" in " ".join((folder / "site/index.html").read_text().split())
    assert "class selectivity" not in (folder / "site/01-conv1/index.html").read_text()
    page = (folder / "site/01-conv1/index.html").read_text()
    assert ">area50</option>" in page and page.count('|0.25"') == 1


RIGHT = {"deconvnet": {2: 15, 5: 9}, "centre": {2: 0, 5: 12}, "patches": {2: 3, 5: 3}, "image_centre": {2: 0, 5: 0}}
"""Of 15 trials on five images, three each, how many the first ones are that each has right, by unit of conv1."""


def answered(folder: Path, peaks: dict[str, object], **changes: object) -> Path:
    """A finished experiment=predict that has RIGHT of the squares near a peak, and none of the others."""
    rules = {"deconvnet": Rule().options(), "centre": "centre"}
    write_json(folder / "summary.json", {"rules": rules, "units": {"conv1": [2, 5]}} | changes)
    for name, right in RIGHT.items():
        near = np.concatenate([np.arange(15) < count for count in right.values()])
        columns = {
            "unit": np.tile(np.repeat([2, 5], 15), 2),
            "image": np.tile(np.arange(15) // 3, 4),
            "activation": np.repeat([ACTIVATIONS.index("near"), ACTIVATIONS.index("max")], 30),
            "energy": np.concatenate([near, np.zeros(30)]),
        }
        save_columns(
            answers_path(folder / "records", "conv1", name), columns, {"peaks": peaks, "rule": rules.get(name, name)}
        )
    return folder


def text_of(page: Path) -> str:
    return " ".join(page.read_text().split())


def test_units_say_how_far_to_trust_their_pictures(photographs: Path, tmp_path: Path) -> None:
    """Unit 2 is ahead on all five images, which by chance is one in 32; unit 5 is behind on one, and else tied."""
    folder = tmp_path / "run"
    assert run(photographs, folder) == 0
    site, numbers = folder / "site", folder / "summary.json"
    assert not any(word in text_of(page) for page in site.rglob("*.html") for word in ("Predicts", "Trust", "trust<"))
    other = answered(tmp_path / "other", Peaks.load(folder / "peaks.safetensors").provenance | {"k": 15})
    assert run(photographs, folder, f"predicted={other}") == 0
    said = {unit: text_of(site / f"01-conv1/unit-{unit:04d}.html") for unit in (2, 3, 5)}
    on = (
        'of 15 <a href="../index.html#trust">squares</a> on 5 photographs; its control, centre (a blob about the peak),'
    )
    assert f"Predicts 15 {on} 0: <b>above its control</b> (p = 0.031)." in said[2]
    assert f"Predicts 9 {on} 12: <b>not above its control</b> (p = 1)." in said[5]
    assert "Predicts" not in said[3]
    layer = text_of(site / "01-conv1/index.html")
    counts = "1 of 2 units measured is above its control, at the level of 5 per cent; 0.031 would be by chance"
    assert (
        f"Trust: {counts}" in layer
        and "The control is centre (a blob" in layer
        and counts in text_of(site / "index.html")
    )
    units = dict(re.findall(r'data-unit="(\d+)" data-numbers="([^"]*)"', layer))
    column = re.findall(r'<option value="(\d+)"[^>]*>trust</option>', layer)
    trust = {int(unit): values.split("|")[int(column[0])] for unit, values in units.items()}
    assert trust.pop(2) == "1" and trust.pop(5) == "-0.2" and set(trust.values()) == {""}
    measured = json.loads(numbers.read_text())["layers"]["conv1"]["trust"]
    assert measured == {"control": "centre", "measured": 2, "above": 1, "by_chance": 1 / 32, "level": 0.05}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rules": {"deconvnet": {}, "guided": {}}}, "asked no control; run it again with against=[other_unit,centre]"),
        (
            {"rules": {"guided": {}, "centre": "centre"}},
            "asked centre, guided, not deconvnet: give another",
        ),
        ({"units": {"conv2": [1]}}, "asked of units of conv2, none of conv1: give another run"),
        ({"units": None}, "is of something else (TypeError("),
        ({}, "was made with preprocessing None; this run has"),
    ],
    ids=["no control", "no rule", "no layer", "something else", "other peaks"],
)
def test_a_run_of_prediction_that_cannot_serve_is_one_line(
    changes: dict[str, object], expected: str, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = answered(tmp_path / "other", {}, **changes)
    assert run(photographs, tmp_path / "run", f"predicted={other}") == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and expected in said[0] and not (tmp_path / "run/peaks.safetensors").exists()


def test_units_are_compared_with_a_reference(photographs: Path, tmp_path: Path) -> None:
    folder, path = tmp_path / "run", tmp_path / "reference.safetensors"
    assert run(photographs, folder) == 0
    assert "share_of_strongest" not in json.loads((folder / "summary.json").read_text())["layers"]["conv1"]
    peaks = Peaks.load(folder / "peaks.safetensors")
    replace(peaks, layers={"conv1": replace(peaks["conv1"], score=2 * peaks["conv1"].score)}).save(path)
    assert run(photographs, folder, f"reference={path}") == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary["layers"]["conv1"]["share_of_strongest"]) == {0.5}
    assert summary["reference"]["source"]["images"] == 6
    assert "0.50 of its strongest over 6 images" in (folder / "site/01-conv1/unit-0000.html").read_text()


def test_a_comparison_of_other_peaks_is_refused(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns, provenance = {"unit": np.array([2])}, {"peaks": {"weights": "others"}, "curves": CURVES}
    save_columns(tmp_path / "other/records/conv1.deconvnet.safetensors", columns, provenance)
    assert run(photographs, tmp_path / "run", f"compared={tmp_path / 'other'}") == 2
    assert "was made with k None; this run has 4. Run compare_rules again" in capsys.readouterr().err
    assert not (tmp_path / "run/site").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["other_rules=[guidd]"], "unknown explanation 'guidd'"),
        (["units=[3]"], "experiment=atlas has no units"),
        (["within=cats"], "unknown class 'cats'; expected one of cat, dog; did you mean 'cat'?"),
        (["compared=/nowhere"], "/nowhere has no folder records"),
        (["predicted=/nowhere"], "/nowhere has no summary.json; give the folder of a finished experiment=predict"),
        (["predicted=/nowhere", "per_image=2"], "per_image: given 2; expected 1 with predicted"),
        (["keep=float8"], "unknown keep 'float8'; expected one of float32, float16, none"),
        (["reference=/nowhere"], "/nowhere does not exist; expected a record"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], expected: str, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(photographs, tmp_path / "run", *arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and expected in said[0] and not (tmp_path / "run/peaks.safetensors").exists()
