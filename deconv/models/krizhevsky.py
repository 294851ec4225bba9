"""Krizhevsky et al.'s network, which the paper compares Figure 3's with: larger filters and strides in layer 1.

In one branch, or in the original's two: there layers 2, 4 and 5 see half of the maps below them each, since the
network was trained on two GPUs.
"""

from __future__ import annotations

from collections.abc import Sequence

from deconv.errors import bad_value
from deconv.models.zfnet import PAPER_MAPS, ConvNet, convnet

CAFFE_NAMES = {
    **{f"features.{index}": f"conv{layer}" for layer, index in enumerate((0, 4, 8, 10, 12), start=1)},
    **{f"classifier.{index}": f"fc{layer}" for layer, index in enumerate((1, 4, 6), start=6)},
}
"""What Caffe, in which the original's weights are published, calls the modules that have weights."""


def krizhevsky(
    classes: int = 1000,
    maps: Sequence[int] = PAPER_MAPS,
    widths: Sequence[int] = (4096, 4096),
    lrn: bool = True,
    original: bool = False,
) -> ConvNet:
    """Return the network for images (N, 3, 224, 224): maps of 55, 27, 27, 13, 13, 13, 13 and 6 pixels.

    Layer 1 has 11x11 filters of stride 4. It is padded by 2 and layer 2 has stride 1 and padding 2, so that every pool
    covers its map exactly.
    original: whether it is as Krizhevsky et al. trained it and Caffe holds it, for images (N, 3, 227, 227) and with the
    same sizes of maps: layer 1 without padding, layers 2, 4 and 5 in two groups, and the contrast normalisation before
    the pools, with k = 1. Raises BadInput for maps that two groups cannot halve.

    >>> krizhevsky(classes=10, widths=(), original=True).features[4]
    Conv2d(96, 256, kernel_size=(5, 5), stride=(1, 1), padding=(2, 2), groups=2)
    """
    if not original:
        return convnet((11, 4, 2), (5, 1, 2), maps, widths, classes, image_size=224, lrn=lrn)
    if any(count % 2 for count in maps):
        raise bad_value("maps", list(maps), "even numbers, as layers are in two groups", "or leave original=True away")
    return convnet((11, 4, 0), (5, 1, 2), maps, widths, classes, image_size=227, lrn=lrn, original=True)


def krizhevsky64(
    classes: int = 200, maps: Sequence[int] = PAPER_MAPS, widths: Sequence[int] = (1280, 1280), lrn: bool = False
) -> ConvNet:
    """Return the network for images (N, 3, 64, 64): maps of 15, 15, 7, 7, 7, 7 and 3 pixels.

    Layer 1 has 11x11 filters of stride 4. Pool 1 is left out, since layer 1's maps are already as small as `zfnet64`'s
    after it: layers 2 to 8 have exactly the shapes and the receptive fields (27 pixels in layer 2) of `zfnet64`, and
    the two differ in layer 1 alone.
    """
    return convnet((11, 4, 3), (5, 1, 2), maps, widths, classes, image_size=64, lrn=lrn, pools=(2, len(maps)))
