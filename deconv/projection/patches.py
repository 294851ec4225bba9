"""The receptive-field box of each peak, cut out of its image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deconv.errors import BadInput
from deconv.images import Source
from deconv.images.batches import whole_batches
from deconv.network import Network
from deconv.records import Patches, Reconstructions, clip

IMAGES_AT_ONCE = 64


def cut_patches(input_images: Tensor, image: Tensor, box: Tensor, provenance: dict[str, Any] | None = None) -> Patches:
    """Cut box[n] out of input_images[image[n]].

    input_images (M, 3, H, W) uint8;  image (N,) int64;  box (N, 4) int64: y0, x0, y1, x1, all of one size.
    What lies outside the input image is zero in `pixels` and False in `inside`. Raises BadInput for boxes of several
    sizes,
    images that are not there, and input images that are not uint8.
    """
    image, box = torch.as_tensor(image), torch.as_tensor(box)
    wrong = image[(image < 0) | (image >= len(input_images))]
    if len(wrong):
        raise BadInput(
            f"image: given {int(wrong[0])}; expected 0 to {len(input_images) - 1}; leave missing peaks (-1) out."
        )
    if input_images.dtype != torch.uint8:
        raise BadInput(f"input_images: given {input_images.dtype}; expected uint8, the pictures before normalisation.")
    sizes = (box[:, 2:] - box[:, :2]).unique(dim=0)
    if len(sizes) > 1:
        raise BadInput(f"box: given sizes {sizes.tolist()}; expected one (the receptive field of one layer).")
    height, width = sizes[0].tolist() if len(sizes) else (0, 0)
    pixels = torch.zeros((len(box), input_images.shape[1], height, width), dtype=torch.uint8)
    inside = torch.zeros((len(box), height, width), dtype=torch.bool)
    for n, (y0, x0, y1, x1) in enumerate(box.tolist()):
        (rows, box_rows), (cols, box_cols) = clip(y0, y1, input_images.shape[2]), clip(x0, x1, input_images.shape[3])
        pixels[n, :, box_rows, box_cols] = input_images[int(image[n]), :, rows, cols]
        inside[n, box_rows, box_cols] = True
    return Patches(pixels, inside, box, image, provenance or {})


def patches_of(network: Network, images: Source, recon: Reconstructions, content: str | None = None) -> Patches:
    """The patches under some reconstructions, in their order, from the photographs they were made from.

    content: the content hash to record, where `images` are a part of those that the peaks were mined from.
    Raises BadInput if an image can no longer be read.
    """
    preprocessing = network.needed_preprocessing()
    used, which = recon.image.unique(return_inverse=True)
    parts: list[Patches] = []
    order = torch.argsort(which, stable=True)
    for index, input_images in whole_batches(images, preprocessing, IMAGES_AT_ONCE, used.tolist()):
        mine = order[torch.isin(recon.image[order], index)]
        parts.append(cut_patches(input_images, torch.searchsorted(index, recon.image[mine]), recon.box[mine]))
    back = torch.argsort(order)
    pixels = torch.cat([part.pixels for part in parts])[back]
    inside = torch.cat([part.inside for part in parts])[back]
    provenance = {
        "source": {"name": images.name, "content": content or images.content_hash},
        "preprocessing": preprocessing.as_dict(),
    }
    return Patches(pixels, inside, recon.box, recon.image, provenance)
