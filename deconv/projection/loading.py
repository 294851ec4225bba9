"""The images that peaks lie in, loaded a few at a time: each once, as the network's input, on its device."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from deconv.errors import bad_value
from deconv.images import Source
from deconv.images.batches import whole_batches
from deconv.network import Network
from deconv.progress import track
from deconv.projection.strategies import PeakImages, Plan

IMAGES_AT_ONCE = 16
"""How many whole images are in memory at a time."""


def input_size(network: Network, images: Source | Tensor, image_ids: Tensor) -> tuple[int, int]:
    """Return (H, W), the size of the inputs that the images become. Raises BadInput unless they have one size."""
    if isinstance(images, Tensor):
        network.check_images(images[:1])
        return images.shape[2], images.shape[3]
    preprocessing = network.needed_preprocessing()
    if preprocessing.size is not None:
        return preprocessing.size[0], preprocessing.size[1]
    inputs = (preprocessing.input_image(images.image(int(image_id))) for image_id in image_ids.unique())
    sizes = {(input_image.shape[1], input_image.shape[2]) for input_image in inputs}
    if len(sizes) != 1:
        raise bad_value("images", f"inputs of sizes {sorted(sizes)}", "one size", "give the preprocessing a size")
    return sizes.pop()


def peak_chunks(
    network: Network, images: Source | Tensor, image_ids: Tensor, plan: Plan
) -> Iterator[tuple[Tensor, PeakImages]]:
    """Yield peaks (their indices, (n,)) image by image, so that each image is loaded once, with those images.

    image_ids: (N,) the image that each peak lies in.
    """
    if not len(image_ids):
        return
    order = torch.argsort(image_ids, stable=True)
    if isinstance(images, Tensor) and plan.strategy == "window":
        # windows are cut from the tensor itself, without a copy of it
        pixels = images.detach().to(network.device, network.precision)
        for chunk in track(order.split(plan.chunk_size), "projecting", len(order), unit="peaks", size=len):
            yield chunk, PeakImages(pixels, image_ids[chunk])
        return
    used, counts = image_ids[order].unique_consecutive(return_counts=True)
    done = 0
    for batch, pixels in track(
        load_inputs(network, images, used),  # by no name, so that an interrupt ends it
        "projecting",
        len(order),
        unit="peaks",
        size=lambda batch: int(counts[batch[0]].sum()),
    ):
        peaks = order[done : done + int(counts[batch].sum())]
        done += len(peaks)
        index = torch.searchsorted(used[batch].contiguous(), image_ids[peaks].contiguous())
        for chunk, chunk_index in zip(peaks.split(plan.chunk_size), index.split(plan.chunk_size), strict=True):
            yield chunk, PeakImages(pixels, chunk_index)


def lent_images(network: Network, images: Source | Tensor, lenders: Tensor) -> PeakImages:
    """Return the images (N,) that lend their switches, all at once."""
    used, index = lenders.unique(return_inverse=True)
    pixels = torch.cat([pixels for _, pixels in load_inputs(network, images, used)])
    return PeakImages(pixels, index)


def load_inputs(network: Network, images: Source | Tensor, used: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (indices into `used`, preprocessed images), a few at a time, in order; `used` are image ids, rising."""
    if isinstance(images, Tensor):
        for batch in torch.arange(len(used)).split(IMAGES_AT_ONCE):
            yield batch, network.check_images(images[used[batch].to(images.device)])
        return
    preprocessing = network.needed_preprocessing()
    for image_ids, input_images in whole_batches(images, preprocessing, IMAGES_AT_ONCE, used.tolist()):
        yield torch.searchsorted(used, image_ids), network.check_images(preprocessing.normalize(input_images))
