"""Many images to one table of peaks: in memory in one go, or shard by shard with a record of each on disk."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from deconv.engines import Engine
from deconv.errors import BadInput
from deconv.files import remove_parts
from deconv.images import Source
from deconv.images.cached import CachedSource
from deconv.mining.partials import Partial, merged
from deconv.mining.passes import Pass, shards_of
from deconv.mining.tasks import Done, Progress, Task, listing_hash, perform
from deconv.progress import track

log = logging.getLogger("deconv")

RECORD = re.compile(r"(float32|bfloat16|candidates|rest)-\d{5,}\.parquet")

Reduce = Callable[[str, Pass, np.ndarray], Partial]
"""(what the pass is for, the pass, the images to look at) -> what was found, however they are divided."""


def in_memory(images: Source | Tensor) -> Reduce:
    """All in one pass, with nothing on disk."""

    def reduce(stage: str, look: Pass, numbers: np.ndarray) -> Partial:
        found = Partial.empty(look.network, look.layers, look.k)

        def steps() -> Generator[int, None, None]:
            nonlocal found
            found = yield from look.steps(images, numbers)

        if len(numbers):
            for _ in track(steps(), "mining", len(numbers), size=int):
                pass
        return found

    return reduce


class InShards:
    """Shard by shard; those whose record is in `folder` are checked and not looked at again.

    provenance: what decides the records besides the contents of the images and what follows from the pass.
    """

    def __init__(self, folder: Path, engine: Engine, images: Source, provenance: dict[str, Any]):
        self.folder, self.engine, self.images, self.provenance = folder, engine, images, provenance
        self.content = _Content(images)

    def reduce(self, stage: str, look: Pass, numbers: np.ndarray) -> Partial:
        """What the pass finds among the images `numbers`.

        Raises RecordMismatch for a record of something else, BadInput if more than half of the source is unreadable,
        and what `perform` raises.
        """
        tasks = self._tasks(stage, look, numbers)
        if not tasks:
            return Partial.empty(look.network, look.layers, look.k)
        remove_parts(self.folder)
        there = [task for task in tasks if task.path.exists()]
        missing = [task for task in tasks if not task.path.exists()]
        if there:
            log.info("%s: %d of %d shards are there, and checked first", stage, len(there), len(tasks))
        self._work(look, [*there, *missing], sum(len(task.numbers) for task in missing))
        return self.engine.merge(merged, [task.path.absolute() for task in tasks])

    def _work(self, look: Pass, tasks: Iterable[Task], images: int) -> None:
        unreadable: list[tuple[int, str, str]] = []
        steps = track(
            _counted(self.engine.work(perform, look, tasks)),
            "mining",
            images,
            size=lambda step: step[0],
            status=lambda: f"{len(unreadable)} unreadable",
        )
        for _, done in steps:
            if done is not None:
                unreadable += done.unreadable
                self._check_readable(unreadable)
                if not self.content.whole:
                    self.content.add(done)

    def _check_readable(self, unreadable: list[tuple[int, str, str]]) -> None:
        if 2 * len(unreadable) > len(self.images):
            first = "; ".join(reason for _, _, reason in unreadable[:3])
            raise BadInput(
                f"{len(unreadable)} of the {len(self.images)} images of the source {self.images.name} cannot be read; "
                f"expected at least half of them to be whole: repair or remove these first: {first}"
            )

    def _tasks(self, stage: str, look: Pass, numbers: np.ndarray) -> list[Task]:
        pieces = list(self._pieces(numbers, look.batch_size))
        about = self.provenance | {
            "stage": stage,
            "k": look.k,
            "per_image": look.per_image,
            "batch_size": look.batch_size,
            "shard_size": self.engine.shard_size,
            "computed": self.engine.computes_on(look.network),
            "shards": len(pieces),
        }
        return [
            Task(
                number,
                self.images,
                piece,
                piece,
                self.folder / f"{stage}-{number:05d}.parquet",
                about | {"shard": number, "listing": listing_hash(self.images.keys, piece)},
            )
            for number, piece in enumerate(pieces)
        ]

    def _pieces(self, numbers: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
        if len(numbers) == len(self.images):
            yield from (
                np.arange(part.start, part.stop) for part in shards_of(self.images, self.engine.shard_size, batch_size)
            )
        else:
            size = -(-self.engine.shard_size // batch_size) * batch_size
            yield from (numbers[at : at + size] for at in range(0, len(numbers), size))


def _counted(steps: Iterable[Progress]) -> Iterator[tuple[int, Done | None]]:
    """(images since the last step of that shard, what is done): an engine may give all steps or only the last."""
    mined: Counter[int] = Counter()
    for step in steps:
        yield step.mined - mined[step.number], step.done
        mined[step.number] = step.mined


def remove_shards(folder: Path) -> None:
    """Take the records of shards away, once what they were made for is on disk; anything else in the folder stays."""
    remove_parts(folder)
    for path in folder.iterdir():
        if RECORD.fullmatch(path.name):
            path.unlink()
    for emptied in (folder, folder.parent):
        if not any(emptied.iterdir()):
            emptied.rmdir()


class _Content:
    """The content hash of a source, from its shards in whatever order they come."""

    def __init__(self, images: Source):
        self.images, self.total = images, hashlib.sha256()
        self.shard, self.image = 0, 0  # the next ones
        self.early: dict[int, tuple[bytes, ...]] = {}

    @property
    def whole(self) -> bool:
        """Whether all images are counted in."""
        return self.image == len(self.images)

    def add(self, done: Done) -> None:
        """Count a shard's images in, when its turn comes."""
        self.early[done.number] = done.digests
        while self.shard in self.early:
            for digest in self.early.pop(self.shard):
                self.total.update(hashlib.sha256(self.images.keys[self.image].encode()).digest() + digest)
                self.image += 1
            self.shard += 1

    def hexdigest(self) -> str:
        """That of `Source.content_hash`, as the images were when they were mined."""
        if isinstance(self.images, CachedSource):
            return self.images.content_hash
        assert self.whole, "every shard first"
        return self.total.hexdigest()
