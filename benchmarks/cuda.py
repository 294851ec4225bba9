"""The rows for a CUDA device: mining over the bare pass there, projection over captum there, and equal to the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.captum_peer import worst_difference
from benchmarks.mining import NO_BFLOAT16, has_bfloat16, mining, over_bare
from benchmarks.projection import over_captum, projecting, work_of
from benchmarks.rows import Row, skipped
from benchmarks.scene import Scene, Subject, subject
from deconv.records import Peaks

MINING_AT_MOST = 1.1
PROJECTION_AT_LEAST = 10
CLOSE = 1e-4


def rows(scene: Scene) -> Iterator[Row]:
    """All rows, or one that says why not."""
    if not torch.cuda.is_available():
        yield skipped("CUDA: mining over the bare pass, projection over captum, same as CPU", "no CUDA device here")
        return
    # TF32 keeps ten bits of a float32: neither the ranking nor the reconstructions would be the CPU's to 1e-4.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield from rows_on(scene, "cuda")


def rows_on(scene: Scene, device: str) -> Iterator[Row]:
    """The rows for a device of any kind."""
    there, images = subject("alexnet", device), scene.images(scene.many)
    peaks = mining(there, images.to(device))()
    yield same_as_cpu(there, images, peaks)
    yield over_bare(there, scene, images.to(device), at_most=MINING_AT_MOST)
    if has_bfloat16():
        yield over_bare(there, scene, images.to(device), "bfloat16", MINING_AT_MOST)
    else:
        yield skipped(f"mining over the bare pass, bfloat16, {device}", NO_BFLOAT16)
    for n, layer in enumerate(there.layers):
        work = work_of(layer, peaks[layer], 64)
        yield over_captum(there, scene, images.to(device), work, f"conv{n + 1}", PROJECTION_AT_LEAST)[0]


def same_as_cpu(there: Subject, images: Tensor, peaks: Peaks) -> Row:
    """The worst relative difference of scores and reconstructions; raises above CLOSE."""
    here = subject("alexnet")
    apart = 0.0
    for layer, expected in mining(here, images)().items():
        scores = (peaks[layer].score - expected.score).abs().nan_to_num(0) / expected.score.nan_to_num(0).max()
        work = work_of(layer, expected, 64)
        some = type(work)(layer, work.peaks[work.few], work.score[work.few], work.few)
        ours, theirs = projecting(there, images.to(there.network.device), some)(), projecting(here, images, some)()
        apart = max(apart, float(scores.max()), worst_difference(ours.pixels, theirs.pixels))
    if apart > CLOSE:
        raise AssertionError(f"the device's results differ from the CPU's by {apart:.1e}, more than {CLOSE:.0e}.")
    return Row("results on the device, relative difference to the CPU's", apart, "", at_most=CLOSE)
