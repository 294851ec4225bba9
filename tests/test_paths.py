"""deconv/command/paths.py: files that are not there are told before torch is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deconv.command.paths import check_paths
from deconv.command.settings import compose_jobs
from deconv.errors import BadInput

NET = """
from torch import nn
def network(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
explain = lambda *asked: asked[1]
"""
MINE = ["experiment=compare_rules", "model=python", "source=folder"]
USUAL = {"model.target": "net.py:network", "model.weights": "net.pth", "source.root": "photos"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "open.py").write_text("from net import *")
    (tmp_path / "broken.py").write_text("def network(:")
    (tmp_path / "net.pth").write_bytes(b"")
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(changes: dict[str, str]) -> None:
    (job,) = compose_jobs([*MINE, *(f"{key}={value}" for key, value in (USUAL | changes).items())], sweep=False)
    check_paths(job.options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source.root": "photo"}, "source.root: there is no folder photo; expected a folder of images"),
        ({"model.weights": "nett.pth"}, "there is no weights file nett.pth"),
        ({"model.target": "nett.py:network"}, "model.target: given nett.py:network; .*: there is no nett.py"),
        ({"model.target": "net.py:netwrok"}, "it has no netwrok; did you mean 'network'"),
        ({"explanations.mine": "net.py:explane"}, "explanations.mine: .*: it has no explane; did you mean 'explain'"),
    ],
)
def test_what_is_not_there_is_told(here: Path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        check(changes)


@pytest.mark.parametrize("target", ["net.py:network", "open.py:anything", "broken.py:network", "package.module:Net"])
def test_what_only_importing_can_tell_passes(here: Path, target: str) -> None:
    check({"model.target": target, "model.weights": "own", "explanations.mine": "net.py:explain"})


def test_torch_is_not_waited_for(here: Path) -> None:
    code = (
        "import sys; from deconv.command.cli import main; status = main(sys.argv[1:]); "
        "print(status, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, *MINE, "model.target=net.py:netwrok", "source.root=photos"]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["2", "False"] and done.stderr.count("\n") == 1
    assert not (here / "outputs").exists()
