"""Who compares an image with pictures of a unit, and has not seen the network examined: small views, other features.

Pictures and images are float, less the mean colour that preprocessing takes away: zero is neutral, as the ground of a
reconstruction is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from deconv.errors import check_choice
from deconv.network import Network

VIEW = 8
"""Pixels a side of a small view."""
FLAT = 1e-6
"""Views whose variance is below this, of values in -1..1, are constant: like nothing."""
PICTURES_AT_ONCE = 32


def view_likeness(
    images: Float[Tensor, "Q 3 H W"], pictures: Float[Tensor, "N 3 H W"], boxes: Int64[Tensor, "N 4"]
) -> Float[Tensor, "Q N"]:
    """Return how like to each picture the image is where it is most so, by small colour views; in [-1, 1].

    boxes: y0, x0, y1, x1 of each picture in its image. Its view is the box, shrunk to VIEW x VIEW; it is compared with
    the image, shrunk by as much, at every position. The likeness is Pearson's correlation over pixels and colours
    together, so that a cast of colour counts and brightness does not; 0 where either is constant.

    >>> image = torch.zeros(1, 3, 32, 32)
    >>> image[:, 0, 8:16, 8:16] = 0.5
    >>> box = torch.tensor([[6, 6, 14, 14]])
    >>> same, blue = view_likeness(image, image, box), view_likeness(image, image.flip(1), box)
    >>> round(float(same), 3), float(blue) < 0.5
    (1.0, True)
    """
    likeness = images.new_zeros((len(images), len(pictures)))
    shapes = boxes[:, 2:] - boxes[:, :2]
    for shape in shapes.unique(dim=0):
        which = (shapes == shape).all(dim=1).nonzero()[:, 0]
        views = torch.stack([_view(pictures[n], *boxes[n].tolist()) for n in which.tolist()])
        sides = zip(images.shape[2:], shape.tolist(), strict=True)
        size = [max(VIEW, round(VIEW * whole / side)) for whole, side in sides]
        for small, row in zip(_resized(images, size), likeness, strict=True):
            mean = functional.avg_pool2d(small.mean(dim=0, keepdim=True), VIEW, 1)
            variance = functional.avg_pool2d(small.square().mean(dim=0, keepdim=True), VIEW, 1) - mean.square()
            scale = torch.where(variance > FLAT, (variance.clamp(min=FLAT) * 3 * VIEW**2).rsqrt(), 0.0)
            row[which] = (functional.conv2d(small, views) * scale).amax(dim=(1, 2))
    return likeness


def _view(picture: Tensor, y0: int, x0: int, y1: int, x1: int) -> Float[Tensor, "3 v v"]:
    """Return the small view of a part of a picture, of mean 0 and length 1; zero if it is constant."""
    view = _resized(picture[None, :, y0:y1, x0:x1].double(), [VIEW, VIEW])[0]
    view = view - view.mean()
    largest = view.abs().amax()
    if largest <= FLAT * picture.abs().amax():
        return torch.zeros_like(view, dtype=torch.float32)
    view = view / largest  # before squaring, which would lose the very small
    return (view / view.norm()).float()


def _resized(pictures: Tensor, size: list[int]) -> Tensor:
    return functional.interpolate(pictures, size, mode="bilinear", antialias=True, align_corners=False)


@dataclass(frozen=True)
class OtherNetwork:
    """Another network, whose features of a layer compare images with pictures. Raises UnknownName for its layer."""

    network: Network
    layer: str

    def __post_init__(self) -> None:
        check_choice("observer's layer", self.layer, [*self.network.aliases, *self.network.layers])

    def describe(self) -> dict[str, str]:
        """Return what a record says of it."""
        return {"weights": self.network.weights_hash, "layer": self.layer}

    def likeness(self, images: Float[Tensor, "Q 3 H W"], pictures: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "Q N"]:
        """Return the cosine between the features of each image and each picture; 0 where either has none."""
        first, second = (functional.normalize(self.features(each), dim=1) for each in (images, pictures))
        return first @ second.T

    def features(self, pictures: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N C"]:
        """Return the means over positions of the features, less those of a neutral picture: grey ground adds nothing.

        Pictures are resized to the network's input.
        """
        preprocessing = self.network.needed_preprocessing()
        scale = torch.tensor(preprocessing.std).view(1, -1, 1, 1)
        size = list(self.network.input_shape[1:])
        neutral = self._maps(torch.zeros(1, *self.network.input_shape))
        batches = (_resized(batch, size) / scale for batch in pictures.split(PICTURES_AT_ONCE))
        return torch.cat([(self._maps(batch) - neutral).mean(dim=(2, 3)) for batch in batches])

    def _maps(self, inputs: Tensor) -> Tensor:
        return self.network.forward(inputs.to(self.network.device), [self.layer])[self.layer].float().cpu()
