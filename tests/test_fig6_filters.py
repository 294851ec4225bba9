"""Figure 6 on untrained networks and a handful of noise pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from deconv import models
from deconv.analyses import filters
from deconv.command.cli import main
from deconv.records import Peaks, Reconstructions
from tests.commands import refusal, words
from tests.samples import noise

DEAD, WEAK, GIANT = 3, 5, 8


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The three networks untrained, the first with a dead, a weak and a dominating filter."""
    root = tmp_path_factory.mktemp("fig6")
    photographs = noise(root / "photographs", 4, (64, 64))
    state = models.build("zfnet64", "random").state_dict()
    state["features.0.bias"][DEAD] = -1e6
    state["features.0.weight"][WEAK] *= 0.01
    state["features.0.weight"][GIANT] *= 50
    save_file(state, root / "unlimited.safetensors")
    weights = {"unlimited": root / "unlimited.safetensors", "krizhevsky64": "random", "zfnet64": "random"}
    networks = [f"networks.{name}.weights={path}" for name, path in weights.items()]
    return ["experiment=fig6_filters", *networks, "source=folder", f"source.root={photographs}", "n_units=7"]


@pytest.fixture(scope="module")
def finished(said: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    assert main([*said, f"folder={folder}"]) == 0
    return folder


def test_dead_filters_and_the_one_that_dominates_are_counted(finished: Path) -> None:
    numbers = json.loads((finished / "summary.json").read_text())["networks"]
    assert list(numbers) == ["krizhevsky64", "unlimited", "zfnet64"]
    spoilt, sound = numbers["unlimited"], numbers["zfnet64"]
    assert (spoilt["dead_units"], spoilt["weak"]) == (1, 1) and (sound["dead_units"], sound["weak"]) == (0, 0)
    assert spoilt["largest_rms"] / spoilt["median_rms"] > 20 > sound["largest_rms"] / sound["median_rms"]
    assert (numbers["krizhevsky64"]["stride"], sound["stride"]) == (4, 2)
    assert numbers["krizhevsky64"]["filter_size"] == [11, 11]


def test_untrained_filters_have_the_spectrum_of_noise(finished: Path) -> None:
    numbers = json.loads((finished / "summary.json").read_text())["networks"]
    for name in ("krizhevsky64", "zfnet64"):
        assert numbers[name]["fine_share"] == pytest.approx(0.72, abs=0.02)
        assert np.allclose(numbers[name]["spectrum"], filters.white_spectrum(), atol=0.02)


def test_aliasing_is_that_of_the_saved_projections_and_larger_with_the_larger_stride(finished: Path) -> None:
    numbers = json.loads((finished / "summary.json").read_text())["networks"]
    assert "aliasing" not in numbers["unlimited"]
    for name in ("krizhevsky64", "zfnet64"):
        recon = Reconstructions.load(finished / f"{name}.reconstructions.safetensors")
        peaks = Peaks.load(finished / f"{name}.peaks.safetensors")
        assert torch.equal(recon.channel, peaks["conv2"].found[:, 0].nonzero().flatten())
        for stride in (2, 4):
            share = float(filters.aliasing(recon.pixels, stride).mean())
            assert numbers[name]["aliasing"][str(stride)] == pytest.approx(share)
    assert numbers["krizhevsky64"]["aliasing"]["4"] > 2 * numbers["zfnet64"]["aliasing"]["4"]


def test_networks_can_be_left_out_and_added(said: list[str], tmp_path: Path) -> None:
    more = ["networks.unlimited=null", "networks.krizhevsky64=null", "projected=[]"]
    more += ["+networks.mine={model: zfnet64, weights: random, mean: [0.5,0.5,0.5]}"]
    assert main([*words(said, more), f"folder={tmp_path}"]) == 0
    numbers = json.loads((tmp_path / "summary.json").read_text())["networks"]
    assert list(numbers) == ["mine", "zfnet64"]
    assert numbers["mine"]["provenance"]["preprocessing"]["mean"] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["networks.unlimited.model=zfnet46"], "networks.unlimited.model=zfnet46: there are alexnet"),
        (["networks.unlimited.weights=gone.safetensors"], "there is no weights file gone.safetensors"),
        (["networks.krizhevsky64.weights=${networks.unlimited.weights}"], "unlimited.safetensors do not fit"),
        (["+networks.zfnet64.strid=2"], "networks.zfnet64.strid: model zfnet64 has no such setting"),
        (["projected=[zfnet46]"], "projected: 'zfnet46' is none of networks unlimited, krizhevsky64, zfnet64"),
        (["layers=[conv1]"], "expected two, the first for its filters"),
        (["layers=[conv2,conv3]"], "conv2 is not the rectified output of a convolution of the image"),
        (["rule=guidd"], "unknown rule 'guidd'"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_mined(
    arguments: list[str], expected: str, said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refusal(words(said, arguments), tmp_path / "run", capsys)
