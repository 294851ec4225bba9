"""The images that an atlas shows; those of a streamed source are fetched once, not once for every block of units."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from deconv.errors import BadInput
from deconv.files import whole_files
from deconv.images import Source, StreamedSource
from deconv.images.members import Member
from deconv.mining.beyond import drawn_images
from deconv.progress import track
from deconv.records import Peaks
from deconv.records.formats import reading
from deconv.records.provenance import digest

FILES = ("photographs.bin", "photographs.json")
"""Of the folder of records: the bytes of images one after the other, and which image lies where."""


def photographs_of(images: Source, peaks: Peaks, beyond: bool, folder: Path | None) -> Source:
    """Return a source that holds all images that an atlas of these peaks shows; it is `images`, unless these stream.

    Of a streamed source it is a part, for which each shard with such an image is read once. What lies in no file of
    this machine is kept in the folder, where the next run finds it, or in memory if there is none.

    peaks: mined from these images.  beyond: whether the images drawn at the quantiles of how units fire are shown too,
    which `peaks` then says.
    """
    if not isinstance(images, StreamedSource):
        return images
    drawn = drawn_images(peaks.firing) if beyond and peaks.firing is not None else []
    image_ids = sorted({*peaks.image_keys, *drawn})
    if folder is None:
        return images.part(image_ids)
    made_of = digest([peaks.provenance["source"]["content"], images.places, image_ids])
    kept = _kept(folder, made_of) or _fetched(images, image_ids, folder, made_of)
    return replace(kept, class_names=images.class_names, left_out=images.left_out)


def _fetched(images: StreamedSource, image_ids: list[int], folder: Path, made_of: str) -> Source:
    """Read the shards of these images one after another, and keep what lies in no file."""
    paths = [folder / name for name in FILES]
    by_shard = images.by_shard(image_ids)
    rows: list[list[Any]] = []
    with whole_files(paths) as (content, listing):
        for ids in track(by_shard, "fetching the images of peaks", len(by_shard), "shards"):
            part = images.part(ids)
            places = [_place(member, content) for member in part.members]
            labels = part.labels or [None] * len(part)
            rows += [list(row) for row in zip(part.ids, part.keys, labels, places, strict=True)]
        listing.write(json.dumps({"made_of": made_of, "images": rows}).encode())
    return _source(rows, paths[0])


def _place(member: Member, content: BinaryIO) -> list[Any]:
    """Return the fields of a member that is in a file; without a path for one that is written to `content` for that."""
    if member.is_in_file:
        return [str(member.path), member.offset, member.size, member.name]
    offset = content.tell()
    content.write(member.read().tobytes())
    return ["", offset, member.size, str(member)]


def _source(rows: list[list[Any]], content: Path) -> Source:
    ids, keys, labels, places = zip(*rows, strict=True) if rows else ((), (), (), ())
    members = tuple(Member(Path(path or content.absolute()), offset, size, name) for path, offset, size, name in places)
    known = None if None in labels or not labels else tuple(labels)
    return Source("webdataset", tuple(keys), members, known, ids=tuple(ids))


def _kept(folder: Path, made_of: str) -> Source | None:
    """Return what the folder has of these images; None if it has them not, or not whole."""
    content, listing = (folder / name for name in FILES)
    with suppress(BadInput), reading(listing):
        saved = json.loads(listing.read_text(encoding="utf-8"))
        if saved["made_of"] == made_of and content.is_file():
            return _source(saved["images"], content)
    return None
