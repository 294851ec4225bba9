"""Colour or shape? What is left of a unit's answer when one of them is taken from the patches that fire it most."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur, rgb_to_grayscale

from deconv.errors import BadInput, check_count
from deconv.images import MapDataset, Source, check_source
from deconv.images.batches import whole_batches
from deconv.network import Network
from deconv.projection.patches import IMAGES_AT_ONCE, cut_patches
from deconv.projection.responses import unit_responses
from deconv.records import LayerPeaks

Pictures = UInt8[Tensor, "N 3 h w"]
BLUR = 1 / 16
"""The deviation of the blur, as a share of the patch's side."""


def in_grey(patches: Pictures) -> Pictures:
    """Return the patches without colour, of the same luma."""
    return rgb_to_grayscale(patches, num_output_channels=3)


def hues_turned(patches: Pictures) -> Pictures:
    """Return the patches with red made green, green blue and blue red: the same saturation, hues 120 degrees on."""
    return patches.roll(1, dims=1)


def blurred(patches: Pictures) -> Pictures:
    """Return the patches without what is fine: a Gaussian blur whose deviation is BLUR of their side."""
    deviation = BLUR * max(patches.shape[2:])
    most = 2 * ((min(patches.shape[2:]) - 1) // 2) + 1  # its kernel, odd, is no larger than the patch
    return gaussian_blur(patches, min(2 * round(3 * deviation) + 1, most), deviation)


def scrambled(patches: Pictures, seed: int = 0) -> Pictures:
    """Return the patches without shape: each colour's spectrum keeps its amplitudes, and gets the phases of noise.

    The mean colour stays, and all colours are shifted alike, so that they stay together. What leaves 0 to 255 is cut.
    Source: the phase-scrambled images of Geirhos et al. (2019, arXiv 1811.12231) and of studies of vision before them.
    """
    noise = torch.randn(patches.shape[2:], generator=torch.Generator().manual_seed(seed))
    phases = torch.fft.fft2(noise).angle()
    phases[0, 0] = 0
    spectrum = torch.fft.fft2(patches.float()) * torch.polar(torch.ones_like(phases), phases)
    return torch.fft.ifft2(spectrum).real.round().clamp(0, 255).to(torch.uint8)


CUES: dict[str, Callable[[Pictures], Pictures]] = {
    "activation in grey": in_grey,
    "activation with hues turned": hues_turned,
    "activation blurred": blurred,
    "activation scrambled": scrambled,
}
"""What is done to patches, by what is then measured, as the atlas calls it."""


def measure_cues(
    network: Network, images: Source | MapDataset, layer: str, peaks: LayerPeaks, per_unit: int = 3
) -> dict[str, Float[Tensor, " units"]]:
    """Return, of each of CUES, the share of each unit's activation that is left, on average over its strongest peaks.

    1 is an answer as strong as to the patch itself, 0 none; a rectified unit is never below. Units that fire nowhere
    have nan. per_unit: how many of the strongest peaks of each unit, at most as many as were mined.
    Raises BadInput for a network that does not take three colours, and for an image that cannot be read any more.

    >>> import deconv, torch
    >>> _ = torch.manual_seed(0)
    >>> module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5), torch.nn.ReLU())
    >>> preprocessing = deconv.Preprocessing((16, 16), None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    >>> network = deconv.Network(module, (3, 16, 16), preprocessing=preprocessing)
    >>> images = deconv.bundled().part(range(4))
    >>> peaks = deconv.mine(network, images, ["1"], k=2)
    >>> shares = measure_cues(network, images, "1", peaks["1"])
    >>> shares["activation in grey"].shape
    torch.Size([4])
    """
    if network.input_shape[0] != 3:
        raise BadInput(f"cues are of colour and shape; expected inputs of 3 channels, not {network.input_shape[0]}")
    images, preprocessing = check_source(images), network.needed_preprocessing()
    strongest = torch.zeros_like(peaks.found)
    strongest[:, : check_count("per_unit", per_unit)] = True
    unit, rank = (peaks.found & strongest).nonzero().unbind(1)
    image, box = peaks.image[unit, rank], peaks.box[unit, rank]
    positions = torch.stack([peaks.row, peaks.col], dim=2)[unit, rank]
    shares = {name: torch.full(peaks.score.shape, torch.nan) for name in CUES}
    for image_ids, input_images in whole_batches(images, preprocessing, IMAGES_AT_ONCE, image.unique().tolist()):
        (here,) = torch.isin(image, image_ids).nonzero(as_tuple=True)
        patches = cut_patches(input_images, torch.searchsorted(image_ids, image[here]), box[here])
        for name, change in CUES.items():
            windows = preprocessing.normalize(change(patches.pixels)) * patches.inside[:, None]
            answers = unit_responses(network, layer, windows, positions[here], unit[here])
            shares[name][unit[here], rank[here]] = answers / peaks.score[unit[here], rank[here]]
    return {name: share.nanmean(dim=1) for name, share in shares.items()}
