"""Mining five layers of images in memory: over the bare forward pass, over the plain loop, over zennit-crp."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import crp_peer
from benchmarks.floors import BATCH, bare_pass, check_same, plain_loop
from benchmarks.rows import Row, faster, over_floor, skipped
from benchmarks.scene import K, Scene, Subject, subject
from benchmarks.timing import compare, fastest, has_amx
from deconv.mining import mine
from deconv.records import Peaks

LAPS = 2
"""The floor rows take this many times the laps: a bound of 5 % needs a steadier median than one of 8 times."""
# Images of the floor rows, by how heavy a network is; of a quick run a quarter, but more than K.
IMAGES = {"alexnet": 600, "squeezenet1_1": 300, "vgg16": 64}


def floor_rows(scene: Scene) -> Iterator[Row]:
    """How much more than the forward pass of the same trunk, in the same precision and layout, mining costs."""
    for arch, count in IMAGES.items():
        yield over_bare(subject(arch), scene, scene.images(max(16, count // 4) if scene.quick else count))
    yield over_uncounted(subject("squeezenet1_1"), scene)
    name = "mining over the bare pass, alexnet, bfloat16"
    if not has_bfloat16():
        yield skipped(name, NO_BFLOAT16)
        return
    # All photographs: the candidates that are rescored do not grow with the images, and should not decide.
    yield over_bare(subject("alexnet"), scene, scene.images(scene.many), "bfloat16")


def over_bare(
    subject: Subject, scene: Scene, images: Tensor, precision: str = "float32", at_most: float | None = None
) -> Row:
    """One floor row. In float32 on the CPU the bound is the issue's; elsewhere the caller gives it."""
    if at_most is None and precision == "float32":
        at_most = 1.05
    agreement = check_against_plain(subject, images, precision)
    dtype = getattr(torch, precision)
    trunk = subject.trunk(torch.channels_last).to(dtype)
    batch = BATCH[subject.arch]
    pair = compare(
        mining(subject, images, precision), partial(bare_pass, trunk, images.to(dtype), batch), LAPS * scene.repeats,
        len(images), len(images),
    )  # fmt: skip
    what = f"mining over the bare pass, {subject.arch}, {precision}, {images.device.type}"
    return over_floor(what, pair, "image", at_most, agreement)


def over_uncounted(subject: Subject, scene: Scene) -> Row:
    """How much more mining costs that also counts how units fire, and draws images of every strength."""
    images = scene.images(max(16, IMAGES[subject.arch] // 4) if scene.quick else IMAGES[subject.arch])
    work = partial(mine, subject.network, images, subject.layers, k=K, batch_size=BATCH[subject.arch])
    counting = partial(work, firing=True)
    check_same_peaks(counting(), work())
    pair = compare(counting, work, LAPS * scene.repeats, len(images), len(images))
    what = f"mining and counting how units fire over mining, {subject.arch}"
    return over_floor(what, pair, "image", 1.03, f"same peaks, {len(images)} images")


def check_same_peaks(first: Peaks, second: Peaks) -> None:
    """Raise unless two minings found the same peaks, bit for bit."""
    for layer, peaks in first.items():
        for name in ("score", "image", "row", "col"):
            if not torch.equal(getattr(peaks, name).nan_to_num(-1), getattr(second[layer], name).nan_to_num(-1)):
                raise AssertionError(f"{layer}: counting how units fire changed {name} of the peaks")


def peer_rows(scene: Scene) -> Iterator[Row]:
    """Throughput over the plain loop, in float32 and bfloat16, and over zennit-crp; AlexNet."""
    alexnet, images = subject("alexnet"), scene.images(scene.many)
    yield over_plain(alexnet, scene, images, "float32", 2.5)
    if has_bfloat16():
        yield over_plain(alexnet, scene, images, "bfloat16", 8 if has_amx() else None)
    else:
        yield skipped("mining over the plain loop, bfloat16", NO_BFLOAT16)
    if not crp_peer.is_installed():
        yield skipped("mining over zennit-crp", "zennit and zennit-crp are not installed; `make bench` installs them")
        return
    yield over_crp(alexnet, scene, images)
    yield over_crp_as_documented(alexnet, scene, images)


def over_plain(subject: Subject, scene: Scene, images: Tensor, precision: str, at_least: float | None) -> Row:
    """Against the plain loop in float32 and the default layout, whatever our precision: the answer is the same."""
    agreement = check_against_plain(subject, images, precision)
    trunk, default = subject.trunk(), images.contiguous()
    loop = partial(plain_loop, trunk, subject.hooked, default, BATCH[subject.arch])
    pair = compare(mining(subject, images, precision), loop, scene.repeats, len(images), len(images))
    amx = "" if precision == "float32" else f"; the processor has {'' if has_amx() else 'no '}AMX"
    return faster(f"mining over the plain loop, {precision}", pair, "image", at_least, agreement + amx)


def over_crp(subject: Subject, scene: Scene, images: Tensor) -> Row:
    """zennit-crp on the trunk only, in its better layout."""
    layouts = (torch.contiguous_format, torch.channels_last)
    peers = {str(layout): crp_peer.at_its_best(subject, layout) for layout in layouts}
    some = images[:32]
    best = peers[fastest((name, partial(peer.mine, some.contiguous(memory_format=peer.layout)), len(some))
                         for name, peer in peers.items())]  # fmt: skip
    note = f"on the trunk only, no composite, {str(best.layout).removeprefix('torch.')}"
    return _against_crp("mining over zennit-crp at its best", subject, scene, images, best, note)


def over_crp_as_documented(subject: Subject, scene: Scene, images: Tensor) -> Row:
    """zennit-crp as its tutorial runs it."""
    peer = crp_peer.as_documented(subject)
    note = "whole network, composite EpsilonPlusFlat, as in its tutorial"
    return _against_crp("mining over zennit-crp as documented", subject, scene, images, peer, note)


def _against_crp(what: str, subject: Subject, scene: Scene, images: Tensor, peer: crp_peer.CrpPeer, note: str) -> Row:
    given = images.contiguous(memory_format=peer.layout)
    some = min(128, len(images))
    check_same(mining(subject, images[:some])(), peer.mine(given[:some]))
    work = partial(peer.mine, given[:some])
    pair = compare(mining(subject, images), work, scene.repeats, len(images), some)
    return faster(what, pair, "image", 15, f"{note}; it on {some} images, ours on {len(images)}")


def mining(subject: Subject, images: Tensor, precision: str = "float32") -> Any:
    """Ours, as a work to time."""
    options: dict[str, Any] = {} if precision == "float32" else {"precision": precision}
    return partial(mine, subject.network, images, subject.layers, k=K, batch_size=BATCH[subject.arch], **options)


NO_BFLOAT16 = "deconv.mine has no `precision` yet"


def has_bfloat16() -> bool:
    """Whether mine can be asked for a precision."""
    return "precision" in inspect.signature(mine).parameters


def check_against_plain(subject: Subject, images: Tensor, precision: str = "float32") -> str:
    """Raise unless ours finds what the plain loop finds, and in bfloat16 exactly what ours finds in float32."""
    found: Peaks = mining(subject, images, precision)()
    best = plain_loop(subject.trunk(), subject.hooked, images.contiguous(), BATCH[subject.arch], K + 1)
    apart = check_same(found, best)
    if precision != "float32":
        _check_places(found, mining(subject, images)())
    near = f", {apart.swapped} of {apart.ranks} ranks swapped among near-equals" if apart.swapped else ""
    return f"same answer (scores to {apart.score:.0e}{near}), {len(images)} images"


def _check_places(found: Peaks, expected: Peaks) -> None:
    for layer, ours in found.items():
        for name in ("image", "row", "col"):
            other = int((getattr(ours, name) != getattr(expected[layer], name)).sum())
            if other:
                raise AssertionError(f"{layer}: {other} peaks of the lower precision have another {name} than float32.")
