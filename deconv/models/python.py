"""A network of one's own: what a function of any Python file or package returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

import torch
from torch import nn

from deconv.errors import BadInput, bad_value, first_line, nearest, shown
from deconv.files.importing import import_function
from deconv.models.loading import is_file_name, load_file, randomly, unknown_weights


def build(target: str, weights: str | PathLike[str], seed: int = 0, args: Mapping[str, Any] | None = None) -> nn.Module:
    """Return the network that a function, or a class of modules, returns, in eval mode.

    target: "package.module:function", or "path/to/file.py:function". The folder where the program runs is looked in.
    weights: "own", those with which the function returns the network; "random", the same where `seed` decides them; or
    the path of a file, which is loaded into it.
    args: the function's arguments, by name.
    Raises BadInput for what cannot be imported, called or used, and for "random" if the weights are the same for
    every seed.

    >>> build("torchvision.models:squeezenet1_1", "own", args={"num_classes": 7}).classifier[1]
    Conv2d(512, 7, kernel_size=(1, 1), stride=(1, 1))
    """
    if weights not in ("own", "random") and not is_file_name(weights):
        raise unknown_weights(f"model python, {target}", weights, ["own", "random"])
    function = import_function(target, kind="a function, or a class of modules,")
    options = dict(args or {})
    _check_arguments(function, target, options)
    module = randomly(lambda: _called(function, target, options), seed)
    if weights == "random":
        _check_random(module, randomly(lambda: _called(function, target, options), seed + 1), target)
    elif weights != "own":
        load_file(module, weights)
    return module


def _check_arguments(function: Callable[..., Any], target: str, args: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:
        return  # of a builtin; calling it will tell
    try:
        signature.bind(**args)
    except TypeError as error:
        unknown = next((name for name in args if name not in signature.parameters), "")
        hint = nearest(unknown, signature.parameters) if unknown else ""
        expected = f"the arguments of {target}, {', '.join(signature.parameters)}"
        raise bad_value("args", dict(args), expected, f"{first_line(error)}{hint}") from error


def _called(function: Callable[..., Any], target: str, args: Mapping[str, Any]) -> nn.Module:
    try:
        module = function(**args)
    except Exception as error:  # whatever the user's own function raises
        raise BadInput(
            f"{target} makes no network of args={shown(dict(args))} ({type(error).__name__}: {first_line(error)}); "
            "expected a torch.nn.Module: call it alone to see where it fails"
        ) from error
    if not isinstance(module, nn.Module):
        remedy = f"it returns {type(module).__name__}"
        raise bad_value("target", target, "a function that returns a torch.nn.Module", remedy)
    return module


def _check_random(module: nn.Module, other: nn.Module, target: str) -> None:
    """Raise BadInput unless the weights of convolutions and linear layers differ between two seeds."""
    pairs = zip(module.named_parameters(), other.parameters(), strict=True)
    same = [name for (name, weight), drawn in pairs if weight.dim() > 1 and torch.equal(weight, drawn)]
    if same:
        raise BadInput(
            f'weights="random", but {target} gives {same[0]} the same values for every seed; expected weights that '
            'torch draws: let it load none, or use weights="own"'
        )
