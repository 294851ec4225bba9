"""A Dataset serves wherever images are asked for: its items are the pictures they hold, the same at every reading."""

from __future__ import annotations

import gc
import pickle
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision import tv_tensors
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import deconv
from deconv.analyses.layers import extract
from deconv.compare.peak_set import gather_peaks
from deconv.errors import BadInput, DeconvError, UnreadableImage
from deconv.images import check_source, datasets
from deconv.mining import mine_into
from tests.labelled import folder_of
from tests.samples import photographs, with_preprocessing

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY = np.repeat(PIXELS[:, :, :1], 3, axis=2)
PICTURE = Image.fromarray(PIXELS)
LIKE_TORCHVISION = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
CHANNELS_FIRST = torch.from_numpy(PIXELS).permute(2, 0, 1)
LETTERS = ["a", "b", "a", "c", "b", "a"]


@dataclass(eq=False)
class Made(Dataset[Any]):
    """Items as they are given, counted as they are read."""

    items: Sequence[Any]
    reads: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        self.reads.append(index)
        if isinstance(self.items[index], Exception):
            raise self.items[index]
        return self.items[index]


def flat(level: int) -> Image.Image:
    return Image.new("RGB", (20, 20), (level, level, 0))


# --- items ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (PICTURE, PIXELS),
        (Image.fromarray(PIXELS[:, :, 0]), GREY),
        (Image.fromarray(PIXELS[:, :, 0]).convert("P"), GREY),
        (Image.fromarray(np.dstack([PIXELS, np.zeros((6, 9), np.uint8)])), np.full_like(PIXELS, 255)),
        (PIXELS, PIXELS),
        (PIXELS.transpose(2, 0, 1), PIXELS),
        (PIXELS[:, :, 0], GREY),
        (PIXELS[:, :, :1], GREY),
        (PIXELS[None, :, :, 0], GREY),
        (torch.from_numpy(PIXELS), PIXELS),
        (CHANNELS_FIRST, PIXELS),
        (CHANNELS_FIRST[:1], GREY),
        (tv_tensors.Image(CHANNELS_FIRST), PIXELS),
        (CHANNELS_FIRST[:, :, :3], PIXELS[:, :3]),  # both readings fit: a tensor's channels are first,
        (PIXELS[:3], PIXELS[:3]),  # an array's last
        (v2.functional.to_dtype(CHANNELS_FIRST, torch.float32, scale=True), PIXELS),
        (CHANNELS_FIRST.double() / 255, PIXELS),
        (PIXELS / np.float32(255), PIXELS),
        ((PICTURE, 3), PIXELS),
        ([PICTURE, 3, "more"], PIXELS),
        ((PICTURE,), PIXELS),
        ({"image": PICTURE, "label": 1}, PIXELS),
        ({"id": 3, "img": CHANNELS_FIRST}, PIXELS),
    ],
)
def test_an_item_is_the_picture_it_holds(item: Any, expected: np.ndarray) -> None:
    source = deconv.dataset(Made([item, item]))
    assert len(source) == 2 and source.keys == ("0", "1")
    assert source.image(1).dtype == np.uint8 and np.array_equal(source.image(1), expected)


@pytest.mark.parametrize("level", range(0, 256, 5))
def test_bytes_that_were_made_floats_are_the_same_bytes_again(level: int) -> None:
    item = LIKE_TORCHVISION(flat(level))
    assert deconv.dataset([item]).image(0)[0, 0].tolist() == [level, level, 0]


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (
            torch.randn(3, 8, 8),
            r"item 0 .*Tensor of shape \(3, 8, 8\) and torch\.float32 from -.*dataset\.transform = None",
        ),
        (v2.Resize(4)(LIKE_TORCHVISION(PICTURE)), r"from 0\.\d+ to 0\.\d+; .*it was normalised or resized"),
        (CHANNELS_FIRST.float(), r"from \d+ to 2\d\d; .*make it uint8, 0 to 255"),
        (torch.full((3, 4, 4), torch.nan), "normalised"),
        (CHANNELS_FIRST.long(), r"torch\.int64; .*make it uint8, 0 to 255"),
        (PIXELS > 3, "bool; .*make it uint8"),
        (np.zeros((4, 4, 4), np.uint8), r"shape \(4, 4, 4\) and uint8; .*reorder its axes"),
        (np.zeros((2, 3, 4, 4), np.uint8), r"\(2, 3, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        ("a.png", r"item 0 of the dataset is a\.png; expected a PIL image, .*PIL.Image.open\(path\)"),
        ((3, PICTURE), r"item 0 of the dataset is 3; .*dataset\(images, image=KEY\)"),
        ({"photo": PICTURE, "n": 3}, r"has photo, n; expected one of image, img, .*dataset\(images, image=KEY\)"),
        ({}, "has nothing; expected one of image"),
        (Image.new("I", (3, 3)), "item 0 of the dataset list cannot be read .samples of 32 bits"),
    ],
)
def test_what_is_no_picture_is_one_line(item: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said) as raised:
        deconv.dataset([item])
    assert "\n" not in str(raised.value)


def test_keys_and_places_of_image_and_label_can_be_said() -> None:
    assert deconv.dataset([{"photo": PICTURE, "kind": 4}], image="photo", label="kind").labels == (4,)
    source = deconv.dataset([(7, "x", PICTURE)], image=2, label=0)
    assert source.labels == (7,) and np.array_equal(source.image(0), PIXELS)
    with pytest.raises(BadInput, match="image: given phto; expected the image's key or place in item 0 .*photo, kind"):
        deconv.dataset([{"photo": PICTURE, "kind": 4}], image="phto")
    with pytest.raises(BadInput, match="label: given 2; .* one of 0, 1"):
        deconv.dataset([(PICTURE, 1)], label=2)
    with pytest.raises(BadInput, match="label: given label; .* one of 0"):
        deconv.dataset([PICTURE], label="label")


# --- labels and keys ------------------------------------------------------------------------------------------------


class Listed(Made):
    """A Dataset that lists its labels, rightly or not."""

    targets: Any = None
    classes: Any = None


def listed(labels: Sequence[Any], targets: Any = None, classes: Any = None) -> Listed:
    made = Listed([(flat(n), label) for n, label in enumerate(labels)])
    made.targets, made.classes = targets, classes
    return made


MANY = [n % 3 for n in range(40)]


@pytest.mark.parametrize("as_listed", [list, np.array, torch.tensor])
def test_labels_come_from_the_list_that_the_items_agree_with(as_listed: Callable[[Any], Any]) -> None:
    images = listed(MANY, as_listed(MANY), ["x", "y", "z"])
    source = deconv.dataset(images)
    assert source.labels == tuple(MANY) and source.class_names == ("x", "y", "z")
    assert len(set(images.reads)) == datasets.PROBES


@pytest.mark.parametrize("targets", [None, 3, MANY[:-1], [*MANY[1:], 0], [{}] * 40, torch.tensor(3)])
def test_labels_come_from_the_items_where_no_list_agrees(targets: Any) -> None:
    images = listed(MANY, targets)
    source = deconv.dataset(images)
    assert source.labels == tuple(MANY) and source.class_names is None and set(images.reads) == set(range(40))


def test_a_list_before_a_transform_of_targets_is_not_taken(tmp_path: Path) -> None:
    root = folder_of(tmp_path, each=10)
    turned = ImageFolder(root, target_transform=lambda label: 1 - label)
    assert deconv.dataset(turned).labels == (1,) * 10 + (0,) * 10


@pytest.mark.parametrize(
    ("labels", "expected", "names"),
    [
        (LETTERS, (0, 1, 0, 2, 1, 0), ("a", "b", "c")),
        ([torch.tensor(2), np.int64(0), torch.tensor([1]), 1], (2, 0, 1, 1), None),
        ([0, 1, None, 1], None, None),
        ([0, -1, 1], None, None),
        ([True, False], None, None),
        ([0.5, 1.5], None, None),
        ([0, "a", 1], None, None),
        ([{"boxes": 3}] * 3, None, None),
        ([torch.zeros(4, 4)] * 3, None, None),
    ],
)
def test_labels_are_numbers_or_texts_of_every_item(labels: Any, expected: Any, names: Any) -> None:
    source = deconv.dataset(listed(labels))
    assert source.labels == expected and source.class_names == names


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (["x", "y", "z", "unused"], ("x", "y", "z", "unused")),
        ([("tench", "Tinca tinca"), ("ruff",), ("ide",)], ("tench, Tinca tinca", "ruff", "ide")),
        (["x", "y"], None),
        (10, None),
        ([1, 2, 3], None),
    ],
)
def test_names_of_classes_are_those_of_a_dataset_that_has_enough(classes: Any, expected: Any) -> None:
    assert deconv.dataset(listed([0, 1, 2], classes=classes)).class_names == expected


def test_texts_are_numbered_as_the_classes_are() -> None:
    source = deconv.dataset(listed(LETTERS, classes=["c", "b", "a"]))
    assert source.labels == (2, 1, 2, 0, 1, 2) and source.class_names == ("c", "b", "a")


def test_an_image_folder_is_what_the_folder_is(tmp_path: Path) -> None:
    root = folder_of(tmp_path, each=12)
    expected, source = deconv.folder(root), deconv.dataset(ImageFolder(root))
    assert (source.keys, source.labels, source.class_names) == (expected.keys, expected.labels, expected.class_names)
    assert all(np.array_equal(source.image(n), expected.image(n)) for n in range(24))
    assert repr(source) == "<Source dataset: 24 images, 2 classes>"


def test_parts_and_joins_of_datasets_keep_labels_keys_and_names(tmp_path: Path) -> None:
    images = ImageFolder(folder_of(tmp_path, each=12))
    part = deconv.dataset(Subset(images, [20, 3, 5]))
    assert part.keys == ("dark/008.png", "bright/003.png", "bright/005.png")
    assert part.labels == (1, 0, 0) and part.class_names == ("bright", "dark")
    joined = deconv.dataset(ConcatDataset([images, Subset(images, [13])]))
    assert joined.labels == (*deconv.dataset(images).labels, 1) and joined.class_names == ("bright", "dark")  # type: ignore[misc]
    assert joined.keys[:2] == ("00", "01") and len(joined) == 25


def test_a_part_of_the_source_keeps_ids_and_can_be_sent() -> None:
    part = pickle.loads(pickle.dumps(deconv.dataset(Made([flat(n) for n in range(5)])).part([3, 1])))
    assert part.ids == (3, 1) and part.keys == ("3", "1") and part.image(3)[0, 0].tolist() == [3, 3, 0]


# --- the same at every reading --------------------------------------------------------------------------------------


def test_the_content_hash_is_that_of_the_pixels() -> None:
    made = [flat(n) for n in range(3)]
    expected = deconv.dataset(made).content_hash
    assert expected == deconv.dataset([np.array(picture) for picture in made]).content_hash
    assert expected == deconv.dataset([(LIKE_TORCHVISION(picture), 0) for picture in made]).content_hash
    assert expected != deconv.dataset(made[::-1]).content_hash
    assert expected != deconv.dataset([flat(0), flat(1), flat(3)]).content_hash
    assert deconv.dataset(made).provenance()["source"] == {"name": "dataset", "images": 3, "content": expected}


def test_random_transforms_are_one_line(tmp_path: Path) -> None:
    photographs(tmp_path / "a", 4)
    with pytest.raises(
        BadInput, match="item 0 of the dataset ImageFolder is not the image .*leave random transforms out"
    ):
        deconv.dataset(ImageFolder(tmp_path, v2.RandomCrop(5)))


def test_an_item_that_changes_is_refused_until_it_is_taken_anew() -> None:
    images, network = Made([flat(n) for n in range(4)]), with_preprocessing()
    peaks = deconv.mine(network, images, ["one"], k=2)["one"]
    expected = [peaks.score[1].tolist(), peaks.image[1].tolist()]
    images.items = [*images.items[:3], flat(99)]
    with pytest.raises(BadInput, match=r"item 3 of the dataset Made is not .*anew by deconv\.dataset\(images\)"):
        deconv.mine(network, images, ["one"], k=2)
    images.items = [*images.items[:3], flat(3)]
    again = deconv.mine(network, images, ["one"], k=2)["one"]
    assert [again.score[1].tolist(), again.image[1].tolist()] == expected
    images.items = [*images.items[:3], flat(99)]
    before = deconv.mine(network, deconv.dataset(images), ["one"], k=2)
    assert before.provenance["source"] == deconv.mine(network, images, ["one"], k=2).provenance["source"]


def test_what_is_handed_over_again_is_not_read_again() -> None:
    images, network = Made([flat(n * 9) for n in range(20)]), with_preprocessing()
    peaks = deconv.mine(network, images, ["one"], k=1)["one"]
    mined = len(images.reads)
    recon = deconv.project_peaks(network, images, "one", peaks, [1])
    assert len(recon) == 1 and len(images.reads) <= mined + 3
    images.reads.clear()
    deconv.patches_of(network, images, recon)
    assert images.reads == recon.image.tolist()  # nothing more for the content hash
    images.items = [*images.items, flat(200)]
    assert len(check_source(images)) == 21


def test_what_is_remembered_goes_with_the_dataset() -> None:
    images = Made([flat(1)])
    identity = id(images)
    deconv.dataset(images)
    assert identity in datasets._known
    del images
    gc.collect()
    assert identity not in datasets._known


def test_items_are_read_one_at_a_time() -> None:
    class Alone(Made):
        """Fails if it is read while it is read."""

        busy = threading.Lock()

        def __getitem__(self, index: int) -> Any:
            assert self.busy.acquire(blocking=False)
            time.sleep(0.001)
            self.busy.release()
            return super().__getitem__(index)

    peaks = deconv.mine(with_preprocessing(), Alone([flat(n) for n in range(40)]), ["one"], k=1)
    assert peaks.provenance["unreadable"] == []


def test_an_item_that_fails_is_skipped_and_named() -> None:
    broken = OSError("broken\ndata stream")
    images = Made([flat(0), broken, flat(2), flat(3)])
    source = deconv.dataset(images)
    assert source.labels is None
    with pytest.raises(UnreadableImage, match="item 1 of the dataset Made cannot be read .broken"):
        source.image(1)
    peaks = deconv.mine(with_preprocessing(), images, ["one"], k=2)
    ((number, key, reason),) = peaks.provenance["unreadable"]
    assert (number, key) == (1, "1") and "cannot be read (broken)" in reason
    with pytest.raises(BadInput, match="item 0 of the dataset Made cannot be read"):
        deconv.dataset(Made([broken] * 3))
    with pytest.raises(BadInput, match="3 of the 4 images of the source dataset cannot be read"):
        deconv.mine(with_preprocessing(), Made([broken, flat(1), broken, broken]), ["one"])


def test_an_item_that_fails_among_labelled_ones_leaves_none(caplog: pytest.LogCaptureFixture) -> None:
    images = Made([(flat(n), n % 2) for n in range(20)])
    images.items = [*images.items[:3], OSError("gone"), *images.items[4:]]
    assert deconv.dataset(images).labels is None and "the dataset has no labels, as one item's" in caplog.text
    with pytest.raises(BadInput, match=r"the source dataset has no labels; .*a Dataset with a label in every item"):
        deconv.images.require_labels(deconv.dataset(images))


# --- wherever images are asked for ----------------------------------------------------------------------------------


def test_every_function_takes_a_dataset(tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    folder = photographs(tmp_path / "all" / "one")
    images, network = ImageFolder(tmp_path / "all"), with_preprocessing()
    expected = deconv.mine(network, folder, ["one"], k=2)["one"]
    mined = deconv.mine(network, images, ["one"], k=2)
    peaks = mined["one"]
    assert torch.equal(peaks.score, expected.score) and torch.equal(peaks.image, expected.image)
    assert mined.provenance["source"]["content"] == deconv.dataset(images).content_hash
    assert mined.keys() == {"one"} and set(mined.image_keys.values()) <= set(deconv.dataset(images).keys)
    recon = deconv.project_peaks(network, images, "one", peaks, [0, 3])
    assert torch.equal(recon.pixels, deconv.project_peaks(network, folder, "one", expected, [0, 3]).pixels)
    patches, as_files = deconv.patches_of(network, images, recon), deconv.patches_of(network, folder, recon)
    assert torch.equal(patches.pixels, as_files.pixels)
    for images_again in (images, deconv.dataset(images)):  # the second time the record is taken up
        kept = mine_into(tmp_path / "peaks.safetensors", network, images_again, ["one"], 2)
        assert kept.provenance["source"] == mined.provenance["source"]
    assert network.preprocessing is not None
    held = deconv.cached(images, network.preprocessing, tmp_path / "cache")
    assert held.known_content == deconv.dataset(images).content_hash
    assert torch.equal(deconv.mine(network, held, ["one"], k=2)["one"].score, peaks.score)
    assert len(extract(network, images, ["one"], tmp_path / "features")["one"]) == 5
    assert len(gather_peaks(network, images, "one", peaks, [1]).channel) == 2
    assert deconv.write_atlas(network, mined, images, tmp_path / "site").is_file()


class Stream(IterableDataset[Any]):
    """Images one after another."""

    def __iter__(self) -> Iterator[Any]:
        yield PICTURE


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([], "images: given a list of no items; expected at least one"),
        ("photos", "images: given photos; expected a map-style Dataset"),
        (3, "images: given a int; expected a map-style Dataset"),
        (Stream(), "images: given a stream, Stream; .*a list of its first items"),
        ({"train": [PICTURE], "test": [PICTURE]}, "images: given a mapping of train, test; .*give one of them"),
        (DataLoader(Made([PICTURE])), r"given a DataLoader; .*images\.dataset is the one"),
    ],
)
def test_what_is_no_dataset_is_one_line(images: Any, said: str, unchecked: None) -> None:
    with pytest.raises(DeconvError, match=said) as raised:
        deconv.dataset(images)
    assert "\n" not in str(raised.value)


def test_arrays_and_lists_of_pictures_are_datasets_too() -> None:
    stack = np.stack([PIXELS, GREY])
    for images in (stack, torch.from_numpy(stack), list(stack), TensorDataset(torch.from_numpy(stack))):
        assert np.array_equal(deconv.dataset(images).image(1), GREY)
    with pytest.raises(DeconvError, match=re.escape("deconv.dataset(images) takes such pictures")):
        deconv.patches_of(
            with_preprocessing(),
            list(stack),
            deconv.project(with_preprocessing(), torch.rand(1, 3, 20, 20), "one", [0], [0], [0], [0]),
        )
