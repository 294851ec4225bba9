"""Where images come from: an ordered list of ids, each giving one uint8 RGB image."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from deconv.decoding import decode
from deconv.errors import BadInput, UnknownName, UnreadableImage
from deconv.photographs import installed_photographs
from deconv.preprocessing import Preprocessing

log = logging.getLogger("deconv")

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff")
BATCHES_AHEAD = 3
WORKERS = min(8, os.cpu_count() or 1)

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Source:
    """An ordered set of image files; a number from 0 to len - 1 or a key names one image.

    keys: one id for each image, in order. paths: the file of each.
    """

    name: str
    keys: tuple[str, ...]
    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.keys)

    def image(self, index: int) -> np.ndarray:
        """Image number `index` as uint8 RGB (H, W, 3), upright.

        Raises UnreadableImage for a damaged file, BadInput for a number that is not there.
        """
        _check_indices(self, [index])
        return decode(self.paths[index])

    def frame(self, index: int, preprocessing: Preprocessing) -> torch.Tensor:
        """Image number `index` as the network sees it: uint8 (3, H, W). Raises UnreadableImage."""
        return preprocessing.frame(self.image(index))

    @cached_property
    def content_hash(self) -> str:
        """The sha256, in hex, over all keys and file contents in order; reads every file once, when first asked."""
        total = hashlib.sha256()
        with ThreadPoolExecutor(WORKERS) as pool:
            for key, digest in zip(self.keys, pool.map(_file_digest, self.paths), strict=True):
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
    keys, paths = zip(*found, strict=True)
    return Source("bundled", keys, paths)


def folder(root: str | PathLike[str]) -> Source:
    """Every JPEG, PNG, WebP, BMP and TIFF file below `root`, at any depth, known by its suffix.

    Keys are POSIX paths relative to `root`, in sorted order. Names that start with a dot are left out. Links are
    followed; a directory reached twice is listed once, where it really is if that is below `root`.
    Raises BadInput if `root` is missing, is a file, or holds no image.
    """
    top = _check_root(root)
    files = sorted((_key(path, top), path) for path in _image_files(top))
    if not files:
        raise BadInput(
            f"the folder {top} holds no image; expected files ending in {', '.join(SUFFIXES)} at any depth: "
            "add some, or give another folder"
        )
    keys, paths = zip(*files, strict=True)
    return Source("folder", keys, paths)


def batches(
    source: Source,
    preprocessing: Preprocessing,
    batch_size: int,
    indices: Iterable[int] | np.ndarray | torch.Tensor | None = None,
    skipped: list[tuple[int, str, str]] | None = None,
) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
    """Frames in order: pairs of indices int64 (n,) and frames uint8 (n, 3, H, W), n at most `batch_size`.

    A pool of threads decodes a few batches ahead. All frames of a batch have one shape: a change of shape starts a new
    batch. `indices` asks for some images only. An unreadable image is logged, appended to `skipped` as
    (index, key, reason) and left out; as soon as more than half of the asked images are, BadInput is raised.
    """
    asked = list(range(len(source))) if indices is None else [int(index) for index in indices]
    _check_indices(source, asked)
    if batch_size < 1:
        raise BadInput(f"batch_size is {batch_size}; expected 1 or more")
    return _batches(source, preprocessing, batch_size, asked, [] if skipped is None else skipped)


def whole_batches(
    source: Source, preprocessing: Preprocessing, batch_size: int, indices: Iterable[int]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """`batches` of images that must all be there. Raises BadInput at the first that cannot be read any more."""
    skipped: list[tuple[int, str, str]] = []
    for batch in batches(source, preprocessing, batch_size, indices, skipped):
        if skipped:
            break
        yield batch
    if skipped:
        raise BadInput(f"an image of these peaks is gone or damaged: {skipped[0][2]}")


def _batches(
    source: Source, preprocessing: Preprocessing, batch_size: int, asked: list[int], skipped: list[tuple[int, str, str]]
) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
    def frame(index: int) -> torch.Tensor | UnreadableImage:
        try:
            return source.frame(index, preprocessing)
        except UnreadableImage as error:
            return error

    batch: list[tuple[int, torch.Tensor]] = []
    already_skipped = len(skipped)
    for index, result in zip(asked, _map_ahead(frame, asked, BATCHES_AHEAD * batch_size), strict=True):
        if isinstance(result, UnreadableImage):
            skipped.append((index, source.keys[index], str(result)))
            _report_skipped(source, skipped[already_skipped:], len(asked))
            continue
        if batch and (len(batch) == batch_size or batch[0][1].shape != result.shape):
            yield _collate(batch)
            batch = []
        batch.append((index, result))
    if batch:
        yield _collate(batch)


def _collate(batch: Sequence[tuple[int, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    # Stacked with the colours innermost, the frames stay in channels_last memory.
    frames = torch.stack([frame.permute(1, 2, 0) for _, frame in batch]).permute(0, 3, 1, 2)
    return torch.tensor([index for index, _ in batch], dtype=torch.int64), frames


def _map_ahead(function: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Iterator[Result]:
    """Like map, in order, with a pool of threads at work on up to `ahead` items beyond the one asked for."""
    pool = ThreadPoolExecutor(WORKERS)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _report_skipped(source: Source, skipped: Sequence[tuple[int, str, str]], asked: int) -> None:
    """Logs the last of them, and gives up once they are more than half."""
    _, key, reason = skipped[-1]
    log.warning("skipped %s: %s", key, reason)
    if 2 * len(skipped) > asked:
        first = "; ".join(reason for _, _, reason in skipped[:3])
        raise BadInput(
            f"{len(skipped)} of the {asked} images of the source {source.name} cannot be read; expected at least "
            f"half of them to be whole: repair or remove these first: {first}"
        )


def _check_indices(source: Source, indices: Sequence[int]) -> None:
    for index in indices:
        if not 0 <= index < len(source):
            raise BadInput(f"image {index} was asked for; the source {source.name} has images 0 to {len(source) - 1}")


def _file_digest(path: Path) -> bytes:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:  # mining skips such a file and names it; here it only has to count as different from any other
        return b"unreadable"


def _check_root(root: str | PathLike[str]) -> Path:
    wanted = "expected a folder of images: give one with source.root=PATH, or use source=bundled"
    top = Path(root).expanduser()
    if not top.exists():
        raise BadInput(f"there is no folder {top}; {wanted}")
    if not top.is_dir():
        raise BadInput(f"{top} is a file; {wanted}")
    return top


def _image_files(top: Path) -> Iterator[Path]:
    """Real directories come before linked ones, and none is entered twice: so loops of links end."""
    waiting, entered = deque([top]), set()
    while waiting:
        directory = waiting.popleft()
        status = directory.stat()
        if (status.st_dev, status.st_ino) in entered:
            continue
        entered.add((status.st_dev, status.st_ino))
        for path in sorted(directory.iterdir()):
            if path.name.startswith("."):
                continue
            if os.path.isdir(path) and path.is_symlink():
                waiting.append(path)
            elif os.path.isdir(path):
                waiting.appendleft(path)
            elif path.suffix.lower() in SUFFIXES and _is_file_or_broken_link(path):
                yield path


def _is_file_or_broken_link(path: Path) -> bool:
    # A broken link is listed, to be named as unreadable; reading a pipe or a device might never end.
    return os.path.isfile(path) or not os.path.exists(path)


def _key(path: Path, top: Path) -> str:
    # Bytes of a file name that are not UTF-8 are spelled out, since keys are written to JSON and Parquet.
    return os.fsencode(path.relative_to(top).as_posix()).decode("utf-8", "backslashreplace")


def open_source(name: str, **options: str) -> Source:
    """The source `name` with its options, as configs/source/ has them: "bundled", or "folder" with root=PATH.

    Raises UnknownName for another name, BadInput as the source itself does.
    """
    known: dict[str, Callable[..., Source]] = {"bundled": bundled, "folder": folder}
    if name not in known:
        raise UnknownName(f"unknown source {name!r}; expected one of {', '.join(known)}")
    return known[name](**options)
