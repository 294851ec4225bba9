"""zennit-crp's activation maximisation: one of the two published tools that mine a ConvNet's strongest images."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import tempfile
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.floors import Best
from benchmarks.scene import Subject

BATCH = 32
"""The default of its `run`; 16 and 64 were not faster."""


def is_installed() -> bool:
    """Whether zennit and zennit-crp are installed."""
    return all(importlib.util.find_spec(name) for name in ("crp", "zennit"))


class InMemory:
    """Images (N, 3, H, W) as the kind of data set that it reads: (image, target) by number."""

    def __init__(self, images: Tensor):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], 0


@dataclass(frozen=True)
class CrpPeer:
    """A network with the layers it mines by their names in `model`, and the composite it sends relevance by, if any."""

    model: nn.Module
    layers: dict[str, str]
    composite: Any
    layout: torch.memory_format

    def mine(self, images: Tensor) -> Best:
        """{layer: (score, image)}, each (C, up to 40), by `FeatureVisualization.run`."""
        from crp.attribution import CondAttribution
        from crp.concepts import ChannelConcept
        from crp.helper import load_maximization
        from crp.visualization import FeatureVisualization

        quiet = io.StringIO()
        concepts = {path: ChannelConcept() for path in self.layers.values()}
        data = InMemory(images)
        with (
            tempfile.TemporaryDirectory() as home,
            contextlib.redirect_stdout(quiet),
            contextlib.redirect_stderr(quiet),
        ):
            attribution = CondAttribution(self.model)
            run = FeatureVisualization(attribution, data, concepts, max_target="max", abs_norm=False, path=home)
            run.run(self.composite, 0, len(data), BATCH)
            maxima = {name: load_maximization(run.ActMax.PATH, path) for name, path in self.layers.items()}
        return {name: (_by_unit(score), _by_unit(image)) for name, (image, score, _) in maxima.items()}


def _by_unit(values: Any) -> Tensor:
    return torch.tensor(values).T  # copied: its arrays are mapped files, read only


def at_its_best(subject: Subject, layout: torch.memory_format) -> CrpPeer:
    """Only the trunk, and no composite: relevance, which its `run` cannot leave out, is then the plain gradient."""
    trunk = nn.Sequential(*subject.trunk(layout), nn.Flatten())
    return CrpPeer(_out_of_place(trunk), subject.hooked, None, layout)


def as_documented(subject: Subject) -> CrpPeer:
    """The whole network with the composite of its tutorial."""
    from zennit.composites import EpsilonPlusFlat

    layers = {layer: layer for layer in subject.layers}
    return CrpPeer(_out_of_place(subject.module), layers, EpsilonPlusFlat(), torch.contiguous_format)


def _out_of_place(module: nn.Module) -> nn.Module:
    """A copy whose rectifiers do not overwrite what its hooks look at."""
    module = copy.deepcopy(module)
    for submodule in module.modules():
        if isinstance(submodule, nn.ReLU):
            submodule.inplace = False
    return module
