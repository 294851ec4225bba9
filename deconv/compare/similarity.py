"""How alike two reconstructions of one peak are, and how disordered: what is asked after a network was shuffled."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import entropy

from deconv.compare.arrays import checked, grey, inside_rows_cols, magnitude
from deconv.compare.likeness import pearson, rank_correlation, ssim

SIMILARITIES = ("rank", "ssim", "pearson")
ENTROPY_RISE = "entropy_rise"
BINS = 100
"""Of the histogram whose entropy is taken."""


def similarities(
    before: Float[np.ndarray, "3 h w"], after: Float[np.ndarray, "3 h w"], inside: Bool[np.ndarray, "h w"]
) -> dict[str, float]:
    """Return {"rank", "ssim", "pearson"} of two reconstructions, over the pixels of the field inside the image.

    rank: Spearman's correlation of absolute values, ssim: structural similarity of them, both after Adebayo et al. 2018
    (arXiv 1810.03292), section 4; pearson: of signed luminance. All in [-1, 1], 1 for the same picture; nan where
    either is zero everywhere. Of unrelated pictures pearson is about 0; rank is not, as any two that are brightest in
    the middle of a field agree in that, and noise in their outline too. Raises BadInput for NaN or infinite values.

    >>> picture = np.random.default_rng(0).normal(size=(3, 8, 8))
    >>> alike = similarities(picture, 5 * picture, np.ones((8, 8), dtype=bool))
    >>> {name: round(value, 6) for name, value in alike.items()}
    {'rank': 1.0, 'ssim': 1.0, 'pearson': 1.0}
    """
    rows, cols = inside_rows_cols(inside)
    a, b = (pixels[:, rows, cols] for pixels in checked(before=before, after=after))
    if not a.any() or not b.any():
        return dict.fromkeys(SIMILARITIES, float("nan"))
    sizes = magnitude(a), magnitude(b)
    return {"rank": rank_correlation(*sizes), "ssim": ssim(*sizes), "pearson": pearson(grey(a), grey(b))}


def entropy_rise(
    before: Float[np.ndarray, "3 h w"], after: Float[np.ndarray, "3 h w"], inside: Bool[np.ndarray, "h w"]
) -> float:
    """Return by what share the entropy of the picture's histogram rises, over the pixels of the field inside the image.

    The histogram has BINS equal bins from the least to the largest signed luminance. It is 0 where nothing changes, and
    nan where either picture is constant. Taken after all weights were shuffled this is efficient MPRT: a network that
    learned nothing should give the more disordered picture. Source: Hedström et al. 2023 (arXiv 2401.06465), section 4.
    Raises BadInput for NaN or infinite values.

    Noise is more disordered than a spot:

    >>> spot, noise = np.zeros((3, 20, 20)), np.random.default_rng(0).normal(size=(3, 20, 20))
    >>> spot[:, 8:12, 8:12] = 1
    >>> inside = np.ones((20, 20), dtype=bool)
    >>> entropy_rise(spot, noise, inside) > 1, entropy_rise(noise, -2 * noise, inside) < 0.01
    (True, True)
    """
    rows, cols = inside_rows_cols(inside)
    first, second = (_entropy(grey(pixels[:, rows, cols])) for pixels in checked(before=before, after=after))
    return (second - first) / first if first > 0 and second > 0 else float("nan")


def _entropy(picture: Float[np.ndarray, "h w"]) -> float:
    """The entropy of a picture's histogram, in nats; 0 of a constant one."""
    count, _ = np.histogram(picture, bins=BINS)
    return float(entropy(count))
