"""Reconstructions that a good one should beat, and the random choices that some of them need.

All draws depend on the seed and the peak alone, never on which others are looked at with it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from deconv.compare.arrays import edges, grey, inside_rows_cols

CONTROLS = {
    "gradient_times_input": "gradient times input (Shrikumar et al. 2017, arXiv 1605.01713)",
    "random_switches": "deconvnet whose switches are drawn at random",
    "other_switches": "deconvnet with the switches of another image",
    "other_unit": "deconvnet of another unit that fires at the same position (Nie et al. 2018, arXiv 1805.07039)",
    "random_weights": "deconvnet of the network with all weights shuffled (Adebayo et al. 2018, arXiv 1810.03292), by "
    "another unit where the unit then is dead",
    "edges": "an edge detector on the patch, which knows no network (Adebayo et al. 2018, section 5.1)",
    "random_mask": "noise: its strongest p % are a random mask of that size",
    "centre": "a Gaussian about the peak's position, which knows neither network nor image",
}
"""The controls by name, and what each is. Deconvnet here is carried as far as the tested rule: `Rule.carried_like`."""

CENTRE_SIGMA = 1 / 6
"""Standard deviation of `centre`, as a fraction of the field's sides. Effective fields are Gaussian (Luo et al. 2016,
arXiv 1701.04128)."""


def edge_picture(patch: Float[np.ndarray, "3 h w"], inside: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "3 h w"]:
    """Return Sobel's gradient magnitude of the grey patch, in every colour; zero outside the image."""
    rows, cols = inside_rows_cols(inside)
    picture = np.zeros_like(patch)
    picture[:, rows, cols] = edges(grey(patch[:, rows, cols]))
    return picture


def noise_picture(inside: Bool[np.ndarray, "h w"], peak: tuple[int, ...], seed: int) -> Float[np.ndarray, "3 h w"]:
    """Return uniform noise in [0, 1), the same in every colour; zero outside the image."""
    noise = _generator(seed, "noise", peak).random(inside.shape) * inside
    return np.broadcast_to(noise, (3, *inside.shape)).copy()


def centre_picture(inside: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "3 h w"]:
    """Return a Gaussian about the middle of the field, the same in every colour; zero outside the image."""
    y, x = (np.linspace(-0.5, 0.5, side) if side > 1 else np.zeros(1) for side in inside.shape)
    bump = np.exp(-(y[:, None] ** 2 + x[None] ** 2) / (2 * CENTRE_SIGMA**2)) * inside
    return np.broadcast_to(bump, (3, *inside.shape)).copy()


def another_unit(activations: Float[np.ndarray, " C"], peak: tuple[int, ...], seed: int) -> int:
    """Draw a unit other than the peak's, among those that fire at its position if any other does.

    activations: of all units there; peak: (image id, channel, row, col). A layer of one unit has no other: its own.
    """
    others = np.flatnonzero(np.arange(len(activations)) != peak[1])
    firing = others[activations[others] > 0]
    return _choice(firing if len(firing) else others, peak[1], "unit", peak, seed)


def firing_unit(activations: Float[np.ndarray, " C"], peak: tuple[int, ...], seed: int) -> int:
    """Return the peak's own unit if it fires, else draw one that does; its own if none does.

    activations: of all units at the peak's position.
    """
    if activations[peak[1]] > 0:
        return peak[1]
    return _choice(np.flatnonzero(activations > 0), peak[1], "firing", peak, seed)


def another_image(image_ids: Int[np.ndarray, " M"], peak: tuple[int, ...], seed: int) -> int:
    """Draw the id of an image that is not the peak's; its own if there is no other."""
    return _choice(image_ids[image_ids != peak[0]], peak[0], "image", peak, seed)


def _choice(possible: np.ndarray, otherwise: int, purpose: str, peak: tuple[int, ...], seed: int) -> int:
    return int(_generator(seed, purpose, peak).choice(possible)) if len(possible) else otherwise


def _generator(seed: int, purpose: str, peak: tuple[int, ...]) -> np.random.Generator:
    return np.random.default_rng([seed, *purpose.encode(), *peak])
