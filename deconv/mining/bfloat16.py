"""Mining in bfloat16 with an answer in float32: checked, not proven.

A first scan in bfloat16 keeps CANDIDATES x k images of each unit. Every image that is a candidate of some unit is
looked at again in float32, for all units. An image that was never seen in float32 scored, in bfloat16, at most as much
as the unit's weakest candidate. The unit's answer passes the check if its k-th float32 score exceeds that by more than
SAFETY times the largest error measured on the unit; if some unit's does not, the images left over are looked at in
float32 too.

A unit's errors are measured on its own candidates and on witnesses, images chosen whatever they score: SAMPLE at
random, and the EXTREMES that have the largest pixels, or the strongest activation at one of the layers, since rounding
is relative to what is rounded. Activations that are small differences of large terms have errors that the sample shows,
though no candidate does.

Where the candidates would be most of the images, all of this would cost more than it saves, and `pays` says so.

No bound is proven. One that holds for certain adds up the absolute values of all terms, layer after layer: in a network
of some depth it exceeds the activations, every image would be seen twice, and nothing would be gained. An image whose
error is more than SAFETY times that of any candidate and witness can be missed (tests/test_bfloat16.py has an example).
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
import torch

from deconv.mining.partials import Partial
from deconv.mining.scan import Scan, Search
from deconv.mining.topk import TopK

CANDIDATES = 4
SAMPLE = 64
SAFETY = 2.0
MOST_AGAIN = 0.5
"""The largest share of the images that may be expected to be seen again: bfloat16 halves a pass at best."""
log = logging.getLogger("deconv")


def pays(units: int, k: int, images: int) -> bool:
    """Return whether mining the k strongest peaks of some units by bfloat16 leaves most images unseen in float32.

    The candidates are taken to lie in images independently of each other. Of 1,152 units, nine peaks each:

    >>> pays(1152, 9, 600), pays(1152, 9, 50_000), pays(1152, 9, 1_000_000)
    (False, False, True)
    """
    return 1 - math.exp(-CANDIDATES * k * units / images) <= MOST_AGAIN


def mine_by_bfloat16(search: Search, scan: Scan, image_ids: np.ndarray) -> tuple[Partial, dict[str, int]]:
    """Return what the float32 scan finds among images, and by layer how many units did not pass the check.

    search: how a scan is run over images, as `deconv.mining.scan.in_memory` gives it.
    """
    rough_scan = replace(scan, k=CANDIDATES * scan.k, per_image=1, precision=torch.bfloat16)
    rough = search("bfloat16", rough_scan, image_ids)
    candidate_ids = np.array(rough.image_ids, dtype=np.int64)
    unreadable_ids = [image_id for image_id, _, _ in rough.unreadable]
    others = np.setdiff1d(image_ids, [*candidate_ids, *unreadable_ids])
    witness_ids = choose_witnesses(others, rough.extremes)
    measured = rough.tables
    if len(witness_ids):
        witnesses = search("witnesses", replace(rough_scan, k=len(witness_ids)), witness_ids)
        measured = {layer: joined(rough.tables[layer], witnesses.tables[layer], witness_ids) for layer in scan.layers}
    seen_ids = np.union1d(candidate_ids, witness_ids)
    exact = search("candidates", replace(scan, candidates=measured), seen_ids)
    failed = {layer: too_close(exact.tables[layer], rough.tables[layer], exact.errors[layer]) for layer in scan.layers}
    rest = np.setdiff1d(others, witness_ids)
    mined_again = {layer: int(units.sum()) if len(rest) else 0 for layer, units in failed.items()}
    if any(mined_again.values()):
        log.info("bfloat16 left %d units too close: %d images again in float32", sum(mined_again.values()), len(rest))
        exact.merge(search("rest", scan, rest))
    exact.input_size, exact.unreadable = rough.input_size, rough.unreadable
    return exact, mined_again


def choose_witnesses(image_ids: np.ndarray, extremes: TopK | None) -> np.ndarray:
    """Return the images, ascending, on which errors are measured: the extreme ones of these, and SAMPLE at random."""
    sample = np.random.default_rng(0).choice(image_ids, min(SAMPLE, len(image_ids)), replace=False)
    return np.union1d(sample, [] if extremes is None else np.intersect1d(image_ids, extremes.image)).astype(np.int64)


def joined(candidates: TopK, witnesses: TopK, witness_ids: np.ndarray) -> TopK:
    """Return what was found in bfloat16 as one table, in no order: candidates, and every witness of every unit.

    A witness that its table lacks did not fire: its score in bfloat16 is 0.
    """
    units, _ = candidates.score.shape
    scores = np.zeros((units, len(witness_ids)), dtype=np.float32)
    unit, place = np.nonzero(witnesses.image >= 0)
    scores[unit, np.searchsorted(witness_ids, witnesses.image[unit, place])] = witnesses.score[unit, place]
    table = TopK(units, candidates.k + len(witness_ids))
    table.score = np.concatenate([candidates.score, scores], axis=1)
    table.image = np.concatenate([candidates.image, np.tile(witness_ids, (units, 1))], axis=1)
    return table


def too_close(exact: TopK, candidates: TopK, errors: np.ndarray) -> np.ndarray:
    """Return (C,) bool: the units whose answer an image that was not seen in float32 might still change.

    exact: the strongest peaks in float32.  candidates: those in bfloat16.  errors: (C,) of candidates and witnesses.
    """
    best_unseen = np.where(np.isfinite(candidates.weakest), candidates.weakest, 0.0)
    return ~(exact.weakest > best_unseen + SAFETY * errors)
