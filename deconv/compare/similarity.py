"""How alike two reconstructions of one peak are: what a sanity check asks after it changed the network."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from deconv.compare.arrays import checked, grey, inside_rows_cols, magnitude
from deconv.compare.likeness import pearson, rank_correlation, ssim

SIMILARITIES = ("rank", "ssim", "pearson")


def similarities(
    before: Float[np.ndarray, "3 h w"], after: Float[np.ndarray, "3 h w"], inside: Bool[np.ndarray, "h w"]
) -> dict[str, float]:
    """Return {"rank", "ssim", "pearson"} of two reconstructions, over the pixels of the field inside the image.

    rank: Spearman's correlation of absolute values, ssim: structural similarity of them, both after Adebayo et al. 2018
    (arXiv 1810.03292), section 4; pearson: of signed luminance. All in [-1, 1], 1 for the same picture, about 0 for
    unrelated ones; nan where either is zero everywhere. Raises BadInput for NaN or infinite values.

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
