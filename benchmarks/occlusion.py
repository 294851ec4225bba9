"""A square over every place of a photograph: computing only what it reaches, over computing each image whole."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.rows import Row, faster
from benchmarks.scene import Scene, subject
from benchmarks.timing import compare
from deconv.analyses.occlusion import Occlusion, occlude, strongest_unit

ARCHES = ("alexnet", "squeezenet1_1", "vgg16")
SQUARE = 50
"""Pixels, of the 224 that an image has: the square of experiment=fig7_occlusion."""
BATCH = 64
CLOSE = 1e-5


def rows(scene: Scene) -> Iterator[Row]:
    """One row a network, from the last mined layer's map and the classes."""
    stride = 58 if scene.quick else 29  # 16 or 49 places, the corners among them
    for arch in ARCHES:
        what = f"occlusion, only what the square reaches over whole images, {arch}"
        yield over_whole(scene, arch, stride, what)


def over_whole(scene: Scene, arch: str, stride: int, what: str) -> Row:
    """The two ways of one function, checked against each other and then timed."""
    taken, image = subject(arch), scene.images(1)[0]
    unit = strongest_unit(taken.network, image, taken.layers[-1])
    work = partial(occlude, taken.network, image, taken.layers[-1], unit, SQUARE, stride, batch_size=BATCH)
    changed, whole = work(incremental=True), work(incremental=False)
    apart = difference(changed, whole)
    places = changed.activity.numel()
    pair = compare(work, partial(work, incremental=False), scene.repeats, places, places)
    note = f"{places} places of a square of {SQUARE} pixels, {BATCH} a batch; equal to {apart:.1e}"
    return faster(what, pair, "place", note=note)


def difference(changed: Occlusion, whole: Occlusion) -> float:
    """The largest difference of activities (relative to the largest) and probabilities; raises if above CLOSE."""
    activity = float((changed.activity - whole.activity).abs().max() / whole.activity.abs().max().clamp_min(1e-30))
    apart = max(activity, float((changed.probability - whole.probability).abs().max()))
    if apart > CLOSE:
        raise AssertionError(f"the two ways differ by {apart:.1e}; nothing is timed unless both give the same.")
    return apart
