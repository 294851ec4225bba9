"""What a grey square takes away from a unit's activation (Zeiler and Fergus 2013, section 4.2, for one position)."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from deconv.explanations.fields import Fields
from deconv.network import Network

SIDE = 1 / 4
"""The square's side, as a fraction of the receptive field's, or of the image's where that is shorter."""


def occlusion(
    network: Network,
    inputs: Float[Tensor, "N C H W"],
    layer: str,
    channel: Int[Tensor, " N"],
    row: Int[Tensor, " N"],
    col: Int[Tensor, " N"],
    side: int | None = None,
    stride: int | None = None,
) -> Float[Tensor, "N C H W"]:
    """Return how far the unit's activation falls, at each pixel the mean over the squares that cover it.

    side, stride: of the square, in pixels; None is a quarter of the field, and half of the square. It is zero,
    the mean colour that preprocessing takes away. The picture is the same in every colour, negative where the
    unit answers more.
    """
    fields = Fields(network, inputs, layer, channel, row, col)
    windows, size = fields.windows, fields.windows.shape[2:]
    shorter = min(min(pair) for pair in zip(size, inputs.shape[2:], strict=True))
    side = max(1, round(SIDE * shorter)) if side is None else min(side, *size)
    stride = -(-side // 2) if stride is None else stride
    before = fields.responses(windows)
    fallen, covered = windows.new_zeros((len(windows), *size)), windows.new_zeros(size)
    for top in _starts(size[0], side, stride):
        for left in _starts(size[1], side, stride):
            square = (slice(top, top + side), slice(left, left + side))
            occluded = windows.clone()
            occluded[:, :, square[0], square[1]] = 0
            fallen[:, square[0], square[1]] += (before - fields.responses(occluded))[:, None, None]
            covered[square] += 1
    return fields.paste((fallen / covered)[:, None].expand_as(windows))


def _starts(size: int, side: int, stride: int) -> list[int]:
    """The first pixels of a square that slides over `size` pixels; the last one ends where they do."""
    return sorted({*range(0, size - side + 1, stride), size - side})
