"""Looking at the images of one shard of a scan: what a task is, what it says, and the record that it leaves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from deconv.errors import RecordMismatch
from deconv.images import Shards, Source
from deconv.images.batches import Unreadable
from deconv.mining.partials import Partial
from deconv.mining.scan import Scan, scan_shards
from deconv.records.formats import reading
from deconv.records.provenance import Provenance, check_same, digest

REMEDY = "Choose another folder, or delete {} to mine again."


@dataclass(frozen=True)
class Shard:
    """Some images of a scan, and where their record is, or goes.

    - number: its position among the shards of the scan.
    - image_ids: (n,) int64, ascending.
    - provenance: all that decides the record but the contents of the images.
    - least_lot: see `Scan.empty`.
    """

    number: int
    images: Source
    image_ids: np.ndarray
    path: Path
    provenance: Provenance
    least_lot: float = 0.0

    def names(self) -> list[str]:
        """Return what is named if it changed: the keys of its images."""
        return [self.images.key(image_id) for image_id in self.image_ids.tolist()]

    def digests(self) -> tuple[bytes, ...]:
        """Return the SHA-256 of each image; none of a source whose content is known already."""
        return () if self.images.known_content else self.images.digests(self.image_ids)

    def run(self, scan: Scan, partial: Partial, digests: list[bytes]) -> Iterator[int]:
        """Look at its images, adding to `partial` and `digests`; yield the number of images in each batch."""
        digests += self.digests()
        yield from scan.run(self.images, self.image_ids, partial, most_skipped=len(self.image_ids))
        partial.add_images(self.images, len(self.image_ids))

    def __getstate__(self) -> dict[str, object]:
        """Return what another process needs: of the source only the images of the shard."""
        return vars(self) | {"images": self.images.part(self.image_ids), "path": self.path.absolute()}


@dataclass(frozen=True)
class StreamedShard:
    """Some tar shards of a streamed source, and where their record is, or goes.

    - number, provenance, least_lot: as in `Shard`.
    - tars: the numbers of its tar shards.
    - following: the tar shard that this process reads after those.
    """

    number: int
    shards: Shards
    tars: range
    path: Path
    provenance: Provenance
    least_lot: float = 0.0
    following: int | None = None

    def names(self) -> list[str]:
        """Return what is named if it changed: the addresses of its tars."""
        return [self.shards.address(tar) for tar in self.tars]

    def digests(self) -> tuple[bytes, ...]:
        """Return the SHA-256 of the name and the state of each tar; none is read for it."""
        return tuple(map(self.shards.digest_of, self.tars))

    def run(self, scan: Scan, partial: Partial, digests: list[bytes]) -> Iterator[int]:
        """Look at its images as `Shard.run` does."""
        yield from scan_shards(scan, self.shards, self.tars, partial, digests, self.following)

    def __getstate__(self) -> dict[str, object]:
        """Return what another process needs: the addresses of its own tars."""
        return vars(self) | {"shards": self.shards.section(self.tars), "path": self.path.absolute(), "following": None}


@dataclass(frozen=True)
class Progress:
    """How far a shard is.

    - seen: images looked at by now.
    - done: whether its record is on disk; only then there are
    - unreadable: (image id, key, reason) of each image that could not be read, and
    - digests: the SHA-256 of each image, or of each tar of a streamed source, 32 bytes each, one after another, since
      all shards' are held; none if the content is known already;
    - images: how many it has;
    - lots: of those of its images that units may be correlated over, if it is counted how they fire.
    """

    number: int
    seen: int
    done: bool = False
    unreadable: tuple[Unreadable, ...] = ()
    digests: bytes = b""
    images: int = 0
    lots: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.float32))


@runtime_checkable
class Seen(Protocol):
    """How many images of a shard were looked at by now."""

    @property
    def number(self) -> int:
        """Return which shard it is."""

    @property
    def seen(self) -> int:
        """Return how many they are."""


def newly_seen() -> Callable[[Seen], int]:
    """Return a function that says how many images are new in each step: an engine hands on all, or only the last.

    >>> new = newly_seen()
    >>> [new(Progress(number, seen)) for number, seen in ((0, 4), (1, 3), (0, 9))]
    [4, 3, 5]
    """
    seen: Counter[int] = Counter()  # by shard

    def count(step: Seen) -> int:
        new = step.seen - seen[step.number]
        seen[step.number] = step.seen
        return new

    return count


def look(scan: Scan, shard: Shard | StreamedShard) -> Iterator[Progress]:
    """Look at the images of a shard and write its record; if that is there, check that it is of the same making.

    Yields after every batch, and once more at the end.
    Raises RecordMismatch, naming the difference, for a record of anything else, and what `Scan.run` raises.
    """
    seen = 0
    if shard.path.exists():
        digests = list(shard.digests())
        partial = _checked(shard, digests)
    else:
        partial, digests = scan.empty(shard.least_lot), []
        for count in shard.run(scan, partial, digests):
            seen += count
            yield Progress(shard.number, seen)
        contents = {"listing": digest(shard.names()), "digests": [each.hex() for each in digests]}
        partial.save(shard.path, scan.network, shard.provenance | contents)
        seen = partial.images
    lots = next((tally.sample.lots.copy() for tally in partial.tallies.values()), np.empty(0, dtype=np.float32))
    yield Progress(shard.number, seen, True, tuple(partial.unreadable), b"".join(digests), partial.images, lots)


def _checked(shard: Shard | StreamedShard, digests: Sequence[bytes]) -> Partial:
    """The record of a shard. Raises RecordMismatch, naming the difference, if it was made of anything else."""
    partial, provenance = Partial.load(shard.path)
    with reading(shard.path):
        listing, digests_before = provenance.pop("listing"), map(bytes.fromhex, provenance.pop("digests"))
    remedy, names = REMEDY.format(shard.path.parent), shard.names()
    check_same(shard.path, provenance, shard.provenance, remedy)
    check_same(shard.path, {"listing": listing}, {"listing": digest(names)}, remedy)
    for name, before, now in zip(names, digests_before, digests, strict=False):
        if before != now:
            raise RecordMismatch(
                f"{shard.path} was made when {name!r} was another {'image' if isinstance(shard, Shard) else 'shard'}. "
                f"{REMEDY.format('that file')}"
            )
    return partial
