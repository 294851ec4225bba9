"""The two floors of mining: the bare forward pass, and the plain loop that a user would write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.scene import K
from deconv.records import Peaks

BATCH = {"alexnet": 64, "squeezenet1_1": 64, "vgg16": 16}
"""Images in one pass, the same for ours and for the floor."""
CLOSE = 1e-4
"""Scores that agree to this, relative, are one score: the layout decides the order of a convolution's sums."""

Best = dict[str, tuple[Tensor, Tensor]]


def bare_pass(trunk: nn.Module, images: Tensor, batch: int) -> None:
    """The forward pass alone, every output thrown away."""
    with torch.inference_mode():
        for part in images.split(batch):
            trunk(part)


def plain_loop(trunk: nn.Module, hooked: Mapping[str, str], images: Tensor, batch: int, k: int = K) -> Best:
    """{layer: (score, image)}, each (C, k): hooks, amax, and a running topk. It does not know the positions."""
    seen: dict[str, Tensor] = {}
    hooks = [trunk.get_submodule(path).register_forward_hook(_keeps(seen, name)) for name, path in hooked.items()]
    best: Best = {}
    try:
        for start in range(0, len(images), batch):
            with torch.no_grad():
                trunk(images[start : start + batch])
            for name, scores in seen.items():
                best[name] = _better(best.get(name), scores, start, k)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: (score.T.cpu(), image.T.cpu()) for name, (score, image) in best.items()}


def _keeps(seen: dict[str, Tensor], name: str) -> Callable[[nn.Module, object, Tensor], None]:
    def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
        seen[name] = output.amax(dim=(2, 3))

    return hook


def _better(best: tuple[Tensor, Tensor] | None, scores: Tensor, start: int, k: int) -> tuple[Tensor, Tensor]:
    images = torch.arange(start, start + len(scores), device=scores.device)[:, None].expand_as(scores)
    if best is not None:
        scores, images = torch.cat([best[0], scores]), torch.cat([best[1], images])
    top = scores.topk(min(k, len(scores)), dim=0)
    return top.values, images.gather(0, top.indices)


@dataclass(frozen=True)
class Difference:
    """How two rankings differ: worst score, relative to its layer's strongest; ranks where near-equals changed."""

    score: float
    swapped: int
    ranks: int


def check_same(peaks: Peaks, best: Best) -> Difference:
    """Raise unless the rankings agree: equal scores to CLOSE, and the same images but for near-equal neighbours.

    best: (C, more than k) from another implementation, in any precision of summation; a score of zero is no peak.
    """
    worst, swapped, ranks = 0.0, 0, 0
    for layer, (score, image) in best.items():
        ours = peaks[layer]
        k = ours.score.shape[1]
        expected = score[:, :k].where(score[:, :k] > 0, 0)
        apart = (ours.score.nan_to_num(0) - expected).abs() / expected.max()
        other = ours.found & (ours.image != image[:, :k])
        if float(apart.max()) > CLOSE or bool((other & ~_near_equal(score)[:, :k]).any()):
            raise AssertionError(
                f"{layer}: rankings differ: scores by {float(apart.max()):.1e} of the strongest, {int(other.sum())} "
                "other images; nothing is timed unless both do the same work."
            )
        worst, swapped = max(worst, float(apart.max())), swapped + int(other.sum())
        ranks += other.numel()
    return Difference(worst, swapped, ranks)


def _near_equal(score: Tensor) -> Tensor:
    """(C, K) bool: ranks whose neighbour in the ranking has nearly the same score."""
    close = (score[:, :-1] - score[:, 1:]) <= CLOSE * score[:, :-1]
    edge = torch.zeros_like(close[:, :1])
    return torch.cat([close, edge], dim=1) | torch.cat([edge, close], dim=1)
