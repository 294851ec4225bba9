"""What a run's folder is made with: whole files, a claim on the folder, JSON.

`shipped` finds the configs and experiments that travel with the package, `importing` a user's own functions.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from deconv.errors import BadInput

LOCK = ".lock"
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".pth.tar")
"""What the names of files of weights end in."""
MOST_LETTERS = 60
"""Letters of a name that is part of a file's name."""
DISK_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ENOTDIR,
    errno.EEXIST,
}


def write_whole(path: str | Path, content: bytes | Callable[[BinaryIO], Any]) -> Path:
    """Write a file that appears whole or not at all, and return its path.

    `content` is the bytes, or a function that writes them to the open binary file it is given. They go to a hidden
    file beside `path`, which is forced to disk and then renamed; a missing folder is made. Raises BadInput if the disk
    is full or may not be written to. Whatever else `content` raises is passed on. In both cases `path` is left as it
    was, and nothing beside it.
    """
    path = Path(path)
    with whole_files([path]) as (file,):
        _fill(file, content)
    return path


@contextmanager
def whole_files(paths: Sequence[Path]) -> Iterator[list[BinaryIO]]:
    """Give open files in one folder, which all appear under their names when the block ends, or none if it fails.

    As `write_whole`, for files that are written little by little. Raises BadInput if the disk is full or may not be
    written to.
    """
    folder = paths[0].parent
    parts = {path: path.with_name(f".{path.name}.{uuid.uuid4().hex}.part") for path in paths}
    with _disk_errors_named(paths[0] if len(paths) == 1 else folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with ExitStack() as opened:
                files: list[BinaryIO] = [opened.enter_context(open(part, "xb")) for part in parts.values()]
                yield files
                for file in files:
                    file.flush()
                    os.fsync(file.fileno())
            for path, part in parts.items():
                os.replace(part, path)
        finally:
            for part in parts.values():
                part.unlink(missing_ok=True)
        _sync_folder(folder)


def reserve(file: BinaryIO, size: int) -> None:
    """Take room for so many bytes on the disk, where it can be taken, so that a full disk shows before the work.

    Raises OSError, which says how much is needed.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno in DISK_ERRORS:
                raise OSError(error.errno, f"{error.strerror} for {size / 1e6:.3g} MB") from error


def remove_parts(folder: Path, name: str = "") -> None:
    """Remove what `write_whole` left half-written when its process was killed: of the file `name`, or of any.

    Nobody else may be writing there.
    """
    for part in folder.glob(".*.part"):
        if part.name.startswith(f".{name}"):
            part.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left in a folder and below it, but for folders that a process holds."""
    if any(_is_leftover(path) for path in folder.rglob(".*")):
        with suppress(BadInput), claimed(folder):
            remove_parts(folder)
            for path in folder.iterdir():
                if path.is_dir() and not path.is_symlink():
                    remove_leftovers(path)


def remove_dead_claim(folder: Path) -> None:
    """Remove the claim to a folder of a process that was killed; one that a process holds stays."""
    if (folder / LOCK).exists():
        with suppress(BadInput), claimed(folder):
            pass  # a claim goes when it ends


def holds_nothing(folder: Path) -> bool:
    """Return whether there is no such folder, or nothing in it but what a killed process left."""
    return not folder.exists() or (folder.is_dir() and all(_is_leftover(path) for path in folder.iterdir()))


def _is_leftover(path: Path) -> bool:
    return path.name == LOCK or (path.name.startswith(".") and path.name.endswith(".part"))


@contextmanager
def claimed(folder: str | Path, name: str = LOCK) -> Iterator[None]:
    """Hold a folder, made if it is missing, for this process alone; the claim ends with the process, however it ends.

    A folder that was made for the claim and is empty at its end is removed again.

    name: the file that is locked. Raises BadInput at once, naming the process, if another one holds it.
    """
    folder = Path(folder)
    path, is_new = folder / name, not folder.exists()
    with _disk_errors_named(path):
        lock = _locked(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before the lock ends: whoever opened it meanwhile sees that it is not there
        if is_new:
            with suppress(OSError):  # it is not empty
                folder.rmdir()
        os.close(lock)


def write_json(path: str | Path, value: Any) -> Path:
    """Write `value` as JSON, always the same bytes for the same value: sorted keys, two spaces, a newline at the end.

    numpy and torch numbers and arrays, and paths, are written as plain numbers, lists and strings. Raises BadInput
    for NaN and infinity, which JSON does not have, and for anything else that it cannot hold.
    """
    try:
        text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"cannot write {path} as JSON: {error}; give plain values, and None for what is missing"
        ) from error
    return write_whole(path, f"{text}\n".encode())


def safe_name(name: str) -> str:
    """Return a name as part of a file's name: letters, digits, dots, dashes and underscores, 60 at most.

    A name of other signs, or a longer one, ends in a digest of it, so that no two names are one file.

    >>> safe_name("layer1.0.relu_1"), safe_name("layer1/0 relu")
    ('layer1.0.relu_1', 'layer1_0_relu-...')
    """
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    if safe == name and len(name) <= MOST_LETTERS:
        return name
    end = f"-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return safe[: MOST_LETTERS - len(end)] + end


def _locked(path: Path) -> int:
    """Return an open file that holds the lock and is what `path` names.

    Not by filelock, which empties the file before it tries: the refusal could not name the holder.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # its last holder removed the folder
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 100, 0).decode() or "another process"
            os.close(lock)
            raise BadInput(
                f"another run works in {path.parent} ({holder}); wait until it has ended, or give another folder"
            ) from None
        if _is_open_at(path, lock):
            with suppress(OSError):  # on a full disk the holder has no name
                os.ftruncate(lock, 0)
                os.pwrite(lock, f"process {os.getpid()} on {platform.node()}".encode(), 0)
            return lock
        os.close(lock)  # its last holder removed it between our opening and locking


def _is_open_at(path: Path, file: int) -> bool:
    """Whether `path` names the open file; whoever held it may remove it at any moment."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


@contextmanager
def _disk_errors_named(path: Path) -> Iterator[None]:
    """Turn errors of the disk into BadInput."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise BadInput(
            f"cannot write {path}: {error.strerror}; nothing is left half-written: make it possible, or give another "
            "folder, and start again"
        ) from error


def _fill(file: BinaryIO, content: bytes | Callable[[BinaryIO], Any]) -> None:
    if isinstance(content, bytes):
        file.write(content)
    else:
        content(file)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")
