"""A scan shard by shard, by an engine, with a record of each shard on disk; those that are there are not made again."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np

from deconv.engines import Engine
from deconv.errors import RecordMismatch
from deconv.files import remove_parts
from deconv.images import Source, content_hash
from deconv.images.batches import Unreadable, check_readable
from deconv.mining.partials import Partial, merged
from deconv.mining.scan import Scan
from deconv.progress import track
from deconv.records.formats import reading
from deconv.records.provenance import Provenance, check_same, digest

log = logging.getLogger("deconv")

RECORD = re.compile(r"(float32|bfloat16|witnesses|candidates|rest)-\d{5,}(\.firing)?\.safetensors")
REMEDY = "Choose another folder, or delete {} to mine again."


@dataclass(frozen=True)
class Shard:
    """Some images of a scan, and where their record is, or goes.

    - number: its position among the shards of the scan.
    - image_ids: (n,) int64, ascending.
    - provenance: all that decides the record but the contents of the images.
    """

    number: int
    images: Source
    image_ids: np.ndarray
    path: Path
    provenance: Provenance

    def listing(self) -> str:
        """Return the SHA-256, in hex, of the keys of its images."""
        return digest([self.images.key(image_id) for image_id in self.image_ids.tolist()])

    def __getstate__(self) -> dict[str, object]:
        """Return what another process needs: of the source only the images of the shard."""
        return vars(self) | {"images": self.images.part(self.image_ids), "path": self.path.absolute()}


@dataclass(frozen=True)
class Progress:
    """How far a shard is.

    - seen: images looked at by now.
    - done: whether its record is on disk; only then there are
    - unreadable: (image id, key, reason) of each image that could not be read, and
    - digests: the SHA-256 of each image; none of a source whose content is known already.
    """

    number: int
    seen: int
    done: bool = False
    unreadable: tuple[Unreadable, ...] = ()
    digests: tuple[bytes, ...] = ()


@dataclass(eq=False)
class InShards:
    """Scans of one source in shards, whose records lie in `folder`.

    - provenance: what decides the records besides the contents of the images and what follows from the scan.
    - digests: of the images of each shard, by its number, once all images have been looked at.
    """

    folder: Path
    engine: Engine
    images: Source
    provenance: Provenance
    digests: dict[int, tuple[bytes, ...]] = field(default_factory=dict)

    def search(self, stage: str, scan: Scan, image_ids: np.ndarray) -> Partial:
        """Return what a scan finds among some images; `stage` says what for.

        Raises RecordMismatch for a record of something else, BadInput if more than half of the source is unreadable,
        and what `Scan.run` raises.
        """
        shards = self._shards(stage, scan, image_ids)
        if not shards:
            return scan.empty()
        remove_parts(self.folder)
        kept = [shard for shard in shards if shard.path.exists()]
        missing = [shard for shard in shards if not shard.path.exists()]
        if kept:
            log.info("%s: %d of %d shards are there, and checked first", stage, len(kept), len(shards))
        self._work(scan, [*kept, *missing], sum(len(shard.image_ids) for shard in missing))
        return self.engine.merge(merged, [shard.path.absolute() for shard in shards])

    def content_hash(self) -> str:
        """Return `Source.content_hash` as the images were when they were looked at, after a scan of all of them."""
        digests = (each for number in sorted(self.digests) for each in self.digests[number])
        return self.images.known_content or content_hash(self.images.keys, digests)

    def _work(self, scan: Scan, shards: list[Shard], images: int) -> None:
        unreadable: list[Unreadable] = []
        finished: list[int] = []
        all_images = sum(len(shard.image_ids) for shard in shards) == len(self.images)
        seen: Counter[int] = Counter()  # by shard: an engine may hand on all steps or only the last

        def newly_seen(step: Progress) -> int:
            count = step.seen - seen[step.number]
            seen[step.number] = step.seen
            return count

        for step in track(
            self.engine.work(look, scan, shards, _titles(scan)),  # by no name, so that an interrupt ends it
            "mining",
            images,
            size=newly_seen,
            status=lambda: f"{len(unreadable)} unreadable, {len(finished)} of {len(shards)} shards",
        ):
            if step.done:
                finished.append(step.number)
                unreadable.extend(step.unreadable)
                check_readable(self.images, unreadable, len(self.images), len(self.images) // 2)
                if all_images:
                    self.digests[step.number] = step.digests

    def _shards(self, stage: str, scan: Scan, image_ids: np.ndarray) -> list[Shard]:
        chunks = list(_chunks(self.images, image_ids, self.engine.shard_size, scan.batch_size))
        provenance = self.provenance | {
            "stage": stage,
            "k": scan.k,
            "per_image": scan.per_image,
            "batch_size": scan.batch_size,
            "shard_size": self.engine.shard_size,
            "computed": self.engine.computes_on(scan.network),
            "shards": len(chunks),
        }
        if scan.counted is not None:
            provenance["counted"] = scan.counted
        return [
            Shard(
                number,
                self.images,
                chunk,
                self.folder / f"{stage}-{number:05d}.safetensors",
                provenance | {"shard": number},
            )
            for number, chunk in enumerate(chunks)
        ]


def _titles(scan: Scan) -> Callable[[Shard], str]:
    """Return what says how an engine calls the task of a shard: "mining SqueezeNet: float32, shard 12 of 40"."""

    def title(shard: Shard) -> str:
        return f"{mining}: {shard.provenance['stage']}, shard {shard.number + 1} of {shard.provenance['shards']}"

    mining = f"mining {type(scan.network.module).__name__}"
    return title


def look(scan: Scan, shard: Shard) -> Iterator[Progress]:
    """Look at the images of a shard and write its record; if that is there, check that it is of the same making.

    Yields after every batch, and once more at the end.
    Raises RecordMismatch, naming the difference, for a record of anything else, and what `Scan.run` raises.
    """
    digests = () if shard.images.known_content else shard.images.digests(shard.image_ids)
    seen = 0
    if shard.path.exists():
        partial = _checked(shard, digests)
    else:
        partial = scan.empty()
        for count in scan.run(shard.images, shard.image_ids, partial, most_skipped=len(shard.image_ids)):
            seen += count
            yield Progress(shard.number, seen)
        keys = {image_id: shard.images.key(image_id) for image_id in partial.image_ids}
        contents = {"listing": shard.listing(), "digests": [each.hex() for each in digests]}
        partial.save(shard.path, scan.network, keys, shard.provenance | contents)
        seen = len(shard.image_ids)
    yield Progress(shard.number, seen, True, tuple(partial.unreadable), digests)


def shards_of(source: Source, shard_size: int, batch_size: int) -> list[range]:
    """Return the images of a source, by position, in consecutive shards of at most about `shard_size`.

    A tar is not divided unless it is larger than that. Every shard but the last is a multiple of batch_size long, so
    that each batch holds the same images however the source is cut: a tar's end is moved to the next such border.
    """
    ends, start, count = [0], 0, 0
    for _, members in groupby(source.members, key=lambda member: member.path):
        before, count = count, count + sum(1 for _ in members)
        if count - start > shard_size and before > start:
            ends.append(_rounded_up(before, batch_size))
            start = before
        while count - start > shard_size:
            start += shard_size
            ends.append(_rounded_up(start, batch_size))
    ends = sorted({min(end, len(source)) for end in [*ends, len(source)]})
    return [range(first, end) for first, end in zip(ends, ends[1:], strict=False)]


def remove_shards(folder: Path) -> None:
    """Remove the records of shards, once what they were made for is on disk; anything else in the folder stays."""
    remove_parts(folder)
    for path in folder.iterdir():
        if RECORD.fullmatch(path.name):
            path.unlink()
    for emptied in (folder, folder.parent):
        if not any(emptied.iterdir()):
            emptied.rmdir()


def _chunks(source: Source, image_ids: np.ndarray, shard_size: int, batch_size: int) -> Iterator[np.ndarray]:
    """The images of each shard: as `shards_of` cuts the whole source, and anything else evenly."""
    if len(image_ids) == len(source):
        yield from (image_ids[shard.start : shard.stop] for shard in shards_of(source, shard_size, batch_size))
    else:
        size = _rounded_up(shard_size, batch_size)
        yield from (image_ids[start : start + size] for start in range(0, len(image_ids), size))


def _rounded_up(count: int, batch_size: int) -> int:
    return -(-count // batch_size) * batch_size


def _checked(shard: Shard, digests: Iterable[bytes]) -> Partial:
    """The record of a shard. Raises RecordMismatch, naming the difference, if it was made of anything else."""
    partial, provenance = Partial.load(shard.path)
    with reading(shard.path):
        listing, digests_before = provenance.pop("listing"), map(bytes.fromhex, provenance.pop("digests"))
    remedy = REMEDY.format(shard.path.parent)
    check_same(shard.path, provenance, shard.provenance, remedy)
    check_same(shard.path, {"listing": listing}, {"listing": shard.listing()}, remedy)
    for image_id, before, now in zip(shard.image_ids.tolist(), digests_before, digests, strict=False):
        if before != now:
            raise RecordMismatch(
                f"{shard.path} was made when {shard.images.key(image_id)!r} was another image. "
                f"{REMEDY.format('that file')}"
            )
    return partial
