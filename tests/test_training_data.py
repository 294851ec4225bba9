"""Frames in memory with their classes, and what is cut from them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

import deconv
from deconv.errors import BadInput
from deconv.images import folder
from deconv.images.preprocessing import Preprocessing
from deconv.training.data import Labelled, load, random_crops, shuffled_crops, split
from tests.labelled import LOOK, bright_and_dark, folder_of


def test_images_are_loaded_as_the_network_sees_them(tmp_path: Path) -> None:
    source = folder(folder_of(tmp_path, each=3, side=24))
    data = load(source, LOOK)
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1] and data.images.is_contiguous()
    for number in range(6):
        assert torch.equal(data.images[number].permute(2, 0, 1), source.input_image(number, LOOK))
    some = load(source, LOOK, [5, 1])
    assert torch.equal(some.images, data.images[[5, 1]]) and some.labels.tolist() == [1, 0]
    again = load(deconv.cached(source, LOOK, tmp_path / "frames"), LOOK)
    assert torch.equal(again.images, data.images) and torch.equal(again.labels, data.labels)


def test_an_unreadable_image_is_left_out_with_its_label(tmp_path: Path) -> None:
    root = folder_of(tmp_path, each=3)
    (root / "bright" / "001.png").write_bytes(b"no image")
    data = load(folder(root), LOOK)
    assert data.labels.tolist() == [0, 0, 1, 1, 1]
    assert data.images.float().mean((1, 2, 3)).gt(150).tolist() == [True, True, False, False, False]


def test_what_cannot_be_trained_on_is_refused(tmp_path: Path) -> None:
    source = folder(folder_of(tmp_path, each=1))
    with pytest.raises(BadInput, match="has no labels"):
        load(dataclasses.replace(source, labels=None), LOOK)
    with pytest.raises(BadInput, match="all of one size"):
        load(source, dataclasses.replace(LOOK, size=None))
    with pytest.raises(BadInput, match="0 images"):
        load(source, LOOK, [])
    with pytest.raises(BadInput, match="square"):
        load(source, Preprocessing((16, 12), None, LOOK.mean, LOOK.std))
    with pytest.raises(BadInput, match="one label for each"):
        Labelled(torch.zeros(3, 4, 4, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), LOOK)


def test_every_tenth_image_is_held_out() -> None:
    trained_on, held_out = split(50_000, 0.1)
    assert held_out == list(range(9, 50_000, 10)) and sorted(trained_on + held_out) == list(range(50_000))
    assert len(split(1000, 0.29)[1]) == pytest.approx(290, abs=1)
    for share in (0.0, 1.0, -0.1, 0.01, float("nan")):
        with pytest.raises(BadInput, match="such as 0.1"):
            split(20, share)


def test_an_epoch_shows_every_image_once_with_its_label() -> None:
    data = bright_and_dark(50)
    batches = list(shuffled_crops(data, 16, (16, 16), 8, torch.Generator().manual_seed(0)))
    assert [len(labels) for _, labels in batches] == [8] * 6  # 50 = 6 * 8 + 2 left out
    crops, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert torch.equal(crops.float().mean((1, 2, 3)) > 110, labels == 1)
    assert len({(int(crop.sum()), int(crop.double().square().sum())) for crop in crops}) == 48  # mirrored or not
    assert not torch.equal(labels, data.labels[:48])


def test_crops_are_parts_of_their_image_and_some_are_mirrored() -> None:
    images = torch.arange(20 * 20, dtype=torch.int32).reshape(1, 20, 20, 1).remainder(251).to(torch.uint8)
    images = images.expand(32, 20, 20, 3)
    crops = random_crops(images, 16, (16, 16), torch.Generator().manual_seed(0))
    steps = (crops[:, 0, 1, 0].int() - crops[:, 0, 0, 0].int()).remainder(251)
    assert set(steps.tolist()) == {1, 250}
    assert len(crops[:, 8, 8, 0].unique()) > 16


def test_crops_of_every_side_come_out_at_one_size() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.full((4, 20, 20, 3), 77, dtype=torch.uint8)
    for _ in range(5):
        crops = random_crops(images, 14, (10, 20), generator)
        assert crops.shape == (4, 14, 14, 3) and crops.dtype == torch.uint8 and (crops == 77).all()
