"""Boxes (y0, x0, y1, x1) in images: what of them lies inside, and pictures cut from one box to another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor

NEARLY_ALL = 0.75
"""An effective field that is longer than so much of the field tells nothing, and the field is shown."""


def clip(low: int, high: int, size: int) -> tuple[slice, slice]:
    """Return the part of [low, high) that lies in [0, size): counted from 0, and counted from `low`."""
    first, last = min(max(low, 0), size), min(max(high, 0), size)
    return slice(first, last), slice(first - low, last - low)


def recut(
    pictures: Shaped[Tensor, "n ... h w"], box: Int64[Tensor, "n 4"], target: Int64[Tensor, "n 4"]
) -> Shaped[Tensor, "n ... H W"]:
    """Return, of pictures that lie at `box`, what lies at `target`, boxes of one size; zero where there is no picture.

    >>> import torch
    >>> recut(torch.arange(4).view(1, 2, 2), torch.tensor([[0, 0, 2, 2]]), torch.tensor([[1, -1, 2, 2]])).tolist()
    [[[0, 2, 3]]]
    """
    height, width = (target[0, 2:] - target[0, :2]).tolist() if len(target) else pictures.shape[-2:]
    result = pictures.new_zeros((*pictures.shape[:-2], height, width))
    offsets = (target - box[:, [0, 1, 0, 1]]).tolist()
    for cut, picture, (y0, x0, y1, x1) in zip(result, pictures, offsets, strict=True):
        (rows, cut_rows), (cols, cut_cols) = clip(y0, y1, picture.shape[-2]), clip(x0, x1, picture.shape[-1])
        cut[..., cut_rows, cut_cols] = picture[..., rows, cols]
    return result


def lies_inside(start: Int64[Tensor, "n 2"], size: Sequence[int], whole: Sequence[int]) -> Bool[Tensor, "n h w"]:
    """Return which positions of windows of `size`, whose first (row, col) are given, lie in a map of size `whole`.

    >>> import torch
    >>> lies_inside(torch.tensor([[-1, 2]]), (2, 3), (4, 4)).tolist()
    [[[False, False, False], [True, True, False]]]
    """
    row, col = (start[:, axis, None] + torch.arange(size[axis], device=start.device) for axis in (0, 1))
    rows, cols = (row >= 0) & (row < whole[0]), (col >= 0) & (col < whole[1])
    return rows[:, :, None] & cols[:, None, :]


def whole_boxes(count: int, input_size: tuple[int, int]) -> Int64[Tensor, "n 4"]:
    """Return the box of a whole image, `count` times.

    >>> whole_boxes(2, (16, 24)).tolist()
    [[0, 0, 16, 24], [0, 0, 16, 24]]
    """
    return torch.tensor([[0, 0, *input_size]]).expand(count, 4)


def shown_side(effective: int, field: Sequence[int]) -> int:
    """Return the side of what is shown of receptive fields (rows, columns): the effective one, unless it is nearly all.

    >>> shown_side(87, (363, 363)), shown_side(10, (11, 11))
    (87, 11)
    """
    return effective if effective <= NEARLY_ALL * max(field) else max(field)


def about_centres(field: Int64[Tensor, "n 4"], side: int, input_size: tuple[int, int]) -> Int64[Tensor, "n 4"]:
    """Return the squares of `side` pixels about the centres of receptive fields of one size.

    They are no longer than the fields, and are the whole image along an axis on which fields and squares are longer.

    >>> import torch
    >>> fields = torch.tensor([[-100, 10, 327, 50]])
    >>> about_centres(fields, 87, (224, 224)).tolist(), about_centres(fields, 427, (224, 224)).tolist()
    ([[70, 10, 157, 50]], [[0, 10, 224, 50]])
    """
    box = field.clone()
    for axis, whole in enumerate(input_size) if len(field) else ():
        long = int(field[0, axis + 2] - field[0, axis])
        length = min(side, long)
        if length >= whole and long > whole:
            box[:, axis], box[:, axis + 2] = 0, whole
        else:
            box[:, axis] += (long - length) // 2
            box[:, axis + 2] = box[:, axis] + length
    return box
