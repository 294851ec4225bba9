"""What travels in the wheel: the package with its configs and experiments inside, and nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import deconv
from tests.samples import photographs

ROOT = Path(__file__).resolve().parent.parent

WITHOUT_EXTRAS = """
import io, sys
from contextlib import redirect_stderr
only_extras = "foolbox ndf pyarrow pandas skimage sklearn ray joblib submitit captum datasets timm transformers"
sys.modules.update(dict.fromkeys(only_extras.split()))
import deconv, torch
from deconv.command.cli import main
network = deconv.Network(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()), (3, 9, 9))
print(deconv.__file__, deconv.__version__, deconv.mine(network, torch.rand(5, 3, 9, 9), ["1"], k=2), sep="\\n")
own = ["source=folder", "source.root=photos", "layers=[conv2]"]
few = ["n_units=2", "model.size=[48,48]", "choose=strongest"]
assert main(["experiment=fig2_features", "model=zfnet64_trunk", "folder=run", *own, *few]) == 0
for experiment, extra in {"compare_rules": "comparing", "table7_layers": "probing", "fig2_features": "demo"}.items():
    with redirect_stderr(io.StringIO()) as said:
        assert main([f"experiment={experiment}", "model=zfnet64", "model.weights=random", "folder=none"]) == 2
    assert f"pip install 'deconvnet[{extra}]'" in said.getvalue().splitlines()[-1], said.getvalue()
"""
"""What an installation can do that has none of the extras, and what it says of what it cannot."""


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
        "py.typed",
        "__main__.py",
        "figures/templates/shown.html",
        "atlas/templates/unit.html",
        "atlas/assets/atlas.css",
        "images/synsets.txt",
        "models/weights/zfnet64.safetensors",
        "models/weights/zfnet64.peaks.safetensors",
    )
    assert {f"deconv/{file}" for file in data} <= set(names)
    for script in (ROOT / "experiments").glob("*.py"):
        assert f"deconv/experiments/{script.name}" in names
    assert [name for name in names if "__pycache__" in name] == []


def test_the_version_is_the_same_everywhere(wheel: Path) -> None:
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), flags=re.M)
    assert cited and cited[1] == deconv.__version__ == wheel.name.split("-")[1]


def test_the_command_works_from_the_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--quiet", "--target", str(site)]
    call(*pip, str(wheel), cwd=tmp_path)
    for command in ([str(site / "bin/deconv")], ["-m", "deconv"]):
        page = call(sys.executable, *command, "--help", cwd=elsewhere, path=site)
        assert re.search(r"fig2_features +Figure 2", page)
    photographs(elsewhere / "photos")
    say = call(sys.executable, "-c", WITHOUT_EXTRAS, cwd=elsewhere, path=site).splitlines()
    assert say[:3] == [str(site / "deconv/__init__.py"), "0.1.0", "<Peaks: 1 (4 units), 2 peaks each>"]
    assert [Path(line).name for line in say[3:]] == ["fig2.png"]
    where = "from deconv.files.shipped import shipped; print(shipped('configs'), shipped('experiments'))"
    found = call(sys.executable, "-c", where, cwd=elsewhere, path=site)
    assert found.split() == [str(site / "deconv/configs"), str(site / "deconv/experiments")]
