"""Virtual units: the peaks of a unit with several meanings, split by the lower units that each of them is made of.

Dreyer et al. 2024 (PURE, arXiv 2404.06453): where a unit is strong for two kinds of thing, each kind reaches it by
other lower units, so that the peaks fall into clusters by what those pass on, whatever the photographs look like.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from deconv.analyses.features import shared_classes
from deconv.errors import check_count, needed
from deconv.images import Source
from deconv.records import Reconstructions

with needed("virtual units", "scikit-learn", extra="probing"):
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

MOST_CLUSTERS = 5
"""The most clusters that are tried where their number is chosen."""
STARTS = 10
"""Drawn starts of k-means, of which the best is kept."""


@dataclass(frozen=True, eq=False)
class VirtualUnit:
    """Some of the peaks of a unit, which are made alike.

    - peaks: their numbers among the unit's peaks, 0 the strongest.
    - classes: what their images share, or "".
    - lower: the strongest of the lower units that they are made of.
    - shares: the parts that these have in the activations of these peaks together.
    - elsewhere: the parts that they have in those of the unit's other peaks; nan where there are none.
    """

    peaks: Int64[Tensor, " n"]
    classes: str
    lower: tuple[int, ...]
    shares: tuple[float, ...]
    elsewhere: tuple[float, ...]

    def numbers(self) -> dict[str, Any]:
        """Return all of it as a record has it, None where a share is not known."""
        known = [None if np.isnan(share) else share for share in self.elsewhere]
        made_of = [
            {"unit": unit, "share": share, "elsewhere": elsewhere}
            for unit, share, elsewhere in zip(self.lower, self.shares, known, strict=True)
        ]
        return {"peaks": self.peaks.tolist(), "classes": self.classes or None, "made_of": made_of}


def recipes_of(recon: Reconstructions, layer: str) -> Float32[np.ndarray, "n units"]:
    """Return the shares of the units of a lower layer in each activation, scaled to length 1; zero where all are.

    So two peaks are alike if the same lower units make them, however strong they are and however much biases add.
    """
    shares: np.ndarray = recon.parts[layer].numpy()
    lengths = np.linalg.norm(shares, axis=1, keepdims=True)
    scaled: np.ndarray = shares / np.where(lengths > 0, lengths, 1)
    return scaled


def split_peaks(
    recipes: Float32[np.ndarray, "n units"] | Float64[np.ndarray, "n units"], clusters: int | None, seed: int
) -> Int64[np.ndarray, " n"]:
    """Return the cluster of each peak by k-means, numbered in the order in which they first come up.

    recipes: as `recipes_of` gives them.  clusters: how many; None is the number, from 2 to MOST_CLUSTERS, whose
    silhouette (Rousseeuw 1987) is largest, which never says that there is but one.
    There are no more clusters than different recipes: peaks that are all made alike are one.
    Raises BadInput for a number of clusters below 2.

    >>> left, right = [1.0, 0.0], [0.0, 1.0]
    >>> split_peaks(np.array([right, left, left, right]), 2, seed=0).tolist()
    [0, 1, 1, 0]
    """
    if clusters is not None:
        check_count("clusters", clusters, 2)
    different = len(np.unique(recipes, axis=0))
    if different <= 1 or (clusters is None and len(recipes) < 3):
        return np.zeros(len(recipes), dtype=np.int64)
    if clusters is not None:
        best = _k_means(recipes, min(clusters, different), seed)
    else:
        most = min(MOST_CLUSTERS, different, len(recipes) - 1)
        tried = [_k_means(recipes, count, seed) for count in range(2, most + 1)]
        best = max(tried, key=lambda labels: float(silhouette_score(recipes, labels)))
    _, first, members = np.unique(best, return_index=True, return_inverse=True)
    renumbered: np.ndarray = first.argsort().argsort()[members].astype(np.int64)
    return renumbered


def _k_means(recipes: np.ndarray, count: int, seed: int) -> np.ndarray:
    labels: np.ndarray = KMeans(count, n_init=STARTS, random_state=seed).fit_predict(recipes)
    return labels


def virtual_units(
    images: Source, recon: Reconstructions, layer: str, cluster: Int64[np.ndarray, " n"], lower: int
) -> list[VirtualUnit]:
    """Return the clusters of one unit's peaks, each with the `lower` strongest of the units that it is made of.

    recon: of the unit's peaks, with their parts of `layer`.  cluster: that of each peak, as `split_peaks` gives it.
    Only lower units that add to the activations count, so that there may be fewer.
    """
    members = [torch.from_numpy(cluster == number) for number in range(int(cluster.max(initial=-1)) + 1)]
    units = []
    for mask in members:
        shares, elsewhere = (recon.of(chosen).parts.of_whole(layer) for chosen in (mask, ~mask))
        if bool(mask.all()):
            elsewhere = torch.full_like(shares, torch.nan)
        order = shares.sort(descending=True, stable=True).indices[:lower].tolist()
        strongest = [unit for unit in order if shares[unit] > 0]
        known = (tuple(shares[strongest].tolist()), tuple(elsewhere[strongest].tolist()))
        classes = _classes(images, recon.image[mask].tolist())
        units.append(VirtualUnit(mask.nonzero().flatten(), classes, tuple(strongest), *known))
    return units


def _classes(images: Source, image_ids: Sequence[int]) -> str:
    labels = images.labels_of(image_ids)
    return "" if labels is None else shared_classes(labels, images.class_names)
