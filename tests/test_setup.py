"""deconv/command/setup.py: what files of configs/ say, as the library takes it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deconv.command import options, setup, shared
from deconv.command.settings import compose_jobs
from deconv.errors import BadInput, UnknownName, UnsupportedOperation
from deconv.explanations.functions import Explanation
from deconv.images.preprocessing import Preprocessing
from deconv.models import presets
from deconv.network import Network
from deconv.projection.rules import RULES, Rule

ALEXNET: dict[str, Any] = {"model": "alexnet", "weights": "random", "size": [64, 64], "resize": None}


def test_a_models_file_with_some_settings_replaced() -> None:
    filed = presets.replaced_settings("networks.mine", {**ALEXNET, "title": "mine"}, own=["title"])
    assert (filed["name"], filed["arch"], filed["weights"], filed["size"]) == (
        "torchvision",
        "alexnet",
        "random",
        [64, 64],
    )
    assert filed["resize"] == 256 and "title" not in filed  # null leaves what the file says
    network = presets.open_network(filed, seed=0)
    assert network.channels("conv1") == 64 and network.needed_preprocessing().size == (64, 64)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "alexnett"}, "networks.mine.model=alexnett: there are alexnet, .*; did you mean 'alexnet'"),
        ({}, "networks.mine.model=None: there are alexnet"),
        ({"model": "alexnet", "width": 3}, "networks.mine.width: model alexnet has no such setting"),
    ],
)
def test_a_models_file_that_does_not_exist(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownName, match=message):
        presets.replaced_settings("networks.mine", settings)


def test_a_network_needs_a_size_to_be_traced_at() -> None:
    with pytest.raises(BadInput, match="size: given None; expected the input image"):
        presets.open_network({**presets.settings_of("squeezenet", ""), "weights": "random", "size": None}, seed=0)


def test_a_rule_by_its_name_or_options() -> None:
    assert setup.open_rule("guided") == RULES["guided"]
    assert setup.open_rule(shared.Rule(relu="none", seed=3)) == Rule(relu="none", seed=3)
    with pytest.raises(BadInput, match="only compare_rules has other images"):
        setup.open_rule(shared.Rule(switches="other"))


def test_layers_are_prepared_in_forward_order() -> None:
    (job,) = compose_jobs(
        ["model=alexnet", "model.weights=random", "layers=[conv3,conv1]", "batch_size=5"], sweep=False
    )
    assert isinstance(job.options, options.Fig2Features)
    network = presets.open_network(job.options.model, seed=0)
    prepared = setup.prepare(job.options, network, job.options.layers, ["deconvnet"], [63])
    assert prepared.layers == ["conv1", "conv3"] and prepared.batch_size == 5 and prepared.images.name == "bundled"
    assert setup.prepare(job.options, network, None, []).layers == list(network.aliases)
    with pytest.raises(BadInput, match="units: given 64; expected a whole number, 0 to 63"):
        setup.prepare(job.options, network, job.options.layers, [], [64])


def smooth_above() -> Network:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.SiLU(), nn.Conv2d(4, 4, 3), nn.ReLU()]
    preprocessing = Preprocessing((12, 12), None, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    return Network(nn.Sequential(*layers), (3, 12, 12), preprocessing=preprocessing)


def fig2(*said: str) -> options.Fig2Features:
    (job,) = compose_jobs(said, sweep=False)
    assert isinstance(job.options, options.Fig2Features)
    return job.options


def test_layers_that_nobody_named_are_left_out_where_a_rule_cannot_send_them_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    network = smooth_above()
    assert network.layers == ["1", "3", "5"]
    with caplog.at_level("INFO", "deconv"):
        assert setup.prepare(fig2(), network, None, ["deconvnet"]).layers == ["1"]
    assert caplog.messages == [
        "no layers named: left out 3, 5, to which 'deconvnet' has no way back; rules that have one: gradient, "
        "deconvnet_beyond, guided_beyond"
    ]
    assert setup.prepare(fig2(), network, None, ["gradient"]).layers == network.layers
    with pytest.raises(UnsupportedOperation, match="'silu' in 3"):
        setup.prepare(fig2(), network, ["1", "5"], ["deconvnet"])
    none = Network(nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU()), (3, 12, 12), preprocessing=network.preprocessing)
    with pytest.raises(UnsupportedOperation, match="'silu' in 1"):
        setup.prepare(fig2(), none, None, ["deconvnet"])
    with pytest.raises(BadInput, match="there is no folder /nowhere"):
        setup.prepare(fig2("source=folder", "source.root=/nowhere"), none, None, ["deconvnet"])


def test_a_function_that_explains_nothing_is_refused_before_anything_is_mined() -> None:
    asked: list[Tensor] = []

    def explain(network: Network, inputs: Tensor, layer: str, *place: Tensor) -> Tensor:
        asked.append(network.forward(inputs, [layer])[layer][0][tuple(int(each) for each in place)])
        return inputs if layer == "1" else inputs[:, :, 1:]

    setup.prepare(fig2(), smooth_above(), ["1"], [Explanation("mine", explain)])
    assert len(asked) == 1 and asked[0] > 0  # it is asked of a unit that fires
    with pytest.raises(BadInput, match="explanation mine: given 5, 1 input; .*: it returns shape"):
        setup.prepare(fig2(), smooth_above(), ["1", "5"], [Explanation("mine", explain)])
