"""Where tar shards lie: their addresses, and the copies of those that cannot be read in place."""

from __future__ import annotations

import glob
import gzip
import logging
import os
import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from http.client import HTTPException
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import url2pathname, urlopen

from deconv.errors import BadInput, DeconvError, bad_value, check_list
from deconv.files import write_whole
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


class BrokenShard(BadInput):
    """A shard that cannot be had whole."""


def addresses(urls: str | Sequence[str], run_commands: bool = False) -> list[str]:
    """Return the addresses that `urls` stands for, in order.

    Braces are expanded ("train-{000..009}.tar"), and in paths * and ? too. Raises BadInput if nothing matches, a file
    is missing or a shard is there twice, and for an address that runs a command unless `run_commands` says it may.
    """
    texts = [urls] if isinstance(urls, str) else check_list("urls", urls, "paths or URLs of tar shards")
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise bad_value("urls", urls, "the path or URL of a tar shard, or a list of them")
    shards = [address for text in texts for expanded in _expand(text) for address in _glob(expanded)]
    seen: set[str] = set()
    for address in shards:
        if _is_command(address) and not run_commands:
            raise bad_value("urls", address, "no command", "run_commands=true lets it run, if you trust who wrote it")
        path = local_path(address)
        same = address if path is None else _check_file(path)
        if same in seen:
            raise BadInput(f"the shard {address} is listed twice; every image counts once: list it once")
        seen.add(same)
    return shards


def local_path(address: str) -> Path | None:
    """Return the file of an address on this machine; None for one that has to be fetched."""
    if address.startswith("file:"):
        return Path(url2pathname(urlsplit(address).path))
    return None if "://" in address or _is_command(address) else Path(os.path.expanduser(address))


def _is_command(address: str) -> bool:
    return address.startswith("pipe:")


def short_names(shards: Sequence[str]) -> list[str]:
    """Return a different name for each address: the file's without .tar or .tar.gz, after its folders if need be."""
    names = [urlsplit(address).path if "://" in address else address for address in shards]
    names = [re.sub(r"\.(tar|tar\.gz|tgz)$", "", name.rpartition("/")[2]) for name in names]
    if len(set(names)) == len(names):
        return names
    steps = [address.split("/") for address in shards]
    shared = len(os.path.commonprefix([above[:-1] for above in steps]))
    return ["/".join(step[shared:]) for step in steps]


def on_disk(address: str, copies: str | PathLike[str] | None = None) -> Path:
    """Return an uncompressed file of the shard: itself, or its copy in the folder `copies`, made now if it is missing.

    `copies` is deconv/shards in the user's cache folder unless given. A copy of a gzipped file is known by its path,
    size and time of change, that of a URL by the URL alone: delete it to fetch it anew. What fails and may pass is
    tried again, after each of WAITS.
    Raises BrokenShard if the shard cannot be copied whole; then there is no copy.
    """
    path = local_path(address)
    folder = default_copies() if copies is None else Path(os.path.expanduser(copies))
    try:
        if path is not None and not _is_gzipped(path):
            return path
        copy = folder / _copy_name(address, path)
        if not copy.exists():
            _fetch(address, copy)
    except DeconvError:
        raise
    except Exception as error:  # each file system has errors of its own
        raise BrokenShard(
            f"the shard {address} cannot be copied to {folder} ({str(error) or type(error).__name__}); expected "
            f"a whole tar, plain or gzipped, and room for it: {_remedy(path)}"
        ) from error
    return copy


def default_copies() -> Path:
    """Return deconv/shards in $XDG_CACHE_HOME, or else in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deconv" / "shards"


def _expand(text: str) -> list[str]:
    from webdataset.shardlists import expand_urls  # here, so that other sources need not wait for it

    try:
        expanded: list[str] = expand_urls(text)
    except (AssertionError, ValueError) as error:  # of a variable that is not set, of braces that do not pair
        raise BadInput(f"urls: cannot expand {text} ({error}); expected train-{{000..009}}.tar or the like") from error
    return expanded


def _glob(address: str) -> list[str]:
    path = local_path(address)
    if path is None or os.path.exists(path) or not glob.has_magic(str(path)):
        return [address]
    matches = sorted(glob.glob(str(path)))
    if not matches:
        raise BadInput(f"no file matches {address}; expected tar shards: check urls")
    return matches


def _check_file(path: Path) -> str:
    """The path that is the same for all addresses of one file. Raises BadInput if there is no such file."""
    if os.path.isdir(path):
        raise BadInput(f"the shard {path} is a folder; expected a tar file: folder(root) reads a tree of images")
    if not os.path.isfile(path):
        raise BadInput(f"there is no shard {path}; expected a tar file, plain or gzipped: check urls")
    return str(path.resolve())


def _is_gzipped(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(len(GZIP)) == GZIP


def _copy_name(address: str, path: Path | None) -> str:
    origin: list[Any] = [address]
    if path is not None:
        status = path.stat()
        origin = [str(path.resolve()), status.st_size, status.st_mtime_ns]
    return f"{digest(origin)}.tar"


def _fetch(address: str, copy: Path) -> None:
    """Copy a shard, again and again while what fails may pass. Raises what the last copying raised."""
    for wait in (*WAITS, None):
        try:
            write_whole(copy, lambda file: _write(address, file))
            return
        except Exception as error:  # each file system has errors of its own
            if wait is None or not _may_pass(address, error):
                raise
            why = str(error) or type(error).__name__
            log.warning("the shard %s does not come (%s); asking again in %g s", address, why, wait)
        time.sleep(wait)


def _may_pass(address: str, error: Exception) -> bool:
    """Whether it is an error of the way, not of the address or of what lies there."""
    if local_path(address) is not None or _is_command(address) or isinstance(error, DeconvError):
        return False
    if isinstance(error, HTTPError):
        return error.code in BUSY or error.code >= 500
    if isinstance(error, URLError) and isinstance(error.reason, socket.gaierror):
        return False  # there is no such host, or no net at all
    lasting = (gzip.BadGzipFile, FileNotFoundError, PermissionError, IsADirectoryError)
    return isinstance(error, OSError | EOFError | HTTPException) and not isinstance(error, lasting)


def _write(address: str, file: BinaryIO) -> None:
    with closing(_opened(address)) as stream:
        for block in track(_blocks(stream), f"copying {address}", None, "MiB"):
            file.write(block)
        missing = getattr(stream, "length", None)  # http.client leaves it to the reader to see that a body was cut
        if missing:
            raise EOFError(f"the connection ended {missing} bytes too early")


def _opened(address: str) -> Any:
    """The bytes of a shard as a stream."""
    path = local_path(address)
    if path is not None:
        return open(path, "rb")
    if urlsplit(address).scheme in ("http", "https"):  # fsspec would need aiohttp for these
        return urlopen(address, timeout=SECONDS_TO_ANSWER)
    if _is_command(address):
        from webdataset.gopen import gopen

        return gopen(address)
    import fsspec  # here, so that other sources need not wait for it

    filesystem, name = fsspec.core.url_to_fs(address)
    return filesystem.open(name, "rb")


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
