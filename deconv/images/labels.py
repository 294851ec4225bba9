"""The classes of a Dataset's images: its own list of them where the items agree with it, else what the items say."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from deconv.errors import UnreadableImage
from deconv.images.items import LABEL_KEYS, Items
from deconv.progress import track

log = logging.getLogger("deconv")

FILE_LISTS = ("samples", "_samples", "_image_files", "_images")
"""Where torchvision's Datasets keep the paths of their images, alone or with classes, in the order of their items."""
LABEL_LISTS = ("targets", "labels", "_labels", "y")
"""Where they keep the classes of their items."""


def is_hugging_face(images: Any) -> bool:
    """Return whether images are a Dataset of the package datasets, which need not be installed."""
    return type(images).__module__.startswith("datasets.") and hasattr(images, "column_names")


def as_sequence(value: Any) -> Sequence[Any]:
    """Return a list, a tuple, an array or a tensor as a sequence of plain values; nothing else has any."""
    if isinstance(value, np.ndarray | Tensor):
        return value.tolist() if len(value.shape) else ()
    return value if isinstance(value, list | tuple) else ()


def labels_of(items: Items, count: int, probes: Mapping[int, Any]) -> list[int | str] | None:
    """Return the label of each item; None unless all have one of the same kind.

    probes: the labels of items that were read, by their numbers.
    """
    if any(_label(label) is None for label in probes.values()):
        return None
    for column in _columns(items.dataset, items.label_key):
        labels = [_label(entry) for entry in column] if len(column) == count else []
        if labels and all(labels[index] == _label(label) for index, label in probes.items()):
            return _all_there(labels)
    return _all_there([_read_label(items, index) for index in track(range(count), "reading labels", count)])


def _read_label(items: Items, index: int) -> int | str | None:
    try:
        return _label(items.read(index)[1])
    except UnreadableImage as error:
        log.warning("the dataset has no labels, as one item's is not known: %s", error)
        return None


def _all_there(labels: Sequence[int | str | None]) -> list[int | str] | None:
    known = [label for label in labels if label is not None]
    return known if len(known) == len(labels) and len({type(label) for label in known}) == 1 else None


def _label(label: Any) -> int | str | None:
    """A class, as a number from 0 up or a text; None for anything else, a box or a mask, say."""
    if isinstance(label, np.ndarray | Tensor) and label.shape in ((), (1,)):
        label = label.item()
    if isinstance(label, int | np.integer) and not isinstance(label, bool) and label >= 0:
        return int(label)
    return label if isinstance(label, str) else None


def _columns(images: Any, label_key: str | int | None) -> Iterator[Sequence[Any]]:
    """Lists that may be those of the labels of all items."""
    if isinstance(images, Subset):
        for column in _columns(images.dataset, label_key):
            if max(images.indices, default=0) < len(column):
                yield [column[n] for n in images.indices]
    elif isinstance(images, ConcatDataset):
        parts = [next(_columns(part, label_key), None) for part in images.datasets]
        sizes = [len(part) if part is not None else 0 for part in parts]
        if list(accumulate(sizes)) == list(images.cumulative_sizes):
            yield [entry for part in parts if part is not None for entry in part]
    elif is_hugging_face(images):
        if label_key in images.column_names:
            yield list(images.with_format(None)[label_key])
    elif getattr(images, "target_transform", None) is None:
        yield from (as_sequence(getattr(images, name, None)) for name in LABEL_LISTS)
        for name in FILE_LISTS:
            entries = as_sequence(getattr(images, name, None))
            yield [entry[1] for entry in entries if isinstance(entry, tuple | list) and len(entry) > 1]


def keys_of(images: Any, image: str | int | None, label: str | int | None) -> tuple[Any, Any]:
    """Return the keys of image and label as given, else what a Hugging Face Dataset's features say; None as usual."""
    features = getattr(images, "features", None) if is_hugging_face(images) else None
    if not isinstance(features, Mapping):
        return image, label
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    pictures = [name for name, kind in kinds.items() if kind == "Image"]
    classes = [name for name in LABEL_KEYS if name in kinds]
    classes += [name for name, kind in kinds.items() if kind == "ClassLabel" and name not in classes]
    chosen = image if image is not None else next(iter(pictures), None)
    return chosen, label if label is not None else next(iter(classes), None)


def class_names_of(images: Any, label: str | int | None) -> tuple[str, ...]:
    """Return the names of the classes that a Dataset has, by their numbers; none if it has none."""
    if isinstance(images, Subset):
        return class_names_of(images.dataset, label)
    if isinstance(images, ConcatDataset):
        names = {class_names_of(part, label) for part in images.datasets}
        return names.pop() if len(names) == 1 else ()
    if is_hugging_face(images):
        return tuple(getattr((getattr(images, "features", None) or {}).get(label), "names", None) or ())
    for name in ("wnids", "classes"):
        entries = as_sequence(getattr(images, name, None))
        texts = [", ".join(entry) if isinstance(entry, tuple) else entry for entry in entries]
        if texts and all(isinstance(text, str) for text in texts):
            return tuple(texts)
    return ()


def numbered(
    labels: Sequence[int | str] | None, names: tuple[str, ...]
) -> tuple[tuple[int, ...] | None, tuple[str, ...] | None]:
    """Return labels as numbers, and names for all of them or None. Texts are numbered in their order."""
    if labels is None:
        return None, None
    numbers = [label for label in labels if isinstance(label, int)]
    if len(numbers) == len(labels):
        return tuple(numbers), names if max(numbers) < len(names) else None
    texts = tuple(str(label) for label in labels)
    if not set(texts) <= set(names):
        names = tuple(sorted(set(texts)))
    number_of = {name: number for number, name in enumerate(names)}
    return tuple(number_of[text] for text in texts), names
