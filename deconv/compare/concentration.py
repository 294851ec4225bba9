"""How much of the receptive field the reconstruction needs, and where in it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from deconv.compare.arrays import checked, energy

SHARES = (0.5, 0.9)
"""Fractions of the energy whose least area is measured."""


def concentration(reconstruction: Float[np.ndarray, "3 h w"]) -> dict[str, float]:
    """Return {"area50", "area90", "off_centre"}: `area_holding` half and 90 % of the energy, and `off_centre`.

    >>> pixels = np.zeros((3, 5, 5))
    >>> pixels[:, 2, 2] = 1.0
    >>> concentration(pixels)
    {'area50': 0.04, 'area90': 0.04, 'off_centre': 0.0}
    """
    (recon,) = checked(reconstruction=reconstruction)
    areas = {f"area{round(100 * share)}": area_holding(energy(recon), share) for share in SHARES}
    return areas | {"off_centre": off_centre(energy(recon))}


def area_holding(energies: Float[np.ndarray, "h w"], share: float) -> float:
    """Return the smallest fraction of the pixels that holds `share` of the energy, in [1 / pixels, 1].

    It is 1 if there is no energy. Own definition; the same as the inverse Lorenz curve of the energies.
    """
    (energies,) = checked(energies=energies)
    if energies.max() <= 0:
        return 1.0
    held = np.cumsum(np.sort(energies.ravel() / energies.max())[::-1])
    # less a rounding error of the sum: of equal energies, half is held by half of them
    return float((np.searchsorted(held, share * held[-1] * (1 - 1e-12)) + 1) / energies.size)


def off_centre(energies: Float[np.ndarray, "h w"]) -> float:
    """Return the distance of the energy's centre of mass from the field's centre, which is the peak's.

    In half diagonals of the field, so in [0, 1], where 1 is a corner; nan if there is no energy, 0 for one pixel.
    """
    (energies,) = checked(energies=energies)
    if energies.max() <= 0:
        return float("nan")
    weights = energies / energies.max()
    half = (np.array(energies.shape) - 1) / 2
    mass = weights.sum()
    centre = np.array([(np.indices(energies.shape)[axis] * weights).sum() / mass for axis in (0, 1)])
    return float(np.linalg.norm(centre - half) / max(float(np.linalg.norm(half)), 0.5))
