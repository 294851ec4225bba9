"""Whatever runs on cuda:0 leaves no tensor on the wrong device: held on one that is pretended (tests/pretended.py)."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import NeuronGradient
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import deconv
from deconv.command.cli import main
from deconv.engines.sending import network_from_bytes, network_to_bytes
from deconv.explanations import BUILT_IN, explain, from_captum
from deconv.network import spatial
from deconv.network.receptive_field import cone
from deconv.projection.tapered import windowed_nodes
from deconv.training import train
from deconv.training.data import Labelled
from deconv.training.recipe import Settings
from tests import small
from tests.commands import words
from tests.pretended import Misplaced, Pretended, on_pretended_device, seeded

SHAPE = (3, 32, 32)
IMAGES = torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(0))
BYTES = torch.randint(256, (6, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
PREPROCESSING = deconv.Preprocessing((32, 32), None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
RULES = ["deconvnet", "guided", "gradient", "deconvnet_beyond", "guided_beyond", "lrp_z_plus"]


def photographs() -> TensorDataset:
    """The photographs, in two classes."""
    return TensorDataset(BYTES, torch.arange(6) % 2)


class Block(nn.Module):
    """A residual block, which adds in place."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs))
        self.outer = nn.Sequential(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))
        self.across = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.relu, self.out = nn.ReLU(inplace=True), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.outer(self.relu(self.inner(x)))
        y += self.across(x)
        return self.out(y)


class Inception(nn.Module):
    """Branches side by side."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(inputs, 4, 1), nn.ReLU())
        self.three = nn.Sequential(nn.Conv2d(inputs, 3, 1), nn.ReLU(), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(inputs, 2, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.pooled(x)], 1)


def alexnet() -> nn.Sequential:
    first = [nn.Conv2d(3, 6, 5, 2, 1), nn.ReLU(inplace=True), nn.LocalResponseNorm(3), nn.MaxPool2d(3, 2)]
    second = [nn.Conv2d(6, 8, 3, padding=1, groups=2), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Dropout(), nn.Linear(72, 10), nn.ReLU(), nn.Linear(10, 4))


def resnet() -> nn.Sequential:
    stem = [nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, Block(4, 4, 1), Block(4, 6, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))


def googlenet() -> nn.Sequential:
    stem = [nn.Conv2d(3, 5, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)]
    return nn.Sequential(*stem, Inception(5), nn.MaxPool2d(3, 2, ceil_mode=True), Inception(10), nn.AvgPool2d(2))


MADE = {"alexnet": (alexnet, "5"), "resnet": (resnet, "5.out"), "googlenet": (googlenet, "5.cat")}


@pytest.fixture(autouse=True)
def _one_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spatial, "SMALL_BATCH", 0)  # a detour that is taken on the CPU alone


def network_of(name: str, device: str) -> tuple[deconv.Network, str]:
    make, layer = MADE[name]
    torch.manual_seed(0)
    return deconv.Network(make().eval().to(device), SHAPE, preprocessing=PREPROCESSING), layer


def same_on_both(
    name: str, work: Callable[[deconv.Network, str, str], dict[Any, Any]], left_here: int = 0
) -> dict[str, int]:
    """Do the work here and there: equal answers, all on the CPU. Returns what was counted there.

    left_here: convolutions that look at photographs, without the network.
    """
    expected = work(*network_of(name, "cpu"), "cpu")
    with on_pretended_device() as counts:
        network, layer = network_of(name, "cuda")
        assert network.device == torch.device("cuda:0") and network.weights_hash  # which copies all weights, once
        counts.clear()
        answers = work(network, layer, "cuda")
    assert answers.keys() == expected.keys() and counts["left here"] == left_here
    for key, answer in answers.items():
        assert type(answer) is type(expected[key]), key
        np.testing.assert_array_equal(np.asarray(answer), np.asarray(expected[key]), str(key))
    return counts


# -- the device itself


@pytest.fixture
def there() -> Iterator[Tensor]:
    with on_pretended_device():
        yield IMAGES.to("cuda")


MISPLACED: dict[str, Callable[[Tensor], Any]] = {
    "sum": lambda x: x + IMAGES,
    "sum in place": lambda x: IMAGES.clone().add_(x),
    "one number of it into one here": lambda x: torch.zeros(()).add_(x.sum()),
    "concatenation": lambda x: torch.cat([x, IMAGES]),
    "filters here": lambda x: F.conv2d(x, torch.zeros(1, 3, 1, 1)),
    "bias here": lambda x: F.linear(x, torch.zeros(1, 32, device="cuda"), torch.zeros(1)),
    "index of it into one here": lambda x: IMAGES[x > 0],
    "values here": lambda x: x.index_put_((torch.tensor([0]),), IMAGES[:1]),
    "gather": lambda x: x.gather(0, torch.zeros(x.shape, dtype=torch.int64)),
    "limits here": lambda x: x.clamp(torch.tensor(0.0)),
    "mask here": lambda x: x.masked_fill(IMAGES > 0, 0.0),
    "numpy": lambda x: x.numpy(),
    "array": lambda x: np.asarray(x),
    "memory": lambda x: x.data_ptr(),
    "DLPack": lambda x: np.from_dlpack(x),
    "pickle": lambda x: pickle.dumps(x),
    "generator here": lambda x: torch.randn(3, device="cuda", generator=torch.Generator()),
    "generator here, in place": lambda x: x.normal_(generator=torch.Generator()),
    "whole numbers": lambda x: torch.ones(2, 2, dtype=torch.int64, device="cuda") @ torch.ones(2, 2).long().cuda(),
    "a second device": lambda x: IMAGES.to("cuda:1"),
}


@pytest.mark.parametrize("name", MISPLACED)
def test_what_cuda_refuses_is_refused(there: Tensor, name: str) -> None:
    with pytest.raises((Misplaced, TypeError, BufferError, RuntimeError), match="cuda|device|CUDA"):
        MISPLACED[name](there)


def test_what_cuda_takes_is_taken_and_copies_are_counted() -> None:
    one, before = torch.tensor(2.0), torch.cuda.is_available()
    with on_pretended_device() as counts:
        x = IMAGES.to("cuda")
        assert x.is_cuda and x.device == torch.device("cuda:0") and x.to("cuda") is x and x.cuda() is x
        assert counts == {"to device": 1}
        assert torch.equal((x * one + 1).relu().cpu(), (IMAGES * one + 1).relu()) and counts["to cpu"] == 1
        kept = (x[torch.tensor([3, 1])], x[[3, 1]], torch.where(x > 0, x, one)[[3, 1]], x.masked_fill(x < 0, one))
        assert counts["to device"] == 1 + 1 + 2 and all(isinstance(each, Pretended) for each in kept)
        assert torch.equal(kept[0].cpu(), IMAGES[[3, 1]]) and torch.equal(kept[1].cpu(), IMAGES[[3, 1]])
        assert x.view(-1).untyped_storage()._cdata == x.untyped_storage()._cdata
        x[0, :, 1], x[x > 1] = 3.0, 0.5
        assert x[0, 0, 1, 0].item() == 0.5 and x.new_tensor([1, 2]).tolist() == [1, 2]
        assert IMAGES.to(x).is_cuda and torch.zeros(2, device=x.device).is_cuda and not x.to(IMAGES).is_cuda
        weight = torch.ones(2, 3, 1, 1, device="cuda", requires_grad=True)
        F.conv2d(x, weight).square().sum().backward()
        assert isinstance(weight.grad, Pretended) and weight.grad.abs().sum() > 0 and not counts["left here"]
        module = nn.Conv2d(3, 2, 1).cuda()
        assert all(isinstance(each, Pretended) for each in (module.weight, copy.deepcopy(module).weight))
        assert module.to("meta").weight.is_meta
    assert torch.cuda.is_available() == before


def test_a_tensor_left_here_by_a_network_is_found() -> None:
    class Shifted(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.ones(1, 1, 1, 1)  # no buffer: it does not move with the module

    with on_pretended_device(), pytest.raises(deconv.UnsupportedOperation, match="cuda:0 and cpu"):
        deconv.Network(nn.Sequential(Shifted(3, 4, 3), nn.ReLU()).cuda(), SHAPE)


# -- what deconv does on it


@pytest.mark.parametrize("name", MADE)
def test_mining(name: str) -> None:
    def work(network: deconv.Network, layer: str, device: str) -> dict[Any, Any]:
        layers = [layer, network.layers[0]]
        mined = deconv.mine(network, IMAGES, layers, k=3, batch_size=4, per_image=2)
        return {(each, key): getattr(mined[each], key) for each in layers for key in ("score", "image", "row", "col")}

    counts = same_on_both(name, work)
    assert counts["to device"] <= 1 + 2 * 2 * 2 and counts["to cpu"] <= 2 * 2 * 5  # by batch and layer, of no unit


def test_mining_photographs_counts_how_units_fire_by_class() -> None:
    def work(network: deconv.Network, layer: str, device: str) -> dict[Any, Any]:
        images = photographs()
        mined = deconv.mine(network, images, [layer], k=2, batch_size=4, firing=True)
        rough = deconv.mine(network, images, [layer], k=2, precision="bfloat16")
        assert mined.firing is not None
        firing = mined.firing[layer]
        assert firing.by_class is not None
        scores = {"exact": mined[layer].score, "rough": rough[layer].score}
        return {**scores, "counts": firing.counts, "mean": firing.by_class.mean}

    same_on_both("alexnet", work)


@pytest.mark.parametrize("name", MADE)
def test_projection_by_every_rule_and_strategy(name: str) -> None:
    rules = RULES if name == "alexnet" else RULES[:3]

    def work(network: deconv.Network, layer: str, device: str) -> dict[Any, Any]:
        images, pixels = IMAGES.to(device), {}
        columns = torch.tensor([[0, 5, 2, 0], [0, 1, 2, 0], [0, 1, 2, 1], [1, 0, 2, 2]], device=device)
        image, channel, row, col = columns
        for rule in rules:
            for strategy in ("window", "shared", "whole"):
                recon = deconv.project(network, images, layer, image, channel, row, col, rule, strategy=strategy)
                pixels[rule, strategy] = recon.pixels
        return pixels

    counts = same_on_both(name, work)
    assert max(counts["to device"], counts["to cpu"]) <= 3 * (11 * len(rules) + 10)  # lrp asks nodes for signs
    network, layer = network_of("resnet", "cpu")
    nodes = cone(network.graph, network.node(layer))
    assert 0 < len(windowed_nodes(network.graph, nodes)) < len(nodes.order)  # so that "shared" tapers there


def test_projection_makes_as_many_copies_for_one_peak_as_for_many() -> None:
    made = []
    with on_pretended_device() as counts:
        network, layer = network_of("alexnet", "cuda")
        assert network.weights_hash
        for count in (1, 12):
            for strategy in ("window", "shared", "whole"):
                counts.clear()
                zeros = [0] * count
                deconv.project(network, IMAGES, layer, zeros, zeros, zeros, zeros, rule="guided", strategy=strategy)
                made.append(dict(counts))
    assert made[:3] == made[3:] and all(max(each.values()) <= 7 for each in made)


def test_switches_parts_directions_and_strongest_units() -> None:
    def work(network: deconv.Network, layer: str, device: str) -> dict[Any, Any]:
        images, peaks = IMAGES.to(device), ([0, 1], [2, 3], [0, 4], [1, 2])
        random, other = (deconv.Rule("backward", switches=each) for each in ("random", "other"))
        recon = deconv.project(network, images, layer, *peaks, rule="gradient", through=["1"])
        wide = network.with_units(layer, torch.rand(3, 8, generator=torch.Generator().manual_seed(0)), name="sums")
        directions = deconv.mine(wide, images, [f"{layer}@sums"], k=2)[f"{layer}@sums"]
        look = deconv.look(network, photographs(), layer, k=2)
        return {
            "random": deconv.project(network, images, layer, *peaks, rule=random).pixels,
            "other": deconv.project(network, images, layer, *peaks, rule=other, switches_of=[5, 4]).pixels,
            "through": recon.parts["1"],
            "rest": recon.parts.rest("1"),
            "directions": deconv.project_peaks(wide, images, f"{layer}@sums", directions, [0, 2]).pixels,
            "hash": wide.weights_hash,
            "look": look.reconstructions[layer].pixels,
            "strongest": deconv.project_strongest(network, photographs(), 1, layer, [0, 1]).pixels,
        }

    same_on_both("alexnet", work)


EXPLAINED: dict[str, tuple[Any, int]] = {
    "activation_map": ("activation_map", 0),
    "grad_cam": ("grad_cam", 0),
    "gradient_times_input": ("gradient_times_input", 1),
    "smoothgrad": (partial(BUILT_IN["smoothgrad"], samples=3), 3),
    "integrated_gradients": (partial(BUILT_IN["integrated_gradients"], steps=3), 3),
    "occlusion": (partial(BUILT_IN["occlusion"], side=8, stride=5), 9 + 1),
    "captum": (from_captum(NeuronGradient), 0),
    "own": (lambda network, inputs, *peaks: 2 * inputs, 0),
}
"""What explains, and how often it asks the network about other inputs."""


@pytest.mark.parametrize("name", EXPLAINED)
def test_explanations(name: str) -> None:
    explanation, asked = EXPLAINED[name]

    def work(network: deconv.Network, layer: str, device: str) -> dict[Any, Any]:
        peaks = ([0, 3], [1, 2], [0, 3], [2, 1])
        return {name: explain(network, IMAGES.to(device), layer, *peaks, explanation=explanation).pixels}

    counts = same_on_both("alexnet", work)
    assert counts["to device"] <= 10 + asked and counts["to cpu"] <= 8 + asked and EXPLAINED.keys() >= BUILT_IN.keys()


def test_judgements_of_explanations_and_controls() -> None:
    def work(network: deconv.Network, layer: str, device: str) -> dict[Any, Any]:
        images = photographs()
        mined = deconv.mine(network, images, [layer], k=4)
        judged = deconv.judge(network, images, mined, ["centre", "other_switches"], units=[0, 3])
        predicted = deconv.predict(network, images, mined, ["guided"], units=[0, 3], references=1)
        told = deconv.which_image(network, images, mined, ["guided"], units=[0, 3], references=1)
        return {type(each).__name__: each.rows()["value"].astype(float) for each in (judged, predicted, told)}

    same_on_both("alexnet", work, left_here=8)  # `view_likeness`


def test_training_goes_on_where_it_was_and_leaves_the_devices_own_generator_alone(tmp_path: Path) -> None:
    data = Labelled(BYTES, torch.arange(6) % 2, PREPROCESSING)
    settings = Settings(batch_size=3, snapshots=(), bfloat16=False, lr=0.01)
    weights, rows = [], []
    for device in ("cpu", "cuda"):
        with on_pretended_device() as counts:
            for epochs in (1, 2):  # the second time it goes on
                torch.manual_seed(0)
                model = alexnet().to(device)
                counts.clear()
                rows.append(train(model, data, data, replace(settings, epochs=epochs), tmp_path / device))
                assert seeded() == 0 and bool(counts["left here"]) == (device == "cpu")
        weights.append({name: value.cpu() for name, value in model.state_dict().items()})
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert [row.val_loss for row in rows[1]] == [row.val_loss for row in rows[3]] and len(rows[3]) == 2
    assert counts["to cpu"] <= 2 * 2 + 3 + 3 * 8  # two numbers a step, three of the evaluation, and what is saved


def test_a_network_is_sent_from_the_device_to_where_it_is_asked_for() -> None:
    with on_pretended_device():
        network, layer = network_of("alexnet", "cuda")
        content = network_to_bytes(network)
        again = network_from_bytes(content, "cuda")
        assert again.device == network.device and again.weights_hash == network.weights_hash
        value = again.forward(IMAGES, [layer])[layer].cpu()
    here = network_from_bytes(content, "cpu")
    assert here.device == torch.device("cpu") and torch.equal(here.forward(IMAGES, [layer])[layer], value)


@pytest.mark.parametrize("name", ["path_check", "circuit", "sanity_checks", "table4_transfer"])
def test_an_experiment_runs_on_the_device_and_computes_nothing_here(name: str, tmp_path: Path) -> None:
    with on_pretended_device() as counts:
        assert main([*words(small.said(name, tmp_path)), f"folder={tmp_path / 'run'}", "device=cuda"]) == 0
        assert counts["to cpu"] and not counts["left here"]


def test_an_experiment_gives_the_same_numbers(tmp_path: Path) -> None:
    said, summaries = words(small.said("fig7_occlusion", tmp_path)), []
    for device in ("cpu", "cuda"):
        with on_pretended_device() as counts:
            assert main([*said, f"folder={tmp_path / device}", f"device={device}"]) == 0
        summaries.append(json.loads((tmp_path / device / "summary.json").read_text()))
        assert bool(counts["left here"]) == (device == "cpu")
    assert summaries[0] == summaries[1]
