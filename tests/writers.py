"""Everything but mining that writes much: small works of each, to be killed. Forked from a process that works not."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import deconv
from deconv.analyses.layers import extract
from deconv.training import train
from tests import atlases, labelled, samples
from tests.killing import ended, forked, killed_after

COUNT = 30
KILLED_AT = {
    "features": (1, 2),
    "cached input images": (1, 2),
    "training": (2, 4, 7),
    "site": (1, 2, 12),
    "records": (1, 3),
}
"""By what writes, the numbers of the files that are half-written when it is killed."""
Work = Callable[[Path, Path], object]
"""(a folder of photographs and the like, the folder that is written into)"""


def features(home: Path, folder: Path) -> None:
    extract(samples.with_preprocessing(), deconv.folder(home / "photos"), ["one", "two"], folder, grid=20)


def cached_input_images(home: Path, folder: Path) -> None:
    preprocessing = samples.with_preprocessing().needed_preprocessing()
    deconv.cached(deconv.folder(home / "photos"), preprocessing, folder)


def training(home: Path, folder: Path) -> None:
    settings = replace(labelled.TINY, epochs=2, whole_epochs=1, snapshots=(1, 2))
    data, validation = labelled.bright_and_dark(64), labelled.bright_and_dark(20, seed=5)
    train(labelled.tiny_network(), data, validation, settings, folder)


def site(home: Path, folder: Path) -> None:
    write_atlas(home, folder, None)


def records(home: Path, folder: Path) -> None:
    write_atlas(home, folder.with_name(f"{folder.name}-site"), folder)


def write_atlas(home: Path, folder: Path, kept: Path | None) -> None:
    network, images = atlases.network(channels=6), deconv.folder(home / "images")
    deconv.write_atlas(network, deconv.mine(network, images, ["one", "two"], k=2), images, folder, records=kept)


WRITERS: dict[str, Work] = {
    "features": features,
    "cached input images": cached_input_images,
    "training": training,
    "site": site,
    "records": records,
}


def prepare(home: Path) -> None:
    """Make the photographs that the works need."""
    samples.photographs(home / "photos", COUNT)
    atlases.photographs(home / "images", names=(), count=6)


def contents(folder: Path) -> dict[str, tuple[int, str]]:
    """{file: (bytes, SHA-256)} of a folder; a training's state holds how long it took, and is never the same twice."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): (0, "") if path.name == "state.pt" else (path.stat().st_size, _hash(path))
        for path in files
    }


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def half_written(work: Callable[[], object], folder: Path, number: int) -> None:
    """Do the work until its file of that number would get its name; half of it is on disk when the signal comes."""
    rename, count = os.replace, 0

    def dying(source: Path, target: Path) -> None:
        nonlocal count
        count += folder in target.parents
        if count == number:
            os.truncate(source, source.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)

    os.replace = dying  # type: ignore[assignment]
    work()


def kill(name: str, home: Path, runs: Path, at_random: int) -> int:
    """Kill a work while it writes a file, and some times at random; each run then ends. Returns the kills."""
    work, moments = WRITERS[name], random.Random(0)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ended(forked(lambda: work(home, runs / "undisturbed"))) == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    for number in KILLED_AT[name]:
        folder = runs / f"{number}"
        assert ended(forked(partial(half_written, partial(work, home, folder), folder, number))) == -signal.SIGKILL
        assert any(folder.rglob(".*.part"))
        assert ended(forked(partial(work, home, folder))) == 0
    kills, folder = len(KILLED_AT[name]), runs / "random"
    while kills < len(KILLED_AT[name]) + at_random:
        if killed_after(forked(lambda: work(home, folder)), moments.uniform(0, 0.8 * seconds)):
            kills += 1
    assert ended(forked(lambda: work(home, folder))) == 0
    return kills


if __name__ == "__main__":
    prepare(Path(sys.argv[2]))
    print(kill(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])))
