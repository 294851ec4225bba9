"""Tar shards by the WebDataset convention, indexed once, so that each of their images can be read by itself.

A sample is the members that share a key: their path up to the first dot of the file name. What follows the dot says
what a member is: "dog_01.jpg" is an image and "dog_01.cls" its class (https://github.com/webdataset/webdataset).
Nothing is extracted, so a member's name is only a name, whatever path it spells.
"""

from __future__ import annotations

import logging
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import BufferedIOBase
from os import PathLike

from deconv.errors import BadInput, first_line
from deconv.images.addresses import addresses, local_path, short_names
from deconv.images.decoding import SUFFIXES
from deconv.images.downloads import BrokenShard, on_disk
from deconv.images.members import Member, spelled_out
from deconv.progress import track

log = logging.getLogger("deconv")

TAR_BLOCK = 512

Infos = dict[str, tarfile.TarInfo]


@dataclass(frozen=True)
class Sample:
    """One image of a shard: its key, "<shard>/<key in the shard>", where it lies, and its class if it has one."""

    key: str
    member: Member
    label: int | None


def samples(
    urls: str | Sequence[str],
    copies: str | PathLike[str] | None = None,
    skip_broken: bool = False,
    run_commands: bool = False,
) -> tuple[list[Sample], tuple[str, ...]]:
    """Return the images of all shards, shards as listed and images as in the tar, and the shards that were left out.

    An image whose file name starts with a dot or has a second one is left out, and logged; with `skip_broken` a shard
    that cannot be fetched, or is cut or no tar, is so too. run_commands: whether an address may be a command.
    Raises BadInput for a shard that is missing or listed twice, and for a broken one that may not be left out; for two
    images with one key; if there is no image; for a class that is not a number from 0 up, and if some images have one
    and some do not.
    """
    listed = addresses(urls, run_commands)
    shards: Iterator[tuple[str, str]] = zip(listed, short_names(listed), strict=True)
    if len(listed) > 1:  # of one shard, its own copying and indexing show how far they are
        shards = track(shards, "indexing shards", len(listed), "shards")
    images: list[Sample] = []
    left_out = []
    for address, name in shards:
        try:
            images += _samples(address, name, copies)
        except BrokenShard as error:
            if not skip_broken:
                raise
            log.warning("left out, as skip_broken allows: %s", error)
            left_out.append(address)
    if left_out:
        log.warning("shards left out: %d of %d", len(left_out), len(listed))
    if not images:
        raise BadInput(f"no image in {', '.join(listed[:3])}; expected members ending in {', '.join(SUFFIXES)}")
    check_all_labelled(images)
    return images, tuple(left_out)


def samples_in(
    address: str,
    name: str,
    opened: Callable[[], BufferedIOBase],
    member_of: Callable[[int, int, str], Member],
    shown: bool = False,
) -> list[Sample]:
    """Return the images of one shard.

    - opened: opens its bytes, uncompressed.
    - member_of: (offset, size, what messages call it) -> where an image lies.
    - shown: whether to show how far it is.

    Raises BrokenShard if they are no whole tar, and BadInput as `samples` does.
    """
    try:
        with opened() as file:
            members = _members(file, name, shown)
    except Exception as error:  # on damaged headers tarfile raises more than its own errors
        raise BrokenShard(
            f"the shard {address} is not a whole tar ({first_line(error)}); expected one, plain or gzipped: make or "
            "fetch it again"
        ) from error
    images, classes = _by_key(members, address)
    with opened() as file:
        labels = {key: _label(file, classes[key], address) for key in images.keys() & classes.keys()}
    return [
        Sample(
            spelled_out(f"{name}/{key}"),
            member_of(info.offset_data, info.size, spelled_out(f"{address}: {info.name}")),
            labels.get(key),
        )
        for key, info in images.items()
    ]


def _samples(address: str, name: str, copies: str | PathLike[str] | None) -> list[Sample]:
    path = on_disk(address, copies)
    try:
        return samples_in(address, name, lambda: open(path, "rb"), partial(Member, path), shown=True)
    except BrokenShard:
        if local_path(address) != path:
            path.unlink(missing_ok=True)  # a copy that is no tar would be found again
        raise


def _members(file: BufferedIOBase, name: str, shown: bool) -> list[tarfile.TarInfo]:
    """The files in a tar. Raises whatever tarfile does, and EOFError."""
    members, end = [], 0
    with tarfile.open(fileobj=file, mode="r:") as tar:
        infos: Iterable[tarfile.TarInfo] = track(tar, f"indexing {name}", None, "members") if shown else tar
        for info in infos:
            if tar.offset <= end:  # of a member of negative size: tarfile would read it for ever
                raise EOFError(f"it is damaged at byte {end}")
            end = tar.offset
            if info.isreg():
                members.append(info)
        file.seek(tar.offset)  # tarfile takes whatever it cannot read there for the end
        if file.read(TAR_BLOCK) != bytes(TAR_BLOCK):
            raise EOFError(f"it is cut or damaged at byte {tar.offset}")
    return members


def _by_key(members: Sequence[tarfile.TarInfo], address: str) -> tuple[Infos, Infos]:
    """The images and the classes of a shard, each by its key."""
    images: Infos = {}
    classes: Infos = {}
    left_out = []
    for info in members:
        folder, slash, file_name = info.name.removeprefix("./").rpartition("/")
        stem, dot, kind = file_name.partition(".")
        kinds = classes if kind == "cls" else images if f".{kind.lower()}" in SUFFIXES else None
        if stem and kinds is not None:
            _add(kinds, folder + slash + stem, info, address)
        elif file_name.lower().endswith(SUFFIXES):
            left_out.append(info.name)
    if left_out:
        why = "expected names of a key, one dot and a suffix"
        log.warning("images left out of %s: %d, the first being %s; %s", address, len(left_out), left_out[0], why)
    return images, classes


def _add(kinds: Infos, key: str, info: tarfile.TarInfo, address: str) -> None:
    if key in kinds:
        raise BadInput(
            f"the shard {address} has both {kinds[key].name} and {info.name}; expected one image and one class a "
            "key (a name up to its first dot): rename one of them"
        )
    kinds[key] = info


def _label(file: BufferedIOBase, info: tarfile.TarInfo, address: str) -> int:
    file.seek(info.offset_data)
    text = file.read(min(info.size, TAR_BLOCK))
    if not re.fullmatch(rb"\s*[0-9]{1,9}\s*", text):
        raise BadInput(
            f"{address}: {info.name} holds {text[:20].decode(errors='backslashreplace')!r}; expected the number of a "
            "class, 0 or more, in ASCII digits"
        )
    return int(text)


def check_all_labelled(images: Sequence[Sample]) -> None:
    """Raise BadInput if some images have a class and some have none."""
    without = [sample for sample in images if sample.label is None]
    if 0 < len(without) < len(images):
        raise BadInput(
            f"{len(without)} of {len(images)} images have no class, the first being {without[0].member}; expected a "
            ".cls member beside each image, or beside none: add those that are missing"
        )
