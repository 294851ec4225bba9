"""Is what a reconstruction marks what makes the unit fire: show the unit only that, or all but that, and see.

These are the insertion and deletion curves of Petsiuk et al. 2018 (RISE, arXiv 1806.07421, section 4.2), for one unit
at its peak instead of a class: the pixels with most energy first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64
from scipy.integrate import trapezoid
from scipy.ndimage import gaussian_filter

from deconv.compare.arrays import checked, energy
from deconv.errors import bad_value

SHARES = (0.02, 0.05, 0.15, 0.4)
"""Fractions of the pixels that a curve is measured at, beside none and all of them."""
FILLS = ("blur", "mean")
"""What stands where pixels are hidden: the blurred window, or its mean colour."""
CURVES = ("insertion", "deletion")
BLUR = 1 / 8
"""Standard deviation of the blur, as a fraction of the field's longer side: an eye in a face disappears."""

Respond = Callable[[np.ndarray], np.ndarray]
"""Takes windows (M * N, 3, h, w) float32, M for each of N units in turn; returns the units' activations (M * N,)."""


@dataclass(frozen=True, eq=False)
class Baselines:
    """N windows, each also hidden altogether by every fill, and what the N units answer to them.

    All curves of the same windows begin or end with these. windows: as the network's input; inside: the pixels that
    lie in the image; hidden: by fill, the windows with every pixel filled; activation: of the windows;
    hidden_activation: by fill.
    """

    windows: Float32[np.ndarray, "N 3 h w"]
    inside: Bool[np.ndarray, "N h w"]
    hidden: dict[str, Float32[np.ndarray, "N 3 h w"]]
    activation: Float64[np.ndarray, " N"]
    hidden_activation: dict[str, Float64[np.ndarray, " N"]]


def measure_baselines(
    windows: Float[np.ndarray, "N 3 h w"], inside: Bool[np.ndarray, "N h w"], respond: Respond
) -> Baselines:
    """Hide windows, given as the network's input, by every fill, and ask the units about both.

    inside: the pixels of each window that lie in the image. Raises BadInput for NaN or infinite values.
    """
    checked(windows=windows, inside=inside)
    windows = np.asarray(windows, dtype=np.float32)
    hidden = {
        fill: np.stack([filled(w, i, fill) for w, i in zip(windows, inside, strict=True)]).astype(np.float32)
        for fill in FILLS
    }
    activation, *hidden_activation = _activations(respond, [windows, *hidden.values()])
    return Baselines(windows, inside, hidden, activation, dict(zip(FILLS, hidden_activation, strict=True)))


def curves(
    baselines: Baselines,
    reconstructions: Float[np.ndarray, "N 3 h w"],
    respond: Respond,
    shares: Sequence[float] = SHARES,
) -> dict[tuple[str, str], Float64[np.ndarray, "N points"]]:
    """Return {(curve, fill): (N, 2 + shares)}, each unit's activation as a fraction of that on its whole window.

    "insertion" shows the pixels of most energy on a fill, "deletion" fills them: none of the pixels, each share of
    them, all of them. Pixels of equal energy go in reading order. Values are 0 or more, 1 for the window as it is, and
    nan where a unit does not fire on its window.
    Raises BadInput for shares that do not increase within (0, 1), for other shapes and for NaN or infinite values.

    A unit that adds up two pixels, of which the reconstruction marks the first:

    >>> def respond(windows):
    ...     return windows[:, 0, 0, 0] + windows[:, 0, 0, 1]
    >>> windows = np.zeros((1, 3, 2, 2), dtype=np.float32)
    >>> windows[0, 0, 0] = 3, 1
    >>> reconstruction = np.zeros((1, 3, 2, 2))
    >>> reconstruction[0, 0, 0, 0] = 1
    >>> baselines = measure_baselines(windows, np.ones((1, 2, 2), dtype=bool), respond)
    >>> both = curves(baselines, reconstruction, respond, shares=[0.25])
    >>> both["insertion", "mean"].tolist(), both["deletion", "mean"].tolist()
    ([[0.5, 1.0, 1.0]], [[1.0, 0.5, 0.5]])
    >>> area(both["insertion", "mean"], shares=[0.25]).tolist()
    [0.9375]
    """
    if list(shares) != sorted(set(shares)) or not all(0 < share < 1 for share in shares):
        raise bad_value("shares", list(shares), "increasing numbers between 0 and 1")
    pixels, _ = checked(reconstructions=reconstructions, inside=baselines.inside)
    rank = np.stack([order(energy(p), i) for p, i in zip(pixels, baselines.inside, strict=True)])
    marked = [(rank < share)[:, None] for share in shares]  # (N, 1, h, w) each
    hidden = baselines.hidden.values()
    inserted = [np.where(mark, baselines.windows, fill) for fill in hidden for mark in marked]
    deleted = [np.where(mark, fill, baselines.windows) for fill in hidden for mark in marked]
    answers = _activations(respond, [*inserted, *deleted]).reshape(len(CURVES), len(FILLS), len(shares), -1)
    whole = baselines.activation
    points = {}
    for n, fill in enumerate(baselines.hidden):
        points["insertion", fill] = [baselines.hidden_activation[fill], *answers[0, n], whole]
        points["deletion", fill] = [whole, *answers[1, n], baselines.hidden_activation[fill]]
    reference = np.where(whole > 0, whole, np.nan)[:, None]
    return {name: np.stack(activations, axis=1) / reference for name, activations in points.items()}


def area(curve: Float[np.ndarray, "N points"], shares: Sequence[float] = SHARES) -> Float[np.ndarray, " N"]:
    """Return the areas under curves (N, 2 + shares) over the fraction of pixels, by trapezia.

    A curve that stays at 1 has area 1. RISE's insertion is better the higher, its deletion the lower.
    """
    areas: np.ndarray = trapezoid(curve, [0.0, *shares, 1.0], axis=1)
    return areas


def order(energies: Float[np.ndarray, "h w"], inside: Bool[np.ndarray, "h w"]) -> Float64[np.ndarray, "h w"]:
    """Rank the pixels inside the image, as a fraction in [0, 1): the most energetic is 0; those outside are inf."""
    rank = np.full(energies.shape, np.inf)
    falling = np.argsort(-energies[inside], kind="stable")
    fractions = np.empty(len(falling))
    fractions[falling] = np.arange(len(falling)) / max(len(falling), 1)
    rank[inside] = fractions
    return rank


def filled(window: Float[np.ndarray, "3 h w"], inside: Bool[np.ndarray, "h w"], fill: str) -> np.ndarray:
    """Return the window (3, h, w) blurred, or as its mean colour: of the pixels inside the image; zero outside it."""
    weight = inside.astype(np.float64)
    if fill == "mean":
        return np.broadcast_to(window[:, inside].mean(axis=1)[:, None, None], window.shape) * weight
    sigma = max(window.shape[1:]) * BLUR
    weight_nearby = gaussian_filter(weight, sigma, mode="constant")
    blurred = np.stack([gaussian_filter(colour * weight, sigma, mode="constant") for colour in window])
    return blurred / np.maximum(weight_nearby, 1e-6) * weight


def _activations(respond: Respond, windows: Sequence[np.ndarray]) -> np.ndarray:
    """Return the activations (M, N) float64 to M times N windows, all asked about at once; negative ones as 0."""
    answers = np.asarray(respond(np.concatenate(windows)), dtype=np.float64)
    return np.maximum(answers, 0).reshape(len(windows), -1)
