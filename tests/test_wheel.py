"""What travels in the wheel: the package with its configs and experiments inside, and nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT), cwd=folder)
    (made,) = folder.glob("*.whl")
    return made


def call(*command: str, cwd: Path, path: Path | None = None) -> str:
    environment = {**os.environ, "PYTHONPATH": str(path)} if path else dict(os.environ)
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_claims_no_other_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {"deconv", "deconvnet-0.1.0.dist-info"}
    for config in (ROOT / "configs").rglob("*.yaml"):
        assert f"deconv/{config.relative_to(ROOT)}" in names
    data = (
        "atlas/templates/unit.html",
        "atlas/assets/atlas.css",
        "images/synsets.txt",
        "models/weights/zfnet64.safetensors",
        "models/weights/zfnet64.peaks.parquet",
    )
    assert {f"deconv/{file}" for file in data} <= set(names)
    for script in (ROOT / "experiments").glob("*.py"):
        assert f"deconv/experiments/{script.name}" in names
    assert [name for name in names if "__pycache__" in name] == []


def test_the_command_works_from_the_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--quiet", "--target", str(site)]
    call(*pip, str(wheel), cwd=tmp_path)
    page = call(sys.executable, "-m", "deconv.command.cli", "--help", cwd=elsewhere, path=site)
    assert re.search(r"fig2_features +Figure 2", page)
    where = "from deconv.shipped import shipped; print(shipped('configs'), shipped('experiments'))"
    found = call(sys.executable, "-c", where, cwd=elsewhere, path=site)
    assert found.split() == [str(site / "deconv/configs"), str(site / "deconv/experiments")]
