"""The network of the paper's Figure 3, and the same network for 64-pixel images.

Both are plain `nn.Sequential`s under the names `features` and `classifier`. Layer 1 starts at N(0, 1e-2) as in the
paper's section 3, since at a larger scale its filters keep the noise they start with; the other layers start at He et
al.'s scale (arXiv 1502.01852), at which the deep ones begin to learn within an epoch or two. Biases start at 0.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from deconv.errors import BadInput

PAPER_MAPS = (96, 256, 384, 384, 256)


class ConvNet(nn.Module):
    """Takes images to class scores; without a classifier, to the last pool's maps.

    With a classifier it takes images of the size that this was made for; `forward` raises BadInput for others.
    """

    def __init__(self, features: nn.Sequential, classifier: nn.Sequential | None) -> None:
        super().__init__()
        self.features = features
        self.classifier = classifier

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the scores (N, classes), or the maps (N, C, h, w), of images (N, 3, H, W) float."""
        maps: torch.Tensor = self.features(images)
        if self.classifier is None:
            return maps
        values = torch.flatten(maps, 1)
        try:  # no comparison of shapes here: torch.fx, which traces with symbols, could not follow it
            scores: torch.Tensor = self.classifier(values)
        except RuntimeError:
            _check_values(self.classifier, values, images)
            raise
        return scores

    def trunk(self) -> ConvNet:
        """Return the same convolutional layers (shared, not copied) without the classifier, for images of any size."""
        return ConvNet(self.features, None)


def zfnet(
    classes: int = 1000, maps: Sequence[int] = PAPER_MAPS, widths: Sequence[int] = (4096, 4096), lrn: bool = True
) -> ConvNet:
    """Return Figure 3's network for images (N, 3, 224, 224): maps of 110, 55, 26, 13, 13, 13, 13 and 6 pixels.

    Layer 1 is padded by 1, layer 2 not at all, and the pools round up (`ceil_mode`), which are the paddings that give
    the paper's sizes. `lrn` puts `nn.LocalResponseNorm` for the contrast normalisation after pools 1 and 2.
    `maps` are the maps of layers 1, 2 and of every 3x3 layer after them; `widths` those of the hidden fully
    connected layers (the paper's Table 3 shortens and widens both).
    """
    return convnet((7, 2, 1), (5, 2, 0), maps, widths, classes, image_size=224, lrn=lrn)


def zfnet64(
    classes: int = 200, maps: Sequence[int] = PAPER_MAPS, widths: Sequence[int] = (1280, 1280), lrn: bool = False
) -> ConvNet:
    """Return Figure 3's network for images (N, 3, 64, 64): maps of 30, 15, 15, 7, 7, 7, 7 and 3 pixels.

    Layer 2 has stride 1 and padding 2: with the paper's stride 2 layers 3 to 5 would have 4 x 4 positions. Layers 6
    and 7 have 1280 units, since 3 x 3 x 256 values enter them where the paper has 6 x 6 x 256; so the weights are 8.6
    million (17 MB in float16). Without `lrn` by default: at these activations it is nearly a constant factor, and it
    cost a quarter of the training speed on a CPU. Images of 56 pixels fit too: layer 5's pool has 3 x 3 positions for
    both.

    >>> zfnet64(classes=10)(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 10])
    """
    return convnet((7, 2, 1), (5, 1, 2), maps, widths, classes, image_size=64, lrn=lrn)


def convnet(
    first: tuple[int, int, int],
    second: tuple[int, int, int],
    maps: Sequence[int],
    widths: Sequence[int],
    classes: int,
    image_size: int,
    lrn: bool,
    pools: Sequence[int] | None = None,
    original: bool = False,
) -> ConvNet:
    """Return a network of the family that the paper compares, for images (N, 3, image_size, image_size).

    first, second: (kernel, stride, padding) of layers 1 and 2.  pools: the layers, counted from 1, that a 3x3 max-pool
    of stride 2 follows; by default 1, 2 and the last.  maps, widths, lrn: as `zfnet` has them.  original: whether
    layers 2, 4 and 5 are in two groups, and the contrast normalisation before the pools, as Krizhevsky et al. have it.
    """
    features = _features(first, second, maps, lrn, pools or (1, 2, len(maps)), original)
    without_values = copy.deepcopy(features).to("meta")  # a shape is all that is asked for
    flat = without_values(torch.zeros(1, 3, image_size, image_size, device="meta")).numel()
    network = ConvNet(features, _classifier(flat, widths, classes))
    network.apply(_start_weights)
    nn.init.normal_(network.features[0].get_parameter("weight"), std=1e-2)
    return network


def _features(
    first: tuple[int, int, int],
    second: tuple[int, int, int],
    maps: Sequence[int],
    lrn: bool,
    pools: Sequence[int],
    original: bool,
) -> nn.Sequential:
    layers: list[nn.Module] = []
    shapes = [first, second] + [(3, 1, 1)] * (len(maps) - 2)
    for layer, (channels_in, channels_out, shape) in enumerate(zip((3, *maps), maps, shapes, strict=False), start=1):
        groups = 2 if original and layer in (2, 4, 5) else 1
        layers += [nn.Conv2d(channels_in, channels_out, *shape, groups=groups), nn.ReLU(inplace=True)]
        pool = [nn.MaxPool2d(3, 2, ceil_mode=True)] if layer in pools else []
        k = 1.0 if original else 2.0
        norm = [nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=k)] if layer <= 2 and lrn else []
        layers += [*norm, *pool] if original else [*pool, *norm]
    return nn.Sequential(*layers)


def _classifier(flat: int, widths: Sequence[int], classes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width_in, width_out in zip((flat, *widths), widths, strict=False):
        layers += [nn.Dropout(0.5), nn.Linear(width_in, width_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear((flat, *widths)[-1], classes))


def _start_weights(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(module.get_parameter("bias"))


def _check_values(classifier: nn.Sequential, values: torch.Tensor, images: torch.Tensor) -> None:
    first = next(layer for layer in classifier if isinstance(layer, nn.Linear))
    if values.shape[1] != first.in_features:
        raise BadInput(
            f"images of {images.shape[2]} x {images.shape[3]} pixels give the classifier {values.shape[1]} values; it "
            f"takes {first.in_features}: give images of its size, or leave it away with "
            "trunk=True, for images of any size"
        )
