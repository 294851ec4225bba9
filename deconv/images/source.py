"""A source: an ordered list of ids, each giving one uint8 RGB image."""

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
from torch import Tensor

from deconv.errors import BadInput, bad_value, check_list
from deconv.images.ahead import map_ahead
from deconv.images.decoding import decode
from deconv.images.items import Item
from deconv.images.members import Member
from deconv.images.preprocessing import Preprocessing
from deconv.notebooks import ShownInNotebooks
from deconv.records.provenance import Provenance

HASHED_AHEAD = 256
"""Images whose hashes wait for a thread: one for each image of a large source would be a gigabyte."""


@dataclass(frozen=True)
class Source(ShownInNotebooks):
    """An ordered set of images, each known by its id: a whole number that it keeps in every part of the source.

    A tuple of the source has one entry for each image, in one order.

    - keys: the name of each image, such as its path below the folder.
    - members: where the bytes of each image lie, or which item of a Dataset it is.
    - labels: the class of each image, a number from 0 up; None if the images have no classes.
    - class_names: the name of each class; None if the classes have no names. Ids of ImageNet classes stay ids here;
      pages and figures show what `deconv.images.class_names.spoken` makes of them.
    - ids: the id of each image; 0 to n - 1 unless this is a part of another source.
    - left_out: the addresses of shards that could not be had whole, and were allowed to be left out.

    >>> import deconv
    >>> photographs = deconv.bundled()
    >>> photographs.part([2, 0]).ids
    (2, 0)
    >>> photographs.part([2, 0]).keys == (photographs.keys[2], photographs.keys[0])
    True
    """

    name: str
    keys: tuple[str, ...]
    members: tuple[Member, ...]
    labels: tuple[int, ...] | None = None
    class_names: tuple[str, ...] | None = None
    ids: range | tuple[int, ...] = ()
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.ids:
            object.__setattr__(self, "ids", range(len(self.keys)))

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        classes = "" if self.labels is None else f", {len(set(self.labels))} classes"
        without = f", {len(self.left_out)} shards left out" if self.left_out else ""
        return f"<{type(self).__name__} {self.name}: {len(self)} images{classes}{without}>"

    def index_of(self, image_id: int | np.integer) -> int:
        """Return where the image stands in `keys`, `members` and `labels`. Raises BadInput for an id that is not there.

        In a source that is no part of another, the index is the id.
        """
        try:
            image_id = operator.index(image_id)
        except TypeError:
            raise bad_value("image", image_id, "the id of an image, a whole number") from None
        if isinstance(self.ids, range) and image_id in self.ids:
            return self.ids.index(image_id)
        if image_id not in self._index_of_id:
            known = f"{self.ids[0]} to {self.ids[-1]}" if isinstance(self.ids, range) else f"{len(self)} others"
            raise BadInput(f"image {image_id} was asked for; the source {self.name} has images {known}")
        return self._index_of_id[image_id]

    @property
    def is_numbered(self) -> bool:
        """Whether the ids are 0 to n - 1, as in a source that is no part of another and not streamed."""
        return self.ids == range(len(self))

    def check_ids(self, image_ids: Iterable[int]) -> None:
        """Raise BadInput for the first of the ids that is not there."""
        for image_id in image_ids:
            self.index_of(image_id)

    def lacks(self, image_ids: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Return which of the ids are not there."""
        return ~np.isin(image_ids, np.array(self.ids, dtype=np.int64))

    def key(self, image_id: int) -> str:
        """Return the key of an image. Raises BadInput for an id that is not there."""
        return self.keys[self.index_of(image_id)]

    def image(self, image_id: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return an image as upright RGB.

        Raises UnreadableImage for a damaged file, BadInput for an id that is not there.
        """
        member = self.members[self.index_of(image_id)]
        return member.pixels() if isinstance(member, Item) else decode(member)

    def input_image(self, image_id: int, preprocessing: Preprocessing) -> UInt8[Tensor, "C H W"]:
        """Return an image as the network sees it. Raises UnreadableImage, and BadInput for an id that is not there."""
        return preprocessing.input_image(self.image(image_id))

    def part(self, image_ids: Sequence[int] | np.ndarray) -> Source:
        """Return a source of some of the images, in this order, that can be read from another process.

        The images keep their ids; cached input images stay behind. Raises BadInput for an id that is not there.
        """
        indices = [self.index_of(image_id) for image_id in check_list("image_ids", image_ids, "image ids")]
        return Source(
            self.name,
            tuple(self.keys[n] for n in indices),
            tuple(self.members[n].absolute() for n in indices),
            None if self.labels is None else tuple(self.labels[n] for n in indices),
            self.class_names,
            tuple(self.ids[n] for n in indices),
            self.left_out,
        )

    def provenance(self, content: str | None = None) -> Provenance:
        """Return what a record says of the images it was made from: their source's name, number and content hash.

        content: the content hash, where it is known already; else it is computed.
        """
        content = self.content_hash if content is None else content
        left_out = {"left_out": list(self.left_out)} if self.left_out else {}
        return {"source": {"name": self.name, "images": len(self), "content": content, **left_out}}

    @property
    def known_content(self) -> str | None:
        """The content hash where it was taken once and for all, as of cached input images; None for files."""
        return None

    @cached_property
    def content_hash(self) -> str:
        """The SHA-256, in hex, over all keys and contents in order; reads every image once, when first asked."""
        return content_hash(self.keys, self.digests())

    def digests(self, image_ids: Sequence[int] | np.ndarray | None = None) -> tuple[bytes, ...]:
        """Return the SHA-256 of some images' bytes, or pixels for items of a Dataset; b"unreadable" for what is gone.

        image_ids: which; by default all.
        """
        members = self.members if image_ids is None else [self.members[self.index_of(n)] for n in image_ids]
        return tuple(map_ahead(lambda member: member.digest(), members, HASHED_AHEAD))

    def files(self) -> Iterator[tuple[str, Path]]:
        """Yield (key of the first image in it, path) of each file; none of the items of a Dataset."""
        pairs = ((key, member.path) for key, member in zip(self.keys, self.members, strict=True) if member.is_in_file)
        for path, inside in groupby(pairs, key=lambda pair: pair[1]):  # the images of a tar follow one another
            yield next(inside)[0], path

    @cached_property
    def _index_of_id(self) -> dict[int, int]:
        return {image_id: index for index, image_id in enumerate(self.ids)}


def content_hash(keys: Iterable[str], digests: Iterable[bytes]) -> str:
    """Return the SHA-256, in hex, over the keys and the digests of images in order: what a source holds."""
    total = hashlib.sha256()
    for key, digest in zip(keys, digests, strict=True):
        total.update(hashlib.sha256(key.encode()).digest() + digest)
    return total.hexdigest()
