"""Reconstructions that a good one should beat, and the random choices that some of them need.

All draws depend on the seed and the peak alone, never on which others are looked at with it.
"""

from __future__ import annotations

import numpy as np

from deconv.compare.arrays import edges, grey, inside_rows_cols

CONTROLS = {
    "gradient_times_input": "gradient times what the unit sees (Shrikumar et al. 2017, arXiv 1605.01713)",
    "random_switches": "deconvnet whose switches are drawn at random",
    "other_switches": "deconvnet with the switches of another image",
    "other_unit": "deconvnet of another unit that fires at the same place (Nie et al. 2018, arXiv 1805.07039)",
    "random_weights": "deconvnet of the network with all weights shuffled (Adebayo et al. 2018, arXiv 1810.03292), by "
    "another unit where the unit then is dead",
    "edges": "an edge detector on the patch, which knows no network (Adebayo et al. 2018, section 5.1)",
    "random_mask": "noise: its strongest p % are a random mask of that size",
    "centre": "a Gaussian about the peak's place, which knows neither network nor image",
}
"""The controls by name, and what each is."""

CENTRE_SIGMA = 1 / 6
"""Of `centre`, as a part of the field's sides; effective fields are Gaussian (Luo et al. 2016, arXiv 1701.04128)."""


def edge_picture(patch: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(3, h, w): Sobel's gradient magnitude of the grey patch (3, h, w), in every colour; zero outside the image."""
    rows, cols = inside_rows_cols(inside)
    found = np.zeros_like(patch)
    found[:, rows, cols] = edges(grey(patch[:, rows, cols]))
    return found


def noise_picture(inside: np.ndarray, peak: tuple[int, ...], seed: int) -> np.ndarray:
    """(3, h, w): uniform noise in [0, 1), the same in every colour; zero outside the image (h, w)."""
    noise = _generator(seed, "noise", peak).random(inside.shape) * inside
    return np.broadcast_to(noise, (3, *inside.shape)).copy()


def centre_picture(inside: np.ndarray) -> np.ndarray:
    """(3, h, w): a Gaussian about the middle of the field (h, w), zero outside the image."""
    y, x = (np.linspace(-0.5, 0.5, side) if side > 1 else np.zeros(1) for side in inside.shape)
    bump = np.exp(-(y[:, None] ** 2 + x[None] ** 2) / (2 * CENTRE_SIGMA**2)) * inside
    return np.broadcast_to(bump, (3, *inside.shape)).copy()


def another_unit(activations: np.ndarray, peak: tuple[int, ...], seed: int) -> int:
    """A unit other than the peak's = (image, channel, row, col), among those that fire there, if any does.

    activations (C,): of all units at the peak's place. A layer of one unit has no other: it is its own.
    """
    others = np.flatnonzero(np.arange(len(activations)) != peak[1])
    firing = others[activations[others] > 0]
    return _choice(firing if len(firing) else others, peak[1], "unit", peak, seed)


def firing_unit(activations: np.ndarray, peak: tuple[int, ...], seed: int) -> int:
    """The peak's own unit if it fires, else one that does; its own if none does. activations (C,): at its place."""
    if activations[peak[1]] > 0:
        return peak[1]
    return _choice(np.flatnonzero(activations > 0), peak[1], "firing", peak, seed)


def another_image(images: np.ndarray, peak: tuple[int, ...], seed: int) -> int:
    """One of `images` (M,) that is not the peak's; its own if there is no other."""
    return _choice(images[images != peak[0]], peak[0], "image", peak, seed)


def _choice(possible: np.ndarray, otherwise: int, purpose: str, peak: tuple[int, ...], seed: int) -> int:
    return int(_generator(seed, purpose, peak).choice(possible)) if len(possible) else otherwise


def _generator(seed: int, purpose: str, peak: tuple[int, ...]) -> np.random.Generator:
    return np.random.default_rng([seed, *purpose.encode(), *peak])
