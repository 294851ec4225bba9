"""Does the reconstruction look like the patch: correlation, structural similarity, colour.

Both are seen three ways: "grey", the signed luminance; "absolute", how far each pixel is from neutral, which is zero
for a reconstruction and the mean colour for a patch; "edges", the gradient magnitude of the grey view. A high score is
no proof of a good rule: an edge detector has one (Adebayo et al. 2018, section 5.1).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from deconv.compare.arrays import checked, edges, grey, magnitude

VIEWS = ("grey", "absolute", "edges")
SSIM_WINDOW = 7
"""Pixels a side of the sliding window, as in scikit-image; the largest odd number that fits for smaller pictures."""
FLAT = 1e-12
"""A picture whose standard deviation is below this fraction of its largest value counts as constant."""


def likeness(reconstruction: Float[np.ndarray, "3 _ _"], patch: Float[np.ndarray, "3 _ _"]) -> dict[str, float]:
    """Return the Pearson correlation and the SSIM of reconstruction and patch in each view, and colour agreement.

    The keys are "pearson_grey", "ssim_grey" and so on, and "colour"; ranges and sources stand at the functions.

    >>> patch = np.random.default_rng(0).random((3, 9, 9))
    >>> scores = likeness(patch - patch.mean(), patch)
    >>> round(scores["pearson_grey"], 6), round(scores["ssim_edges"], 6)
    (1.0, 1.0)
    """
    recon, patch = checked(reconstruction=reconstruction, patch=patch)
    pairs = {
        "grey": (grey(recon), grey(patch)),
        "absolute": (magnitude(recon), magnitude(patch - patch.mean(axis=(1, 2), keepdims=True))),
        "edges": (edges(grey(recon)), edges(grey(patch))),
    }
    scores = {f"pearson_{view}": pearson(*pairs[view]) for view in VIEWS}
    return scores | {f"ssim_{view}": ssim(*pairs[view]) for view in VIEWS} | {"colour": colour(recon, patch)}


def standardised(picture: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"] | None:
    """Return the picture with mean 0 and standard deviation 1; None if it is constant."""
    centred = picture - picture.mean()
    largest = np.abs(centred).max()
    if largest <= FLAT * np.abs(picture).max():
        return None
    centred = centred / largest  # before squaring, which would lose the very small and the very large
    standard: np.ndarray = centred / centred.std()
    return standard


def pearson(a: Float[np.ndarray, "_ _"], b: Float[np.ndarray, "_ _"]) -> float:
    """Return Pearson's correlation over the pixels of two pictures (h, w), in [-1, 1]; 0 if either is constant."""
    first, second = checked(a=a, b=b)
    x, y = standardised(first), standardised(second)
    return 0.0 if x is None or y is None else float(np.clip((x * y).mean(), -1, 1))


def rank_correlation(a: Float[np.ndarray, "_ _"], b: Float[np.ndarray, "_ _"]) -> float:
    """Return Spearman's correlation over the pixels of two pictures (h, w), in [-1, 1]; 0 if either is constant.

    Source: one of the similarities of Adebayo et al. 2018 (arXiv 1810.03292), section 4; scipy's spearmanr.
    """
    first, second = checked(a=a, b=b)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(spearmanr(first, second, axis=None).statistic)


def ssim(a: Float[np.ndarray, "_ _"], b: Float[np.ndarray, "_ _"]) -> float:
    """Return the structural similarity of two pictures (h, w), each brought to mean 0 and deviation 1; in [-1, 1].

    0 if either is constant; nan if a side is under 3 pixels, where no window fits. The range of values, which its
    constants need, is that of `b`. Source: Wang et al. 2004, as scikit-image has it (uniform windows of 7 x 7).
    """
    first, second = checked(a=a, b=b)
    if min(first.shape) < 3:
        return float("nan")
    x, y = standardised(first), standardised(second)
    if x is None or y is None:
        return 0.0
    side = min(SSIM_WINDOW, *first.shape)
    window = side if side % 2 else side - 1
    return float(structural_similarity(x, y, win_size=window, data_range=float(np.ptp(y))))


def colour(reconstruction: Float[np.ndarray, "3 _ _"], patch: Float[np.ndarray, "3 _ _"]) -> float:
    """Return the cosine, over all pixels, between the colours of both without their grey; in [-1, 1].

    The colour of a pixel is its (r, g, b) less their mean; the patch's are taken against the patch's mean colour, as a
    reconstruction knows no background. It is 0 if one of the two has no colour. Own definition.
    """
    recon, patch = checked(reconstruction=reconstruction, patch=patch)
    x = recon - recon.mean(axis=0)
    y = patch - patch.mean(axis=(1, 2), keepdims=True)
    y = y - y.mean(axis=0)
    for chroma, whole in ((x, recon), (y, patch)):
        if np.abs(chroma).max() <= FLAT * np.abs(whole).max():
            return 0.0
    x, y = x / np.abs(x).max(), y / np.abs(y).max()
    return float(np.clip((x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum()), -1, 1))
