"""Where images come from: an ordered list of ids, each giving one uint8 RGB image."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deconv.errors import BadInput, UnknownName
from deconv.images import folders
from deconv.images.ahead import WORKERS
from deconv.images.class_names import check_class_names, read_class_names
from deconv.images.decoding import decode
from deconv.images.members import Member
from deconv.images.photographs import installed_photographs
from deconv.images.preprocessing import Preprocessing
from deconv.images.shards import samples

log = logging.getLogger("deconv")


@dataclass(frozen=True)
class Source:
    """An ordered set of images; a number from 0 to len - 1 or a key names one image.

    keys: one id for each image, in order. members: where the bytes of each lie.
    labels: the class of each, a number from 0 up, or None. class_names: the name of each class, or None.
    """

    name: str
    keys: tuple[str, ...]
    members: tuple[Member, ...]
    labels: tuple[int, ...] | None = None
    class_names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def image(self, index: int) -> np.ndarray:
        """Image number `index` as uint8 RGB (H, W, 3), upright.

        Raises UnreadableImage for a damaged file, BadInput for a number that is not there.
        """
        check_indices(self, [index])
        return decode(self.members[index])

    def input_image(self, index: int, preprocessing: Preprocessing) -> torch.Tensor:
        """Image number `index` as the network sees it: uint8 (3, H, W). Raises UnreadableImage."""
        return preprocessing.input_image(self.image(index))

    def part(self, indices: Sequence[int] | np.ndarray) -> Source:
        """These images alone, numbered anew in this order, to be read from another process; cached input images stay
        here.

        Raises BadInput for a number that is not there.
        """
        check_indices(self, indices)
        members = (self.members[i] for i in indices)
        return Source(
            self.name,
            tuple(self.keys[i] for i in indices),
            tuple(replace(member, path=member.path.absolute()) for member in members),
            None if self.labels is None else tuple(self.labels[i] for i in indices),
            self.class_names,
        )

    @cached_property
    def content_hash(self) -> str:
        """The sha256, in hex, over all keys and contents in order; reads every image once, when first asked."""
        total = hashlib.sha256()
        with ThreadPoolExecutor(WORKERS) as pool:
            for key, digest in zip(self.keys, pool.map(Member.digest, self.members), strict=True):
                total.update(hashlib.sha256(key.encode()).digest() + digest)
        return total.hexdigest()


def bundled() -> Source:
    """The photographs inside scikit-image, scikit-learn, matplotlib and, if it is installed, foolbox.

    36 of them, 16 without foolbox (the extra `demo`); always in the same order, nothing is downloaded.
    All of them show what a person knows at a glance: people, animals, things, buildings, surfaces (brick, grass,
    gravel), and for points, spots and lines the Hubble deep field, the moon and a retina. Left out are drawings, masks,
    charts, text and test patterns, microscope pictures, one photograph blurred beyond recognition, and the right half
    of the motorcycle stereo pair. Raises BadInput if none can be found.
    """
    found = installed_photographs()
    if not found:
        raise BadInput(
            "no bundled photograph was found; expected them inside scikit-image, scikit-learn and matplotlib: "
            "install these with pip, or use source=folder"
        )
    return _of_files("bundled", found)


def folder(root: str | PathLike[str]) -> Source:
    """Every JPEG, PNG, WebP, BMP and TIFF file below `root`, at any depth, known by its suffix.

    Keys are POSIX paths relative to `root`, in sorted order. Names that start with a dot are left out. Links are
    followed; a directory reached twice is listed once, where it really is if that is below `root`.
    If every image lies in a subfolder of `root`, those subfolders, in sorted order, are the classes of the images.
    Raises BadInput if `root` is missing, is a file, or holds no image.
    """
    source = _of_files("folder", folders.listed(root))
    labels, class_names = folders.classes(source.keys)
    return replace(source, labels=labels, class_names=class_names)


def _of_files(name: str, files: Sequence[tuple[str, Path]]) -> Source:
    return Source(name, tuple(key for key, _ in files), tuple(Member(path) for _, path in files))


def webdataset(
    urls: str | Sequence[str], copies: str | PathLike[str] | None = None, classes: str | PathLike[str] | None = None
) -> Source:
    """The images in tar shards by the WebDataset convention, plain or gzipped, paths or URLs.

    urls: one text or several, each with braces ("train-{000..009}.tar") or, for paths, with * and ?. Besides http and
    https, whatever `webdataset.gopen` opens: gs, hf, or "pipe:" and a command that writes the shard.
    copies: a folder for uncompressed copies of gzipped shards and of URLs; ~/.cache/deconv/shards unless given.
    classes: a file of class names, as `deconv.images.class_names.read_class_names` takes it.
    Keys are "<shard>/<key in the shard>", in the order of the shards as listed and of the images in the tar. The
    labels are the numbers in the `.cls` members, if every image has one. Plain tars are read in place, others from
    their copies. Raises BadInput as `deconv.images.shards.samples` does, and if the class names do not fit.
    """
    class_names = None if classes is None else read_class_names(classes)  # before shards are fetched
    found = samples(urls, copies)
    labels = tuple(sample.label for sample in found if sample.label is not None) or None  # all have one, or none has
    if class_names is not None:
        check_class_names(class_names, labels)
    keys, members = tuple(sample.key for sample in found), tuple(sample.member for sample in found)
    return Source("webdataset", keys, members, labels, class_names)


def require_labels(source: Source) -> tuple[int, ...]:
    """The class number of each image, in order. Raises BadInput if the source has none, saying what would give them."""
    if source.labels is None:
        raise BadInput(
            f"the source {source.name} has no labels; expected a class for each image: use source=folder with every "
            "image in a subfolder named after its class, or source=webdataset with a .cls member beside every image"
        )
    return source.labels


def check_indices(source: Source, indices: Sequence[int] | np.ndarray) -> None:
    for index in indices:
        if not 0 <= index < len(source):
            raise BadInput(f"image {index} was asked for; the source {source.name} has images 0 to {len(source) - 1}")


def open_source(name: str, **options: Any) -> Source:
    """The source `name` with its options, as configs/source/ has them: "folder" with root=PATH, for one.

    Raises UnknownName for another name, BadInput as the source itself does.
    """
    known: dict[str, Callable[..., Source]] = {"bundled": bundled, "folder": folder, "webdataset": webdataset}
    if name not in known:
        raise UnknownName(f"unknown source {name!r}; expected one of {', '.join(known)}")
    for option, value in options.items():
        if not isinstance(value, (str, PathLike, type(None), *([Sequence] if option == "urls" else []))):
            raise BadInput(f"source {name}: {option} is {value}; expected a text: write {option}='\"{value}\"'")
    return known[name](**options)
