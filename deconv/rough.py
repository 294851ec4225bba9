"""Mining in bfloat16 with the float32 answer.

A first pass in bfloat16 keeps CANDIDATES x k images of each unit. Every image that is anyone's candidate is seen again
in float32, for all units. What was never seen in float32 scored, in bfloat16, at most as much as the weakest candidate;
a unit's answer is proven if its k-th float32 score exceeds that by more than SAFETY x the largest error measured on the
unit's own candidates. If any unit is not proven, the images left over are seen in float32 too.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deconv.network import Network
from deconv.scanning import Scan
from deconv.sources import Source
from deconv.topk import TopK

CANDIDATES = 4
SAFETY = 2.0
log = logging.getLogger("deconv")


def scan_by_bfloat16(
    network: Network, images: Source | Tensor, layers: list[str], k: int, batch_size: int, per_image: int
) -> tuple[Scan, dict[str, Any]]:
    """A finished float32 scan, and {"mined_again": units of each layer that were not proven}."""
    rough = Scan(network, images, layers, CANDIDATES * k, precision=torch.bfloat16)
    rough.run(batch_size)
    seen = np.unique(np.concatenate([table.image.ravel() for table in rough.tables.values()]))
    seen = seen[seen >= 0]
    errors = {layer: Errors(table) for layer, table in rough.tables.items()}
    exact = Scan(network, images, layers, k, per_image)
    if len(seen):
        exact.run(batch_size, seen, observe=lambda layer, index, scores: errors[layer].observe(index, scores))
    unproven = {layer: _unproven(exact.tables[layer], errors[layer]) for layer in layers}
    left = np.setdiff1d(np.arange(len(images)), seen)
    again = {layer: int(units.sum()) if len(left) else 0 for layer, units in unproven.items()}
    if any(again.values()):
        log.info("bfloat16 left %d units unproven: %d images again in float32", sum(again.values()), len(left))
        exact.run(batch_size, left)
    exact.unreadable = rough.unreadable
    return exact, {"mined_again": again}


class Errors:
    """The largest difference between bfloat16 and float32 seen on each unit's own candidates, (C,)."""

    def __init__(self, candidates: TopK):
        self.candidates = candidates
        self.largest = np.zeros(len(candidates.score))

    def observe(self, index: np.ndarray, scores: np.ndarray) -> None:
        """Float32 scores (n, C) of images index (n,)."""
        order = np.argsort(index)
        place = np.searchsorted(index, self.candidates.image, sorter=order).clip(max=len(index) - 1)
        row = order[place]
        here = index[row] == self.candidates.image
        exact = np.take_along_axis(scores.T, row, axis=1)
        difference = np.abs(exact - np.where(here, self.candidates.score, exact))
        self.largest = np.maximum(self.largest, difference.max(axis=1))


def _unproven(exact: TopK, errors: Errors) -> np.ndarray:
    """(C,) bool: units whose answer an image not seen in float32 might still change."""
    rough = errors.candidates
    best_unseen = np.where(np.isfinite(rough.weakest), rough.weakest, 0.0)
    return ~(exact.weakest > best_unseen + SAFETY * errors.largest)
