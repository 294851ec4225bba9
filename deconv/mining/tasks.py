"""One shard of a pass: the images to look at, the file that its record goes to, and what that must be made of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deconv.errors import RecordMismatch
from deconv.images import Source
from deconv.images.ahead import WORKERS
from deconv.images.cached import CachedSource
from deconv.images.members import Member
from deconv.mining.partials import Partial
from deconv.mining.passes import Pass
from deconv.records.formats import reading


@dataclass(frozen=True)
class Task:
    """Shard `number` of a pass.

    images: the source.  indices: which of its images, ascending.  numbers: their numbers in the whole source, of which
    `images` may be a part.  path: where the record is, or goes.  provenance: everything that decides it but the
    contents.
    """

    number: int
    images: Source
    indices: np.ndarray
    numbers: np.ndarray
    path: Path
    provenance: dict[str, Any]

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: only the shard's own images."""
        part = self.images.part(self.indices)
        return vars(self) | {"images": part, "indices": np.arange(len(part)), "path": self.path.absolute()}


@dataclass(frozen=True)
class Done:
    """A shard whose record is on disk.

    unreadable: (image, key, reason).  digests: the sha256 of each image; none for cached input images.
    """

    number: int
    unreadable: tuple[tuple[int, str, str], ...]
    digests: tuple[bytes, ...]


@dataclass(frozen=True)
class Progress:
    """How many images of shard `number` have been mined by now, and at its end what is done."""

    number: int
    mined: int
    done: Done | None = None


def perform(look: Pass, task: Task) -> Iterator[Progress]:
    """Look at the images of a task and write its record; if that is there, check that it is of the same making.

    Yields after every batch, and once more at the end.
    Raises RecordMismatch, naming the difference, for a record of anything else, and what `Pass.steps` raises.
    """
    digests = content_of(task.images, task.indices)
    if task.path.exists():
        partial, about = Partial.load(task.path)
        check_same(task.path, about, task.provenance, str(task.path.parent))
        with reading(task.path):
            before = [bytes.fromhex(digest) for digest in about["digests"]]
        _check_digests(task, before, digests)
        yield Progress(task.number, 0, Done(task.number, tuple(partial.unreadable), digests))
        return
    steps = look.steps(task.images, task.indices, task.numbers, most_skipped=len(task.indices))
    seen = 0
    while True:
        try:
            seen += next(steps)
        except StopIteration as stop:
            partial = stop.value
            break
        yield Progress(task.number, seen)
    about = task.provenance | {"digests": [digest.hex() for digest in digests]}
    partial.save(task.path, look.network, _keys(task, partial), about)
    yield Progress(task.number, len(task.indices), Done(task.number, tuple(partial.unreadable), digests))


def content_of(images: Source, indices: np.ndarray | range) -> tuple[bytes, ...]:
    """The sha256 of each image's bytes; none of cached input images, whose content was told when they were made."""
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
