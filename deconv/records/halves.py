"""Pictures in half as many bytes: float16, each picture scaled by a power of two, which loses nothing itself."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

LARGEST = 15
"""The largest value of each picture, in powers of two, as it is kept; float16 ends at almost 16."""


def to_halves(pixels: Float[Tensor, "n C h w"]) -> tuple[Float[Tensor, "n C h w"], Float[Tensor, " n"]]:
    """Return (halves float16, scale float32): the pixels are halves times their picture's scale.

    A value keeps 11 bits if it is above 2**-29 of the largest of its picture.

    >>> halves, scale = to_halves(torch.tensor([[[[3e-9, -1e-9]]], [[[0.0, 0.0]]]]))
    >>> [f"{value:.4g}" for value in from_halves(halves, scale).flatten()]
    ['3e-09', '-1e-09', '0', '0']
    """
    exponent = torch.frexp(pixels.abs().amax(dim=(1, 2, 3))).exponent - LARGEST
    # float32 itself ends there: what is smaller is kept as it can be
    scale = torch.ldexp(torch.ones(len(pixels)), exponent.clamp(min=-126))
    return (pixels / scale.view(-1, 1, 1, 1)).half(), scale


def from_halves(halves: Float[Tensor, "n C h w"], scale: Float[Tensor, " n"]) -> Float[Tensor, "n C h w"]:
    """Return the pixels (float32) of what `to_halves` gave."""
    return halves.float() * scale.view(-1, 1, 1, 1)
