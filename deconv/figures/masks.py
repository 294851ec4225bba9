"""Masks as files: what in each photograph a unit answers to, as other tools take it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from deconv.defaults import plain_defaults
from deconv.files import safe_name, write_whole
from deconv.projection.masks import SHARE, mask_of
from deconv.records import Reconstructions, recut, whole_boxes


@plain_defaults()
def save_masks(
    recon: Reconstructions, folder: str | Path, share: float = SHARE, sigma: float | int | None = None
) -> list[Path]:
    """Write the mask of each reconstruction as a PNG of the input image's size, white where it covers, and return them.

    The files are <layer>.unit-<channel>.<rank>.png, ranks from 1 in the order of `recon`. Raises what `mask_of` does,
    and BadInput for a folder that cannot be written to.

    >>> import deconv, torch
    >>> from tempfile import mkdtemp
    >>> network = deconv.Network(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5), torch.nn.ReLU()), (3, 8, 8))
    >>> recon = deconv.project(network, torch.randn(1, 3, 8, 8), "1", [0], [2], [1], [1])
    >>> [path.name for path in deconv.save_masks(recon, mkdtemp())]
    ['1.unit-0002.1.png']
    """
    whole = whole_boxes(len(recon), recon.input_size)
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
