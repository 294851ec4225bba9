"""Mining in bfloat16 gives the float32 answer wherever its check holds, and mines again where it does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import deconv
from deconv.errors import UnknownName
from deconv.mining import bfloat16
from deconv.mining.scan import score_errors
from deconv.mining.topk import TopK
from tests.samples import SIZE, network
from tests.test_mining import as_lists

K = 2


def many_images(count: int = 150) -> torch.Tensor:
    """Of very different strengths, so that some rankings are wide apart."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, 3, SIZE, SIZE, generator=generator) * torch.rand(count, 1, 1, 1, generator=generator)


def test_bfloat16_gives_the_float32_answer_without_seeing_every_image_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    net, given = network(), many_images()
    seen: list[tuple[int, torch.dtype]] = []
    original = net.forward_with_maxima

    def counting(images: torch.Tensor, layers: Any, precision: torch.dtype) -> Any:
        seen.append((len(images), precision))
        return original(images, layers, precision)

    monkeypatch.setattr(net, "forward_with_maxima", counting)
    fast = deconv.mine(net, given, ["one"], k=K, batch_size=16, precision="bfloat16")
    exact = deconv.mine(network(), given, ["one"], k=K, batch_size=16)
    assert as_lists(fast["one"]) == as_lists(exact["one"])
    counted = {dtype: sum(n for n, d in seen if d == dtype) for dtype in (torch.bfloat16, torch.float32)}
    assert counted[torch.bfloat16] == 150 and counted[torch.float32] < 75
    assert fast.provenance["mined_again"] == {"one": 0} and fast.provenance["precision"] == "bfloat16"


def test_what_fails_the_check_is_mined_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "SAFETY", 1e9)
    fast = deconv.mine(network(), many_images(), ["one", "two"], k=K, batch_size=16, precision="bfloat16")
    exact = deconv.mine(network(), many_images(), ["one", "two"], k=K, batch_size=16)
    for layer in ("one", "two"):
        assert as_lists(fast[layer]) == as_lists(exact[layer])
        assert fast.provenance["mined_again"][layer] == len(exact[layer].score)


def test_the_gap_rule_notices_a_ranking_that_bfloat16_upset() -> None:
    """The k-th score is 0.5 above what was not seen; twice an error of 0.3 is more than that, twice 0.15 is not."""
    candidates, exact = TopK(1, 4), TopK(1, 2)
    score = np.array([5.0, 4.0, 3.0, 2.0], dtype=np.float32)
    image, place, channel = np.array([0, 1, 2, 3]), np.zeros(4, dtype=np.int64), np.zeros(4, dtype=np.int64)
    candidates.offer(channel, score, image, place, place)
    true = np.array([5.0, 2.5, 2.2, 2.3], dtype=np.float32)
    exact.offer(channel, true, image, place, place)
    errors = score_errors(candidates, np.array([3, 0]), np.array([[2.3], [5.0]], dtype=np.float32))
    assert errors == pytest.approx([0.3])
    assert bfloat16.too_close(exact, candidates, errors).tolist() == [True]
    assert bfloat16.too_close(exact, candidates, errors / 2).tolist() == [False]


def test_an_error_that_no_candidate_shows_is_not_noticed() -> None:
    """The limit of the check: of twelve images eleven are exact in bfloat16, and the strongest is 0 in it."""
    convolution = nn.Conv2d(2, 1, 1, bias=False)
    with torch.no_grad():
        convolution.weight.copy_(torch.tensor([1.0, -1.0]).view(1, 2, 1, 1))
    net = deconv.Network(nn.Sequential(convolution, nn.ReLU()), (2, 1, 1))
    pixels = torch.tensor([[float(score), 0.0] for score in range(11, 0, -1)] + [[25650.0, 25600.0]])
    given = pixels.view(12, 2, 1, 1)
    exact, fast = (deconv.mine(net, given, ["1"], k=1, precision=name) for name in ("float32", "bfloat16"))
    assert as_lists(exact["1"]) == [[(50.0, 11, 0, 0)]]
    assert as_lists(fast["1"]) == [[(11.0, 0, 0, 0)]] and fast.provenance["mined_again"] == {"1": 0}


def test_an_unknown_precision_is_named() -> None:
    with pytest.raises(UnknownName, match="unknown precision 'float8'; expected one of float32, bfloat16"):
        deconv.mine(network(), many_images(3), ["one"], precision="float8")
