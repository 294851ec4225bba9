"""Tar shards: the images in them by the keys and classes that WebDataset gives them, or one clear line."""

from __future__ import annotations

import gzip
import io
import logging
import os
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import deconv
from deconv.errors import BadInput
from deconv.images import require_labels, webdataset
from deconv.mining import mine
from tests.samples import with_preprocessing
from tests.tars import pixels, png, put, shard, tar_of


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def test_images_of_shards_come_by_key_in_the_order_of_the_tars(tmp_path: Path) -> None:
    urls = [put(tmp_path / "b.tar", shard(0, 2)), put(tmp_path / "a.tar", shard(0, 1))]
    source = webdataset(urls)
    assert source.name == "webdataset" and source.keys == ("b/0", "b/1", "a/0")
    assert source.labels == require_labels(source) == (10, 11, 10) and source.class_names is None
    assert all(np.array_equal(source.image(index), pixels(number)) for index, number in enumerate([0, 1, 0]))
    assert {str(member.path) for member in source.members} == {*urls}  # plain tars are read where they are


def test_the_content_hash_knows_keys_and_images(tmp_path: Path) -> None:
    before = webdataset(put(tmp_path / "a.tar", shard())).content_hash
    assert before == webdataset(put(tmp_path / "other/a.tar", shard())).content_hash
    others = {"b.tar": shard(), "a.tar": shard(1), "c/a.tar": tar_of({"0.png": png(0)})}
    hashes = {webdataset(put(tmp_path / name, content)).content_hash for name, content in others.items()}
    assert len({before, *hashes}) == 4


def test_keys_end_at_the_first_dot_and_keep_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = [
        "./cat/1.JPEG",
        "dog.v2/1.webp",
        "/abs/../1.bmp",
        "x.png",
        "x.seg.png",
        "cat/.png",
        "caf\udce9.tiff",
        "y.txt",
    ]
    with caplog.at_level(logging.WARNING, "deconv"):
        source = webdataset(put(tmp_path / "a.tar", tar_of(dict.fromkeys(names, b""))))
    assert source.keys == ("a/cat/1", "a/dog.v2/1", "a//abs/../1", "a/x", "a/caf\\xe9")
    assert source.labels is None
    assert ["2, the first being x.seg.png" in record.getMessage() for record in caplog.records] == [True]


def test_links_and_folders_in_a_tar_are_no_images(tmp_path: Path) -> None:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as tar:
        for name, kind in {"a.png": tarfile.SYMTYPE, "b.png": tarfile.LNKTYPE, "c.png": tarfile.DIRTYPE}.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        tar.addfile(tarfile.TarInfo("d.png"))
    assert webdataset(put(tmp_path / "s.tar", held.getvalue())).keys == ("s/d",)


def test_threads_read_the_images_of_one_shard_at_once(tmp_path: Path) -> None:
    source = webdataset(put(tmp_path / "a.tar", shard(0, 20)))
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(source.image, [*range(20)] * 5))
    assert all(np.array_equal(image, pixels(number % 20)) for number, image in enumerate(read))


def test_a_damaged_image_is_named_by_shard_and_member(tmp_path: Path) -> None:
    url = put(tmp_path / "a.tar.gz", gzip.compress(tar_of({"x/1.jpg": b"no picture"})))
    with pytest.raises(BadInput, match=r"a\.tar\.gz: x/1\.jpg cannot be read"):
        webdataset(url).image(0)


def test_a_shard_that_got_shorter_since_is_noticed(tmp_path: Path) -> None:
    url = put(tmp_path / "a.tar", shard(0, 1))
    source = webdataset(url)
    os.truncate(url, source.members[0].offset + 10)
    with pytest.raises(BadInput, match="bytes too early"):
        source.image(0)


def test_mining_caching_and_projecting_take_shards_like_files(tmp_path: Path) -> None:
    for number in range(6):
        put(tmp_path / f"files/a/{number}.png", png(number))
    url = put(tmp_path / "a.tar.gz", gzip.compress(shard(0, 6)))
    files, shards, net = deconv.folder(tmp_path / "files"), deconv.webdataset(url), with_preprocessing()
    held = deconv.cached(shards, net.needed_preprocessing(), tmp_path / "frames")
    assert (held.labels, held.keys, held.content_hash) == (shards.labels, shards.keys, shards.content_hash)
    found = [mine(net, images, ["two"], k=3)["two"] for images in (files, shards, held)]
    assert all(np.array_equal(found[0].image, peaks.image) for peaks in found)
    recon = [deconv.project_peaks(net, images, "two", found[0], [0, 1]).pixels for images in (files, shards, held)]
    assert all(np.array_equal(recon[0], other) for other in recon)


# --- mistakes ---------------------------------------------------------------------------------------------------------

BAD_SHARDS: dict[str, tuple[bytes, str]] = {
    "no image": (tar_of({"a.txt": b"", "a.cls": b"1"}), "no image in .*expected members ending in .jpg"),
    "no members": (tar_of({}), "no image in"),
    "a class that is a word": (tar_of({"a.png": png(), "a.cls": b"cat"}), r"a\.cls holds 'cat'; expected the number"),
    "a negative class": (tar_of({"a.png": png(), "a.cls": b"-1"}), "holds '-1'"),
    "an empty class": (tar_of({"a.png": png(), "a.cls": b""}), "holds ''"),
    "some classes": (
        tar_of({"a.png": png(), "a.cls": b"1", "b.png": png(), "c.png": png()}),
        r"2 of 3 images have no class, the first being .*: b\.png",
    ),
    "two images with one key": (tar_of({"a.png": png(), "a.jpg": png()}), r"both a\.png and a\.jpg"),
}


@pytest.mark.parametrize("wrap", [bytes, gzip.compress], ids=["plain", "gzipped"])
@pytest.mark.parametrize(("content", "message"), BAD_SHARDS.values(), ids=BAD_SHARDS)
def test_shards_that_cannot_serve_are_refused(
    tmp_path: Path, content: bytes, message: str, wrap: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        webdataset(put(tmp_path / "a.tar", wrap(content)))
    assert "\n" not in str(caught.value)
