"""Mining in bfloat16 gives the float32 answer wherever its check holds, and mines again where it does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import deconv
from deconv.errors import UnknownName
from deconv.mining import bfloat16
from deconv.mining.scan import EXTREMES, score_errors
from deconv.mining.topk import TopK
from tests.samples import SIZE, network
from tests.test_mining import as_lists

K = 2


@pytest.fixture(scope="module", autouse=True)
def always_in_bfloat16() -> Iterator[None]:
    """However few images there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bfloat16, "MOST_AGAIN", 1.0)
        yield


def many_images(count: int = 150) -> torch.Tensor:
    """Of very different strengths, so that some rankings are wide apart."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, 3, SIZE, SIZE, generator=generator) * torch.rand(count, 1, 1, 1, generator=generator)


def test_bfloat16_gives_the_float32_answer_without_seeing_every_image_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    net, given = network(), many_images(600)
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
    assert counted[torch.bfloat16] <= 600 + bfloat16.SAMPLE + 2 * EXTREMES and counted[torch.float32] < 200
    assert fast.provenance["mined_again"] == {"one": 0} and fast.provenance["precision"] == "bfloat16"


def test_where_most_images_would_be_seen_again_it_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bfloat16, "MOST_AGAIN", 0.5)
    with caplog.at_level("INFO", logger="deconv"):
        chosen = {"k": 9, "batch_size": 16, "precision": "bfloat16", "firing": True}
        peaks = deconv.mine(network(), many_images(), ["one", "two"], **chosen)  # type: ignore[arg-type]
    assert peaks.firing is not None  # counted as in float32, which it is
    assert peaks.provenance["precision"] == "float32" and "mined_again" not in peaks.provenance
    assert "bfloat16 would see most of 150 images again for 11 units: mining in float32" in caplog.text


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


def difference() -> nn.Conv2d:
    """Give the first channel minus the second."""
    convolution = nn.Conv2d(2, 1, 1, bias=False)
    with torch.no_grad():
        convolution.weight.copy_(torch.tensor([1.0, -1.0]).view(1, 2, 1, 1))
    return convolution


def pairs(count: int, seed: int = 13) -> torch.Tensor:
    """One pixel and two channels, up to 60,000, which differ by less than 60."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randint(1000, 60000, (count, 1, 1, 1), generator=generator).float()
    return torch.cat([base + torch.randint(0, 60, (count, 1, 1, 1), generator=generator), base], 1)


def bright(count: int, side: int = 8) -> torch.Tensor:
    """Pixels near 30,000 that differ by less than 60."""
    generator = torch.Generator().manual_seed(5)
    return 30000 + 60 * torch.rand(count, 2, side, side, generator=generator)


def edges() -> nn.Module:
    """A 3 x 3 convolution whose weights add up to zero."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(2, 3, 3, bias=False)
    with torch.no_grad():
        convolution.weight -= convolution.weight.mean(dim=(1, 2, 3), keepdim=True)
    return nn.Sequential(convolution, nn.ReLU())


def shifted() -> nn.Module:
    """A batch normalisation that takes away almost all of what it is given."""
    torch.manual_seed(0)
    convolution, norm = nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3)
    with torch.no_grad():
        convolution.weight.abs_()
        norm.running_mean = 30030 * convolution.weight.sum(dim=(1, 2, 3))
    return nn.Sequential(convolution, norm, nn.ReLU()).eval()


class Branches(nn.Module):
    """Two branches whose sum is small beside each."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.other = nn.Conv2d(2, 3, 3), nn.Conv2d(2, 3, 3)
        with torch.no_grad():
            self.other.weight.copy_(-self.one.weight + 1e-4 * torch.randn_like(self.one.weight))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.one(x) + self.other(x))


@pytest.mark.parametrize("count", [40, 400])
@pytest.mark.parametrize(
    ("module", "images"),
    [
        (nn.Sequential(difference(), nn.ReLU()), pairs),
        (edges(), bright),
        (shifted(), bright),
        (Branches(), bright),
    ],
    ids=["channels", "edges", "shifted", "branches"],
)
def test_terms_that_cancel_end_with_the_float32_answer(module: nn.Module, images: Any, count: int) -> None:
    """What bfloat16 leaves of small differences is noise; the witnesses show it, and all is mined again."""
    given = images(count)
    net = deconv.Network(module, tuple(given.shape[1:]))
    layer = net.layers[-1]
    rough = net.forward(given, [layer], torch.bfloat16)[layer].amax(dim=(2, 3)).float()
    true = net.forward(given, [layer])[layer].amax(dim=(2, 3))
    assert rough.topk(3, dim=0).indices.T.tolist() != true.topk(3, dim=0).indices.T.tolist()
    exact, fast = (deconv.mine(net, given, [layer], k=3, precision=name) for name in ("float32", "bfloat16"))
    assert as_lists(fast[layer]) == as_lists(exact[layer])
    assert fast.provenance["mined_again"][layer] == (net.channels(layer) if count > 200 else 0)


def of_pixels(pixels: list[list[float]]) -> tuple[deconv.Network, torch.Tensor]:
    return deconv.Network(nn.Sequential(difference(), nn.ReLU()), (2, 1, 1)), torch.tensor(pixels).view(-1, 2, 1, 1)


@pytest.mark.parametrize("strange", [1, 5, bfloat16.SAMPLE])
def test_images_of_larger_pixels_than_all_others_are_looked_at(strange: int) -> None:
    """All others are exact in bfloat16; these are 0 in it, and the strongest."""
    net, given = of_pixels([[float(score % 100), 0.0] for score in range(1000)] + [[25700.0, 25600.0]] * strange)
    exact, fast = (deconv.mine(net, given, ["1"], k=1, precision=name) for name in ("float32", "bfloat16"))
    assert as_lists(fast["1"]) == as_lists(exact["1"]) == [[(100.0, 1000, 0, 0)]]


def test_an_error_that_no_witness_shows_is_not_noticed() -> None:
    """The limit of the check: the strongest of 1000 images is 0 in bfloat16, and others have larger pixels."""
    exact_in_both = [[max(40 - n / 4, 1), 0.0] for n in range(999 - EXTREMES)] + [[32768.0, 32768.0]] * EXTREMES
    net, given = of_pixels([*exact_in_both, [25650.0, 25600.0]])
    exact, fast = (deconv.mine(net, given, ["1"], k=1, precision=name) for name in ("float32", "bfloat16"))
    assert as_lists(exact["1"]) == [[(50.0, 999, 0, 0)]]
    assert as_lists(fast["1"]) == [[(40.0, 0, 0, 0)]] and fast.provenance["mined_again"] == {"1": 0}


def test_witnesses_are_the_same_each_time_and_no_more_than_there_are() -> None:
    ids = np.arange(1000, 2000)
    first, second = (bfloat16.choose_witnesses(ids, None) for _ in range(2))
    assert first.tolist() == second.tolist() == sorted(set(first.tolist())) and len(first) == bfloat16.SAMPLE
    assert set(first.tolist()) <= set(ids.tolist())
    assert bfloat16.choose_witnesses(ids[:5], None).tolist() == ids[:5].tolist()
    assert bfloat16.choose_witnesses(ids[:0], None).tolist() == []


def test_a_witness_that_did_not_fire_scored_nothing() -> None:
    candidates, witnesses = TopK(2, 2), TopK(2, 3)
    nowhere = np.zeros(2, dtype=np.int64)
    candidates.offer(np.array([0, 1]), np.array([5.0, 4.0], dtype=np.float32), np.array([7, 8]), nowhere, nowhere)
    witnesses.offer(np.array([0, 1]), np.array([1.0, 2.0], dtype=np.float32), np.array([3, 1]), nowhere, nowhere)
    table = bfloat16.joined(candidates, witnesses, np.array([1, 3, 4]))
    exact = np.array([[0.5, 2.0], [1.25, 0.0], [0.0, 0.125]], dtype=np.float32)
    assert score_errors(table, np.array([1, 3, 4]), exact).tolist() == [0.5, 0.125]


def test_an_unknown_precision_is_named() -> None:
    with pytest.raises(UnknownName, match="unknown precision 'float8'; expected one of float32, bfloat16"):
        deconv.mine(network(), many_images(3), ["one"], precision="float8")
