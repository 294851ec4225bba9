"""Does the unit fire at its own reconstruction, fed back as an image, and more than all other units do?"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from deconv.compare.arrays import checked


def as_input(
    reconstruction: Float[np.ndarray, "3 h w"], window: Float[np.ndarray, "3 h w"], inside: Bool[np.ndarray, "h w"]
) -> Float64[np.ndarray, "3 h w"]:
    """Return the reconstruction as an input of the network that is as strong as the window it came from.

    window: what the unit saw, as the network's input; inside: the pixels that lie in the image. The reconstruction is
    scaled to the root mean square of the window about its mean colour, and added to that colour; one that is all zero
    gives the plain colour.
    """
    recon, window = checked(reconstruction=reconstruction, window=window)
    mean = window[:, inside].mean(axis=1)[:, None, None]
    largest = np.abs(recon).max()
    if largest == 0:
        return mean * inside
    shape = recon / largest  # before squaring, which would lose the very small and the very large
    scale = np.sqrt((((window - mean) * inside) ** 2).sum() / (shape**2).sum())
    return (mean + scale * shape) * inside


def reactivation(
    responses: Float[np.ndarray, "N C"], channel: Int[np.ndarray, " N"], activation: Float[np.ndarray, " N"]
) -> Float[np.ndarray, " N"]:
    """Return each unit's response to its own reconstruction, divided by its activation at the peak; 0 or more.

    responses: of all units of the layer to each reconstruction; channel: the unit of each. It is nan where the
    activation is not above zero.
    """
    response = np.maximum(responses[np.arange(len(channel)), channel], 0)
    return np.divide(response, activation, out=np.full(len(response), np.nan), where=activation > 0)


def rank(
    responses: Float[np.ndarray, "N C"], channel: Int[np.ndarray, " N"], strongest: Float[np.ndarray, " C"]
) -> Float[np.ndarray, " N"]:
    """Return the fraction of the other units that respond less than the unit does, in [0, 1]; ties count half.

    strongest: each unit's best activation in the mined images, by which responses are divided, since units differ in
    scale; units without one (nan or 0) are left out. Own definition.
    """
    firing = np.flatnonzero(np.nan_to_num(strongest) > 0)
    relative = np.maximum(responses, 0)[:, firing] / strongest[firing]
    of_unit = relative[np.arange(len(channel)), np.searchsorted(firing, channel)][:, None]
    below = (relative < of_unit).sum(axis=1) + ((relative == of_unit).sum(axis=1) - 1) / 2
    fractions: np.ndarray = below / max(len(firing) - 1, 1)
    return fractions
