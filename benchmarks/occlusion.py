"""A square at every position of a photograph: computing only what it reaches, over computing each image whole."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.rows import Row, faster
from benchmarks.scene import Scene, subject
from benchmarks.timing import compare
from deconv.analyses.occlusion import Occlusion, occlude, strongest_unit

ARCHES = ("alexnet", "squeezenet1_1", "vgg16")
SQUARE = 50
"""Side of the square in pixels, of the 224 of an image: as in experiment=fig7_occlusion."""
BATCH = 64
CLOSE = 1e-5
"""The largest difference between the two that counts as equal, of values of about 1."""


def rows(scene: Scene) -> Iterator[Row]:
    """Yield one row a network, from the last mined layer's map and the classes."""
    stride = 58 if scene.quick else 29  # 16 or 49 positions, the corners among them
    for arch in ARCHES:
        what = f"occlusion, only what the square reaches over whole images, {arch}"
        yield over_whole(scene, arch, stride, what)


def over_whole(scene: Scene, arch: str, stride: int, what: str) -> Row:
    """Check both computations against each other, time them, and return the row."""
    known, image = subject(arch), scene.images(1)[0]
    unit = strongest_unit(known.network, image, known.layers[-1])
    work = partial(occlude, known.network, image, known.layers[-1], unit, SQUARE, stride, batch_size=BATCH)
    changed, whole = work(incremental=True), work(incremental=False)
    largest = difference(changed, whole)
    positions = changed.activity.numel()
    pair = compare(work, partial(work, incremental=False), scene.repeats, positions, positions)
    note = f"{positions} positions of a square of {SQUARE} pixels, {BATCH} a batch; equal to {largest:.1e}"
    return faster(what, pair, "position", note=note)


def difference(changed: Occlusion, whole: Occlusion) -> float:
    """Return the largest difference of activities (relative to the largest) and probabilities; raise if above CLOSE."""
    activity = float((changed.activity - whole.activity).abs().max() / whole.activity.abs().max().clamp_min(1e-30))
    largest = max(activity, float((changed.probability - whole.probability).abs().max()))
    if largest > CLOSE:
        raise AssertionError(f"the two differ by {largest:.1e}; nothing is timed unless both give the same")
    return largest
