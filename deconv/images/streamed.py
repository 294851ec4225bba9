"""A source of tar shards that lists the shards, not their images."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from deconv.errors import BadInput, bad_value, check_list
from deconv.images.addresses import local_path
from deconv.images.ahead import map_ahead
from deconv.images.members import Member
from deconv.images.source import Source
from deconv.images.streams import IMAGES_IN_A_SHARD, NAME, Shards, first_id
from deconv.progress import track
from deconv.records.provenance import Provenance

ASKED_AHEAD = 64
"""Shards whose states are asked for while one waits for the first of them."""


class StreamedSource(Source):
    """The images of tar shards that are read when they are needed, and neither listed nor copied to disk beforehand.

    The id of image m of shard n, both from 0, is (n + 1) * 2**32 + m. Smaller numbers are taken for ids of the listed
    source of the same shards, in which images are numbered from 0 on.
    Shards that cannot be read in place are kept in memory, two at most. What needs a list of all images, or their
    number before they were mined, as `keys`, `labels` and `len` do, reads every shard once.

    >>> import deconv, tarfile
    >>> from PIL import Image
    >>> for n in range(2):
    ...     with tarfile.open(f"part-{n}.tar", "w") as tar:
    ...         Image.new("RGB", (8, 8)).save("cat.png")
    ...         tar.add("cat.png")
    >>> images = deconv.webdataset("part-*.tar", streaming=True)
    >>> images, images.key(2 * 2**32), images.key(1)
    (<StreamedSource webdataset: 2 shards>, 'part-1/cat', 'part-1/cat')
    >>> images.keys, images.ids
    (('part-0/cat', 'part-1/cat'), (4294967296, 8589934592))
    """

    shards: Shards

    def __init__(self, shards: Shards) -> None:
        vars(self).update(name=NAME, shards=shards, class_names=shards.class_names)  # so, since a source is frozen

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __len__(self) -> int:
        return self.shards.total()

    def __repr__(self) -> str:
        without = f", {len(self.left_out)} left out" if self.left_out else ""
        return f"<{type(self).__name__} {self.name}: {len(self.shards.numbers)} shards{without}>"

    def index_of(self, image_id: int | np.integer) -> int:
        """Return where the image stands in `keys` and `labels`, for which all shards before its own are counted."""
        number, image_id = self._shard_of(image_id)
        before = sum(self.shards.count(each) for each in range(self.shards.first, number))
        return before + self.shards.open(number).images.index_of(image_id)

    def check_ids(self, image_ids: Iterable[int]) -> None:
        """Raise BadInput for the first of the ids whose shard is not there. Nobody counts the images of the others."""
        for image_id in image_ids:
            self._shard_of(image_id)

    def lacks(self, image_ids: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Return which of the ids are of no shard that is there."""
        numbers = self.shards.numbers
        number, listed = image_ids // IMAGES_IN_A_SHARD - 1, image_ids < IMAGES_IN_A_SHARD
        outside = (number < numbers.start) | (number >= numbers.stop)
        return np.where(listed, image_ids >= (len(self) if listed.any() else 0), outside)

    def key(self, image_id: int) -> str:
        """Return the key of an image, for which its shard is read. Raises BadInput for an id that is not there."""
        number, image_id = self._shard_of(image_id)
        return self.shards.open(number).images.key(image_id)

    def labels_of(self, image_ids: Sequence[int] | np.ndarray) -> list[int] | None:
        """Return the class of each of some images, for which their shards are read; None unless all have one."""
        label_of: dict[int, int] = {}
        for ids in self.by_shard(set(map(int, image_ids))):
            number = self._shard_of(ids[0])[0]
            labels = self.shards.open(number).images.labels_of([self._shard_of(image_id)[1] for image_id in ids])
            if labels is None:
                return None
            label_of |= zip(ids, labels, strict=True)
        return [label_of[int(image_id)] for image_id in image_ids]

    def image(self, image_id: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return an image as upright RGB. Raises as `Source.image` and `Shards.open` do."""
        number, image_id = self._shard_of(image_id)
        return self.shards.open(number).images.image(image_id)

    def part(self, image_ids: Sequence[int] | np.ndarray) -> Source:
        """Return a source of some of the images, as `Source.part` does; what is in memory goes with it."""
        asked = check_list("image_ids", image_ids, "image ids")
        by_shard: dict[int, list[tuple[int, int]]] = {}
        for index, image_id in enumerate(asked):
            number, image_id = self._shard_of(image_id)
            by_shard.setdefault(number, []).append((index, image_id))
        parts: list[tuple[int, Source]] = []
        for number, images in by_shard.items():
            shard = self.shards.open(number).images
            parts += [(index, shard.part([image_id])) for index, image_id in images]
        ordered = [part for _, part in sorted(parts, key=lambda pair: pair[0])]
        labels = tuple(part.labels[0] for part in ordered if part.labels) or None
        return Source(
            self.name,
            tuple(part.keys[0] for part in ordered),
            tuple(part.members[0] for part in ordered),
            labels if labels and len(labels) == len(ordered) else None,
            self.class_names,
            tuple(map(int, asked)),
            self.left_out,
        )

    def _shard_of(self, image_id: int | np.integer) -> tuple[int, int]:
        """The number of an image's shard, and its id there, whatever source the given one is of."""
        try:
            image_id = operator.index(image_id)
        except TypeError:
            raise bad_value("image", image_id, "the id of an image, a whole number") from None
        numbers = self.shards.numbers
        if image_id >= IMAGES_IN_A_SHARD and image_id // IMAGES_IN_A_SHARD - 1 in numbers:
            return image_id // IMAGES_IN_A_SHARD - 1, image_id
        before = 0
        for number in numbers if 0 <= image_id < IMAGES_IN_A_SHARD else ():
            count = self.shards.count(number)
            if image_id < before + count:
                return number, first_id(number) + image_id - before
            before += count
        raise BadInput(
            f"image {image_id} was asked for; the source {self.name} has images "
            f"{first_id(numbers.start)} to {first_id(numbers.stop) - 1}, 2**32 numbers a shard"
        )

    def by_shard(self, image_ids: Iterable[int]) -> list[list[int]]:
        """Return some ids, shard by shard in the order of the shards, so that each need be read once only."""
        ascending = sorted(image_ids, key=self._shard_of)
        return [list(ids) for _, ids in groupby(ascending, key=lambda image_id: self._shard_of(image_id)[0])]

    @property
    def places(self) -> tuple[str, ...]:
        """Where each shard lies, whatever the current folder is."""
        local = ((address, local_path(address)) for address in self.shards.addresses)
        return tuple(address if path is None else str(path.absolute()) for address, path in local)

    @property
    def is_numbered(self) -> bool:
        """Whether the ids are 0 to n - 1: they are not."""
        return False

    @property
    def left_out(self) -> tuple[str, ...]:
        """The addresses of those shards that were found broken by now, and were allowed to be left out."""
        return self.shards.left_out

    def files(self) -> Iterator[tuple[str, Path]]:
        """Yield (name, path) of each shard on this machine."""
        for name, address in zip(self.shards.names, self.shards.addresses, strict=True):
            path = local_path(address)
            if path is not None:
                yield name, path

    def provenance(self, content: str | None = None) -> Provenance:
        """Return what a record says of the shards: their number and content hash, and of their images what is known."""
        said: Provenance = {"name": self.name, "shards": len(self.shards.numbers)}
        said["content"] = self.content_hash if content is None else content
        if self.shards.known_total is not None:
            said["images"] = self.shards.known_total
        return {"source": said | ({"left_out": list(self.left_out)} if self.left_out else {})}

    def learn_from(self, provenance: Provenance, content: str) -> None:
        """Take up what a record says of the images, if it is of these very shards, whose content hash is given."""
        source = provenance.get("source", {})
        if source.get("content") == content:
            self.shards.learn(source["images"], source.get("left_out", ()))

    @property
    def content_hash(self) -> str:
        """The SHA-256, in hex, over the names and the states of all shards in order; no shard is read for it.

        The state is the size, and the time of change or what a server gives of a file that changes with it.
        """
        return content_of(map_ahead(self.shards.digest_of, self.shards.numbers, ASKED_AHEAD))

    def digests(self, image_ids: Sequence[int] | np.ndarray | None = None) -> tuple[bytes, ...]:
        """Return the SHA-256 of some images' bytes, as `Source.digests` does; each shard is read for its own."""
        return tuple(self._member(image_id).digest() for image_id in (self.ids if image_ids is None else image_ids))

    # --- lists of all images ------------------------------------------------------------------------------------------

    @cached_property
    def ids(self) -> tuple[int, ...]:
        """The id of each image, for which all shards are read unless they were counted."""
        numbers = self.shards.numbers
        return tuple(first_id(number) + index for number in numbers for index in range(self.shards.count(number)))

    @property
    def keys(self) -> tuple[str, ...]:
        """The key of each image, for which all shards are read."""
        return self._keys_and_labels[0]

    @property
    def labels(self) -> tuple[int, ...] | None:
        """The class of each image, for which all shards are read.

        None if the images have no classes. Raises BadInput if some have one and some do not.
        """
        keys, labels, without = self._keys_and_labels
        if labels and without:
            raise BadInput(
                f"{len(without)} of {len(keys)} images have no class, the first being {without[0]}; expected a .cls "
                "member beside each image, or beside none: add those that are missing"
            )
        return labels or None

    @cached_property
    def _keys_and_labels(self) -> tuple[tuple[str, ...], tuple[int, ...], tuple[str, ...]]:
        """The keys of all images, the classes of those that have one, and the keys of those that have none."""
        keys: list[str] = []
        labels: list[int] = []
        without: list[str] = []
        pieces = self.shards.pieces(self.shards.numbers)
        for opened in track(pieces, "listing images", len(self.shards.numbers), "shards"):
            keys += opened.images.keys
            labels += opened.images.labels or ()
            without += opened.images.keys if opened.images.labels is None else ()
        return tuple(keys), tuple(labels), tuple(without)

    @cached_property
    def members(self) -> tuple[Member, ...]:
        """Where the bytes of each image lie: in its shard, which is read when they are."""
        return tuple(
            _InShard(Path(key), name=key, images=self, image_id=image_id)
            for image_id, key in zip(self.ids, self.keys, strict=True)
        )

    def _member(self, image_id: int) -> Member:
        number, image_id = self._shard_of(image_id)
        shard = self.shards.open(number).images
        return shard.members[shard.index_of(image_id)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _InShard(Member):
    """An image of a streamed source; `path` is its key, and no file."""

    images: StreamedSource
    image_id: int

    def read(self) -> UInt8[np.ndarray, " size"]:
        """Return the bytes. Raises OSError if they are not there, or not all of them."""
        return self.images._member(self.image_id).read()

    @property
    def is_in_file(self) -> bool:
        """Whether the file `path` holds the image: it does not."""
        return False

    def absolute(self) -> Member:
        """Return where the image really lies."""
        return self.images._member(self.image_id).absolute()


def content_of(digests: Iterable[bytes]) -> str:
    """Return the SHA-256, in hex, over the digests of shards in order."""
    total = hashlib.sha256()
    for digest in digests:
        total.update(digest)
    return total.hexdigest()
