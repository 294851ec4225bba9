"""Which pixels a reconstruction is about: masks over its patch, and files of them."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from deconv.errors import bad_value
from deconv.files import safe_name, write_whole
from deconv.records import Reconstructions, recut

SHARE = 0.8
"""Share of the smoothed energy that a mask covers."""
SMOOTHING = 1 / 16
"""Standard deviation of the smoothing, as a fraction of the effective field's side."""


def mask_of(recon: Reconstructions, share: float = SHARE, sigma: float | None = None) -> Bool[Tensor, "n h w"]:
    """Return which pixels of each patch the reconstruction is about: the fewest that hold `share` of its energy.

    The energy, the sum of squares over channels, is smoothed before by a Gaussian of standard deviation `sigma` in
    pixels, so that single dots do not count; None is a 16th of the effective field's side. Of equal energies the first
    in reading order is taken. (n, h, w) are those of `recon.pixels`; without any energy nothing is covered.
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
    masks = torch.zeros((len(recon), *recon.pixels.shape[2:]), dtype=torch.bool)
    for mask, pixels in zip(masks, recon.pixels, strict=True):
        energy = gaussian_filter(pixels.double().square().sum(dim=0).numpy(), sigma, mode="constant")
        falling = np.argsort(-energy, axis=None, kind="stable")
        held = np.cumsum(energy.flat[falling])
        if held[-1] > 0:
            count = int(np.searchsorted(held, share * held[-1] * (1 - 1e-12))) + 1
            mask.view(-1)[torch.from_numpy(falling[:count])] = True
    return masks


def save_masks(
    recon: Reconstructions, folder: str | Path, share: float = SHARE, sigma: float | None = None
) -> list[Path]:
    """Write the mask of each reconstruction as a PNG of the input image's size, white where it covers, and return them.

    The files are <layer>.unit-<channel>.<rank>.png, ranks from 1 in the order of `recon`. Raises what `mask_of` does,
    and BadInput for a folder that cannot be written to.

    >>> import deconv
    >>> from tempfile import mkdtemp
    >>> network = deconv.Network(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5), torch.nn.ReLU()), (3, 8, 8))
    >>> recon = deconv.project(network, torch.randn(1, 3, 8, 8), "1", [0], [2], [1], [1])
    >>> [path.name for path in deconv.save_masks(recon, mkdtemp())]
    ['1.unit-0002.1.png']
    """
    whole = torch.tensor([[0, 0, *recon.input_size]]).expand(len(recon), 4)
    pictures = recut(mask_of(recon, share, sigma), recon.box, whole)
    ranks: dict[int, int] = {}
    paths = []
    for channel, picture in zip(recon.channel.tolist(), pictures, strict=True):
        ranks[channel] = ranks.get(channel, 0) + 1
        path = Path(folder) / f"{safe_name(recon.layer)}.unit-{channel:04d}.{ranks[channel]}.png"
        file = io.BytesIO()
        Image.fromarray(picture.numpy().astype(np.uint8) * 255).save(file, "PNG")
        paths.append(write_whole(path, file.getvalue()))
    return paths
