"""captum's neuron methods as explanations; captum is an extra."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from deconv.errors import UnsupportedOperation, bad_value, needed
from deconv.explanations.functions import Explain
from deconv.explanations.modules import lent
from deconv.network import Network
from deconv.network.operations import Rectifier

BY_RECTIFIERS = ("NeuronGuidedBackprop", "NeuronDeconvolution")
"""Methods that do something at modules nn.ReLU, and pass any other rectifier by its derivative without a word."""


def from_captum(method: type, seed: int = 0, **arguments: Any) -> Explain:
    """Return one of captum's neuron methods as an explanation, to be judged beside others.

    - method: a class of captum.attr whose name begins with Neuron, as NeuronIntegratedGradients.
    - seed: decides what it draws at random, anew for each peak, so that others beside it do not matter.
    - arguments: what its `attribute` takes beside inputs and neuron, as n_steps=50 or baselines=torch.zeros(...).

    captum works on modules: a layer must be the output of one (`lent`). Raises BadInput for another class, and without
    captum; the explanation raises UnsupportedOperation where the layer is no module's, and where guided backpropagation
    or deconvolution would pass rectifiers by that are no nn.ReLU.

    >>> import deconv, torch
    >>> from captum.attr import NeuronGradient
    >>> network = deconv.Network(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()), (3, 8, 8))
    >>> peak = torch.tensor([2]), torch.tensor([0]), torch.tensor([5])  # channel, row, col
    >>> from_captum(NeuronGradient)(network, torch.rand(1, 3, 8, 8), "1", *peak).shape
    torch.Size([1, 3, 8, 8])
    """
    with needed("from_captum", "captum", extra="captum"):
        from captum.attr import NeuronAttribution
    if not (isinstance(method, type) and issubclass(method, NeuronAttribution)):
        raise bad_value("method", method, "one of captum's neuron methods", "take it from captum.attr: NeuronGradient")
    made = partial(captum_attribution, method=method, seed=seed, **arguments)
    made.__name__ = method.__name__  # type: ignore[attr-defined]
    return made


def captum_attribution(
    network: Network,
    inputs: Float[Tensor, "N C H W"],
    layer: str,
    channel: Int[Tensor, " N"],
    row: Int[Tensor, " N"],
    col: Int[Tensor, " N"],
    method: type,
    seed: int = 0,
    **arguments: Any,
) -> Float[Tensor, "N C H W"]:
    """Return what a neuron method of captum gives for each peak; the explanation that `from_captum` makes."""
    if method.__name__ in BY_RECTIFIERS:
        _check_rectifiers(network, layer, method)
    with lent(network, inputs, layer) as (module, submodule), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it sets hooks, and what needs a gradient
        attribution, pictures = method(module, submodule), []
        is_map = len(network.graph.nodes[network.node(layer)].shape) == 3
        for n, unit in enumerate(torch.stack([channel, row, col], dim=1).tolist()):
            with _drawn_by(seed):
                neuron = tuple(unit) if is_map else (unit[0],)
                pictures.append(attribution.attribute(inputs[n : n + 1], neuron, **arguments))
    return torch.cat(pictures).detach().to(inputs)


def _check_rectifiers(network: Network, layer: str, method: type) -> None:
    for node in (network.graph.nodes[index] for index in network.graph.ancestors([network.node(layer)])):
        if isinstance(node.operation, Rectifier) and not isinstance(network.module.get_submodule(node.path), nn.ReLU):
            passed = f"{method.__name__} would pass {node.name} by its derivative, since it is no nn.ReLU"
            raise UnsupportedOperation(f"{passed}; take a rule, deconvnet or guided, or make it a module nn.ReLU")


@contextmanager
def _drawn_by(seed: int) -> Iterator[None]:
    """Random numbers of torch and of numpy by a seed; afterwards both go on where they were."""
    before = np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(before)
