"""Projection in deeper networks over batched autograd: one peak, nine, and many to a photograph, by rule `gradient`.

Autograd is the peer because it carries any network; for the derivative it is also the right answer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from benchmarks.captum_peer import worst_difference
from benchmarks.rows import Row, faster
from benchmarks.scene import SEED, SIZE, Scene
from benchmarks.timing import compare, fastest
from deconv import models
from deconv.network import Network
from deconv.network.receptive_field import cone
from deconv.projection import project
from deconv.projection.strategies import choose

LAYERS = {
    "vgg16": ("features.15", "features.29"),
    "googlenet": ("inception3b.cat", "inception4e.cat"),
    "resnet50": ("layer2.3.relu_2", "layer3.5.relu_2", "layer4.2.relu_2"),
}
CASES = ((1, 1), (9, 9), (96, 12))
"""Peaks, and the photographs that they lie in: a unit's strongest lie in nine; those of many units share theirs, eight
to a photograph. A thousand in 125 take as long each."""
FEW = 16
"""Peaks that autograd is timed on, where there are more: it takes the same time for each."""
BATCHES = (8, 16)
CLOSE = 1e-5
"""Relative difference of the worst peak."""
CHECKED = 4


@dataclass(frozen=True)
class Autograd:
    """The network up to a layer, and peaks (N, 4) = (image, channel, row, col), each with its image (N, 3, H, W)."""

    trunk: nn.Module
    layer: str
    pictures: Tensor
    peaks: Tensor
    batch: int

    def project(self) -> Tensor:
        """(N, 3, H, W): the derivatives of the activations."""
        parts = zip(self.pictures.split(self.batch), self.peaks.split(self.batch), strict=True)
        return torch.cat([self._derivative(pictures, peaks) for pictures, peaks in parts])

    def _derivative(self, pictures: Tensor, peaks: Tensor) -> Tensor:
        pictures = pictures.detach().requires_grad_()
        _, channel, row, col = peaks.unbind(1)
        maps = self.trunk(pictures)[self.layer]
        return torch.autograd.grad(maps[torch.arange(len(peaks)), channel, row, col].sum(), pictures)[0]


def rows(scene: Scene) -> Iterator[Row]:
    """A row for each layer and number of peaks."""
    cases = CASES[:2] if scene.quick else CASES
    images = scene.images(max(count for _, count in cases))
    for arch, layers in LAYERS.items():
        module = models.build("torchvision", "random", SEED, arch=arch).requires_grad_(False)
        settle(module, images)
        network = Network(module, (3, *SIZE))
        for layer in layers:
            trunk = cut_at(module, layer)
            for count, photographs in cases:
                peaks = firing_peaks(network, images[:photographs], layer, count)
                yield over_autograd(network, trunk, scene, images, layer, peaks, f"{arch} {layer}", photographs)


def cut_at(module: nn.Module, layer: str) -> nn.Module:
    """The network up to a layer; a copy of such a part is not it (torchvision 0.29 copies that of training)."""
    return create_feature_extractor(module, [layer], suppress_diff_warning=True).eval()


def settle(module: nn.Module, images: Tensor) -> None:
    """Give the batch norms the statistics of some images; else deep maps are so even that rounding decides pooling."""
    norms = [submodule for submodule in module.modules() if isinstance(submodule, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    module(images)
    module.eval()


def firing_peaks(network: Network, images: Tensor, layer: str, count: int) -> Tensor:
    """`count` peaks, the same number in each image: the strongest positions of units drawn by the seed."""
    image = torch.arange(count) % len(images)
    channel = torch.randint(network.channels(layer), (count,), generator=torch.Generator().manual_seed(SEED))
    peaks = torch.zeros((count, 4), dtype=torch.int64)
    for chunk in torch.arange(len(images)).split(16):
        maps = network.forward(images[chunk], [layer])[layer]
        for n in torch.isin(image, chunk).nonzero().flatten().tolist():
            of_unit = maps[image[n] - chunk[0], channel[n]]
            row, col = divmod(int(of_unit.argmax()), of_unit.shape[1])
            peaks[n] = torch.tensor([int(image[n]), int(channel[n]), row, col])
    return peaks


def over_autograd(
    network: Network,
    trunk: nn.Module,
    scene: Scene,
    images: Tensor,
    layer: str,
    peaks: Tensor,
    name: str,
    photographs: int,
) -> Row:
    """All peaks by ours, at most FEW by autograd at its fastest batch and layout, time a peak compared."""
    few = peaks[:FEW]
    peer, setting = best_autograd(trunk, layer, images, few)
    apart = checked(network, images, layer, few[:CHECKED], name)
    image, channel, row, col = peaks.unbind(1)
    work = partial(project, network, images, layer, image, channel, row, col, rule="gradient")
    pair = compare(work, peer.project, scene.repeats, len(peaks), len(few))
    graph = network.graph_at(SIZE)
    strategy = choose("auto", graph, cone(graph, network.node(layer, SIZE)), peaks[:, 0])
    what = f"projection over autograd, {name}, {len(peaks)} peaks in {photographs} photographs"
    return faster(what, pair, "peak", None, f"by {strategy}, autograd by {setting}; equal to {apart:.0e}")


def checked(network: Network, images: Tensor, layer: str, peaks: Tensor, name: str) -> float:
    """The worst peak's relative difference to autograd, in double precision; raises above CLOSE.

    In single precision some rectifier among millions is on by one order of adding up and off by another.
    """
    exact = Network(copy.deepcopy(network.module).double(), (3, *SIZE))
    image, channel, row, col = peaks.unbind(1)
    ours = project(exact, images.double(), layer, image, channel, row, col, rule="gradient")
    pictures = images[image].double()
    derivatives = Autograd(cut_at(exact.module, layer), layer, pictures, peaks, len(peaks)).project()
    apart = worst_difference(ours.paste(), derivatives * ours.score[:, None, None, None])
    if apart > CLOSE:
        raise AssertionError(f"{name}: a reconstruction differs from autograd's by {apart:.1e}, more than {CLOSE:.0e}.")
    return apart


def best_autograd(trunk: nn.Module, layer: str, images: Tensor, peaks: Tensor) -> tuple[Autograd, str]:
    """The fastest of two layouts and BATCHES for these peaks, and its name."""
    choices: dict[str, Autograd] = {}
    for name, layout in (("default layout", torch.contiguous_format), ("channels last", torch.channels_last)):
        pictures = images[peaks[:, 0]].contiguous(memory_format=layout)
        for batch in sorted({min(batch, len(peaks)) for batch in BATCHES}):
            choices[f"{name}, {batch} at once"] = Autograd(trunk, layer, pictures, peaks, batch)
    best = fastest((name, peer.project, len(peaks)) for name, peer in choices.items())
    return choices[best], best
