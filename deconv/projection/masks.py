"""Which pixels a reconstruction is about: masks over its patch."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import gaussian_filter
from torch import Tensor

from deconv.defaults import plain_defaults
from deconv.errors import bad_value
from deconv.records import Reconstructions

SHARE = 0.8
"""Share of the smoothed energy that a mask covers."""
SMOOTHING = 1 / 16
"""Standard deviation of the smoothing, as a fraction of the effective field's side."""


@plain_defaults()
def mask_of(recon: Reconstructions, share: float = SHARE, sigma: float | int | None = None) -> Bool[Tensor, "n h w"]:
    """Return which pixels of each patch the reconstruction is about: the fewest that hold `share` of its energy.

    The energy, the sum of squares over channels, is smoothed before by a Gaussian of standard deviation `sigma` in
    pixels, so that single dots do not count, and counts inside the image alone; None is a 16th of the effective field's
    side. Of equal energies the first in reading order is taken. (n, h, w) are those of `recon.pixels`; without any
    energy nothing is covered.
    Raises BadInput for a share that is not between 0 and 1, and for a negative sigma.

    >>> import deconv
    >>> _ = torch.manual_seed(0)
    >>> network = deconv.Network(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5), torch.nn.ReLU()), (3, 8, 8))
    >>> recon = deconv.project(network, torch.randn(1, 3, 8, 8), "1", [0], [2], [1], [1])
    >>> mask = deconv.mask_of(recon, share=0.5)
    >>> mask.shape, bool(mask.any()), bool(mask.all())
    (torch.Size([1, 5, 5]), True, False)
    """
    if not 0 < share < 1:
        raise bad_value("share", share, "a number between 0 and 1")
    sigma = recon.effective_field * SMOOTHING if sigma is None else sigma
    if not (math.isfinite(sigma) and sigma >= 0):
        raise bad_value("sigma", sigma, "a number of pixels, 0 or more")
    return masks_of(recon.pixels, share, sigma, recon.inside)


def masks_of(
    pictures: Float[Tensor, "n C h w"],
    share: float,
    sigma: float | int,
    inside: Bool[Tensor, "n h w"] | None = None,
) -> Bool[Tensor, "n h w"]:
    """Return for any pictures what `mask_of` returns for reconstructions.  inside: which pixels lie in the image."""
    masks = torch.zeros((len(pictures), *pictures.shape[2:]), dtype=torch.bool)
    allowed = torch.ones_like(masks) if inside is None else inside
    for mask, pixels, lies_inside in zip(masks, pictures, allowed, strict=True):
        energy = gaussian_filter(pixels.double().square().sum(dim=0).numpy(), sigma, mode="constant")
        energy = np.where(lies_inside.numpy(), energy, 0.0)  # smoothing alone carries it across the border
        falling = np.argsort(-energy, axis=None, kind="stable")
        held = np.cumsum(energy.flat[falling])
        if held[-1] > 0:
            count = int(np.searchsorted(held, share * held[-1] * (1 - 1e-12))) + 1
            mask.view(-1)[torch.from_numpy(falling[:count])] = True
    return masks
