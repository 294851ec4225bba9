"""Where the bytes of one image lie: a whole file, or a part of one, as a member of a tar is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from deconv.errors import one_line


@dataclass(frozen=True, slots=True)
class Member:
    """`size` bytes at `offset` of the file `path`; without them the whole file.

    name: what messages call it, if that is not the path. Every reading opens the file anew, so that threads may read
    at once.
    """

    path: Path
    offset: int = 0
    size: int = -1
    name: str = ""

    def __str__(self) -> str:
        return self.name or str(self.path)

    def read(self) -> UInt8[np.ndarray, " size"]:
        """Return the bytes. Raises OSError if they are not there, or not all of them."""
        data = np.fromfile(self.path, np.uint8, self.size, offset=self.offset)
        if self.size > len(data):
            raise OSError(f"{self.path} ends {self.size - len(data)} bytes too early")
        return data

    @property
    def is_in_file(self) -> bool:
        """Whether the file `path` holds the image."""
        return True

    def absolute(self) -> Member:
        """Return the same bytes by a path that holds in another folder and process."""
        return replace(self, path=self.path.absolute())

    def digest(self) -> bytes:
        """Return the SHA-256 of the bytes; b"unreadable" if they cannot be read."""
        try:
            return hashlib.sha256(self.read()).digest()
        except OSError:  # mining skips such an image and names it; here it only has to count as different
            return b"unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held(Member):
    """A part of a shard that is in memory; `path` is its address, and no file."""

    content: bytes = field(repr=False)

    def read(self) -> UInt8[np.ndarray, " size"]:
        """Return a copy of the bytes, which may be written to."""
        return np.frombuffer(self.content, np.uint8, self.size, self.offset).copy()

    @property
    def is_in_file(self) -> bool:
        """Whether the file `path` holds the image: it does not."""
        return False

    def absolute(self) -> Member:
        """Return the image alone, without the rest of its shard."""
        return replace(self, content=self.content[self.offset : self.offset + self.size], offset=0)


def spelled_out(name: str) -> str:
    """Return the name of a file as JSON, Parquet and one line can hold it.

    Line breaks, and bytes that are no UTF-8, become text, as \\n and \\xe9.
    """
    return one_line(name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))
