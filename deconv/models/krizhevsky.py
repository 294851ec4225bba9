"""Krizhevsky et al.'s network, which the paper compares Figure 3's with: larger filters and strides in layer 1.

One branch instead of two: no convolution is split into groups, so it has more weights than the original.
"""

from __future__ import annotations

from collections.abc import Sequence

from deconv.models.zfnet import PAPER_MAPS, ConvNet, convnet


def krizhevsky(
    classes: int = 1000, maps: Sequence[int] = PAPER_MAPS, widths: Sequence[int] = (4096, 4096), lrn: bool = True
) -> ConvNet:
    """Return the network for images (N, 3, 224, 224): maps of 55, 27, 27, 13, 13, 13, 13 and 6 pixels.

    Layer 1 has 11x11 filters of stride 4. It is padded by 2 and layer 2 has stride 1 and padding 2, so that every pool
    covers its map exactly.
    """
    return convnet((11, 4, 2), (5, 1, 2), maps, widths, classes, image_size=224, lrn=lrn)


def krizhevsky64(
    classes: int = 200, maps: Sequence[int] = PAPER_MAPS, widths: Sequence[int] = (1280, 1280), lrn: bool = False
) -> ConvNet:
    """Return the network for images (N, 3, 64, 64): maps of 15, 15, 7, 7, 7, 7 and 3 pixels.

    Layer 1 has 11x11 filters of stride 4. Pool 1 is left out, since layer 1's maps are already as small as `zfnet64`'s
    after it: layers 2 to 8 have exactly the shapes and the receptive fields (27 pixels in layer 2) of `zfnet64`, and
    the two differ in layer 1 alone.
    """
    return convnet((11, 4, 3), (5, 1, 2), maps, widths, classes, image_size=64, lrn=lrn, pools=(2, len(maps)))
