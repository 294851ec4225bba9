"""Ctrl-C in the middle: the bar and the threads end, nothing is left half-made, and a second call goes on."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch

import deconv
from deconv import progress
from deconv.command.cli import main
from deconv.command.settings import compose_jobs
from deconv.command.shared import WithModel
from deconv.engines.local import Local
from deconv.mining import mine_into
from deconv.models.presets import open_network
from tests.samples import noise, photographs, with_preprocessing

ROOT = Path(__file__).resolve().parent.parent
COUNT, BATCH = 24, 3
COLUMNS = ("score", "image", "row", "col", "box")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def images(tmp_path: Path) -> deconv.Source:
    return photographs(tmp_path / "photos", COUNT)


def by_mine(images: deconv.Source, folder: Path) -> Any:
    return deconv.mine(with_preprocessing(), images, ["two"], 2, BATCH)["two"].score


def by_mine_into(images: deconv.Source, folder: Path) -> Any:
    path, engine = folder / "peaks.safetensors", Local(shard_size=2 * BATCH)
    return mine_into(path, with_preprocessing(), images, ["two"], 2, BATCH, engine=engine)["two"].score


def by_project(images: deconv.Source, folder: Path) -> Any:
    ids = list(range(COUNT))
    return deconv.project(with_preprocessing(), images, "two", ids, [0] * COUNT, [3] * COUNT, [3] * COUNT).pixels


def by_look(images: deconv.Source, folder: Path) -> Any:
    look = deconv.look(with_preprocessing(), images, "two", k=2, batch_size=BATCH, keep=folder)
    return look.reconstructions["two"].pixels


def by_project_strongest(images: deconv.Source, folder: Path) -> Any:
    return deconv.project_strongest(with_preprocessing(), images, 0, "two").pixels


CALLS: list[Callable[[deconv.Source, Path], Any]] = [by_mine, by_mine_into, by_project, by_look, by_project_strongest]
MOMENTS = {
    "while an image is decoded": "deconv.images.source.decode",
    "between two batches": "deconv.images.batches._collate",
    "while maps are computed": "deconv.network.Network.forward_with_maxima",
    "while peaks are sent back": "deconv.projection.send_back",
}


@pytest.fixture
def quick_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "SHOW_AFTER", 0.0)


@pytest.fixture
def no_threads() -> Iterator[Callable[[], list[str]]]:
    """The names of the threads that are new, but for the one that tqdm keeps for all of its bars."""
    before = set(threading.enumerate())
    yield lambda: [
        thread.name for thread in threading.enumerate() if thread not in before and thread.name != "tqdm_monitor"
    ]


def interrupt(monkeypatch: pytest.MonkeyPatch, name: str, after: int) -> list[int]:
    """Ctrl-C at a call of this function, after some others; returns the list to which each call adds."""
    calls: list[int] = []
    original = resolve_name(name)

    def interrupted(*given: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == after + 1:
            raise KeyboardInterrupt
        return original(*given, **named)

    monkeypatch.setattr(name, interrupted)
    return calls


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_ctrl_c_leaves_nothing_broken(
    call: Callable[[deconv.Source, Path], Any],
    moment: str,
    images: deconv.Source,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quick_bar: None,
    no_threads: Callable[[], list[str]],
) -> None:
    undisturbed = call(images, tmp_path / "undisturbed")
    folder = tmp_path / "run"
    with monkeypatch.context() as patched:
        once = call is by_project_strongest or (moment == "while peaks are sent back" and call is not by_project)
        calls = interrupt(patched, MOMENTS[moment], 0 if once else 1)
        with redirect_stderr(Terminal()) as terminal:
            try:
                call(images, folder)
            except KeyboardInterrupt as stopped:  # a notebook keeps it, with all frames, in sys.last_exc
                kept: BaseException | None = stopped
            else:
                kept = None
            assert no_threads() == []
            assert not progress.bar_is_up() and not progress._one_bar.locked()
            shown = terminal.getvalue()
    if kept is None:  # this call has no such moment
        assert len(calls) < 2
        return
    assert not shown or shown.endswith("\n")
    assert not list(folder.rglob(".*"))
    assert torch.equal(call(images, folder), undisturbed)


def test_what_was_mined_is_not_mined_again(
    images: deconv.Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = by_mine_into(images, tmp_path / "undisturbed")
    with monkeypatch.context() as patched:
        interrupt(patched, MOMENTS["while maps are computed"], 5)  # in the third of four shards, of two batches each
        with pytest.raises(KeyboardInterrupt):
            by_mine_into(images, tmp_path / "run")
        assert len(list((tmp_path / "run" / "shards").rglob("float32-*"))) == 2
    with monkeypatch.context() as patched:
        calls = interrupt(patched, MOMENTS["while maps are computed"], 99)
        assert torch.equal(by_mine_into(images, tmp_path / "run"), undisturbed)
    assert len(calls) == 4
    assert [path.name for path in (tmp_path / "run").rglob("*")] == ["peaks.safetensors"]


def test_ctrl_c_on_the_command_line(tmp_path: Path) -> None:
    """One line, status 130; started again it goes on with the shards that are there, and ends with the same peaks."""
    photographs = noise(tmp_path / "photos", 60, (72, 96), 5)
    words = [
        "experiment=fig2_features",
        "source=folder",
        f"source.root={photographs}",
        "model=zfnet64",
        "model.weights=random",
    ]
    words += ["model.classes=2", "model.maps=[4,4,4,4,4]"]
    words += ["layers=[conv1]", "units=[0]", "k=1", "batch_size=2", "engine.shard_size=2", f"folder={tmp_path / 'run'}"]
    # Where the tests run in the background of a shell, Ctrl-C is ignored, and a child would inherit that.
    program = (
        "import signal, sys; from deconv.command.cli import main;"
        "signal.signal(signal.SIGINT, signal.default_int_handler); sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    shards = tmp_path / "run" / "shards" / "peaks"
    while not shards.is_dir() or len(list(shards.glob("float32-*"))) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    end = f"deconv: interrupted: go on with folder={tmp_path / 'run'} and the same options"
    assert said.splitlines()[-1] == end and "Traceback" not in said
    kept = {path.name: path.stat().st_mtime_ns for path in shards.iterdir()}
    assert 2 <= len(kept) < 30 and not list((tmp_path / "run").rglob(".*"))
    assert main(words) == 0
    assert f"{len(kept)} of 30 shards are there" in (tmp_path / "run" / "run.log").read_text()
    (record,) = (tmp_path / "run").glob("peaks.*")
    peaks = deconv.Peaks.load(record)
    (job,) = compose_jobs(words, sweep=False)
    assert isinstance(job.options, WithModel)
    undisturbed = deconv.mine(
        open_network(job.options.model, 0), deconv.folder(photographs), ["conv1"], k=1, batch_size=2
    )
    assert all(torch.equal(getattr(peaks["conv1"], name), getattr(undisturbed["conv1"], name)) for name in COLUMNS)
