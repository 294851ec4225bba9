"""The experiment that writes an atlas, run small: its folder, a run taken up again, mistakes, another run's numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deconv.command.cli import main
from deconv.compare.sufficiency import CURVES
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
        "model=alexnet",
        "model.weights=random",
        "model.size=[64,64]",
        "model.resize=null",
        "layers=[conv1]",
        "k=4",
    ]
    source = ["source=folder", f"source.root={photographs}"]
    return main(["experiment=atlas", *small, *source, *arguments, f"folder={folder}"])


def test_it_leaves_a_site_that_a_second_run_does_not_touch(photographs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert run(photographs, folder) == 0
    summary = json.loads((folder / "summary.json").read_text())
    layer, peaks = summary["layers"]["conv1"], Peaks.load(folder / "peaks.safetensors")
    assert layer["units"] == 64 and list(summary["rules"]) == ["deconvnet"] and peaks.firing is not None
    assert set(layer["preferred_class"]) <= {"cat", "dog", None} and peaks.firing["conv1"].by_class is not None
    assert layer["class_selectivity"] == peaks.firing["conv1"].by_class.selectivity
    assert len(layer["selectivity_by_chance"]) == 64
    before, kept = times(folder / "site"), times(folder / "records")
    assert "index.html" in before and len(kept) == 3
    assert run(photographs, folder) == 0
    after = times(folder / "site")
    assert [name for name in after if after[name] != before[name]] == ["atlas.json"]
    assert times(folder / "records") == kept


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
