"""Where tar shards lie: their addresses, and copies, on disk or in memory, of those that cannot be read in place."""

from __future__ import annotations

import gzip
import io
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from email.message import Message
from http.client import HTTPException
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from deconv.errors import BadInput, DeconvError, first_line
from deconv.files import write_whole
from deconv.images.addresses import is_command, local_path
from deconv.progress import track
from deconv.records.provenance import digest

log = logging.getLogger("deconv")

GZIP = b"\x1f\x8b"
MIB = 2**20
SECONDS_TO_ANSWER = 30
"""Without a byte from a server."""
WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before a shard is asked for again, after each failure that may pass."""
BUSY = (408, 425, 429)
"""Answers of a server that may be another one later, as all from 500 on."""
NO_HEAD = (403, 405, 501)
"""Answers of a server that does not tell of a file alone; 403 is that of addresses signed for reading it."""
VALIDATORS = ("Content-Length", "ETag", "Last-Modified")
"""What a server says of a file that changes with it."""

Answer = TypeVar("Answer")


class BrokenShard(BadInput):
    """A shard that cannot be had whole."""


def on_disk(address: str, copies: str | PathLike[str] | None = None) -> Path:
    """Return an uncompressed file of the shard: itself, or its copy in the folder `copies`, made now if it is missing.

    `copies` is deconv/shards in the user's cache folder unless given. A copy of a gzipped file is known by its path,
    size and time of change, that of a URL by the URL alone: delete it to fetch it anew. What fails and may pass is
    tried again, after each of WAITS.
    Raises BrokenShard if the shard cannot be copied whole; then there is no copy.
    """
    path = local_path(address)
    folder = default_copies() if copies is None else Path(os.path.expanduser(copies))
    with _reached(address, f"copied to {folder}", "a whole tar, plain or gzipped, and room for it"):
        if path is not None and not _is_gzipped(path):
            return path
        copy = folder / _copy_name(address, path)
        if not copy.exists():
            _asked(address, lambda: write_whole(copy, lambda file: _write(address, file)))
    return copy


def in_memory(address: str) -> Path | bytes:
    """Return where a shard can be read in place, a plain tar on this machine, or else its uncompressed bytes.

    What fails and may pass is tried again, as by `on_disk`. Raises BrokenShard if the shard cannot be read whole.
    """
    path = local_path(address)
    with _reached(address, "read", "a whole tar, plain or gzipped"):
        if path is not None and not _is_gzipped(path):
            return path
        return _asked(address, lambda: _bytes_of(address))


def state_of(address: str) -> str:
    """Return what tells that a shard became another one: its size, and its time of change or whatever a server gives.

    Nothing tells it of what a command writes. Raises BrokenShard if the shard cannot be reached.
    """
    with _reached(address, "found", "a tar, plain or gzipped"):
        return _asked(address, lambda: _state_of(address))


@contextmanager
def _reached(address: str, done: str, expected: str) -> Iterator[None]:
    """Turn whatever a file system raises into BrokenShard."""
    try:
        yield
    except DeconvError:
        raise
    except Exception as error:  # each file system has errors of its own
        raise BrokenShard(
            f"the shard {address} cannot be {done} ({str(error) or type(error).__name__}); expected {expected}: "
            f"{_remedy(local_path(address))}"
        ) from error


def default_copies() -> Path:
    """Return deconv/shards in $XDG_CACHE_HOME, or else in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deconv" / "shards"


def _is_gzipped(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(len(GZIP)) == GZIP


def _copy_name(address: str, path: Path | None) -> str:
    origin: list[Any] = [address]
    if path is not None:
        status = path.stat()
        origin = [str(path.resolve()), status.st_size, status.st_mtime_ns]
    return f"{digest(origin)}.tar"


def _asked(address: str, ask: Callable[[], Answer]) -> Answer:
    """Return what `ask` gives, asking again and again while what fails may pass. Raises what the last one raised."""
    for wait in (*WAITS, None):
        try:
            return ask()
        except Exception as error:  # each file system has errors of its own
            if wait is None or not _may_pass(address, error):
                raise
            why = str(error) or type(error).__name__
            log.warning("the shard %s does not come (%s); asking again in %g s", address, why, wait)
        time.sleep(wait)
    raise AssertionError("the last failure is raised")


def _may_pass(address: str, error: Exception) -> bool:
    """Whether it is an error of the way, not of the address or of what lies there."""
    if local_path(address) is not None or is_command(address) or isinstance(error, DeconvError):
        return False
    if isinstance(error, HTTPError):
        return error.code in BUSY or error.code >= 500
    if isinstance(error, URLError) and isinstance(error.reason, socket.gaierror):
        return False  # there is no such host, or no net at all
    lasting = (gzip.BadGzipFile, FileNotFoundError, PermissionError, IsADirectoryError)
    return isinstance(error, OSError | EOFError | HTTPException) and not isinstance(error, lasting)


def _write(address: str, file: BinaryIO) -> None:
    for block in track(_whole(address), f"copying {address}", None, "MiB"):
        file.write(block)


def _bytes_of(address: str) -> bytes:
    content = io.BytesIO()  # whose value is no second copy
    content.writelines(_whole(address))
    return content.getvalue()


def _whole(address: str) -> Iterator[bytes]:
    """A shard, decompressed if it is gzipped, by the MiB. Raises EOFError if the connection ends too early."""
    with closing(_opened(address)) as stream:
        yield from _blocks(stream)
        missing = getattr(stream, "length", None)  # http.client leaves it to the reader to see that a body was cut
        if missing:
            raise EOFError(f"the connection ended {missing} bytes too early")


def _opened(address: str) -> Any:
    """The bytes of a shard as a stream."""
    path = local_path(address)
    if path is not None:
        return open(path, "rb")
    if _is_http(address):
        return urlopen(address, timeout=SECONDS_TO_ANSWER)
    if is_command(address):
        from webdataset.gopen import gopen

        return gopen(address)
    filesystem, name = _filesystem_of(address)
    return filesystem.open(name, "rb")


def _state_of(address: str) -> str:
    path = local_path(address)
    if path is not None:
        status = path.stat()
        return f"{status.st_size} {status.st_mtime_ns}"
    if is_command(address):
        return "a command"
    if _is_http(address):
        return " ".join(_headers(address).get(name) or "-" for name in VALIDATORS)
    filesystem, name = _filesystem_of(address)
    return str(filesystem.ukey(name))


def _headers(address: str) -> Message:
    """What a server says of a shard; some refuse to say it without sending the shard as well."""
    try:
        with closing(urlopen(Request(address, method="HEAD"), timeout=SECONDS_TO_ANSWER)) as answer:
            return cast(Message, answer.headers)
    except HTTPError as error:
        if error.code not in NO_HEAD:
            raise
    with closing(urlopen(address, timeout=SECONDS_TO_ANSWER)) as answer:
        return cast(Message, answer.headers)


def _is_http(address: str) -> bool:
    return urlsplit(address).scheme in ("http", "https")  # fsspec would need aiohttp for these


def _filesystem_of(address: str) -> tuple[Any, str]:
    """The file system that fsspec has for an address, and what it calls the shard.

    Raises BadInput, naming the extra, if the package for it is not installed.
    """
    import fsspec  # here, so that other sources need not wait for it

    try:
        filesystem, name = fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise BadInput(
            f"the shard {address} needs a package that is not installed ({first_line(error)}): "
            "pip install 'deconvnet[remote]' brings those for s3 and gs"
        ) from error
    return filesystem, name


class _Ahead:
    """A stream of which the first bytes are known before they are read."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.first: bytes = stream.read(len(GZIP))

    def read(self, size: int) -> bytes:
        block, self.first = self.first, b""
        return block or self.stream.read(size)


def _blocks(stream: Any) -> Iterator[bytes]:
    """The stream, decompressed if it is gzipped, by the MiB."""
    ahead = _Ahead(stream)
    plain: Any = gzip.GzipFile(fileobj=ahead) if ahead.first == GZIP else ahead  # type: ignore[call-overload]
    while block := plain.read(MIB):
        yield block


def _remedy(path: Path | None) -> str:
    if path is not None:
        return "replace it"
    return "check the address and the connection; shards on this machine, or bundled(), need none"
