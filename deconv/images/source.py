"""A source: an ordered list of ids, each giving one uint8 RGB image."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from deconv.errors import BadInput, bad_value, check_list
from deconv.images.ahead import map_ahead
from deconv.images.class_names import number_of_class
from deconv.images.decoding import decode
from deconv.images.items import Item
from deconv.images.members import Member
from deconv.images.preprocessing import Preprocessing
from deconv.notebooks import ShownInNotebooks
from deconv.records.provenance import Provenance, digest

HASHED_AHEAD = 256
"""Images whose hashes wait for a thread: one for each image of a large source would be a gigabyte."""
MOST_NAMED = 9
"""Ids that a message names."""


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
    - within: the class that all images are of, where they were taken by it (`of_class`).

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
    within: str | None = None

    def __post_init__(self) -> None:
        if not self.ids:
            object.__setattr__(self, "ids", range(len(self.keys)))

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        classes = "" if self.labels is None else f", {len(set(self.labels))} classes"
        classes = classes if self.within is None else f" of the class {self.within}"
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
            few = len(self) <= MOST_NAMED or isinstance(self.ids, range)
            known = f"{self.ids[0]} to {self.ids[-1]}" if isinstance(self.ids, range) else ", ".join(map(str, self.ids))
            known = known if few else f"{', '.join(map(str, self.ids[:MOST_NAMED]))} and {len(self) - MOST_NAMED} more"
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

    def labels_of(self, image_ids: Sequence[int] | np.ndarray) -> list[int] | None:
        """Return the class of each of some images; None if they have none. Raises BadInput for an id that is not there.

        >>> from dataclasses import replace
        >>> import deconv
        >>> replace(deconv.bundled().part([0, 1, 2]), labels=(1, 0, 1)).labels_of([2, 1])
        [1, 0]
        """
        return None if self.labels is None else [self.labels[self.index_of(image_id)] for image_id in image_ids]

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
            self.within,
        )

    def of_class(self, which: str | int) -> Source:
        """Return the part of the images that are of a class, which keep their ids and keys.

        which: the number of the class, or its name, as `class_names` has it or in words; of several words between
        commas one will do, and capitals do not count.
        Raises UnknownName for a class that no image is of, and BadInput where two are called so, and for a source
        without labels.

        >>> import deconv
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> for name in ("cat", "dog", "dog2"):
        ...     Path("animals", name[:3]).mkdir(parents=True, exist_ok=True)
        ...     Image.new("RGB", (8, 8)).save(f"animals/{name[:3]}/{name}.png")
        >>> dogs = deconv.folder("animals").of_class("dog")
        >>> dogs, dogs.ids
        (<Source folder: 2 images of the class dog>, (1, 2))
        """
        labels = require_labels(self)
        number = number_of_class(which, labels, self.class_names)
        members = self.part([image_id for image_id, label in zip(self.ids, labels, strict=True) if label == number])
        return replace(members, within=self.class_names[number] if self.class_names else str(number))

    def provenance(self, content: str | None = None) -> Provenance:
        """Return what a record says of the images it was made from: their source's name, number and content hash.

        content: the content hash, where it is known already; else it is computed.
        """
        content = self.content_hash if content is None else content
        restricted: Provenance = {"left_out": list(self.left_out)} if self.left_out else {}
        restricted |= {} if self.within is None else {"within": self.within}
        return {"source": {"name": self.name, "images": len(self), "content": content, **restricted}}

    @property
    def known_content(self) -> str | None:
        """The content hash where it was taken once and for all, as of cached input images; None for files."""
        return None

    @cached_property
    def content_hash(self) -> str:
        """The SHA-256, in hex, over all keys and contents in order; reads every image once, when first asked."""
        return content_hash(self.keys, self.digests())

    @cached_property
    def labels_hash(self) -> str:
        """The SHA-256, in hex, over the keys and the labels in order: which image is of which class."""
        return digest([self.keys, self.labels])

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


def require_labels(source: Source) -> tuple[int, ...]:
    """Return the class of each image. Raises BadInput if the source has none, saying what would give them."""
    if source.labels is None:
        raise BadInput(
            f"the source {source.name} has no labels; expected a class for each image: folder(root) has them with "
            "every image in a subfolder named after its class, webdataset(urls) with a .cls member beside every "
            "image, a Dataset with a label in every item"
        )
    return source.labels


def content_hash(keys: Iterable[str], digests: Iterable[bytes]) -> str:
    """Return the SHA-256, in hex, over the keys and the digests of images in order: what a source holds."""
    total = hashlib.sha256()
    for key, of_image in zip(keys, digests, strict=True):
        total.update(hashlib.sha256(key.encode()).digest() + of_image)
    return total.hexdigest()
