"""Whether the files of a source stay as they are while a run reads them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from torch import Tensor

from deconv.errors import BadInput
from deconv.images import Source


@contextmanager
def watched(images: Source | Tensor) -> Iterator[None]:
    """Raise BadInput at the end, naming the first of the images whose file changed or went away meanwhile.

    By size, time of change and inode. Tensors and cached input images are not files that anybody changes, and items of
    a Dataset are compared whenever they are read.
    """
    if isinstance(images, Tensor) or images.known_content:
        yield
        return
    before = _states(images)
    yield
    changed = np.flatnonzero((_states(images) != before).any(axis=1))
    if len(changed):
        key, path = list(images.files())[changed[0]]
        raise BadInput(
            f"the image {key!r} was {'changed' if path.exists() else 'deleted'} while it was mined ({len(changed)} "
            f"{'files' if len(changed) > 1 else 'file'} in all); leave the images alone, and start again"
        )


def _states(images: Source) -> np.ndarray:
    """(files, 3) int64."""
    return np.array([_state(path) for _, path in images.files()], dtype=np.int64).reshape(-1, 3)


def _state(path: Path) -> tuple[int, int, int]:
    try:
        status = os.stat(path)
    except OSError:  # broken links and the like: named as unreadable by whoever reads them
        return -1, -1, -1
    return status.st_size, status.st_mtime_ns, status.st_ino
