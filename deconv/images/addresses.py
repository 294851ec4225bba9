"""What tar shards are called: addresses, written out, and a short name for each."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from deconv.errors import BadInput, bad_value, check_list


def addresses(urls: str | PathLike[str] | Sequence[str | PathLike[str]], run_commands: bool = False) -> list[str]:
    """Return the addresses that `urls` stands for, in order.

    Braces are expanded ("train-{000..009}.tar"), and in paths * and ? too. Raises BadInput if nothing matches, a file
    is missing or a shard is there twice, and for an address that runs a command unless `run_commands` says it may.
    """
    listed = [urls] if isinstance(urls, str | PathLike) else check_list("urls", urls, "paths or URLs of tar shards")
    texts = [os.fspath(each) if isinstance(each, PathLike) else each for each in listed]
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise bad_value("urls", urls, "the path or URL of a tar shard, or a list of them")
    shards = [address for text in texts for expanded in _expand(text) for address in _glob(expanded)]
    seen: set[str] = set()
    for address in shards:
        if is_command(address) and not run_commands:
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
    return None if "://" in address or is_command(address) else Path(os.path.expanduser(address))


def is_command(address: str) -> bool:
    """Return whether an address is a command that writes the shard."""
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
