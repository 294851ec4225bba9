"""What every metric begins with: checked arrays, and the views of them that are compared."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.color import rgb2gray

from deconv.errors import BadInput


def checked(**given: np.ndarray) -> list[np.ndarray]:
    """The arrays as float64. Raises BadInput unless they are finite, not empty, and agree in their last two axes."""
    shapes = {name: array.shape for name, array in given.items()}
    if len({shape[-2:] for shape in shapes.values()}) != 1 or 0 in next(iter(shapes.values())):
        raise BadInput(f"given shapes {shapes}; expected the same height and width, and at least one pixel.")
    for name, array in given.items():
        if not np.isfinite(array).all():
            raise BadInput(f"{name} holds NaN or infinite values; expected finite ones: leave such peaks out.")
    return [np.asarray(array, dtype=np.float64) for array in given.values()]


def inside_rows_cols(inside: np.ndarray) -> tuple[slice, slice]:
    """The rectangle of a field (h, w) that lies in the image. Raises BadInput if none of it does."""
    if not inside.any():
        raise BadInput("inside: given a field that lies outside its image altogether; expected some of it inside.")
    rows, cols = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1)


def grey(pixels: np.ndarray) -> np.ndarray:
    """(3, h, w) as (h, w): luminance by the weights of scikit-image's rgb2gray, signed where the pixels are."""
    shown: np.ndarray = rgb2gray(pixels, channel_axis=0)
    return shown


def magnitude(pixels: np.ndarray) -> np.ndarray:
    """(3, h, w) as (h, w): the length of each pixel's colour vector."""
    return np.sqrt((pixels**2).sum(axis=0))


def edges(shown: np.ndarray) -> np.ndarray:
    """Gradient magnitude of (h, w), by Sobel's filters; the border is continued by its own values."""
    return np.hypot(ndimage.sobel(shown, axis=0, mode="nearest"), ndimage.sobel(shown, axis=1, mode="nearest"))


def energy(reconstruction: np.ndarray) -> np.ndarray:
    """(h, w) of (3, h, w): the sum of squares over colours."""
    shown: np.ndarray = (reconstruction**2).sum(axis=0)
    return shown
