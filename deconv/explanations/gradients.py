"""Explanations by derivatives of the unit's activation: times the input, averaged over noise, along a path."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from deconv.explanations.fields import Fields
from deconv.network import Network


def gradient_times_input(
    network: Network,
    inputs: Float[Tensor, "N C H W"],
    layer: str,
    channel: Int[Tensor, " N"],
    row: Int[Tensor, " N"],
    col: Int[Tensor, " N"],
) -> Float[Tensor, "N C H W"]:
    """Return the derivative of the unit's activation times the input (Shrikumar et al. 2017, arXiv 1605.01713)."""
    fields = Fields(network, inputs, layer, channel, row, col)
    return fields.paste(fields.gradients(fields.windows) * fields.windows)


def smoothgrad(
    network: Network,
    inputs: Float[Tensor, "N C H W"],
    layer: str,
    channel: Int[Tensor, " N"],
    row: Int[Tensor, " N"],
    col: Int[Tensor, " N"],
    samples: int = 20,
    noise: float = 0.15,
    seed: int = 0,
) -> Float[Tensor, "N C H W"]:
    """Return the mean derivative over inputs with noise on them (SmoothGrad: Smilkov et al. 2017, arXiv 1706.03825).

    samples: how often noise is drawn.  noise: its standard deviation, as a fraction of the input's range.
    seed: decides the noise, which is the same for every peak, so that it does not matter which others are asked about.
    """
    fields = Fields(network, inputs, layer, channel, row, col)
    ranges = (inputs.amax(dim=(1, 2, 3)) - inputs.amin(dim=(1, 2, 3)))[:, None, None, None]
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros_like(fields.windows)
    for _ in range(samples):
        drawn = torch.randn(fields.windows.shape[1:], generator=generator).to(total)
        total += fields.gradients(fields.windows + noise * ranges * drawn)
    return fields.paste(total / samples)


def integrated_gradients(
    network: Network,
    inputs: Float[Tensor, "N C H W"],
    layer: str,
    channel: Int[Tensor, " N"],
    row: Int[Tensor, " N"],
    col: Int[Tensor, " N"],
    steps: int = 20,
) -> Float[Tensor, "N C H W"]:
    """Return the derivative's mean on the way from a grey input, times the input (Sundararajan et al. 2017).

    The grey is zero, the mean colour that preprocessing takes away; the picture adds up to what the unit answers to the
    input less what it answers to grey, the better the more steps. steps: at which the way is looked at, by Gauss and
    Legendre's rule. Source: arXiv 1703.01365, section 3.
    """
    fields = Fields(network, inputs, layer, channel, row, col)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    total = torch.zeros_like(fields.windows)
    for node, weight in zip(((nodes + 1) / 2).tolist(), (weights / 2).tolist(), strict=True):
        total += weight * fields.gradients(node * fields.windows)
    return fields.paste(total * fields.windows)
