"""Any classification network of torchvision, by name.

Two of them hold a preprocessing of their own: googlenet and inception_v3 with torchvision's weights turn ImageNet's
mean and std into 0.5 and 0.5 inside the network (`transform_input`); with a file or random weights they do not.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.client import HTTPException
from os import PathLike
from pathlib import Path

import torch
import torchvision
from torch import nn
from torchvision.models import WeightsEnum, get_model, get_model_weights, list_models

from deconv.errors import BadInput, DeconvError, UnknownName, first_line, nearest
from deconv.images.preprocessing import Preprocessing
from deconv.models.loading import OFFLINE_CHOICES, check_outputs, is_file_name, load_file, randomly, unknown_weights


@cache
def architectures() -> tuple[str, ...]:
    """Return the names of torchvision's classification networks."""
    return tuple(list_models(module=torchvision.models))


def build(arch: str, weights: str | PathLike[str], seed: int = 0, classes: int | None = None) -> nn.Module:
    """Return torchvision's classification network `arch` in eval mode.

    weights: a name that torchvision has for it, "random", which `seed` decides, or the path of a file.
    classes: the number of outputs, where the weights are random or from a file; None for 1000.
    Raises UnknownName, BadInput or DeconvError as `deconv.models.build` does.

    >>> build("resnet18", "random", classes=7)(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 7])
    """
    _check_arch(arch)
    names = get_model_weights(arch).__members__
    if weights in names:
        check_outputs(arch, f"torchvision's weights {weights}", classes, 1000)
        with explained_download(names[str(weights)], OFFLINE_CHOICES):
            module: nn.Module = get_model(arch, weights=names[str(weights)], progress=sys.stderr.isatty())
        return module.eval()
    if weights != "random" and not is_file_name(weights):
        raise unknown_weights(arch, weights, [*names, "random"])
    options = {**_initialisation(arch), **({} if classes is None else {"num_classes": classes})}
    module = randomly(lambda: get_model(arch, weights=None, **options), seed)
    if weights != "random":
        load_file(module, weights, takes_classes=True)
    return module


def preprocessing(arch: str, weights: str | PathLike[str]) -> Preprocessing:
    """Return the preprocessing of a set of weights, or for others that of the network's default weights.

    Raises UnknownName for a network that torchvision does not have.
    """
    _check_arch(arch)
    names = get_model_weights(arch).__members__
    return Preprocessing.of(names[str(weights) if weights in names else "DEFAULT"].transforms())


def _check_arch(arch: str) -> None:
    if arch not in architectures():
        raise UnknownName(
            f"unknown torchvision network {arch!r}; expected one of its {len(architectures())} classification "
            f"networks: see torchvision.models.list_models(){nearest(arch, architectures())}"
        )


@contextmanager
def explained_download(weights: WeightsEnum, offline_choices: str) -> Iterator[None]:
    """Turn what may fail while a set of torchvision's weights is loaded into a DeconvError.

    For a failed download it names the choices that need no connection, for damaged bytes the file to delete.
    """
    try:
        yield
    except (OSError, HTTPException) as error:
        raise DeconvError(
            f"torchvision's weights {weights} could not be had from {weights.url} ({error}); expected a network "
            f"connection: without one choose {offline_choices}"
        ) from error
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise BadInput(
            f"torchvision's weights {weights} are damaged ({first_line(error)}); expected the file at "
            f"{weights.url}: delete {_cached(weights)} and try again"
        ) from error


def _cached(weights: WeightsEnum) -> Path:
    return Path(torch.hub.get_dir(), "checkpoints", weights.url.rsplit("/", 1)[-1])


def _initialisation(arch: str) -> dict[str, bool]:
    """Return what keeps the two networks that initialise themselves in any case from warning about it."""
    return {"init_weights": True} if arch in ("googlenet", "inception_v3") else {}
