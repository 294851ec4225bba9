"""What every metric begins with: checked arrays, and the views of them that are compared."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage
from skimage.color import rgb2gray

from deconv.errors import BadInput, bad_value


def checked(**arrays: np.ndarray) -> list[np.ndarray]:
    """Return arrays of pictures as float64.

    Raises BadInput, which calls them by their keywords, unless they are numpy arrays of finite values, not empty, that
    agree in height and width, their last two axes.
    """
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.ndim < 2:
            raise bad_value(name, array, "a numpy array of pictures, (..., height, width)")
    shapes = {name: array.shape for name, array in arrays.items()}
    if len({shape[-2:] for shape in shapes.values()}) != 1 or 0 in next(iter(shapes.values())):
        raise BadInput(f"given shapes {shapes}; expected the same height and width, and at least one pixel")
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise BadInput(f"{name} holds NaN or infinite values; expected finite ones: leave such peaks out")
    return [np.asarray(array, dtype=np.float64) for array in arrays.values()]


def inside_rows_cols(inside: Bool[np.ndarray, "h w"]) -> tuple[slice, slice]:
    """Return the rows and columns of a receptive field that lie in the image. Raises BadInput if none do."""
    if not inside.any():
        raise BadInput("inside: given a field that lies outside its image altogether; expected some of it inside")
    rows, cols = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1)


def grey(pixels: Float[np.ndarray, "3 h w"]) -> Float[np.ndarray, "h w"]:
    """Return the luminance by the weights of scikit-image's rgb2gray, signed where the pixels are."""
    luminance: np.ndarray = rgb2gray(pixels, channel_axis=0)
    return luminance


def magnitude(pixels: Float[np.ndarray, "3 h w"]) -> Float[np.ndarray, "h w"]:
    """Return the length of each pixel's colour vector."""
    return np.sqrt((pixels**2).sum(axis=0))


def edges(picture: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Return the gradient magnitude by Sobel's filters; the border is continued by its own values."""
    return np.hypot(ndimage.sobel(picture, axis=0, mode="nearest"), ndimage.sobel(picture, axis=1, mode="nearest"))


def energy(reconstruction: Float[np.ndarray, "3 h w"]) -> Float[np.ndarray, "h w"]:
    """Return the sum of squares over colours."""
    energies: np.ndarray = (reconstruction**2).sum(axis=0)
    return energies
