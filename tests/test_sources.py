"""Sources are ordered, know their content, say what is wrong, and come as batches without holding everything."""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deconv.errors import BadInput, UnknownName, UnreadableImage
from deconv.images import Source, bundled, folder, open_source, require_labels, webdataset
from deconv.images import source as source_module
from deconv.images.batches import BATCHES_AHEAD, batches
from deconv.images.decoding import decode
from deconv.images.members import Member
from deconv.images.preprocessing import Preprocessing
from tests.annotations import jaxtyping_off
from tests.tars import put, shard

FRAME = Preprocessing((16, 16), None, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def picture(height: int = 40, width: int = 60, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def save(path: Path, image: Image.Image | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or picture()).save(path)
    return path


# --- a folder -------------------------------------------------------------------------------------------------------


def test_folder_lists_images_of_a_tree_in_order(tmp_path: Path) -> None:
    for name in ["b/2.PNG", "b/10.jpg", "a.webp", "b/c/d/1.tif", "Z.bmp", "b.jpeg"]:
        save(tmp_path / name)
    for name in ["notes.txt", ".hidden.jpg", ".git/x.png", "b/._10.jpg"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"not an image")
    source = folder(str(tmp_path))
    assert source.name == "folder" and len(source) == 6
    assert source.keys == ("Z.bmp", "a.webp", "b.jpeg", "b/10.jpg", "b/2.PNG", "b/c/d/1.tif")
    assert source.image(0).shape == (40, 60, 3)


def test_a_part_keeps_the_ids_of_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, name in enumerate(("a/0.png", "b/1.png", "b/2.png")):
        save(tmp_path / name, picture(seed=seed))
    monkeypatch.chdir(tmp_path)
    whole = folder(".")
    part = whole.part([2, 0])
    monkeypatch.chdir("/")
    assert part.keys == ("b/2.png", "a/0.png") and part.labels == (1, 0) and part.class_names == ("a", "b")
    assert part.ids == (2, 0) and part.part([0]).ids == (0,) and part.index_of(0) == 1 and part.key(2) == "b/2.png"
    assert np.array_equal(part.image(2), np.asarray(picture(seed=2)))
    assert [ids.tolist() for ids, _ in batches(part, FRAME, 1)] == [[2], [0]]
    with pytest.raises(BadInput, match="image 3 was asked for; the source folder has images 0 to 2"):
        whole.part([3])
    with pytest.raises(BadInput, match="image 1 was asked for"):
        part.image(1)


def test_loops_of_links_end_and_links_outside_are_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    save(root / "sub/a.png")
    save(outside / "b.png")
    (root / "again").symlink_to(root / "sub")
    (root / "sub/loop").symlink_to(root)
    (root / "self").symlink_to(root / "self")
    (root / "link").symlink_to(outside)
    (outside / "back").symlink_to(root)
    assert folder(root).keys == ("link/b.png", "sub/a.png")


def test_broken_links_are_listed_and_pipes_are_not(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    source = folder(tmp_path)
    assert source.keys == ("a.png", "gone.png")
    with pytest.raises(UnreadableImage, match=r"gone\.png"):
        source.image(1)


@pytest.mark.parametrize(
    ("name", "message"),
    [("absent", "there is no folder .*absent"), ("file.png", "is a file"), ("empty", "holds no image.*jpg")],
)
def test_folders_that_cannot_serve_are_refused(tmp_path: Path, name: str, message: str) -> None:
    save(tmp_path / "file.png")
    (tmp_path / "empty/nested").mkdir(parents=True)
    with pytest.raises(BadInput, match=message):
        folder(tmp_path / name)


def test_the_subfolders_are_the_classes_if_every_image_is_in_one(tmp_path: Path) -> None:
    for name in ["zebra/1.png", "ape/2.png", "ape/young/1.png", "B/1.png"]:
        save(tmp_path / name)
    (tmp_path / "empty").mkdir()
    source = folder(tmp_path)
    assert source.keys == ("B/1.png", "ape/2.png", "ape/young/1.png", "zebra/1.png")
    assert source.labels == require_labels(source) == (0, 1, 1, 2)
    assert source.class_names == ("B", "ape", "zebra")
    save(tmp_path / "beside.png")
    mixed = folder(tmp_path)
    assert mixed.labels is None and mixed.class_names is None
    with pytest.raises(BadInput, match=r"the source folder has no labels; .*folder\(root\) has them with"):
        require_labels(mixed)
    assert bundled().labels is None


@pytest.mark.parametrize("index", [-1, 1])
def test_numbers_that_are_not_there_are_refused(tmp_path: Path, index: int) -> None:
    save(tmp_path / "a.png")
    with pytest.raises(BadInput, match="images 0 to 0"):
        folder(tmp_path).image(index)
    with pytest.raises(BadInput, match="images 0 to 0"):
        batches(folder(tmp_path), FRAME, 4, image_ids=[index])


def call(function: Any, *arguments: Any) -> Any:
    """Call with arguments that the annotations forbid."""
    return function(*arguments)


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (lambda source: source.image("a.png"), "image: given a.png; expected the id of an image, a whole number"),
        (lambda source: source.image(0.5), "image: given 0.5; expected the id of an image"),
        (lambda source: source.part(3), "image_ids: given 3; expected a list of image ids"),
        (lambda source: source.part("0"), "image_ids: given 0; expected a list of image ids"),
        (lambda source: call(batches, source, FRAME, "4"), "batch_size: given 4; expected a whole number"),
        (lambda source: call(folder, 3), "root: given 3; expected the path of a folder of images"),
        (lambda source: call(folder, ""), "root: given ''; expected the path of a folder of images: '.' is"),
        (lambda source: call(webdataset, 3), "urls: given 3; expected a list of paths or URLs of tar shards"),
        (lambda source: call(webdataset, None), "urls: given None"),
        (lambda source: open_source("folder", root=3), "root: given 3; expected a text, as the source folder takes it"),
    ],
)
def test_mistakes_in_python_are_one_line(tmp_path: Path, mistake: Callable[[Source], object], said: str) -> None:
    save(tmp_path / "a.png")
    with jaxtyping_off(), pytest.raises(BadInput, match=said):
        mistake(folder(tmp_path))


def test_a_representation_is_short(tmp_path: Path) -> None:
    save(tmp_path / "a" / "a.png")
    assert repr(folder(tmp_path)) == "<Source folder: 1 images, 1 classes>"
    assert repr(bundled()) == f"<Source bundled: {len(bundled())} images>"


def test_what_a_record_says_of_its_source(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    source = folder(tmp_path)
    assert source.provenance("known") == {"source": {"name": "folder", "images": 1, "content": "known"}}
    assert source.provenance()["source"]["content"] == source.content_hash


def test_the_content_hash_knows_names_and_contents(tmp_path: Path) -> None:
    first, second = save(tmp_path / "a.png"), save(tmp_path / "b.png", picture(seed=1))
    before = folder(tmp_path).content_hash
    assert before == folder(tmp_path).content_hash and len(before) == 64
    first.rename(tmp_path / "aa.png")
    renamed = folder(tmp_path).content_hash
    save(tmp_path / "b.png", picture(seed=2))
    changed = folder(tmp_path).content_hash
    second.unlink()
    second.symlink_to(tmp_path / "nowhere.png")
    assert len({before, renamed, changed, folder(tmp_path).content_hash}) == 4


def test_sources_open_by_name(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    assert open_source("folder", root=str(tmp_path)) == folder(tmp_path)
    assert open_source("bundled") == bundled()
    shards = put(tmp_path / "a.tar", shard())
    assert open_source("webdataset", urls=[shards], copies=None) == webdataset(shards)
    with pytest.raises(UnknownName, match="expected one of bundled, folder, webdataset"):
        open_source("fodler")


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("bundled", {"root": "x"}, "the source bundled has no option root; it has none"),
        ("folder", {"root": "x", "urls": "y"}, "the source folder has no option urls; it has root"),
        (
            "webdataset",
            {"urls": "x", "root": "y"},
            "the source webdataset has no option root; it has urls, copies, class",
        ),
        ("folder", {}, "root: given None; expected a text: the source folder needs one"),
        ("webdataset", {"copies": "x"}, "urls: given None; expected a text: the source webdataset needs one"),
        ("folder", {"root": 100.0}, "root: given 100.0; expected a text, as the source folder takes it"),
    ],
)
def test_options_that_a_source_lacks_are_one_line(name: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises((UnknownName, BadInput), match=said):
        open_source(name, **given)


# --- bundled --------------------------------------------------------------------------------------------------------


def test_bundled_photographs_need_no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setitem(sys.modules, "pooch", None)
    source = bundled()
    assert len(source) == 36 and len(set(source.keys)) == 36
    assert source.keys[3] == "skimage/chelsea.png" and source.keys[-1] == "foolbox/imagenet_19_305.jpg"
    assert all(min(source.image(index).shape[:2]) >= 300 for index in range(0, 36, 5))
    assert source.keys == bundled().keys


def test_bundled_without_foolbox_keeps_the_other_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    everything, find = bundled(), importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "foolbox" else find(name))
    assert bundled().keys == everything.keys[:16]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match="no bundled photograph"):
        bundled()


# --- batches --------------------------------------------------------------------------------------------------------


def many(root: Path, good: int, bad: Sequence[str] = ()) -> Source:
    for number in range(good):
        save(root / f"{number:02d}.png", picture(20, 30, seed=number))
    for name in bad:
        (root / name).write_bytes(b"broken")
    return folder(root)


@pytest.mark.parametrize("batch_size", [1, 4, 7, 64])
def test_batches_are_the_images_in_order(tmp_path: Path, batch_size: int) -> None:
    source = many(tmp_path, 11)
    parts = list(batches(source, FRAME, batch_size))
    assert [len(index) for index, _ in parts[:-1]] == [batch_size] * (len(parts) - 1)
    assert all(frames.is_contiguous(memory_format=torch.channels_last) for _, frames in parts)
    index, frames = (torch.cat(items) for items in zip(*parts, strict=True))
    assert index.dtype == torch.int64 and index.tolist() == list(range(11))
    assert torch.equal(frames, torch.stack([FRAME.input_image(source.image(number)) for number in range(11)]))


def test_batches_of_asked_images_only(tmp_path: Path) -> None:
    index, frames = next(batches(many(tmp_path, 5), FRAME, 8, image_ids=torch.tensor([4, 0, 2])))
    assert index.tolist() == [4, 0, 2] and frames.shape == (3, 3, 16, 16)
    assert list(batches(folder(tmp_path), FRAME, 8, image_ids=[])) == []


def test_a_change_of_shape_starts_a_new_batch(tmp_path: Path) -> None:
    for number, width in enumerate([30, 30, 40, 40, 40, 30]):
        save(tmp_path / f"{number}.png", picture(20, width))
    whole = Preprocessing(None, 20, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    shapes = [(index.tolist(), frames.shape[3]) for index, frames in batches(folder(tmp_path), whole, 2)]
    assert shapes == [([0, 1], 30), ([2, 3], 40), ([4], 40), ([5], 30)]


def test_unreadable_images_are_named_and_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = many(tmp_path, 3, bad=["00a.png", "01a.jpg", "99.png"])  # exactly half
    skipped: list[tuple[int, str, str]] = [(-1, "of an earlier call", "")]
    with caplog.at_level(logging.WARNING, "deconv"):
        index = torch.cat([index for index, _ in batches(source, FRAME, 2, skipped=skipped)])
    assert [source.keys[number] for number in index] == ["00.png", "01.png", "02.png"]
    assert [item[:2] for item in skipped[1:]] == [(1, "00a.png"), (3, "01a.jpg"), (5, "99.png")]
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "skipped 00a.png",
        "skipped 01a.jpg",
        "skipped 99.png",
    ]


def test_more_than_half_unreadable_is_an_error(tmp_path: Path) -> None:
    source = many(tmp_path, 2, bad=["a.png", "b.png", "c.png"])
    with pytest.raises(BadInput, match=r"3 of the 5 images .*a\.png.*b\.png.*c\.png"):
        list(batches(source, FRAME, 2))
    skipped: list[tuple[int, str, str]] = []
    with pytest.raises(BadInput, match="1 of the 1 images"):
        list(batches(source, FRAME, 2, image_ids=[4], skipped=skipped))
    assert [item[0] for item in skipped] == [4]


def test_a_batch_size_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="batch_size: given 0"):
        batches(many(tmp_path, 1), FRAME, 0)


def test_decoding_runs_only_a_few_batches_ahead_and_stops_with_its_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, decoded = many(tmp_path, 60), []

    def spy(member: Member) -> np.ndarray:
        decoded.append(member)
        return decode(member)

    monkeypatch.setattr(source_module, "decode", spy)
    threads = threading.active_count()
    stream = batches(source, FRAME, 2)
    next(stream)
    stream.close()
    assert threading.active_count() == threads
    assert 2 <= len(decoded) <= 2 * (BATCHES_AHEAD + 1) + 1
