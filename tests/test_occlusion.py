"""deconv/analyses/occlusion.py: a unit that looks for one blob is found by the square, in both ways."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deconv.analyses import occlusion
from deconv.errors import BadInput, UnknownName
from deconv.figures.occlusion import MOST_NAMED, PROJECTION_SIDE, OcclusionRow, occlusion_figure
from deconv.figures.pictures import recon_tiles
from deconv.network import Network
from deconv.network.squares import places
from deconv.projection import project
from tests.drawn import axes_of

SIDE, BLOB = 40, 5
RED, GREEN = (9, 24), (28, 6)
"""First row and column of a blob of each colour."""


def blobs() -> Tensor:
    image = torch.zeros(3, SIDE, SIDE)
    for colour, (row, col) in enumerate((RED, GREEN)):
        image[colour, row : row + BLOB, col : col + BLOB] = 1
    return image


def blob_finder() -> Network:
    """Unit 0 fires for a whole red blob alone, unit 1 for a green one; the classes are red and green."""
    find = nn.Conv2d(3, 2, BLOB, padding=BLOB // 2)
    assert find.bias is not None
    with torch.no_grad():
        find.weight.zero_()
        find.weight[0, 0] = find.weight[1, 1] = 1.0
        find.bias.fill_(0.5 - BLOB * BLOB)
    head = nn.Linear(2, 2)
    with torch.no_grad():
        head.weight.copy_(20 * torch.eye(2))
        head.bias.copy_(torch.tensor([5.0, 0.0]))
    return Network(nn.Sequential(find, nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), head), (3, SIDE, SIDE))


def covers(seen: occlusion.Occlusion, blob: tuple[int, int]) -> Tensor:
    """(R, C): whether the square touches the blob."""
    rows, cols = (
        (first < start + BLOB) & (first + seen.square > start)
        for first, start in zip((seen.rows, seen.cols), blob, strict=True)
    )
    return rows[:, None] & cols


@pytest.mark.parametrize("incremental", [True, False])
def test_the_square_finds_the_blob_that_a_unit_looks_for(incremental: bool) -> None:
    network = blob_finder()
    seen = occlusion.occlude(network, blobs(), "1", 0, square=8, stride=2, batch_size=7, incremental=incremental)
    over = covers(seen, RED)
    assert over.any() and not over.all()
    assert seen.activity_before == 0.5
    assert torch.equal(seen.drop, torch.where(over, 0.5, 0.0))
    assert torch.equal(seen.probability.argmax(dim=2), torch.where(over & ~covers(seen, GREEN), 1, 0))


def test_the_fall_lies_where_the_projection_does_and_not_where_anothers_does() -> None:
    network, image = blob_finder(), blobs()
    seen = occlusion.occlude(network, image, "1", 0, square=8, stride=2)
    rows, cols = ([place[axis] + BLOB // 2 for place in (RED, GREEN)] for axis in (0, 1))
    recon = project(network, image[None], "1", [0, 0], [0, 1], rows, cols)
    own, other = (occlusion.energy_under(pixels, seen) for pixels in recon.paste())
    ours, control = occlusion.correlation(seen.drop, own), occlusion.correlation(seen.drop, other)
    assert ours is not None and control is not None
    assert ours > 0.75 and control < 0.1  # the fall is all or nothing, the energy gradual


def test_both_ways_agree_on_a_network_with_stride_and_pools() -> None:
    torch.manual_seed(0)
    trunk = [nn.Conv2d(3, 6, 5, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU()]
    network = Network(nn.Sequential(*trunk, nn.Flatten(), nn.Linear(8 * 14 * 10, 5)), (3, 61, 47))
    image, colour = torch.randn(3, 61, 47), torch.tensor([0.3, -0.2, 0.1])
    kinds = [occlusion.occlude(network, image, "4", 3, 16, 5, colour, 10, incremental) for incremental in (True, False)]
    assert kinds[0].activity.shape == (len(kinds[0].rows), len(kinds[0].cols)) == (10, 7)
    assert float((kinds[0].activity - kinds[1].activity).abs().max()) <= 1e-5 * float(kinds[1].activity.max())
    assert float((kinds[0].probability - kinds[1].probability).abs().max()) <= 1e-5
    assert float(kinds[1].drop.abs().max()) > 0


def test_a_square_of_the_images_own_colour_changes_nothing() -> None:
    seen = occlusion.occlude(blob_finder(), torch.full((3, SIDE, SIDE), 0.25), "1", 0, 10, 10, torch.full((3,), 0.25))
    assert torch.equal(seen.probability, seen.probability_before.expand_as(seen.probability))


def test_places_are_even_within_and_share_what_is_left() -> None:
    assert places(20, 5, 5).tolist() == [0, 5, 10, 15]
    assert places(23, 5, 5).tolist() == [1, 6, 11, 16]  # 3 pixels are left, 1 before and 2 after
    assert places(7, 7, 3).tolist() == [0]


@pytest.mark.parametrize(
    ("square", "stride", "expected"),
    [
        (41, 1, "square: given 41; expected a square that fits into the image of 40 pixels"),
        (0, 1, "square: given 0; expected a whole number, 1 or more"),
        (5, 0, "stride: given 0"),
    ],
)
def test_a_square_that_does_not_fit_is_refused(square: int, stride: int, expected: str) -> None:
    with pytest.raises(BadInput, match=expected):
        occlusion.occlude(blob_finder(), blobs(), "1", 0, square, stride)


def test_what_the_network_does_not_have_is_refused() -> None:
    with pytest.raises(UnknownName, match="unknown layer '7'"):
        occlusion.occlude(blob_finder(), blobs(), "7", 0, 8, 8)
    trunk = Network(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), (3, SIDE, SIDE))
    with pytest.raises(BadInput, match="no class outputs"):
        occlusion.occlude(trunk, blobs(), "1", 0, 8, 8)


def test_the_strongest_unit_has_the_largest_sum() -> None:
    image = blobs()
    image[1] *= 2
    assert occlusion.strongest_unit(blob_finder(), image, "1") == 1


def test_energy_under_the_square_is_the_sum_of_squares_there() -> None:
    seen = occlusion.occlude(blob_finder(), blobs(), "1", 0, square=9, stride=4)
    pixels = torch.randn(3, SIDE, SIDE)
    slow = [[pixels[:, row : row + 9, col : col + 9].double().square().sum() for col in seen.cols] for row in seen.rows]
    assert torch.allclose(occlusion.energy_under(pixels, seen), torch.tensor(slow, dtype=torch.float64))


def test_correlation() -> None:
    rising = torch.arange(6.0).view(2, 3)
    assert occlusion.correlation(rising, 3 - 2 * rising) == pytest.approx(-1)
    assert occlusion.correlation(rising, torch.ones(2, 3)) is None


def made_up_row(classes: int = 10) -> OcclusionRow:
    """A square of 4 pixels over 3 x 3 positions; each most probably of another class, and class 1 least at (2, 1)."""
    probability = torch.full((3, 3, classes), 0.01)
    for n in range(9):
        probability[n // 3, n % 3, n] = 0.5
    probability[..., 1] = torch.arange(9.0).view(3, 3).flip(0) / 20 + 0.2
    probability[2, 1, 1] = 0.1
    steps = torch.tensor([0, 4, 8])
    activity = torch.arange(9.0).view(3, 3)
    seen = occlusion.Occlusion("conv5", 7, 4, steps, steps, activity, 9.0, probability, probability[0, 0])
    image = torch.full((3, 12, 12), 100, dtype=torch.uint8)
    projections = list(torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0)))
    names = [f"class {n}" for n in range(classes)]
    return OcclusionRow("class 1", image, torch.tensor([255.0, 0.0, 51.0]), seen, 1, names, projections)


def test_the_figure_shows_the_maps_where_the_square_was() -> None:
    row = made_up_row()
    figure = occlusion_figure([row], "heading", "caption")
    image, activity, projections, probability, labels = (axes for axes in axes_of(figure) if axes.get_title(loc="left"))
    (square,) = image.patches
    assert square.get_xy() == (3.5, 7.5) and square.get_width() == 4
    assert square.get_facecolor() == pytest.approx((1, 0, 0.2, 1))
    for axes, values in ((activity, row.seen.activity), (probability, row.seen.probability[..., 1])):
        pale, shown = axes.get_images()
        assert np.allclose(pale.get_array(), 1 - 0.45 * (1 - 100 / 255))
        assert np.array_equal(shown.get_array(), values) and shown.get_extent() == [-0.5, 11.5, 11.5, -0.5]
    assert activity.get_title(loc="left") == "(b) activity of conv5, unit 7"
    assert probability.get_title(loc="left") == "(d) probability of class 1"
    (page,) = projections.get_images()
    tiles = recon_tiles(torch.stack(list(row.projections)), PROJECTION_SIDE)
    assert np.array_equal(np.asarray(page.get_array())[:PROJECTION_SIDE, -PROJECTION_SIDE:], tiles[1])
    (frame,) = projections.patches
    assert frame.get_xy() == (-0.5, -0.5) and frame.get_width() == PROJECTION_SIDE
    assert [len(axes.child_axes) for axes in axes_of(figure)] == [0, 1, 0, 1, 0]  # two maps have a bar of colours
    assert labels.get_legend() is not None
    assert figure.get_suptitle() == "heading" and figure.get_supxlabel() == "caption"


def test_the_rarer_labels_are_one_colour_and_are_counted() -> None:
    row = made_up_row()
    figure = occlusion_figure([row], "heading", "caption")
    (axes,) = (axes for axes in axes_of(figure) if axes.get_legend() is not None)
    legend = axes.get_legend()
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    counts = torch.bincount(row.labels.flatten())
    assert len(texts) == MOST_NAMED + 1 and texts[-1].startswith(f"other ({int((counts > 0).sum()) - MOST_NAMED})")
    kinds = np.asarray(axes.get_images()[1].get_array())
    for n, text in enumerate(texts[:-1]):
        label = int(text.split(",")[0].removeprefix("class "))
        assert np.array_equal(kinds == n, row.labels == label)
