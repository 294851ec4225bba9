"""Networks with their preprocessing and the names of their layers, as the files of configs/model/ describe them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from deconv.defaults import plain_defaults
from deconv.errors import UnknownName, bad_value, check_count, nearest
from deconv.files.shipped import choices, read_config
from deconv.images.preprocessing import Preprocessing
from deconv.models import build, class_names, preprocessing_of_weights
from deconv.models.torchvision import architectures
from deconv.network import Network

PREPROCESSING = ("size", "resize", "mean", "std", "interpolation", "squash")
"""The keys of a file of configs/model/ that are the preprocessing's; `aliases` is the network's, the rest `build`'s."""


@plain_defaults()
def load(name: str, seed: int = 0, device: str | torch.device = "cpu", **options: Any) -> Network:
    """Return a network by its name: what `model=NAME` is on the command line, with weights, preprocessing and aliases.

    name: a file of configs/model/, among them squeezenet, zfnet64, torchvision, timm and python.
    options: what replaces the settings of that file, as `weights="random"`, `arch="resnet18"`, `size=(320, 320)`,
    `args={"stem_width": 32}` or `aliases={"low": "layer1"}`.
    seed: decides random weights; torch's own generator is left alone.
    device: what it works on, "cpu" or "cuda"; images may stay where they are.
    Raises UnknownName for a model or a setting that does not exist, BadInput for one that cannot be used and for a
    device that is not there, DeconvError if weights cannot be downloaded, and what Network raises.

    >>> import deconv
    >>> network = deconv.load("torchvision", arch="resnet18", weights="random")
    >>> network.input_shape, network.channels("layer4.1.relu_1")
    ((3, 224, 224), 512)
    """
    check_count("seed", seed, least=0)
    settings = settings_of(name, name)
    for key in options.keys() - settings.keys():
        hint = nearest(key, settings)
        raise UnknownName(f"{key}: model {name} has no such option; it has {', '.join(settings)}{hint}")
    return open_network(settings | options, seed, device)


def settings_of(name: str, said: str) -> dict[str, Any]:
    """Return what configs/model/<name>.yaml says. Raises UnknownName, with `said`, for a model that does not exist."""
    known = choices("model")
    if name not in known:
        theirs = f"; it is torchvision's: model torchvision with arch={name}" if name in architectures() else ""
        raise UnknownName(f"{said}: there are {', '.join(known)}{theirs or nearest(str(name), known)}")
    return read_config(name, "model")


def replaced_settings(option: str, settings: Mapping[str, Any], own: Sequence[str] = ()) -> dict[str, Any]:
    """Return what configs/model/<settings.model>.yaml says, replaced by what else the settings say unless it is None.

    option: what holds the settings, for messages. own: keys of the settings that are not the model's.
    Raises UnknownName for a model or a key that does not exist.
    """
    name = settings.get("model")
    filed = settings_of(str(name), f"{option}.model={name}")
    replaced = {key: value for key, value in settings.items() if key not in ("model", *own)}
    for key in replaced.keys() - filed.keys():
        raise UnknownName(f"{option}.{key}: model {name} has no such setting{nearest(key, filed)}")
    return {**filed, **{key: value for key, value in replaced.items() if value is not None}}


def open_network(model: Mapping[str, Any], seed: int, device: str | torch.device = "cpu", **replaced: Any) -> Network:
    """Return the network that a file of configs/model/ describes, some of its settings replaced.

    With `trunk`, aliases of layers in the classifier are left away with it.
    Raises what `deconv.models.build`, Preprocessing and Network raise, and BadInput without a `size` or for a device
    that is not there.
    """
    settings, on = {**model, **replaced}, checked_device(device)
    preprocessing = preprocessing_of(settings)
    if preprocessing.size is None:
        raise bad_value("size", None, "the input image's height and width, as [224,224]")
    left_away = ("classifier.",) if settings.get("trunk") else ()
    aliases = settings.get("aliases") or {}
    kept = {alias: layer for alias, layer in aliases.items() if not layer.startswith(left_away)}
    height, width = preprocessing.size
    return Network(build_model(settings, seed).to(on), (preprocessing.channels, height, width), kept, preprocessing)


def called(model: Mapping[str, Any], network: Network) -> str:
    """Return what pages and figures call the network that a file of configs/model/ describes.

    That is the architecture of torchvision's and timm's; of a network of the user's own its class, or the function that
    made it where the class is one of torch's; else the model's name.

    >>> import deconv
    >>> network = deconv.Network(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), (3, 8, 8))
    >>> called({"name": "torchvision", "arch": "resnet18"}, network), called({"name": "zfnet64"}, network)
    ('resnet18', 'zfnet64')
    >>> called({"name": "python", "target": "mine.py:small"}, network)
    'small'
    """
    if model["name"] == "python":
        made_of = type(network.module)
        return str(model["target"]).rpartition(":")[2] if made_of.__module__.startswith("torch.") else made_of.__name__
    return str(model.get("arch") or model["name"])


def class_names_of(model: Mapping[str, Any]) -> list[str]:
    """Return the `deconv.models.class_names` of the network that a file of configs/model/ describes.

    >>> len(class_names_of({"name": "torchvision", "arch": "resnet18"})), class_names_of({"name": "python"})
    (1000, [])
    """
    return class_names(model["name"], model.get("arch"))


def checked_device(device: str | torch.device) -> torch.device:
    """Return the device. Raises BadInput unless it is the CPU, or a GPU that torch finds.

    >>> checked_device("cpu")
    device(type='cpu')
    """
    try:
        known = torch.device(device)
    except (RuntimeError, TypeError):
        known = torch.device("meta")
    gpus = torch.cuda.device_count()
    if known.type != "cpu" and (known.type != "cuda" or (known.index or 0) >= gpus):
        there = f"cpu, or cuda up to cuda:{gpus - 1}" if gpus else "cpu, as torch finds no GPU on this machine"
        raise bad_value("device", str(device), there)
    return known


def preprocessing_of(model: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing that a file of configs/model/ describes.

    Where it leaves `size`, `mean`, `std`, `interpolation` or `squash` open, they are those of the weights, and so is
    `resize` beside a `size` of theirs. Raises what Preprocessing raises.
    """
    said = {key: model[key] for key in PREPROCESSING if model.get(key) is not None}
    weights = preprocessing_of_weights(model["name"], model.get("arch"), model["weights"])
    if weights is None:
        return Preprocessing(**{"size": None, "resize": None, "mean": None, "std": None} | said)
    theirs = {key: getattr(weights, key) for key in PREPROCESSING}
    if "size" in said:
        theirs["resize"] = None
    return Preprocessing(**theirs | said)


def build_model(model: Mapping[str, Any], seed: int, **replaced: Any) -> nn.Module:
    """Return the module that a file of configs/model/ describes, some of its settings replaced."""
    settings = {key: value for key, value in model.items() if key not in (*PREPROCESSING, "aliases")}
    return build(**{**settings, **replaced}, seed=seed)
