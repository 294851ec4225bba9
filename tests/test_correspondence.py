"""Masking parts: annotation files, boxes in the frame, and the paper's distance on networks with a known answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import deconv
from deconv.analyses.correspondence import (
    Box,
    box_in_frame,
    change_signs,
    compare_signs,
    disagreement,
    masked,
    random_boxes,
    read_annotations,
)
from deconv.errors import BadInput, UnknownName

HEADER = "file,part,y0,x0,y1,x1\n"
GOOD = HEADER + "a.png,eye,1,2,5,8\na.png,nose,0,0,3,3\nb.png,nose,2,2,4,4\nb.png,eye,1,1,9,9\n"


def preprocessing(size: tuple[int, int] | None, resize: int | None) -> deconv.Preprocessing:
    return deconv.Preprocessing(size, resize, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


def colour_network() -> deconv.Network:
    """Thirty-two random mixtures of colours, rectified and averaged over the image: it does not know places."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return deconv.Network(nn.Sequential(*layers), (3, 24, 24), {"maps": "1", "top": "3"})


def planted() -> tuple[Tensor, list[Box]]:
    """Four images, each of another plain colour, with one and the same red square at another place in each."""
    images = torch.randn(4, 3, 1, 1, generator=torch.Generator().manual_seed(1)).repeat(1, 1, 24, 24)
    boxes = [(2, 3, 8, 9), (12, 1, 18, 7), (5, 15, 11, 21), (16, 16, 22, 22)]
    for image, (y0, x0, y1, x1) in zip(images, boxes, strict=True):
        image[:, y0:y1, x0:x1] = torch.tensor([2.0, -1.0, -1.0])[:, None, None]
    return images, boxes


def test_a_planted_part_scores_below_every_random_draw() -> None:
    (images, boxes), generator = planted(), torch.Generator().manual_seed(0)
    part = disagreement(colour_network(), images, boxes, ["top"])["top"]
    assert part.of_all.tolist() == [0.0] * 6 and part.of_moved.tolist() == [0.0] * 6
    for _ in range(10):
        places = random_boxes(boxes, [(0, 0, 24, 24)] * 4, generator)
        assert disagreement(colour_network(), images, places, ["top"])["top"].of_all.mean() > 0.1


def test_the_distance_is_the_papers_delta_by_pairs_and_features() -> None:
    signs = np.random.default_rng(0).integers(-1, 2, (5, 37)).astype(np.int8)
    delta = sum(int(signs[i, f] != signs[j, f]) for i in range(5) for j in range(5) if i != j for f in range(37))
    moved = [
        np.mean([a != b for a, b in zip(signs[i], signs[j], strict=True) if a or b])
        for i in range(5)
        for j in range(i + 1, 5)
    ]
    found = compare_signs(signs)
    assert found.of_all.mean() == pytest.approx(delta / (5 * 4) / 37)
    assert found.of_moved == pytest.approx(moved)
    assert found.moved == pytest.approx([(row != 0).mean() for row in signs])


def test_parts_that_change_nothing_disagree_nowhere() -> None:
    found = compare_signs(np.zeros((3, 8), np.int8))
    assert found.of_all.tolist() == found.of_moved.tolist() == [0.0, 0.0, 0.0]


def test_rounding_is_no_change() -> None:
    seen = torch.tensor([1.0, 1.0, 1.0]).view(1, 3, 1, 1)
    hidden = torch.tensor([1.0 + 1e-6, 0.9, 1.1]).view(1, 3, 1, 1)
    assert change_signs(seen, hidden).tolist() == [[0, 1, -1]]


def test_only_the_box_is_filled_with_the_mean() -> None:
    images = torch.ones(2, 3, 6, 6)
    hidden = masked(images, [(0, 0, 2, 3), (4, 5, 6, 6)])
    assert hidden.sum().item() == 2 * 108 - 3 * (6 + 2)
    assert not hidden[0, :, :2, :3].any() and not hidden[1, :, 4:, 5:].any() and bool((images == 1).all())


@pytest.mark.parametrize(
    ("size", "resize", "expected"),
    [
        (None, None, (10, 20, 30, 50)),  # as it is
        (None, 80, (20, 40, 60, 100)),  # twice as large
        ((40, 40), None, (10, 0, 30, 20)),  # the middle 40 of 100 columns start at 30: the part left of them is cut
        ((20, 20), 20, (5, 0, 15, 10)),
    ],
)
def test_boxes_follow_the_photograph_into_the_frame(
    size: tuple[int, int] | None, resize: int | None, expected: Box
) -> None:
    assert box_in_frame((10, 20, 30, 50), (40, 100), preprocessing(size, resize)) == expected


def test_a_box_outside_its_image_or_its_frame_is_refused() -> None:
    with pytest.raises(BadInput, match="outside its image of 40 x 100 pixels"):
        box_in_frame((10, 20, 41, 50), (40, 100), preprocessing(None, None))
    with pytest.raises(BadInput, match=r"nothing of the box \(10, 0, 30, 20\) is left in the 40 x 40 pixels"):
        box_in_frame((10, 0, 30, 20), (40, 100), preprocessing((40, 40), None))


def test_random_boxes_keep_their_size_and_reach_the_whole_region() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [random_boxes([(0, 0, 2, 3)], [(4, 5, 8, 10)], generator)[0] for _ in range(200)]
    assert {(y1 - y0, x1 - x0) for y0, x0, y1, x1 in drawn} == {(2, 3)}
    assert {box[:2] for box in drawn} == {(y, x) for y in (4, 5, 6) for x in (5, 6, 7)}
    with pytest.raises(BadInput, match="no random box of 5 x 3 pixels fits"):
        random_boxes([(0, 0, 5, 3)], [(4, 5, 8, 10)], generator)


def test_annotations_are_read(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text(GOOD)
    read = read_annotations(tmp_path / "boxes.csv")
    assert read["a.png"] == {"eye": (1, 2, 5, 8), "nose": (0, 0, 3, 3)} and list(read) == ["a.png", "b.png"]


def test_one_image_cannot_be_compared_and_layers_are_checked() -> None:
    images, boxes = planted()
    with pytest.raises(BadInput, match="given 1 images and 1 boxes"):
        disagreement(colour_network(), images[:1], boxes[:1], ["top"])
    with pytest.raises(UnknownName, match="unknown layer 'tip'"):
        disagreement(colour_network(), images, boxes, ["tip"])
