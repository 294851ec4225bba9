"""Does the unit know its own reconstruction: fed back as an image, does it fire, and before all other units?"""

from __future__ import annotations

import numpy as np

from deconv.compare.arrays import checked


def as_input(reconstruction: np.ndarray, window: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The reconstruction (3, h, w) as an input of the network: as strong as the window it came from, about its mean.

    window (3, h, w): what the unit saw, as the network's input;  inside (h, w) bool. The reconstruction is scaled to
    the root mean square of the window about its mean colour, and lies on that colour; all-zero gives the plain colour.
    """
    recon, seen = checked(reconstruction=reconstruction, window=window)
    mean = seen[:, inside].mean(axis=1)[:, None, None]
    largest = np.abs(recon).max()
    shape = recon / largest if largest > 0 else recon
    scale = np.sqrt((((seen - mean) * inside) ** 2).sum() / max((shape**2).sum(), 1e-300)) if largest > 0 else 0.0
    return (mean + scale * shape) * inside


def reactivation(responses: np.ndarray, channel: np.ndarray, peak: np.ndarray) -> np.ndarray:
    """(N,) responses of each unit to its own reconstruction, as parts of its activation at the peak; from 0, no bound.

    responses (N, C): of all units of the layer;  channel (N,);  peak (N,) above zero.
    """
    own = np.maximum(responses[np.arange(len(channel)), channel], 0)
    return np.divide(own, peak, out=np.full(len(own), np.nan), where=peak > 0)


def rank(responses: np.ndarray, channel: np.ndarray, strongest: np.ndarray) -> np.ndarray:
    """(N,) parts of the other units that respond less than the unit does, in [0, 1]; 1 is first; ties count half.

    strongest (C,): each unit's best activation in the mined images, by which responses are divided, since units differ
    in scale; units without one (nan or 0) are left out. Own definition.
    """
    known = np.flatnonzero(np.nan_to_num(strongest) > 0)
    relative = np.maximum(responses, 0)[:, known] / strongest[known]
    own = relative[np.arange(len(channel)), np.searchsorted(known, channel)][:, None]
    below = (relative < own).sum(axis=1) + ((relative == own).sum(axis=1) - 1) / 2
    found: np.ndarray = below / max(len(known) - 1, 1)
    return found
