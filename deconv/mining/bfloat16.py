"""Mining in bfloat16 with an answer in float32, which is checked; the check has a limit.

A first scan in bfloat16 keeps CANDIDATES x k images of each unit. Every image that is a candidate of some unit is
looked at again in float32, for all units. An image that was never seen in float32 scored, in bfloat16, at most as much
as the unit's weakest candidate. The unit's answer passes the check if its k-th float32 score exceeds that by more than
SAFETY times the largest error measured on the unit's own candidates; if some unit's does not, the images left over are
looked at in float32 too.

The error of an image that was never seen in float32 may be larger than any measured: nothing bounds it. Activations
that are small differences of large terms can have such errors (tests/test_bfloat16.py has an example).
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import torch

from deconv.mining.partials import Partial
from deconv.mining.scan import Scan, Search
from deconv.mining.topk import TopK

CANDIDATES = 4
SAFETY = 2.0
log = logging.getLogger("deconv")


def mine_by_bfloat16(search: Search, scan: Scan, image_ids: np.ndarray) -> tuple[Partial, dict[str, int]]:
    """Return what the float32 scan finds among images, and by layer how many units did not pass the check.

    search: how a scan is run over images, as `deconv.mining.scan.in_memory` gives it.
    """
    rough_scan = replace(scan, k=CANDIDATES * scan.k, per_image=1, precision=torch.bfloat16)
    rough = search("bfloat16", rough_scan, image_ids)
    candidate_ids = np.array(rough.image_ids, dtype=np.int64)
    exact = search("candidates", replace(scan, candidates=rough.tables), candidate_ids)
    failed = {layer: too_close(exact.tables[layer], rough.tables[layer], exact.errors[layer]) for layer in scan.layers}
    unreadable_ids = [image_id for image_id, _, _ in rough.unreadable]
    rest = np.setdiff1d(image_ids, [*candidate_ids, *unreadable_ids])
    mined_again = {layer: int(units.sum()) if len(rest) else 0 for layer, units in failed.items()}
    if any(mined_again.values()):
        log.info("bfloat16 left %d units too close: %d images again in float32", sum(mined_again.values()), len(rest))
        exact.merge(search("rest", scan, rest))
    exact.input_size, exact.unreadable = rough.input_size, rough.unreadable
    return exact, mined_again


def too_close(exact: TopK, candidates: TopK, errors: np.ndarray) -> np.ndarray:
    """Return (C,) bool: the units whose answer an image that was not seen in float32 might still change.

    exact: the strongest peaks in float32.  candidates: those in bfloat16.  errors: (C,) of the candidates.
    """
    best_unseen = np.where(np.isfinite(candidates.weakest), candidates.weakest, 0.0)
    return ~(exact.weakest > best_unseen + SAFETY * errors)
