"""reframing.py: frames of moved photographs, against torchvision where both give the same, and geometry."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deconv.analyses.reframing import Move, reframing
from deconv.errors import BadInput, DeconvError
from deconv.images.preprocessing import Preprocessing

STILL = Move()


def preprocessing(size: tuple[int, int] | None = (40, 40), resize: int | None = None) -> Preprocessing:
    return Preprocessing(size, resize, (0.2, 0.4, 0.6), (1.0, 1.0, 1.0))


def photograph(height: int, width: int) -> np.ndarray:
    """Smooth enough that a pixel's neighbours are near, with detail."""
    coarse = np.random.default_rng(0).integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), dtype=np.uint8)
    return coarse.repeat(6, 0).repeat(6, 1)[:height, :width].copy()


@pytest.mark.parametrize("resize", [None, 47])
@pytest.mark.parametrize("shape", [(61, 83), (95, 50), (40, 44), (30, 25)])
def test_the_unmoved_frame_is_the_networks_own(shape: tuple[int, int], resize: int | None) -> None:
    image, usual = photograph(*shape), preprocessing(resize=resize)
    found, filled = reframing(image, usual, [STILL, Move(scale=9.0)], room=1).input_image(STILL)
    apart = (found.int() - usual.input_image(image).int()).abs()
    assert filled == 0 and found.shape == (3, 40, 40)
    inner = apart[:, 2:-2, 2:-2]  # at the photograph's border torchvision leaves taps away, here they are mirrored
    assert int(inner.max()) <= 1 and float(apart.float().mean()) < 0.5


def test_moving_down_shows_the_same_pixels_lower() -> None:
    cut = reframing(photograph(90, 60), preprocessing(), [Move(down=7), Move(scale=1.8)])
    still, moved = cut.input_image(STILL)[0], cut.input_image(Move(down=7))[0]
    assert torch.equal(moved[:, 7:], still[:, :-7]) and not torch.equal(moved, still)


def test_a_quarter_turn_moves_whole_pixels_counter_clockwise() -> None:
    cut = reframing(photograph(70, 70), preprocessing(), [Move(degrees=45)])
    still = cut.input_image(STILL)[0]
    for quarters in (1, 2, 3):
        assert torch.equal(cut.input_image(Move(degrees=90.0 * quarters))[0], torch.rot90(still, quarters, (1, 2)))


def test_a_turn_and_a_scale_carry_a_blob_where_geometry_says() -> None:
    image = np.zeros((101, 101, 3), dtype=np.uint8)
    image[49:52, 69:72] = 255  # 20 pixels right of the centre
    cut = reframing(image, preprocessing((61, 61), 101), [STILL], room=1)
    for move, row, col in ((Move(degrees=30), 30 - 10, 30 + 17.32), (Move(scale=1.2), 30, 54), (Move(down=5), 35, 50)):
        frame = cut.input_image(move)[0][0].double()
        rows, cols = torch.meshgrid(torch.arange(61.0), torch.arange(61.0), indexing="ij")
        middle = [float((frame * places).sum() / frame.sum()) for places in (rows, cols)]
        assert middle == pytest.approx([row, col], abs=0.1)


def test_reducing_does_not_alias() -> None:
    stripes = np.zeros((400, 400, 3), dtype=np.uint8)
    stripes[::2] = 255
    for move in (STILL, Move(degrees=20), Move(scale=1.3)):
        frame = reframing(stripes, preprocessing(), [STILL, Move(scale=1.8)], room=1).input_image(move)[0]
        assert int(frame.min()) >= 120 and int(frame.max()) <= 135


def test_the_room_is_what_the_moves_need_and_no_more() -> None:
    moves = [Move(down=15), Move(degrees=45), Move(scale=0.8)]
    cut = reframing(photograph(80, 60), preprocessing(), moves)
    assert all(cut.input_image(move)[1] == 0 for move in moves)
    tighter = reframing(photograph(80, 60), preprocessing(), moves, room=0.9 * cut.room)
    assert any(tighter.input_image(move)[1] > 0 for move in moves)
    assert reframing(photograph(80, 60), preprocessing(), [STILL]).room == pytest.approx(1, abs=0.03)


def test_what_lies_outside_is_filled_and_counted() -> None:
    image = photograph(40, 40)
    mirrored, share = reframing(image, preprocessing(), [STILL], "reflect", 1).input_image(Move(down=10))
    assert share == 0.25
    assert torch.equal(mirrored[:, :10], mirrored[:, 10:20].flip(1))
    plain, share = reframing(image, preprocessing(), [STILL], "mean", 1).input_image(Move(down=10))
    assert share == 0.25
    assert torch.equal(plain[:, :10], torch.tensor([51, 102, 153], dtype=torch.uint8)[:, None, None].expand(3, 10, 40))
    assert torch.equal(plain[:, 10:], mirrored[:, 10:])


def test_mistakes() -> None:
    for arguments in ({"fill": "wrap"}, {"room": 0.5}):
        with pytest.raises(DeconvError, match=next(iter(arguments))):
            reframing(photograph(40, 40), preprocessing(), [STILL], **arguments)
    with pytest.raises(BadInput, match="preprocessing.size: given None"):
        reframing(photograph(40, 40), preprocessing(None), [STILL])
