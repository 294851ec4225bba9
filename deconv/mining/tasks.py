"""One shard of a pass: the images to look at, the file that its record goes to, and what that must be made of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deconv.errors import RecordMismatch
from deconv.images.ahead import WORKERS
from deconv.images.frame_cache import CachedSource
from deconv.images.members import Member
from deconv.mining.partials import Partial
from deconv.mining.passes import Pass
from deconv.sources import Source


@dataclass(frozen=True)
class Task:
    """Shard `number` of a pass.

    images: the source.  indices: which of its images, ascending.  numbers: their numbers in the whole source, of which
    `images` may be a part.  path: where the record is, or goes.  made_of: everything that decides it but the contents.
    """

    number: int
    images: Source
    indices: np.ndarray
    numbers: np.ndarray
    path: Path
    made_of: dict[str, Any]

    def alone(self) -> Task:
        """The same with only its own images, to be sent to another process: cached frames stay here."""
        keys = tuple(self.images.keys[i] for i in self.indices)
        members = (self.images.members[i] for i in self.indices)
        there = tuple(replace(member, path=member.path.absolute()) for member in members)
        part = Source(self.images.name, keys, there)
        return replace(self, images=part, indices=np.arange(len(part)), path=self.path.absolute())


@dataclass(frozen=True)
class Done:
    """A shard whose record is on disk.

    mined: how many images that took, 0 if it was there before.  unreadable: (image, key, reason).
    digests: the sha256 of each image; none for cached frames.
    """

    number: int
    mined: int
    unreadable: tuple[tuple[int, str, str], ...]
    digests: tuple[bytes, ...]


@dataclass(frozen=True)
class Progress:
    """How many images a batch held, and at the end of a shard what is done."""

    images: int
    done: Done | None = None


def perform(look: Pass, task: Task) -> Iterator[Progress]:
    """Look at the images of a task and write its record; if that is there, check that it is of the same making.

    Raises RecordMismatch, naming the difference, for a record of anything else, and what `Pass.steps` raises.
    """
    digests = content_of(task.images, task.indices)
    if task.path.exists():
        partial, about = Partial.load(task.path)
        check_same(task.path, about, task.made_of, str(task.path.parent))
        _check_digests(task, [bytes.fromhex(digest) for digest in about["digests"]], digests)
        yield Progress(0, Done(task.number, 0, tuple(partial.unreadable), digests))
        return
    steps = look.steps(task.images, task.indices, task.numbers, most_skipped=len(task.indices))
    seen = 0
    while True:
        try:
            seen += (images := next(steps))
        except StopIteration as stop:
            partial = stop.value
            break
        yield Progress(images)
    about = task.made_of | {"digests": [digest.hex() for digest in digests]}
    partial.save(task.path, look.network, _keys(task, partial), about)
    yield Progress(len(task.indices) - seen, Done(task.number, len(task.indices), tuple(partial.unreadable), digests))


def content_of(images: Source, indices: np.ndarray | range) -> tuple[bytes, ...]:
    """The sha256 of each image's bytes; none of cached frames, whose content was told when they were made."""
    if isinstance(images, CachedSource):
        return ()
    with ThreadPoolExecutor(WORKERS) as pool:
        return tuple(pool.map(Member.digest, [images.members[i] for i in indices]))


def check_same(path: Path, found: Any, wanted: Any, remove: str = "that file", name: str = "") -> None:
    """Raise RecordMismatch at the first setting that differs."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key, value in wanted.items():
            check_same(path, found.get(key), value, remove, f"{name}.{key}" if name else key)
    elif found != wanted:
        raise RecordMismatch(
            f"{path} was made with {name} {found}; this run has {wanted}. "
            f"Choose another folder, or delete {remove} to mine again."
        )


def listing_hash(keys: Sequence[str], indices: np.ndarray | range) -> str:
    """The sha256, in hex, over the keys of some images."""
    digest = hashlib.sha256()
    for index in indices:
        digest.update(hashlib.sha256(keys[index].encode()).digest())
    return digest.hexdigest()


def _check_digests(task: Task, found: Sequence[bytes], wanted: Sequence[bytes]) -> None:
    for index, before, now in zip(task.indices, found, wanted, strict=True):
        if before != now:
            raise RecordMismatch(
                f"{task.path} was made when {task.images.keys[index]!r} was another image. "
                "Choose another folder, or delete that file to mine its images again."
            )


def _keys(task: Task, partial: Partial) -> dict[int, str]:
    used = np.unique(np.concatenate([table.image.ravel() for table in partial.tables.values()]))
    used = used[used >= 0]
    where = task.indices[np.searchsorted(task.numbers, used)]
    return {int(number): task.images.keys[index] for number, index in zip(used, where, strict=True)}
