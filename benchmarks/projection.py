"""Projection of mined peaks over captum, a peak, layer by layer; and of all units of AlexNet's five layers."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.captum_peer import CaptumPeer, best_peer, worst_difference
from benchmarks.floors import BATCH
from benchmarks.rows import Row, details_of, faster
from benchmarks.scene import SEED, K, Scene, Subject, subject
from benchmarks.timing import Pair, compare
from deconv.mining import mine
from deconv.projection import project
from deconv.records import LayerPeaks, Reconstructions

AT_LEAST = (200, 30, 20, 12, 8)
ALL_AT_LEAST = 15
CLOSE = 1e-5
"""Relative difference to captum, of the worst peak."""


@dataclass(frozen=True)
class Work:
    """Peaks (N, 4) = (image, channel, row, col) of one layer, their scores, and a few of them for captum."""

    layer: str
    peaks: Tensor
    score: Tensor
    few: Tensor


def rows(scene: Scene) -> Iterator[Row]:
    """A row a layer, and one over all of them."""
    alexnet, images = subject("alexnet"), scene.images(scene.many)
    pairs: dict[str, Pair] = {}
    peaks = mine(alexnet.network, images, alexnet.layers, k=K, batch_size=BATCH["alexnet"])
    for n, layer in enumerate(alexnet.layers):
        work = work_of(layer, peaks[layer], 16 if scene.quick else 48)
        row, pairs[layer] = over_captum(alexnet, scene, images, work, f"conv{n + 1}", AT_LEAST[n])
        yield row
    yield all_units(pairs, len(images))


def work_of(layer: str, peaks: LayerPeaks, few: int) -> Work:
    """All peaks of all units, and a seeded sample of `few`."""
    units = list(range(len(peaks.score)))
    columns = torch.stack(peaks.of(units), dim=1)
    sample = torch.randperm(len(columns), generator=torch.Generator().manual_seed(SEED))[:few]
    return Work(layer, columns, peaks.scores_of(units), sample)


def over_captum(
    subject: Subject, scene: Scene, images: Tensor, work: Work, name: str, at_least: float
) -> tuple[Row, Pair]:
    """All of the layer's peaks by ours, the sample by captum, time a peak compared."""
    peer, setting = best_peer(subject, work.layer, images, work.peaks[work.few])
    apart = check_against_captum(subject, images, work, peer)
    ours = projecting(subject, images, work)
    pair = compare(ours, peer.project, scene.repeats, len(work.peaks), len(work.few))
    what = f"projection over captum, {name}, {images.device.type}"
    note = f"{len(work.peaks)} peaks, captum on {len(work.few)} of them ({setting}); equal to {apart:.0e}"
    return faster(what, pair, "peak", at_least, note), pair


def projecting(subject: Subject, images: Tensor, work: Work) -> partial[Reconstructions]:
    """Ours, as a work to time; the scores are checked on the way, as `project_peaks` does."""
    image, channel, row, col = work.peaks.unbind(1)
    return partial(project, subject.network, images, work.layer, image, channel, row, col, score=work.score)


def check_against_captum(subject: Subject, images: Tensor, work: Work, peer: CaptumPeer) -> float:
    """The worst peak's relative difference; raises above CLOSE. captum's seed is one, ours the activation."""
    image, channel, row, col = work.peaks[work.few].unbind(1)
    ours = project(subject.network, images, work.layer, image, channel, row, col)
    apart = worst_difference(ours.paste(), peer.project().cpu() * ours.score[:, None, None, None])
    if apart > CLOSE:
        raise AssertionError(
            f"{work.layer}: a reconstruction differs from captum's by {apart:.1e}, more than {CLOSE:.0e}; "
            "nothing is timed unless both give the same."
        )
    return apart


def all_units(pairs: dict[str, Pair], images: int) -> Row:
    """Sums over the layers, lap by lap: ours was measured whole, captum's is its time a peak times all peaks."""
    laps = len(next(iter(pairs.values())).ours)
    reached, by_cpu = (
        statistics.median(_peer_total(pairs, kind, n) / _ours_total(pairs, kind, n) for n in range(laps))
        for kind in ("wall", "cpu")
    )
    ours, peer = (
        statistics.median(total(pairs, "wall", n) for n in range(laps)) for total in (_ours_total, _peer_total)
    )
    peaks = sum(pair.ours_items for pair in pairs.values())
    what = f"projection over captum, all {peaks} peaks of 1,152 units, {images} photographs"
    note = "ours without mining; captum's total extrapolated from its samples"
    details = {layer: details_of(pair) for layer, pair in pairs.items()}
    return Row(what, reached, "x", None, ALL_AT_LEAST, by_cpu, f"{ours:.3g} s", f"{peer:.4g} s", note, details)


def _ours_total(pairs: dict[str, Pair], kind: str, lap: int) -> float:
    return sum(getattr(pair.ours[lap], kind) for pair in pairs.values())


def _peer_total(pairs: dict[str, Pair], kind: str, lap: int) -> float:
    return sum(getattr(pair.peer[lap], kind) * pair.ours_items / pair.peer_items for pair in pairs.values())
