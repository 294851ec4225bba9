"""How much of the receptive field the reconstruction needs, and where in it."""

from __future__ import annotations

import numpy as np

from deconv.compare.arrays import checked, energy

SHARES = (0.5, 0.9)


def concentration(reconstruction: np.ndarray) -> dict[str, float]:
    """{"area50", "area90", "off_centre"}: `area_holding` of half and nine tenths of the energy, and `off_centre`."""
    (recon,) = checked(reconstruction=reconstruction)
    found = {f"area{round(100 * share)}": area_holding(energy(recon), share) for share in SHARES}
    return found | {"off_centre": off_centre(energy(recon))}


def area_holding(energies: np.ndarray, share: float) -> float:
    """The least part of the pixels (h, w) that holds `share` of the energy: in [1 / pixels, 1]; 1 if there is none.

    Own definition; the same as the inverse Lorenz curve of the energies.
    """
    (given,) = checked(energies=energies)
    if given.max() <= 0:
        return 1.0
    held = np.cumsum(np.sort(given.ravel() / given.max())[::-1])
    return float((np.searchsorted(held, share * held[-1] * (1 - 1e-12)) + 1) / given.size)


def off_centre(energies: np.ndarray) -> float:
    """Distance of the energy's centre of mass from the field's centre, which is the peak's, in half diagonals.

    In [0, 1]: 1 is a corner; nan if there is no energy, 0 for one pixel.
    """
    (given,) = checked(energies=energies)
    if given.max() <= 0:
        return float("nan")
    weights = given / given.max()
    half = (np.array(given.shape) - 1) / 2
    mass = weights.sum()
    centre = np.array([(np.indices(given.shape)[axis] * weights).sum() / mass for axis in (0, 1)])
    return float(np.linalg.norm(centre - half) / max(float(np.linalg.norm(half)), 0.5))
