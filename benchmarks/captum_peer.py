"""captum's NeuronDeconvolution at its best: batched over peaks, on the trunk cut at the layer, in the better layout."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass

import torch
from captum.attr import NeuronDeconvolution
from torch import Tensor, nn

from benchmarks.scene import Subject
from benchmarks.timing import fastest

LAYOUTS = {"default layout": torch.contiguous_format, "channels last": torch.channels_last}
BATCHES = (8, 16, 32)


@dataclass(frozen=True)
class CaptumPeer:
    """captum on some peaks (N, 4) = (image, channel, row, col), each with its image (N, 3, H, W) beside it."""

    trunk: nn.Sequential
    pictures: Tensor
    peaks: Tensor
    batch: int

    def project(self) -> Tensor:
        """(N, 3, H, W): what captum gives for a seed of one."""
        parts = zip(self.pictures.split(self.batch), self.peaks.split(self.batch), strict=True)
        return torch.cat([_project(self.trunk, pictures, peaks) for pictures, peaks in parts])


def _project(trunk: nn.Sequential, pictures: Tensor, peaks: Tensor) -> Tensor:
    _, channel, row, col = peaks.unbind(1)
    each = torch.arange(len(peaks), device=peaks.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it sets hooks on ReLUs, at every call
        attribution = NeuronDeconvolution(trunk, trunk[-1])
        back = attribution.attribute(pictures.requires_grad_(), lambda maps: maps[each, channel, row, col])
    return back.detach()


def cut_at(subject: Subject, layer: str, layout: torch.memory_format) -> nn.Sequential:
    """The trunk up to the rectifier `layer`, its rectifiers not in place, as captum's hooks need."""
    features = subject.module.get_submodule("features")
    assert isinstance(features, nn.Sequential)
    trunk = copy.deepcopy(features[: int(layer.removeprefix("features.")) + 1]).to(memory_format=layout)
    for submodule in trunk.modules():
        if isinstance(submodule, nn.ReLU):
            submodule.inplace = False
    return trunk


def best_peer(subject: Subject, layer: str, images: Tensor, peaks: Tensor) -> tuple[CaptumPeer, str]:
    """The fastest of LAYOUTS and BATCHES for these peaks, and its name."""
    choices: dict[str, CaptumPeer] = {}
    for layout_name, layout in LAYOUTS.items():
        trunk = cut_at(subject, layer, layout)
        pictures = images[peaks[:, 0].to(images.device)].contiguous(memory_format=layout)
        for batch in sorted({min(batch, len(peaks)) for batch in BATCHES}):
            peer = CaptumPeer(trunk, pictures, peaks.to(images.device), batch)
            choices[f"{layout_name}, {batch} peaks at once"] = peer
    name = fastest((name, peer.project, len(peaks)) for name, peer in choices.items())
    return choices[name], name


def worst_difference(actual: Tensor, expected: Tensor) -> float:
    """The largest ||actual - expected|| / ||expected|| of all peaks."""
    apart = (actual.double() - expected.double()).flatten(1).norm(dim=1)
    return float((apart / expected.double().flatten(1).norm(dim=1).clamp_min(1e-30)).max())
