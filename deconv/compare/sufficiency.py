"""Is what the reconstruction marks what makes the unit fire: keep only that, or remove it, and ask the unit.

The insertion and deletion games of Petsiuk et al. 2018 (RISE, arXiv 1806.07421, section 4.2), played with one unit at
its peak instead of a class: the pixels with most energy first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.integrate import trapezoid
from scipy.ndimage import gaussian_filter

from deconv.compare.arrays import checked, energy
from deconv.errors import BadInput

SHARES = (0.02, 0.05, 0.15, 0.4)
FILLS = ("blur", "mean")
GAMES = ("keep", "remove")
BLUR = 1 / 8
"""The blur's standard deviation as a part of the field's longer side: parts of the size of an eye in a face go."""

Respond = Callable[[np.ndarray], np.ndarray]
"""Windows (M * N, 3, h, w) float32, M for each of N units in turn, to the activations (M * N,) of those units."""


@dataclass(frozen=True, eq=False)
class Board:
    """What every game with the same N windows begins with.

    windows (N, 3, h, w) float32;  inside (N, h, w) bool;  blanks: {fill: the windows filled altogether, shaped alike};
    full (N,), empty {fill: (N,)}: the activations that the windows and the blanks give.
    """

    windows: np.ndarray
    inside: np.ndarray
    blanks: dict[str, np.ndarray]
    full: np.ndarray
    empty: dict[str, np.ndarray]


def set_up(windows: np.ndarray, inside: np.ndarray, respond: Respond) -> Board:
    """The board of windows (N, 3, h, w), as the network's input, that lie in the image where inside (N, h, w) says.

    Raises BadInput for shapes that do not fit and for NaN or infinite values.
    """
    checked(windows=windows, inside=inside)
    seen = np.asarray(windows, dtype=np.float32)
    blanks = {
        fill: np.stack([filled(w, i, fill) for w, i in zip(seen, inside, strict=True)]).astype(np.float32)
        for fill in FILLS
    }
    full, *empty = _activations(respond, [seen, *blanks.values()])
    return Board(seen, inside, blanks, full, dict(zip(FILLS, empty, strict=True)))


def curves(
    board: Board, reconstructions: np.ndarray, respond: Respond, shares: Sequence[float] = SHARES
) -> dict[tuple[str, str], np.ndarray]:
    """{(game, fill): (N, 2 + shares)}: each unit's activation, as a part of its own, with 0, shares and all pixels.

    reconstructions (N, 3, h, w) for the board's windows. "keep" shows the pixels with most energy on a fill, "remove"
    fills them; the fill is the window's blur or its mean colour. Pixels of equal energy go in reading order.
    Range: from 0; 1 is the activation of the window as it is; nan where that is not above zero.
    Raises BadInput for shares that do not increase within (0, 1), shapes that do not fit, NaN or infinite values.
    """
    if list(shares) != sorted(set(shares)) or not all(0 < share < 1 for share in shares):
        raise BadInput(f"shares: given {list(shares)}; expected increasing numbers between 0 and 1.")
    (recon, _) = checked(reconstructions=reconstructions, inside=board.inside)
    place = np.stack([order(energy(r), i) for r, i in zip(recon, board.inside, strict=True)])
    marked = [(place < share)[:, None] for share in shares]
    blanks = board.blanks.values()
    kept = [np.where(mark, board.windows, blank) for blank in blanks for mark in marked]
    left = [np.where(mark, blank, board.windows) for blank in blanks for mark in marked]
    answers = _activations(respond, [*kept, *left]).reshape(len(GAMES), len(FILLS), len(shares), -1)
    found = {}
    for n, fill in enumerate(board.blanks):
        found["keep", fill] = _parts([board.empty[fill], *answers[0, n], board.full], board.full)
        found["remove", fill] = _parts([board.full, *answers[1, n], board.empty[fill]], board.full)
    return found


def area(curve: np.ndarray, shares: Sequence[float] = SHARES) -> np.ndarray:
    """(N,) areas under curves (N, 2 + shares) over the share of pixels, by trapezia; a curve that stays at 1 has 1.

    Under "keep" it is RISE's insertion (higher is better), under "remove" its deletion (lower is better).
    """
    found: np.ndarray = trapezoid(curve, [0.0, *shares, 1.0], axis=1)
    return found


def order(energies: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(h, w) in [0, 1): each pixel's place among those inside the image, the most energetic 0; outside it inf."""
    rank = np.full(energies.shape, np.inf)
    falling = np.argsort(-energies[inside], kind="stable")
    places = np.empty(len(falling))
    places[falling] = np.arange(len(falling)) / max(len(falling), 1)
    rank[inside] = places
    return rank


def filled(window: np.ndarray, inside: np.ndarray, fill: str) -> np.ndarray:
    """The window (3, h, w) blurred, or its mean colour, both of the part inside the image; outside it zero."""
    weight = inside.astype(np.float64)
    if fill == "mean":
        return np.broadcast_to(window[:, inside].mean(axis=1)[:, None, None], window.shape) * weight
    sigma = max(window.shape[1:]) * BLUR
    around = gaussian_filter(weight, sigma, mode="constant")
    blurred = np.stack([gaussian_filter(colour * weight, sigma, mode="constant") for colour in window])
    return blurred / np.maximum(around, 1e-6) * weight


def _activations(respond: Respond, windows: Sequence[np.ndarray]) -> np.ndarray:
    """(M, N), of M times N windows, all asked about at once."""
    answers = np.asarray(respond(np.concatenate(windows)), dtype=np.float64)
    return np.maximum(answers, 0).reshape(len(windows), -1)


def _parts(activations: list[np.ndarray], full: np.ndarray) -> np.ndarray:
    """(N, P) activations as parts of the full ones (N,)."""
    return np.stack(activations, axis=1) / np.where(full > 0, full, np.nan)[:, None]
