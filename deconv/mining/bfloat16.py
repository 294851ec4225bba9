"""Mining in bfloat16 with the float32 answer.

A first pass in bfloat16 keeps CANDIDATES x k images of each unit. Every image that is anyone's candidate is seen again
in float32, for all units. What was never seen in float32 scored, in bfloat16, at most as much as the weakest candidate;
a unit's answer is proven if its k-th float32 score exceeds that by more than SAFETY x the largest error measured on the
unit's own candidates. If any unit is not proven, the images left over are seen in float32 too.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import torch

from deconv.mining.partials import Partial
from deconv.mining.passes import Errors, Pass
from deconv.mining.reduction import Reduce
from deconv.mining.topk import TopK

CANDIDATES = 4
SAFETY = 2.0
log = logging.getLogger("deconv")


def mine_by_bfloat16(reduce: Reduce, look: Pass, count: int) -> tuple[Partial, dict[str, int]]:
    """What the float32 pass `look` finds among `count` images, and how many units of each layer were not proven."""
    everything = np.arange(count)
    rough = reduce("bfloat16", replace(look, k=CANDIDATES * look.k, per_image=1, precision=torch.bfloat16), everything)
    seen = np.unique(np.concatenate([table.image.ravel() for table in rough.tables.values()]))
    seen = seen[seen >= 0]
    exact = reduce("candidates", replace(look, candidates=rough.tables), seen)
    unproven = {layer: _unproven(exact.tables[layer], _errors(layer, rough, exact)) for layer in look.layers}
    damaged = [image for image, _, _ in rough.unreadable]
    left = np.setdiff1d(everything, [*seen, *damaged])
    again = {layer: int(units.sum()) if len(left) else 0 for layer, units in unproven.items()}
    if any(again.values()):
        log.info("bfloat16 left %d units unproven: %d images again in float32", sum(again.values()), len(left))
        exact.merge(reduce("rest", look, left))
    exact.input_size, exact.unreadable = rough.input_size, rough.unreadable
    return exact, again


def _errors(layer: str, rough: Partial, exact: Partial) -> Errors:
    errors = Errors(rough.tables[layer])
    errors.largest = exact.errors.get(layer, errors.largest)
    return errors


def _unproven(exact: TopK, errors: Errors) -> np.ndarray:
    """(C,) bool: units whose answer an image not seen in float32 might still change."""
    rough = errors.candidates
    best_unseen = np.where(np.isfinite(rough.weakest), rough.weakest, 0.0)
    return ~(exact.weakest > best_unseen + SAFETY * errors.largest)
