"""A scan shard by shard, by an engine, with a record of each shard on disk; those that are there are not made again."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from deconv.engines import Engine
from deconv.engines.local import Local
from deconv.errors import RecordMismatch
from deconv.files import remove_parts
from deconv.images import Source, StreamedSource, content_hash, content_of
from deconv.images.batches import Unreadable, check_readable
from deconv.mining.looking import Shard, StreamedShard, look, newly_seen
from deconv.mining.partials import Partial, merged
from deconv.mining.scan import MOST_UNREADABLE, Scan
from deconv.progress import track
from deconv.records.provenance import Provenance

log = logging.getLogger("deconv")

RECORD = re.compile(r"(float32|bfloat16|witnesses|candidates|rest)-\d{5,}(\.firing)?\.safetensors")

DIGEST = hashlib.sha256().digest_size


@dataclass(eq=False)
class InShards:
    """Scans of one source in shards, whose records lie in `folder`.

    - provenance: what decides the records besides the contents of the images and what follows from the scan.
    - digests: of the images of each shard, 32 bytes each, by its number, once all images have been looked at.
    - lots: the largest of the images that were looked at, as many as units are correlated over. So what a later shard
      keeps for that is little: of all shards together not much more than a few shards could hold.
    """

    folder: Path
    engine: Engine
    images: Source
    provenance: Provenance
    digests: dict[int, bytes] = field(default_factory=dict)
    lots: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.float32))

    def search(self, stage: str, scan: Scan, image_ids: np.ndarray | None) -> Partial:
        """Return what a scan finds among some images, or None for all of a streamed source; `stage` says what for.

        Raises RecordMismatch for a record of something else, BadInput if more than half of the source is unreadable,
        and what `Scan.run` raises.
        """
        cuts = self._cuts(scan, image_ids)
        if not cuts:
            return scan.empty()
        remove_parts(self.folder)
        paths = [(self.folder / f"{stage}-{number:05d}.safetensors").absolute() for number in range(len(cuts))]
        kept = [number for number, path in enumerate(paths) if path.exists()]
        missing = [number for number, path in enumerate(paths) if not path.exists()]
        if kept:
            log.info("%s: %d of %d shards are there, and checked first", stage, len(kept), len(cuts))
        provenance = self._provenance(stage, scan, len(cuts))
        shards = (  # made one by one, since there may be very many
            self._shard(number, cuts, paths[number], provenance | {"shard": number}, after, self._least_lot(scan))
            for number, after in zip([*kept, *missing], [*[None] * len(kept), *missing[1:], None], strict=False)
        )
        if image_ids is None:
            self._work(scan, shards, len(cuts), None, True)
        else:
            images = sum(len(cuts[number]) for number in missing)
            self._work(scan, shards, len(cuts), images, len(image_ids) == len(self.images))
        total = self.engine.merge(merged, paths)
        if not all(tally.sample.is_whole for tally in total.tallies.values()):
            raise RecordMismatch(
                f"shards in {self.folder} left out images for the sake of others that are not there any more; expected "
                f"the same images in all runs: delete {self.folder} to mine again"
            )
        return total

    def content_hash(self) -> str:
        """Return `Source.content_hash` as the images were when they were looked at, after a scan of all of them."""
        joined = (self.digests[number] for number in sorted(self.digests))
        digests = (several[start : start + DIGEST] for several in joined for start in range(0, len(several), DIGEST))
        if isinstance(self.images, StreamedSource):
            return content_of(digests)
        return self.images.known_content or content_hash(self.images.keys, digests)

    def _work(
        self, scan: Scan, shards: Iterable[Shard | StreamedShard], count: int, images: int | None, all_images: bool
    ) -> None:
        unreadable: list[Unreadable] = []
        finished: list[int] = []
        total, most = (0, MOST_UNREADABLE) if images is None else (len(self.images), len(self.images) // 2)

        for step in track(
            self.engine.work(look, scan, shards, _titles(scan)),  # by no name, so that an interrupt ends it
            "mining",
            images,
            size=newly_seen(),
            status=lambda: f"{len(unreadable)} unreadable, {len(finished)} of {count} shards",
        ):
            if step.done:
                finished.append(step.number)
                self.lots = np.sort(np.concatenate([self.lots, step.lots]))[-scan.correlated :]
                unreadable.extend(step.unreadable)
                total += step.images if images is None else 0
                check_readable(self.images, unreadable, total, most)
                if all_images:
                    self.digests[step.number] = step.digests
        check_readable(self.images, unreadable, total, total // 2)

    def _least_lot(self, scan: Scan) -> float:
        """A lot that those of the images that units will be correlated over do not fall below."""
        return float(self.lots[0]) if scan.correlated and len(self.lots) == scan.correlated else 0.0

    def _provenance(self, stage: str, scan: Scan, shards: int) -> Provenance:
        """What decides the records of all shards."""
        provenance = self.provenance | {
            "stage": stage,
            "k": scan.k,
            "per_image": scan.per_image,
            "batch_size": scan.batch_size,
            "shard_size": self.engine.shard_size,
            "computed": self.engine.computes_on(scan.network),
            "shards": shards,
        }
        if scan.correlated:
            provenance["correlated"] = scan.correlated
            if not isinstance(self.images, StreamedSource) and self.images.labels is not None:
                provenance["labels"] = self.images.labels_hash  # those of a streamed source lie in its shards
        return provenance

    def _cuts(self, scan: Scan, image_ids: np.ndarray | None) -> Sequence[np.ndarray] | Sequence[range]:
        """What each shard holds: the ids of its images, or the numbers of tars of a streamed source."""
        if image_ids is None:
            assert isinstance(self.images, StreamedSource)
            return self.images.shards.groups(self.engine.shard_size)
        return list(_chunks(self.images, image_ids, self.engine.shard_size, scan.batch_size))

    def _shard(
        self, number: int, cuts: Sequence[Any], path: Path, provenance: Provenance, after: int | None, least: float
    ) -> Shard | StreamedShard:
        """after: the number of the shard that is looked at next, if none but this process does the work.

        least: the least lot that counts.
        """
        if not isinstance(self.images, StreamedSource):
            return Shard(number, self.images, cuts[number], path, provenance, least)
        following = None if after is None or not isinstance(self.engine, Local) else cuts[after].start
        return StreamedShard(number, self.images.shards, cuts[number], path, provenance, least, following)


def _titles(scan: Scan) -> Callable[[Shard | StreamedShard], str]:
    """Return what says how an engine calls the task of a shard: "mining SqueezeNet: float32, shard 12 of 40"."""

    def title(shard: Shard | StreamedShard) -> str:
        return f"{mining}: {shard.provenance['stage']}, shard {shard.number + 1} of {shard.provenance['shards']}"

    mining = f"mining {type(scan.network.module).__name__}"
    return title


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
