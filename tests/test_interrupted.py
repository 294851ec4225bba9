"""Ctrl-C in the middle: the bar and the threads end, nothing is left half-made, and a second call goes on."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch

import deconv
from deconv import progress
from deconv.engines.local import Local
from deconv.mining import mine_into
from tests.samples import photographs, with_preprocessing

COUNT, BATCH = 24, 3


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def images(tmp_path: Path) -> deconv.Source:
    return photographs(tmp_path / "photos", COUNT)


def by_mine(images: deconv.Source, folder: Path) -> Any:
    return deconv.mine(with_preprocessing(), images, ["two"], 2, BATCH)["two"].score


def by_mine_into(images: deconv.Source, folder: Path) -> Any:
    path, engine = folder / "peaks", Local(shard_size=2 * BATCH)
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
    "while an image is decoded": "deconv.images.decode",
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
    assert [path.name for path in (tmp_path / "run").rglob("*")] == ["peaks"]
