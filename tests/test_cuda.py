"""On a CUDA device: the same peaks and pixels as on the CPU, and every experiment. Skipped where there is none."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset
from torchvision.models import alexnet

import deconv
from deconv.command.cli import main
from deconv.command.options import EXPERIMENTS
from deconv.explanations import BUILT_IN, explain
from tests import small
from tests.commands import words

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
LAYERS = ["features.1", "features.7", "features.11"]


def test_mining_and_projection_are_the_same_as_on_the_cpu() -> None:
    torch.manual_seed(0)
    module, images = alexnet(weights=None), torch.randn(12, 3, 224, 224)
    here, there = deconv.Network(module), deconv.Network(copy.deepcopy(module).cuda())
    peaks, on_device = (deconv.mine(network, images, LAYERS, k=3, batch_size=5) for network in (here, there))
    for layer in LAYERS:
        torch.testing.assert_close(peaks[layer].score, on_device[layer].score, rtol=1e-4, atol=1e-4, equal_nan=True)
        places = peaks[layer].of([0, 5, 9])
        for strategy in ("window", "shared", "whole"):
            pixels = [deconv.project(net, images, layer, *places, strategy=strategy).pixels for net in (here, there)]
            assert (pixels[0] - pixels[1]).norm() <= 1e-4 * pixels[0].norm()


@pytest.fixture(scope="module")
def networks() -> tuple[deconv.Network, deconv.Network]:
    """One small network here, and the same on the device, with directions over its second layer."""
    torch.manual_seed(0)
    module = alexnet(weights=None).features[:8]
    shape, weights = (3, 96, 96), torch.rand(5, 192)
    here, there = deconv.Network(module, shape), deconv.Network(copy.deepcopy(module).cuda(), shape)
    return here.with_units("4", weights, name="sums"), there.with_units("4", weights, name="sums")


def alike(here: torch.Tensor, there: torch.Tensor) -> bool:
    assert here.device == there.device == torch.device("cpu")
    here, there = here.nan_to_num(), there.nan_to_num()  # of dead units
    return bool((here - there).norm() <= 1e-3 * here.norm())


@pytest.mark.parametrize("explanation", ["guided", "gradient", *BUILT_IN])
def test_explanations_are_the_same_as_on_the_cpu(
    networks: tuple[deconv.Network, deconv.Network], explanation: str
) -> None:
    images, places = torch.randn(3, 3, 96, 96), ([0, 1, 2], [0, 7, 100], [2, 1, 2], [3, 4, 0])
    recon = [explain(network, images, "7", *places, explanation=explanation) for network in networks]
    assert alike(recon[0].score, recon[1].score)
    assert alike(recon[0].pixels, recon[1].pixels)


def test_directions_and_what_they_are_made_of_are_the_same_as_on_the_cpu(
    networks: tuple[deconv.Network, deconv.Network],
) -> None:
    images = torch.randn(6, 3, 96, 96)
    for layer, through in (("4@sums", "1"), ("7", "4")):
        peaks = [deconv.mine(network, images, [layer], k=2) for network in networks]
        assert alike(peaks[0][layer].score, peaks[1][layer].score)
        places = peaks[0][layer].of([0, 3])
        recon = [deconv.project(net, images, layer, *places, rule="gradient", through=[through]) for net in networks]
        assert alike(recon[0].parts[through], recon[1].parts[through])
        assert alike(recon[0].parts.rest(through), recon[1].parts.rest(through))


def test_a_judgement_is_the_same_as_on_the_cpu(networks: tuple[deconv.Network, deconv.Network]) -> None:
    images, values = TensorDataset(torch.randint(256, (6, 96, 96, 3), dtype=torch.uint8)), []
    preprocessing = deconv.Preprocessing((96, 96), None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    for network in networks:
        shown = deconv.Network(network.module, (3, 96, 96), preprocessing=preprocessing)
        peaks = deconv.mine(shown, images, ["7"], k=1)
        judgement = deconv.judge(shown, images, peaks, {"guided": "guided", "centre": "centre"}, units=[0, 1, 2])
        values.append(judgement.rows()["value"].astype(float))
    assert values[0] == pytest.approx(values[1], rel=2e-2, abs=5e-3, nan_ok=True)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_leaves_the_same_files_and_numbers_of_the_same_names(name: str, tmp_path: Path) -> None:
    said, files, summaries = words(small.said(name, tmp_path)), [], []
    for device in ("cpu", "cuda"):
        folder = tmp_path / device
        assert main([*said, f"folder={folder}", f"device={device}"]) == 0
        files.append({str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()})
        summaries.append(json.loads((folder / "summary.json").read_text()))
    assert files[0] == files[1] and summaries[0].keys() == summaries[1].keys()
