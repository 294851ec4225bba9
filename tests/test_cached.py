"""The frame cache: the frames that decoding gives, decoded once, and another file for anything else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import deconv
from deconv.errors import BadInput, UnreadableImage
from deconv.images import source as source_module
from deconv.images.batches import batches
from tests.samples import SIZE, photographs, with_preprocessing
from tests.test_mining import as_lists

LOOK = deconv.Preprocessing((SIZE, SIZE), SIZE + 3, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


def all_frames(source: deconv.Source) -> torch.Tensor:
    return torch.cat([frames for _, frames in batches(source, LOOK, 2)])


def test_cached_frames_are_those_of_decoding_and_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = photographs(tmp_path)
    expected = all_frames(source)
    assert torch.equal(all_frames(deconv.cached(source, LOOK, tmp_path / "cache")), expected)
    monkeypatch.setattr(source_module, "decode", lambda path: pytest.fail(f"{path} was decoded again"))
    again = deconv.cached(deconv.folder(tmp_path), LOOK, tmp_path / "cache")
    assert torch.equal(all_frames(again), expected) and again.content_hash == source.content_hash


def test_labels_are_kept(tmp_path: Path) -> None:
    photographs(tmp_path / "cat")
    photographs(tmp_path / "dog", 1)
    held = deconv.cached(deconv.folder(tmp_path), LOOK, tmp_path / "cache")
    assert held.labels == (0, 0, 0, 0, 0, 1) and held.class_names == ("cat", "dog")


def test_unreadable_images_stay_unreadable_the_last_one_too(tmp_path: Path) -> None:
    source = photographs(tmp_path)
    for name in ("1.png", "4.png"):
        (tmp_path / name).write_bytes(b"no picture")
    for _ in range(2):
        held = deconv.cached(source, LOOK, tmp_path / "cache")
        assert held.input_images.shape == (5, SIZE, SIZE, 3) and len(all_frames(held)) == 3
        with pytest.raises(UnreadableImage, match=r"4\.png cannot be read"):
            held.input_image(4, LOOK)


def test_other_content_or_preprocessing_makes_another_file(tmp_path: Path) -> None:
    source, cache = photographs(tmp_path / "photos"), tmp_path / "cache"
    deconv.cached(source, LOOK, cache)
    other = deconv.Preprocessing((SIZE, SIZE), None, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    with pytest.raises(BadInput, match="another preprocessing"):
        deconv.cached(source, LOOK, cache).input_image(0, other)
    deconv.cached(source, other, cache)
    (tmp_path / "photos" / "0.png").unlink()
    deconv.cached(deconv.folder(tmp_path / "photos"), LOOK, cache)
    assert len(list(cache.glob("*.npy"))) == 3


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    source = photographs(tmp_path / "photos")
    for member in source.members[:3]:
        member.path.write_bytes(b"no picture")
    with pytest.raises(BadInput, match="cannot be read"):
        deconv.cached(source, LOOK, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_frames_of_no_one_size_are_refused(tmp_path: Path) -> None:
    anything = deconv.Preprocessing(None, 30, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    with pytest.raises(BadInput, match="input images of one size"):
        deconv.cached(photographs(tmp_path), anything, tmp_path / "cache")


def test_mining_and_projection_from_the_cache_are_the_same(tmp_path: Path) -> None:
    source, net = photographs(tmp_path), with_preprocessing()
    held = deconv.cached(source, net.needed_preprocessing(), tmp_path / "cache")
    first, second = (deconv.mine(net, images, ["two"], k=3) for images in (source, held))
    assert as_lists(first["two"]) == as_lists(second["two"]) and first.provenance == second.provenance
    pixels = [deconv.project_peaks(net, images, "two", first["two"], [0, 1]).pixels for images in (source, held)]
    assert torch.equal(*pixels)
