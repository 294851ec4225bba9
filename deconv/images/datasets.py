"""A Dataset as a source: what its images are called, their classes, and what is remembered of it."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from deconv.errors import UnreadableImage, bad_value
from deconv.images.items import Item, Items, MapDataset
from deconv.images.labels import FILE_LISTS, as_sequence, class_names_of, is_hugging_face, keys_of, labels_of, numbered
from deconv.images.members import spelled_out
from deconv.images.source import Source

PROBES = 9
"""Items, evenly spaced, that are read at once: to see what they are, and whether lists of labels are of these items."""


@dataclass(frozen=True)
class _Known:
    """What is remembered of a Dataset, as long as that lives, so that handing it over again costs no new reading."""

    keys: tuple[str, ...]
    labels: tuple[int, ...] | None
    class_names: tuple[str, ...] | None
    image_key: str | int | None
    label_key: str | int | None
    digests: dict[int, bytes]
    lock: threading.Lock

    def source_of(self, images: MapDataset) -> Source:
        """Return the source of that Dataset."""
        items = Items(images, self.image_key, self.label_key, self.digests, self.lock)
        members = tuple(Item(path=Path(key), name=key, items=items, index=n) for n, key in enumerate(self.keys))
        return Source("dataset", self.keys, members, self.labels, self.class_names)


_known: dict[int, _Known] = {}
"""By the identity of the Dataset; an entry goes with it."""


def dataset(images: MapDataset, image: str | int | None = None, label: str | int | None = None) -> Source:
    """Return the images of a map-style Dataset: torch's, torchvision's, Hugging Face's, or whatever has len and [].

    - images: its items are PIL images, or uint8 arrays or tensors (H, W, 3), (3, H, W) or (H, W); or tuples (image,
      label, ...), or mappings with the key image, img, jpg, png or webp, and label, labels, fine_label or cls. The
      bytes are read from floats that ToTensor made of them; floats that were normalised or resized are refused.
    - image, label: the key, or the place in a tuple, where an item has its image and its label otherwise.

    Every function that takes images takes such a Dataset itself too, and remembers what it read of it as long as the
    Dataset lives; this function reads it anew. Keys are the paths of the files below the Dataset's root where it lists
    them, else the numbers of the items. Labels are whole numbers from 0 up, or texts, if every item has one; they are
    taken from the Dataset's own list (targets, labels, samples, a column) where the items agree with it, else from the
    items, which are all read for that. Names of classes come from its `classes` or `wnids`, or are the texts.
    Items are read one at a time, and each has to be the same at every reading: random transforms are refused. The
    content hash is taken of the pixels. Raises BadInput if there is no item, and for items that are no pictures.

    >>> import deconv, torch
    >>> from torch.utils.data import TensorDataset
    >>> pictures = torch.randint(256, (5, 3, 8, 8), dtype=torch.uint8)
    >>> images = deconv.dataset(TensorDataset(pictures, torch.tensor([0, 1, 0, 1, 1])))
    >>> images, images.labels, images.keys[:2]
    (<Source dataset: 5 images, 2 classes>, (0, 1, 0, 1, 1), ('0', '1'))
    """
    count = _check_dataset(images)
    image, label = keys_of(images, image, label)
    items = Items(images, image, label)
    probes = _probe(items, sorted({n * (count - 1) // (PROBES - 1) for n in range(PROBES)}))
    labels, texts = numbered(labels_of(items, count, probes), class_names_of(images, label))
    known = _Known(_keys(images, count), labels, texts, image, label, items.digests, items.lock)
    _remember(images, known)
    return known.source_of(images)


def source_of(images: MapDataset) -> Source:
    """Return `dataset(images)`, without reading it again if it is as long as when it was read before."""
    known = _known.get(id(images))
    return dataset(images) if known is None or len(known.keys) != len(images) else known.source_of(images)


def is_dataset(images: Any) -> bool:
    """Return whether images are a map-style Dataset, torch's or Hugging Face's, which may be handed over as it is."""
    if isinstance(images, IterableDataset | Mapping) or not isinstance(images, MapDataset):
        return False
    return isinstance(images, Dataset) or is_hugging_face(images)


def _check_dataset(images: Any) -> int:
    expected = "a map-style Dataset, which has a length and items by number"
    if isinstance(images, Mapping) and images and all(isinstance(part, MapDataset) for part in images.values()):
        raise bad_value("images", f"a mapping of {', '.join(map(str, images))}", expected, "give one of them")
    if isinstance(images, IterableDataset) or (hasattr(images, "take") and not hasattr(images, "__getitem__")):
        raise bad_value("images", f"a stream, {type(images).__name__}", expected, "a list of its first items is one")
    if hasattr(images, "iloc") and hasattr(images, "columns"):
        raise bad_value("images", f"a {type(images).__name__}", expected, "list(images[COLUMN]) of its pictures is one")
    if not isinstance(images, MapDataset) or isinstance(images, str | bytes | Mapping | Source):
        remedy = "images.dataset is the one that it draws from" if isinstance(images, DataLoader) else ""
        remedy = "list(images) is one, if memory holds it" if isinstance(images, Iterator) else remedy
        raise bad_value("images", images if isinstance(images, str) else f"a {type(images).__name__}", expected, remedy)
    try:
        count = len(images)
    except (TypeError, NotImplementedError):
        raise bad_value("images", f"a {type(images).__name__} without a length", expected) from None
    if not count:
        raise bad_value("images", f"a {type(images).__name__} of no items", "at least one")
    return count


def _remember(images: MapDataset, known: _Known) -> None:
    try:
        weakref.finalize(images, _known.pop, id(images), None)
    except TypeError:  # of a list, say, which no weak reference can be made to
        return
    _known[id(images)] = known


def _probe(items: Items, indices: Sequence[int]) -> dict[int, Any]:
    """Read some items twice: {index: label} of those that can be read. Raises BadInput if none can, or one changes."""
    labels: dict[int, Any] = {}
    failure: UnreadableImage | None = None
    for index in (*indices, *indices):
        try:
            labels[index] = items.read(index)[1]
        except UnreadableImage as error:
            failure = failure or error
    if failure and not labels:
        raise failure
    return labels


def _keys(images: Any, count: int) -> tuple[str, ...]:
    paths = [Path(path) for path in _paths(images)]
    numbers = tuple(f"{number:0{len(str(count - 1))}d}" for number in range(count))
    if len(set(paths)) != count or len(paths) != count:
        return numbers
    root = _root(images)
    if root is None or not all(path.is_relative_to(root) for path in paths):
        return numbers
    return tuple(spelled_out(path.relative_to(root).as_posix()) for path in paths)


def _root(images: Any) -> str | os.PathLike[str] | None:
    root = _root(images.dataset) if isinstance(images, Subset) else getattr(images, "root", None)
    return root if isinstance(root, str | os.PathLike) else None


def _paths(images: Any) -> list[str | os.PathLike[str]]:
    """The files of the items, in their order; none where the Dataset does not list them."""
    if isinstance(images, Subset):
        inner = _paths(images.dataset)
        return [inner[n] for n in images.indices] if len(inner) == len(images.dataset) else []  # type: ignore[arg-type]
    for name in FILE_LISTS:
        entries = as_sequence(getattr(images, name, None))
        entries = [entry[0] if isinstance(entry, tuple | list) and entry else entry for entry in entries]
        if entries and all(isinstance(entry, str | os.PathLike) for entry in entries):
            return entries
    return []
