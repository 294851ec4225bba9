"""Where tar shards lie: their addresses, and the copies of those that cannot be read in place."""

from __future__ import annotations

import glob
import gzip
import hashlib
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from http.client import HTTPException
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname, urlopen

from deconv.errors import BadInput
from deconv.files import write_whole
from deconv.progress import track

GZIP = b"\x1f\x8b"
MIB = 2**20
SECONDS_TO_ANSWER = 30
_FAILURES = (OSError, EOFError, HTTPException, ImportError, ValueError, zlib.error)


def addresses(urls: str | Sequence[str]) -> list[str]:
    """What `urls` stands for, in order: paths and URLs with braces ("train-{000..009}.tar"), paths with * and ? too.

    Raises BadInput if nothing matches, a file is missing or a shard is there twice.
    """
    texts = [urls] if isinstance(urls, str) else list(urls)
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise BadInput(f"urls: given {urls!r}; expected the path or URL of a tar shard, or a list of them")
    found = [address for text in texts for expanded in _expand(text) for address in _glob(expanded)]
    seen: set[str] = set()
    for address in found:
        path = local_path(address)
        same = address if path is None else _check_file(path)
        if same in seen:
            raise BadInput(f"the shard {address} is listed twice; every image counts once: list it once")
        seen.add(same)
    return found


def local_path(address: str) -> Path | None:
    """The file of an address on this machine; None for one that has to be fetched."""
    if address.startswith("file:"):
        return Path(url2pathname(urlsplit(address).path))
    return None if "://" in address or address.startswith("pipe:") else Path(os.path.expanduser(address))


def short_names(found: Sequence[str]) -> list[str]:
    """A different name for each address: the file's, without .tar or .tar.gz; with what is above it if need be."""
    names = [urlsplit(address).path if "://" in address else address for address in found]
    names = [re.sub(r"\.(tar|tar\.gz|tgz)$", "", name.rpartition("/")[2]) for name in names]
    if len(set(names)) == len(names):
        return names
    steps = [address.split("/") for address in found]
    shared = len(os.path.commonprefix([above[:-1] for above in steps]))
    return ["/".join(step[shared:]) for step in steps]


def on_disk(address: str, cache: str | PathLike[str] | None = None) -> Path:
    """An uncompressed file of the shard: itself, or its copy in the folder `cache`, made now if it is not there.

    `cache` is deconv/shards in the user's cache folder unless given. A copy of a gzipped file is known by its path,
    size and time of change, that of a URL by the URL alone: delete it to fetch it anew.
    Raises BadInput if the shard cannot be copied whole; then there is no copy.
    """
    path = local_path(address)
    copies = default_cache() if cache is None else Path(os.path.expanduser(cache))
    try:
        if path is not None and not _is_gzipped(path):
            return path
        copy = copies / _copy_name(address, path)
        if not copy.exists():
            write_whole(copy, lambda file: _write(address, file))
    except _FAILURES as error:
        raise BadInput(
            f"the shard {address} cannot be copied to {copies} ({str(error) or type(error).__name__}); expected "
            f"a whole tar, plain or gzipped, and room for it: {_remedy(path)}"
        ) from error
    return copy


def default_cache() -> Path:
    """deconv/shards in $XDG_CACHE_HOME, or else in ~/.cache."""
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
        raise BadInput(f"no file matches {address}; expected tar shards: check source.urls")
    return matches


def _check_file(path: Path) -> str:
    """What two addresses of the same file have in common."""
    if os.path.isdir(path):
        raise BadInput(f"the shard {path} is a folder; expected a tar file, or use source=folder for a tree of images")
    if not os.path.isfile(path):
        raise BadInput(f"there is no shard {path}; expected a tar file, plain or gzipped: check source.urls")
    return str(path.resolve())


def _is_gzipped(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(len(GZIP)) == GZIP


def _copy_name(address: str, path: Path | None) -> str:
    made_of = [address]
    if path is not None:
        status = path.stat()
        made_of = [str(path.resolve()), str(status.st_size), str(status.st_mtime_ns)]
    digest = hashlib.sha256("\n".join(made_of).encode(errors="surrogateescape")).hexdigest()
    return f"{digest}.tar"


def _write(address: str, file: BinaryIO) -> None:
    with _opened(address) as stream:
        for block in track(_blocks(stream), f"copying {address}", None, "MiB"):
            file.write(block)
        left = getattr(stream, "length", None)  # http.client leaves it to the reader to see that a body was cut
        if left:
            raise EOFError(f"the connection ended {left} bytes too early")


def _opened(address: str) -> closing[Any]:
    path = local_path(address)
    if path is not None:
        return closing(open(path, "rb"))
    if urlsplit(address).scheme in ("http", "https"):  # gopen leaves these to curl, which does not say what failed
        return closing(urlopen(address, timeout=SECONDS_TO_ANSWER))
    from webdataset.gopen import gopen

    return closing(gopen(address))


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
    return "check the address and the connection; shards on this machine, or source=bundled, need none"
