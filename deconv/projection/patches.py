"""The receptive-field box of each peak, cut out of its input image."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from deconv.defaults import plain_defaults
from deconv.errors import bad_value
from deconv.images import MapDataset, Source, check_source
from deconv.images.batches import whole_batches
from deconv.network import Network
from deconv.records import Patches, Reconstructions, clip
from deconv.records.provenance import build

IMAGES_AT_ONCE = 64


@plain_defaults()
def cut_patches(
    input_images: UInt8[Tensor, "M C H W"],
    image: Int[Tensor, " N"],
    box: Int[Tensor, "N 4"],
    provenance: dict[str, Any] | None = None,
) -> Patches:
    """Cut box[n] out of input_images[image[n]].

    input_images: the pictures before normalisation.  box: y0, x0, y1, x1, in pixels, all of one size.
    What lies outside the input image is zero in `pixels` and False in `inside`.
    Raises BadInput for boxes of several sizes, images that are not there, and input images that are not uint8.

    >>> import deconv, torch
    >>> pictures = torch.full((1, 3, 8, 8), 200, dtype=torch.uint8)
    >>> patches = deconv.cut_patches(pictures, torch.tensor([0, 0]), torch.tensor([[2, 2, 5, 5], [-1, 6, 2, 9]]))
    >>> patches.pixels.shape, patches.inside.sum(dim=(1, 2)).tolist()
    (torch.Size([2, 3, 3, 3]), [9, 4])
    """
    if not isinstance(input_images, Tensor) or input_images.dim() != 4 or input_images.dtype != torch.uint8:
        expected = "a uint8 tensor (M, C, H, W), the pictures before normalisation"
        raise bad_value("input_images", input_images, expected)
    image, box = torch.as_tensor(image), torch.as_tensor(box)
    if box.shape != (len(image), 4):
        raise bad_value("box", box, f"shape (N, 4), a box for each of {len(image)} images")
    outside = image[(image < 0) | (image >= len(input_images))]
    if len(outside):
        raise bad_value("image", int(outside[0]), f"0 to {len(input_images) - 1}", "leave missing peaks (-1) out")
    sizes = (box[:, 2:] - box[:, :2]).unique(dim=0)
    if len(sizes) > 1:
        raise bad_value("box", f"sizes {sizes.tolist()}", "one size, the receptive field of one layer")
    height, width = sizes[0].tolist() if len(sizes) else (0, 0)
    pixels = torch.zeros((len(box), input_images.shape[1], height, width), dtype=torch.uint8)
    inside = torch.zeros((len(box), height, width), dtype=torch.bool)
    for n, (y0, x0, y1, x1) in enumerate(box.tolist()):
        (rows, box_rows), (cols, box_cols) = clip(y0, y1, input_images.shape[2]), clip(x0, x1, input_images.shape[3])
        pixels[n, :, box_rows, box_cols] = input_images[int(image[n]), :, rows, cols]
        inside[n, box_rows, box_cols] = True
    return Patches(pixels, inside, box, image, provenance or {})


@plain_defaults()
def patches_of(
    network: Network, images: Source | MapDataset, recon: Reconstructions, content: str | None = None
) -> Patches:
    """Return the patches under some reconstructions, in their order, cut out of the photographs.

    images: the source or the Dataset that the reconstructions were made from, or the part of it that they lie in.
    content: the content hash of the whole source, to record; for None it is computed of `images`.
    Raises BadInput if an image can no longer be read.

    >>> import deconv, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 7), torch.nn.ReLU())
    >>> preprocessing = deconv.Preprocessing((32, 32), resize=None, mean=[0.5] * 3, std=[0.25] * 3)
    >>> network = deconv.Network(net, (3, 32, 32), preprocessing=preprocessing)
    >>> images = deconv.bundled()
    >>> recon = deconv.project(network, images, "1", image=[2, 5], channel=[0, 3], row=[0, 9], col=[4, 4])
    >>> patches = deconv.patches_of(network, images, recon)
    >>> patches.pixels.shape, torch.equal(patches.box, recon.box)
    (torch.Size([2, 3, 7, 7]), True)
    """
    if isinstance(images, Tensor):
        raise bad_value("images", images, "a Source", "cut_patches(pictures, recon.image, recon.box) takes a tensor")
    images = check_source(images)
    preprocessing = network.needed_preprocessing()
    height, width = (recon.box[0, 2:] - recon.box[0, :2]).tolist() if len(recon) else recon.pixels.shape[2:]
    pixels = torch.zeros((len(recon), recon.pixels.shape[1], height, width), dtype=torch.uint8)
    inside = torch.zeros((len(recon), height, width), dtype=torch.bool)
    used = recon.image.unique().tolist()
    for image_ids, input_images in whole_batches(images, preprocessing, IMAGES_AT_ONCE, used):
        peaks = torch.isin(recon.image, image_ids).nonzero().flatten()
        patches = cut_patches(input_images, torch.searchsorted(image_ids, recon.image[peaks]), recon.box[peaks])
        pixels[peaks], inside[peaks] = patches.pixels, patches.inside
    # without the number of images, which is another where `images` are a part
    source = {"name": images.name, "content": images.content_hash if content is None else content}
    return Patches(pixels, inside, recon.box, recon.image, build(network.provenance(), source=source))
