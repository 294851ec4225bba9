"""deconv/command/setup.py: what files of configs/ say, as the library takes it."""

from __future__ import annotations

from typing import Any

import pytest

from deconv.command import options, setup, shared
from deconv.command.settings import compose_jobs
from deconv.errors import BadInput, UnknownName
from deconv.models import presets
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
