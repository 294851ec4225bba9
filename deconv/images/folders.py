"""The image files below a folder, and the classes that its subfolders are."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path

from deconv.errors import BadInput, bad_value, counted, one_line
from deconv.images.decoding import OTHER_SUFFIXES, SUFFIXES
from deconv.images.members import spelled_out

log = logging.getLogger("deconv")


def listed(root: str | PathLike[str]) -> list[tuple[str, Path]]:
    """Return (key, path) of every image below `root`, sorted by key. Raises BadInput as `deconv.images.folder` does.

    Pictures of kinds that are not read are counted in the log.
    """
    top = _check_root(root)
    pictures = sorted((_key(path, top), path) for path in _pictures(top))
    files = [(key, path) for key, path in pictures if path.suffix.lower() in SUFFIXES]
    others = [key for key, path in pictures if path.suffix.lower() in OTHER_SUFFIXES]
    without = (
        f"{counted(len(others), 'picture')} of other kinds, the first being {one_line(others[0])}" if others else ""
    )
    if not files:
        raise BadInput(
            f"the folder {top} holds no image{without and f', but {without}'}; expected files ending in "
            f"{', '.join(SUFFIXES)} at any depth: add some, or give another folder"
        )
    if without:
        log.warning("left out of the folder %s: %s; expected JPEG, PNG, WebP, BMP, TIFF or PPM", top, without)
    return files


def classes(keys: Sequence[str]) -> tuple[tuple[int, ...], tuple[str, ...]] | tuple[None, None]:
    """Return the class of each key, and the names of the classes: the first folders of the keys, in sorted order.

    (None, None) if one of the images lies in no folder.
    """
    if not all("/" in key for key in keys):
        return None, None
    folders = [key.partition("/")[0] for key in keys]
    names = tuple(sorted(set(folders)))
    numbers = {name: number for number, name in enumerate(names)}
    return tuple(numbers[name] for name in folders), names


def _check_root(root: str | PathLike[str]) -> Path:
    if not isinstance(root, str | PathLike):
        raise bad_value("root", root, "the path of a folder of images")
    if root == "":  # which would be the folder that the process is in
        raise bad_value("root", "''", "the path of a folder of images", "'.' is the folder that you are in")
    expected = "expected a folder of images as root; bundled() needs none"
    top = Path(os.path.expanduser(root))  # unlike Path.expanduser, takes the names of unknown users too
    if not os.path.exists(top):  # unlike Path.exists, false for names that are too long
        raise BadInput(f"there is no folder {top}; {expected}")
    if not top.is_dir():
        packed = top.name.endswith((".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar"))
        raise BadInput(f"{top} is a file; {expected}{', and unpacking it makes one' if packed else ''}")
    return top


def _pictures(top: Path) -> Iterator[Path]:
    """Real directories come before linked ones, and none is entered twice, so that loops of links end."""
    waiting, entered = deque([top]), set()
    while waiting:
        directory = waiting.popleft()
        status, paths = _contents(directory)
        if (status.st_dev, status.st_ino) in entered:
            continue
        entered.add((status.st_dev, status.st_ino))
        for path in paths:
            if path.name.startswith("."):
                continue
            if os.path.isdir(path):
                (waiting.append if path.is_symlink() else waiting.appendleft)(path)
            elif path.suffix.lower() in (*SUFFIXES, *OTHER_SUFFIXES) and _is_file_or_broken_link(path):
                yield path


def _contents(directory: Path) -> tuple[os.stat_result, list[Path]]:
    try:
        return directory.stat(), sorted(directory.iterdir())
    except OSError as error:
        raise BadInput(
            f"the folder {directory} cannot be listed: {error.strerror}; expected one that may be read: allow it, or "
            "move the folder away"
        ) from error


def _is_file_or_broken_link(path: Path) -> bool:
    # A broken link is listed, to be named as unreadable; reading a pipe or a device might never end.
    return os.path.isfile(path) or not os.path.exists(path)


def _key(path: Path, top: Path) -> str:
    return spelled_out(path.relative_to(top).as_posix())
