"""GoogLeNet (Szegedy et al. 2014, arXiv 1409.4842) as published and as Caffe holds it: with contrast normalisation.

torchvision's network of that name is another: it has batch normalisation in its place, and 3x3 filters where the 5x5
ones should be. The two classifiers beside the network, which only its training used, are left out.
"""

from __future__ import annotations

from collections import OrderedDict
from os import PathLike

import torch
from torch import nn

from deconv.models.loading import is_file_name, load_file, randomly, unknown_weights

MEAN_RGB = (123.0, 117.0, 104.0)
INCEPTIONS = {
    "3a": (64, (96, 128), (16, 32), 32),
    "3b": (128, (128, 192), (32, 96), 64),
    "4a": (192, (96, 208), (16, 48), 64),
    "4b": (160, (112, 224), (24, 64), 64),
    "4c": (128, (128, 256), (24, 64), 64),
    "4d": (112, (144, 288), (32, 64), 64),
    "4e": (256, (160, 320), (32, 128), 128),
    "5a": (256, (160, 320), (32, 128), 128),
    "5b": (384, (192, 384), (48, 128), 128),
}
"""The paper's Table 1: maps of the 1x1, of the 3x3 and 5x5, each with its reduction, and of the pool's projection."""
CAFFE_NAMES = {
    "conv1.0": "conv1/7x7_s2",
    "conv2_reduce.0": "conv2/3x3_reduce",
    "conv2.0": "conv2/3x3",
    "classifier": "loss3/classifier",
    **{
        f"inception_{name}.{path}": f"inception_{name}/{theirs}"
        for name in INCEPTIONS
        for path, theirs in {
            "conv1x1.0": "1x1",
            "conv3x3.0.0": "3x3_reduce",
            "conv3x3.1.0": "3x3",
            "conv5x5.0.0": "5x5_reduce",
            "conv5x5.1.0": "5x5",
            "pooled.1.0": "pool_proj",
        }.items()
    },
}
"""What Caffe, in which the weights are published, calls the modules that have weights."""


class Inception(nn.Module):
    """Four views of the same maps, of different sizes, as one concatenation: 1x1, 3x3, 5x5 and the 3x3 maximum.

    Takes maps (N, channels_in, h, w) to (N, the maps of all four, h, w).
    """

    def __init__(
        self, channels_in: int, maps1x1: int, maps3x3: tuple[int, int], maps5x5: tuple[int, int], maps_pooled: int
    ) -> None:
        super().__init__()
        self.conv1x1 = _convolution(channels_in, maps1x1, 1)
        self.conv3x3 = nn.Sequential(_convolution(channels_in, maps3x3[0], 1), _convolution(*maps3x3, 3))
        self.conv5x5 = nn.Sequential(_convolution(channels_in, maps5x5[0], 1), _convolution(*maps5x5, 5))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), _convolution(channels_in, maps_pooled, 1))
        self.channels = maps1x1 + maps3x3[1] + maps5x5[1] + maps_pooled

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Return the four views, one behind the other."""
        return torch.cat([self.conv1x1(maps), self.conv3x3(maps), self.conv5x5(maps), self.pooled(maps)], dim=1)


class GoogLeNet(nn.Sequential):
    """Takes images (N, 3, H, W) to class scores (N, classes).

    At 224 pixels its maps have 112, 56, 28, 14 and 7; the last are averaged over all positions, so that larger images
    fit too.

    >>> GoogLeNet(classes=10)(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 10])
    """

    def __init__(self, classes: int = 1000) -> None:
        layers: dict[str, nn.Module] = {
            "conv1": _convolution(3, 64, 7, stride=2),
            "pool1": _pool(),
            "norm1": _norm(),
            "conv2_reduce": _convolution(64, 64, 1),
            "conv2": _convolution(64, 192, 3),
            "norm2": _norm(),
            "pool2": _pool(),
        }
        channels = 192
        for name, maps in INCEPTIONS.items():
            if name in ("4a", "5a"):
                layers[f"pool{int(name[0]) - 1}"] = _pool()
            inception = layers[f"inception_{name}"] = Inception(channels, *maps)
            channels = inception.channels
        layers |= {"pool5": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "dropout": nn.Dropout(0.4)}
        layers["classifier"] = nn.Linear(channels, classes)
        super().__init__(OrderedDict(layers))


def build(weights: str | PathLike[str], seed: int = 0, classes: int = 1000) -> nn.Module:
    """Return GoogLeNet in eval mode, for images (N, 3, H, W) float, RGB on the scale 0..255 minus `MEAN_RGB`.

    weights: "random", which `seed` decides, or the path of a file, with Caffe's names or these, whose first convolution
    must expect that scale and RGB. Raises UnknownName and BadInput as `deconv.models.build` does.

    >>> build("random", classes=7)(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 7])
    """
    if weights != "random" and not is_file_name(weights):
        raise unknown_weights("googlenet", weights, ["random"])
    module = randomly(lambda: GoogLeNet(classes), seed)
    if weights != "random":
        load_file(module, weights, takes_classes=True, published=CAFFE_NAMES)
    return module


def _convolution(channels_in: int, channels_out: int, size: int, stride: int = 1) -> nn.Sequential:
    """A convolution padded so that it keeps the size, or halves it, with its rectification; at He et al.'s scale."""
    convolution = nn.Conv2d(channels_in, channels_out, size, stride, padding=size // 2)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    nn.init.zeros_(convolution.get_parameter("bias"))
    return nn.Sequential(convolution, nn.ReLU(inplace=True))


def _pool() -> nn.Module:
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)


def _norm() -> nn.Module:
    return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)
