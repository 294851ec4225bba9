"""Where images come from: an ordered list of ids, each giving one uint8 RGB image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from deconv.errors import UnknownName, bad_value, check_choice
from deconv.images import folders
from deconv.images.addresses import addresses, short_names
from deconv.images.class_names import check_class_names, read_class_names
from deconv.images.datasets import dataset, is_dataset, source_of
from deconv.images.hubs import huggingface, torchvision
from deconv.images.items import MapDataset
from deconv.images.members import Member
from deconv.images.mistaken import check_tensor, no_images
from deconv.images.photographs import installed_photographs
from deconv.images.preprocessing import Preprocessing
from deconv.images.shards import samples
from deconv.images.source import Source, content_hash, require_labels
from deconv.images.streamed import StreamedSource, content_of
from deconv.images.streams import Opened, Shards

__all__ = [
    "MapDataset", "Opened", "Shards", "Source", "StreamedSource", "bundled", "check_images", "check_source",
    "content_hash", "content_of", "dataset", "folder", "open_source", "require_labels", "webdataset",
]  # fmt: skip


OPTION_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "urls": ((str, PathLike, Sequence), "a text"),
    "download": ((bool,), "true or false"),
    "skip_broken": ((bool,), "true or false"),
    "run_commands": ((bool,), "true or false"),
    "streaming": ((bool,), "true or false"),
    "limit": ((int,), "a whole number"),
    "args": ((Mapping,), "a mapping of names to values"),
}
"""What options of sources are that are no texts."""


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
    """Return every JPEG, PNG, WebP, BMP, TIFF and PPM file below `root`, at any depth, known by its suffix.

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
    urls: str | Sequence[str],
    copies: str | PathLike[str] | None = None,
    classes: str | PathLike[str] | None = None,
    skip_broken: bool = False,
    run_commands: bool = False,
    streaming: bool = False,
) -> Source:
    """Return the images in tar shards by the WebDataset convention, plain or gzipped, paths or URLs.

    - urls: one text or several, each with braces ("train-{000..009}.tar") or, for paths, with * and ?. Besides http and
      https, whatever fsspec opens (s3, gs, hf, sftp, each by a package of its own that is named if it is missing). What
      fails on the way is asked for again, four times in 15 seconds.
    - copies: a folder for uncompressed copies of gzipped shards and of URLs; ~/.cache/deconv/shards unless given.
    - classes: a file of class names, as `deconv.images.class_names.read_class_names` takes it.
    - skip_broken: whether a shard that cannot be had whole is left out, with a warning and its name in the records, in
      place of an error.
    - run_commands: whether "pipe:" and a command that writes the shard is an address too: it runs on this machine.
    - streaming: whether shards are read when they are needed, and neither listed nor copied before that: for more
      images than can be listed, and for shards that should not lie on this machine. See `deconv.images.StreamedSource`.

    Keys are "<shard>/<key in the shard>", in the order of the shards as listed and of the images in the tar. The
    labels are the numbers in the `.cls` members, if every image has one. Plain tars are read in place, others from
    their copies, or with `streaming` from memory. Raises BadInput as `deconv.images.shards.samples` does, and if the
    class names do not fit; with `streaming` when a shard is read.

    >>> import deconv, tarfile
    >>> from PIL import Image
    >>> with tarfile.open("train-000.tar", "w") as tar:
    ...     Image.new("RGB", (8, 8)).save("dog_01.png")
    ...     tar.add("dog_01.png")
    >>> deconv.webdataset("train-*.tar").keys
    ('train-000/dog_01',)
    """
    class_names = None if classes is None else read_class_names(classes)  # before shards are fetched
    if streaming:
        if copies is not None:
            raise bad_value("copies", copies, "none with streaming, which makes no copies", "leave one of them out")
        listed = addresses(urls, run_commands)
        return StreamedSource(Shards(listed, short_names(listed), class_names, skip_broken))
    images, left_out = samples(urls, copies, skip_broken, run_commands)
    labels = tuple(sample.label for sample in images if sample.label is not None) or None  # all have one, or none has
    if class_names is not None:
        check_class_names(class_names, labels)
    keys, members = tuple(sample.key for sample in images), tuple(sample.member for sample in images)
    return Source("webdataset", keys, members, labels, class_names, left_out=left_out)


def check_source(images: Any) -> Source:
    """Return a source, or that of a Dataset. Raises BadInput for anything else, saying what makes one of it."""
    if is_dataset(images):
        return source_of(images)
    if not isinstance(images, Source):
        raise no_images(images, "a Source or a Dataset", takes_tensors=False)
    return images


def check_images(images: Any, channels: int, preprocessing: Preprocessing | None = None) -> Source | Tensor:
    """Return a source, as `check_source` does, or preprocessed images (M, C, H, W). Raises BadInput for anything else.

    The message says what makes one of it.  preprocessing: the network's, whose range the images must not pass by far.
    """
    if isinstance(images, Tensor):
        check_tensor(images, channels)
        if preprocessing is not None:
            preprocessing.check_range(images)
        return images
    if not isinstance(images, Source) and not is_dataset(images):
        expected = f"a Source, a Dataset, or preprocessed images, a float tensor (M, {channels}, H, W)"
        raise no_images(images, expected, takes_tensors=True)
    return check_source(images)


def open_source(name: str, **options: Any) -> Source:
    """Return the source that a name and its options say.

    "bundled", "folder" with `root`, "webdataset" with `urls`, "torchvision" with `dataset`, "huggingface" with `path`.
    Raises UnknownName for another name or option, BadInput as the source itself does and for an option of another type.
    """
    known: dict[str, tuple[Callable[..., Source], tuple[str, ...]]] = {
        "bundled": (bundled, ()),
        "folder": (folder, ("root",)),
        "webdataset": (webdataset, ("urls", "copies", "classes", "skip_broken", "run_commands", "streaming")),
        "torchvision": (torchvision, ("dataset", "root", "split", "download", "args")),
        "huggingface": (huggingface, ("path", "subset", "split", "image", "label", "streaming", "limit", "args")),
    }
    opened, names = known[check_choice("source", name, known)]
    for option, value in options.items():
        if option not in names:
            raise UnknownName(f"the source {name} has no option {option}; it has {', '.join(names) or 'none'}")
        kinds, expected = OPTION_KINDS.get(option, ((str, PathLike), "a text"))
        if value is not None and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
            raise bad_value(option, value, f"{expected}, as the source {name} takes it")
    for option in names[:1]:
        if options.get(option) is None:
            raise bad_value(option, None, f"a text: the source {name} needs one")
    return opened(**options)
