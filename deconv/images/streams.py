"""Tar shards that are read one after another, each when it is needed, the next one ahead of that."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from deconv.errors import BadInput
from deconv.images.class_names import check_class_names
from deconv.images.downloads import BrokenShard, in_memory, state_of
from deconv.images.members import Held, Member
from deconv.images.shards import Sample, check_all_labelled, samples_in
from deconv.images.source import Source
from deconv.progress import track

log = logging.getLogger("deconv")

NAME = "webdataset"
IMAGES_IN_A_SHARD = 2**32
"""At most; also the first id of the first shard, so that smaller numbers stay those of listed sources."""
KEPT = 2
"""Shards that are open: the one that is worked on, and the next one."""
UNREACHABLE = "unreachable"
"""The state of a shard that is not there."""


@dataclass(frozen=True)
class Opened:
    """A shard whose images can be read, and what it was when it was opened."""

    images: Source
    state: str


@dataclass(eq=False)
class _Memory:
    """The shards opened last, by their numbers, how many images each has and all have, and which are left out."""

    opened: OrderedDict[int, Opened | Exception] = field(default_factory=OrderedDict)
    counts: dict[int, int] = field(default_factory=dict)
    total: int | None = None
    left_out: set[str] = field(default_factory=set)
    lock: threading.RLock = field(default_factory=threading.RLock)


def first_id(number: int) -> int:
    """Return the id of the first image of a shard."""
    return (number + 1) * IMAGES_IN_A_SHARD


class Shards:
    """Tar shards of which two at most are open, each from when it is needed until others are.

    - addresses, names: of each.
    - class_names: the name of each class.
    - skip_broken: whether a shard that cannot be had whole is left out, in place of an error.
    - first: the number of the first one; 0 unless these are some of others.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        names: Sequence[str],
        class_names: tuple[str, ...] | None = None,
        skip_broken: bool = False,
        first: int = 0,
    ) -> None:
        self.addresses, self.names = tuple(addresses), tuple(names)
        self.class_names, self.skip_broken, self.first = class_names, skip_broken, first
        self._memory = _Memory()

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs: no open shards, for it opens its own."""
        return {name: value for name, value in vars(self).items() if name != "_memory"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take up the state in another process."""
        vars(self).update(state, _memory=_Memory())

    @property
    def numbers(self) -> range:
        """The number of each."""
        return range(self.first, self.first + len(self.addresses))

    @property
    def left_out(self) -> tuple[str, ...]:
        """The addresses of those that were found broken by now, and were allowed to be left out."""
        return tuple(sorted(self._memory.left_out))

    @property
    def known_total(self) -> int | None:
        """How many images all shards have; None if they were not counted yet."""
        return self._memory.total

    def pieces(self, numbers: Iterable[int], following: int | None = None) -> Iterator[Opened]:
        """Yield shards, the next one being read meanwhile; after the last one that is `following`, if there is one.

        Raises BadInput for a shard that became another one before the next was asked for, and as `open` does.
        """
        listed = list(numbers)
        for number, after in zip(listed, [*listed[1:], following], strict=True):
            opened = self.open(number)
            if after is not None:
                threading.Thread(target=self._open_ahead, args=[after], daemon=True).start()
            yield opened
            if opened.state != self.state(number):
                raise BadInput(
                    f"the shard {self.address(number)} was changed or deleted while it was read; leave the shards "
                    "alone, and start again"
                )

    def address(self, number: int) -> str:
        """Return where a shard lies."""
        return self.addresses[number - self.first]

    def state(self, number: int) -> str:
        """Return what tells that a shard became another one, without reading it. Raises BrokenShard as `open` does."""
        try:
            return state_of(self.address(number))
        except BrokenShard as error:
            self._leave_out(number, error)
            return UNREACHABLE

    def digest_of(self, number: int, state: str | None = None) -> bytes:
        """Return the SHA-256 over the name and the state of a shard, by default the state that it has now."""
        said = [self.names[number - self.first], self.state(number) if state is None else state]
        return hashlib.sha256(json.dumps(said).encode()).digest()

    def groups(self, size: int) -> list[range]:
        """Return the numbers of all shards in groups of about `size` images, if all have as many as the first one."""
        each = max(1, size // max(1, len(self.sample())))
        return [self.numbers[start : start + each] for start in range(0, len(self.numbers), each)]

    def sample(self) -> Source:
        """Return the images of the first shard that has any; of the last one, if none has."""
        with_images = (number for number in self.numbers if self.count(number))
        return self.open(next(with_images, self.numbers[-1])).images

    def section(self, numbers: range) -> Shards:
        """Return some shards that follow one another, which keep their numbers."""
        chosen = slice(numbers.start - self.first, numbers.stop - self.first)
        return type(self)(self.addresses[chosen], self.names[chosen], self.class_names, self.skip_broken, numbers.start)

    def learn(self, images: int, left_out: Iterable[str]) -> None:
        """Take up what was found in a run over all shards: how many images they have, and which shards are broken."""
        self._memory.total = images
        self._memory.left_out |= set(left_out)

    def open(self, number: int) -> Opened:
        """Return a shard whose images can be read.

        Raises BrokenShard for one that cannot be had whole, unless that may be left out: it has no images then; and
        BadInput as `deconv.images.shards.samples` does.
        """
        memory = self._memory
        with memory.lock:
            if number not in memory.opened:
                while len(memory.opened) >= KEPT:  # before one more is in memory
                    memory.opened.popitem(last=False)
                memory.opened[number] = self._read(number)
            memory.opened.move_to_end(number)
            opened = memory.opened[number]
            if isinstance(opened, Exception):
                del memory.opened[number]
                raise opened
            return opened

    def count(self, number: int) -> int:
        """Return how many images a shard has; it is read for that, unless it was before."""
        if number not in self._memory.counts:
            self.open(number)
        return self._memory.counts[number]

    def total(self) -> int:
        """Return how many images all shards have; those that were not read before are read for that."""
        if self._memory.total is None:
            numbers = track(self.numbers, "counting images", len(self.numbers), "shards")
            self._memory.total = sum(map(self.count, numbers))
        return self._memory.total

    def _open_ahead(self, number: int) -> None:
        """Open a shard for whoever asks for it next, and who gets the error as well."""
        with self._memory.lock:
            try:
                self.open(number)
            except Exception as error:
                self._memory.opened[number] = error

    def _read(self, number: int) -> Opened:
        state = self.state(number)
        samples: list[Sample] = []
        try:
            samples = [] if state == UNREACHABLE else self._samples(number)
        except BrokenShard as error:
            self._leave_out(number, error)
        self._memory.counts[number] = len(samples)
        check_all_labelled(samples)
        labels = tuple(sample.label for sample in samples if sample.label is not None) or None
        if self.class_names is not None and samples:
            check_class_names(self.class_names, labels)
        keys, members = tuple(sample.key for sample in samples), tuple(sample.member for sample in samples)
        ids = range(first_id(number), first_id(number) + len(samples))
        return Opened(Source(NAME, keys, members, labels, self.class_names, ids), state)

    def _samples(self, number: int) -> list[Sample]:
        address, name = self.address(number), self.names[number - self.first]
        content = in_memory(address)
        if isinstance(content, Path):
            return samples_in(address, name, lambda: open(content, "rb"), partial(Member, content))

        def held(offset: int, size: int, called: str) -> Member:
            return Held(Path(address), offset, size, called, content=content)

        return samples_in(address, name, lambda: io.BytesIO(content), held)

    def _leave_out(self, number: int, error: BrokenShard) -> None:
        """Remember that a broken shard is left out; raise the error if it may not be."""
        if not self.skip_broken:
            raise error
        if self.address(number) not in self._memory.left_out:
            log.warning("left out, as skip_broken allows: %s", error)
        self._memory.left_out.add(self.address(number))
