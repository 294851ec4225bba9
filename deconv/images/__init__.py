"""Where images come from: an ordered list of ids, each giving one uint8 RGB image."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from deconv.errors import BadInput, UnknownName, bad_value, check_choice, check_list
from deconv.images import folders
from deconv.images.ahead import WORKERS
from deconv.images.class_names import check_class_names, read_class_names
from deconv.images.decoding import decode
from deconv.images.members import Member
from deconv.images.mistaken import check_tensor, no_images
from deconv.images.photographs import installed_photographs
from deconv.images.preprocessing import Preprocessing
from deconv.images.shards import samples
from deconv.records.provenance import Provenance


@dataclass(frozen=True)
class Source:
    """An ordered set of images, each known by its id: a whole number that it keeps in every part of the source.

    A tuple of the source has one entry for each image, in one order.

    - keys: the name of each image, such as its path below the folder.
    - members: where the bytes of each image lie.
    - labels: the class of each image, a number from 0 up; None if the images have no classes.
    - class_names: the name of each class; None if the classes have no names. Ids of ImageNet classes stay ids here;
      pages and figures show what `deconv.images.class_names.spoken` makes of them.
    - ids: the id of each image; 0 to n - 1 unless this is a part of another source.

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

    def __post_init__(self) -> None:
        if not self.ids:
            object.__setattr__(self, "ids", range(len(self.keys)))

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        classes = "" if self.labels is None else f", {len(set(self.labels))} classes"
        return f"<{type(self).__name__} {self.name}: {len(self)} images{classes}>"

    def index_of(self, image_id: int | np.integer) -> int:
        """Return where the image stands in `keys`, `members` and `labels`. Raises BadInput for an id that is not there.

        In a source that is no part of another, the index is the id.
        """
        try:
            image_id = operator.index(image_id)
        except TypeError:
            raise bad_value("image", image_id, "the id of an image, a whole number") from None
        if 0 <= image_id < len(self) and self.ids[image_id] == image_id:
            return image_id
        if image_id not in self._index_of_id:
            known = f"0 to {len(self) - 1}" if isinstance(self.ids, range) else f"{len(self)} others"
            raise BadInput(f"image {image_id} was asked for; the source {self.name} has images {known}")
        return self._index_of_id[image_id]

    def key(self, image_id: int) -> str:
        """Return the key of an image. Raises BadInput for an id that is not there."""
        return self.keys[self.index_of(image_id)]

    def image(self, image_id: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return an image as upright RGB.

        Raises UnreadableImage for a damaged file, BadInput for an id that is not there.
        """
        return decode(self.members[self.index_of(image_id)])

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
            tuple(replace(self.members[n], path=self.members[n].path.absolute()) for n in indices),
            None if self.labels is None else tuple(self.labels[n] for n in indices),
            self.class_names,
            tuple(self.ids[n] for n in indices),
        )

    def provenance(self, content: str | None = None) -> Provenance:
        """Return what a record says of the images it was made from: their source's name, number and content hash.

        content: the content hash, where it is known already; else it is computed.
        """
        content = self.content_hash if content is None else content
        return {"source": {"name": self.name, "images": len(self), "content": content}}

    @property
    def known_content(self) -> str | None:
        """The content hash where it was taken once and for all, as of cached input images; None for files."""
        return None

    @cached_property
    def content_hash(self) -> str:
        """The SHA-256, in hex, over all keys and contents in order; reads every image once, when first asked."""
        return content_hash(self.keys, self.digests())

    def digests(self, image_ids: Sequence[int] | np.ndarray | None = None) -> tuple[bytes, ...]:
        """Return the SHA-256 of the bytes of some images, by default of all; b"unreadable" for a file that is gone."""
        members = self.members if image_ids is None else [self.members[self.index_of(n)] for n in image_ids]
        with ThreadPoolExecutor(WORKERS) as pool:
            return tuple(pool.map(Member.digest, members))

    @cached_property
    def _index_of_id(self) -> dict[int, int]:
        return {image_id: index for index, image_id in enumerate(self.ids)}


def content_hash(keys: Iterable[str], digests: Iterable[bytes]) -> str:
    """Return the SHA-256, in hex, over the keys and the digests of images in order: what a source holds."""
    total = hashlib.sha256()
    for key, digest in zip(keys, digests, strict=True):
        total.update(hashlib.sha256(key.encode()).digest() + digest)
    return total.hexdigest()


def bundled() -> Source:
    """Return the photographs inside scikit-image, scikit-learn, matplotlib and foolbox, which the extra `demo` brings.

    There are 36 of them, 16 without foolbox, always in the same order; nothing is downloaded.
    All of them show what a person knows at a glance: people, animals, things, buildings, surfaces (brick, grass,
    gravel), and for points, spots and lines the Hubble deep field, the moon and a retina. Left out are drawings, masks,
    charts, text and test patterns, microscope pictures, one photograph blurred beyond recognition, and the right half
    of the motorcycle stereo pair. Raises BadInput if scikit-image or scikit-learn is not installed.

    >>> import deconv
    >>> photographs = deconv.bundled()
    >>> photographs.key(0), photographs.image(0).shape
    ('skimage/astronaut.png', (512, 512, 3))
    """
    return _of_files("bundled", installed_photographs())


def folder(root: str | PathLike[str]) -> Source:
    """Return every JPEG, PNG, WebP, BMP and TIFF file below `root`, at any depth, known by its suffix.

    Keys are POSIX paths relative to `root`, in sorted order. Names that start with a dot are left out. Links are
    followed; a directory reached twice is listed once, where it really is if that is below `root`.
    If every image lies in a subfolder of `root`, those subfolders, in sorted order, are the classes of the images.
    Raises BadInput if `root` is missing, is a file, or holds no image.

    >>> import deconv
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> for name in ("cat", "dog"):
    ...     Path("pets", name).mkdir(parents=True)
    ...     Image.new("RGB", (8, 8)).save(f"pets/{name}/0.png")
    >>> pets = deconv.folder("pets")
    >>> pets
    <Source folder: 2 images, 2 classes>
    >>> pets.keys, pets.class_names
    (('cat/0.png', 'dog/0.png'), ('cat', 'dog'))
    """
    source = _of_files("folder", folders.listed(root))
    labels, class_names = folders.classes(source.keys)
    return replace(source, labels=labels, class_names=class_names)


def _of_files(name: str, files: Sequence[tuple[str, Path]]) -> Source:
    return Source(name, tuple(key for key, _ in files), tuple(Member(path) for _, path in files))


def webdataset(
    urls: str | Sequence[str], copies: str | PathLike[str] | None = None, classes: str | PathLike[str] | None = None
) -> Source:
    """Return the images in tar shards by the WebDataset convention, plain or gzipped, paths or URLs.

    - urls: one text or several, each with braces ("train-{000..009}.tar") or, for paths, with * and ?. Besides http and
      https, whatever fsspec opens (s3, gs, hf, sftp, each by a package of its own that is named if it is missing), and
      "pipe:" with a command that writes the shard.
    - copies: a folder for uncompressed copies of gzipped shards and of URLs; ~/.cache/deconv/shards unless given.
    - classes: a file of class names, as `deconv.images.class_names.read_class_names` takes it.

    Keys are "<shard>/<key in the shard>", in the order of the shards as listed and of the images in the tar. The
    labels are the numbers in the `.cls` members, if every image has one. Plain tars are read in place, others from
    their copies. Raises BadInput as `deconv.images.shards.samples` does, and if the class names do not fit.

    >>> import deconv, tarfile
    >>> from PIL import Image
    >>> with tarfile.open("train-000.tar", "w") as tar:
    ...     Image.new("RGB", (8, 8)).save("dog_01.png")
    ...     tar.add("dog_01.png")
    >>> deconv.webdataset("train-*.tar").keys
    ('train-000/dog_01',)
    """
    class_names = None if classes is None else read_class_names(classes)  # before shards are fetched
    images = samples(urls, copies)
    labels = tuple(sample.label for sample in images if sample.label is not None) or None  # all have one, or none has
    if class_names is not None:
        check_class_names(class_names, labels)
    keys, members = tuple(sample.key for sample in images), tuple(sample.member for sample in images)
    return Source("webdataset", keys, members, labels, class_names)


def check_source(images: Any) -> Source:
    """Return a source. Raises BadInput for anything else, saying what makes one of it."""
    if not isinstance(images, Source):
        raise no_images(images, "a Source", takes_tensors=False)
    return images


def check_images(images: Any, channels: int) -> Source | Tensor:
    """Return a source, or preprocessed images (M, C, H, W). Raises BadInput for anything else, with what makes them."""
    if isinstance(images, Tensor):
        check_tensor(images, channels)
    elif not isinstance(images, Source):
        expected = f"a Source, or preprocessed images, a float tensor (M, {channels}, H, W)"
        raise no_images(images, expected, takes_tensors=True)
    return images


def require_labels(source: Source) -> tuple[int, ...]:
    """Return the class of each image. Raises BadInput if the source has none, saying what would give them."""
    if source.labels is None:
        raise BadInput(
            f"the source {source.name} has no labels; expected a class for each image: folder(root) has them with "
            "every image in a subfolder named after its class, webdataset(urls) with a .cls member beside every image"
        )
    return source.labels


def open_source(name: str, **options: Any) -> Source:
    """Return the source that a name and its options say: "bundled", "folder" with `root`, or "webdataset" with `urls`.

    Raises UnknownName for another name or option, BadInput as the source itself does and for an option of another type.
    """
    known: dict[str, tuple[Callable[..., Source], tuple[str, ...]]] = {
        "bundled": (bundled, ()),
        "folder": (folder, ("root",)),
        "webdataset": (webdataset, ("urls", "copies", "classes")),
    }
    opened, names = known[check_choice("source", name, known)]
    for option, value in options.items():
        if option not in names:
            raise UnknownName(f"the source {name} has no option {option}; it has {', '.join(names) or 'none'}")
        if not isinstance(value, (str, PathLike, type(None), *([Sequence] if option == "urls" else []))):
            raise bad_value(option, value, f"a text, as the source {name} takes it")
    for option in names[:1]:
        if options.get(option) is None:
            raise bad_value(option, None, f"a text: the source {name} needs one")
    return opened(**options)
