"""Weights in files: read without running code, and put into a network only if every tensor fits it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike

import torch
from torch import nn

from deconv.errors import BadInput, UnknownName, bad_value, nearest, shown
from deconv.files import WEIGHT_SUFFIXES
from deconv.models.checkpoints import read_content
from deconv.models.readings import Reading, lacking, readings

log = logging.getLogger("deconv")

OFFLINE_CHOICES = (
    'weights="random", the path of a .safetensors or .pth file, or the model squeezenet, whose weights need none'
)
"""What can be had without a connection, where torchvision's or timm's weights cannot be downloaded."""
MOST_NAMES = 3
"""Tensors that a message names of each fault."""


def is_file_name(weights: str | PathLike[str]) -> bool:
    """Return whether this names a file rather than a set of weights.

    It does if it is a Path, has one of WEIGHT_SUFFIXES or a slash, or if there is such a file.

    >>> is_file_name("shipped"), is_file_name("trained.safetensors")
    (False, True)
    """
    text = str(weights)
    return not isinstance(weights, str) or text.endswith(WEIGHT_SUFFIXES) or "/" in text or os.path.isfile(text)


def check_outputs(arch: str, origin: str, classes: int | None, outputs: int) -> None:
    """Raise BadInput for another number of classes than a set of weights, as `origin` calls it, has outputs."""
    if classes not in (None, outputs):
        raise BadInput(
            f"{arch} was given classes={classes} with {origin}, which have {outputs} outputs; "
            'expected classes=None: for another number use weights="random" or a file'
        )


def unknown_weights(model: str, weights: object, choices: Iterable[str]) -> UnknownName:
    """Return the error of a set of weights that a model does not have, with those that it has."""
    names = list(choices)
    return UnknownName(
        f"unknown weights {shown(weights, quoted=True)} for {model}; expected {', '.join(names)}, or the path of a "
        f".safetensors or .pth file{nearest(str(weights), names)}"
    )


def randomly(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Make a network in eval mode whose random weights depend on the seed alone; torch's generators are left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed those of GPUs too
        return make().eval()


def load_file(
    module: nn.Module,
    path: str | PathLike[str],
    takes_classes: bool = False,
    published: Mapping[str, str] | None = None,
    trunk: nn.Module | None = None,
) -> None:
    """Copy the weights in a .safetensors file or a checkpoint of torch.save into the module; no code in it is run.

    The names may have prefixes, and stand in a mapping among others, as training frameworks write them: that reading
    is taken, and logged, which alone has exactly the module's tensors.

    takes_classes: whether the module's number of outputs is an argument, `classes`, which the error then tells.
    published: what files from elsewhere call submodules with weights, by their paths here; both names are read.
    trunk: what of the module, under the same names, a file may hold alone; the rest then stays as it is.
    Raises BadInput for a file that is missing, cut or of another kind; for one that fits in no way, naming what differs
    in the nearest; for one that fits in several; and for values that are not finite.
    """
    possible = readings(read_content(path), module.state_dict(), published or {})
    if trunk is not None and not any(_has_more(reading, module, trunk) for reading in possible):
        module = trunk
    expected = module.state_dict()
    if not possible:
        raise BadInput(
            f"the weights file {path} holds no named tensors; expected a state dict: save it with "
            "torch.save(network.state_dict(), path)"
        )
    fitting = [reading for reading in possible if reading.fits(expected)]
    if len(fitting) > 1:
        listed = "; ".join(str(reading) for reading in fitting[:MOST_NAMES])
        raise BadInput(
            f"the weights file {path} can be read in {len(fitting)} ways that fit {type(module).__name__}: {listed}; "
            "expected one: load it with torch.load, and save the weights that you want alone, with torch.save"
        )
    if not fitting:
        raise _no_fit(module, possible, str(path), takes_classes)
    if not fitting[0].is_plain:
        log.info("the weights in %s are read as %s", path, fitting[0])
    load_into(module, fitting[0].tensors, str(path))


def load_into(module: nn.Module, tensors: Mapping[str, torch.Tensor], origin: str) -> None:
    """Copy the tensors into the module.

    Raises BadInput, naming `origin`, unless they are exactly the module's own, by name, shape and kind, and finite.
    """
    faults = _faults(module.state_dict(), tensors)
    if faults:
        raise _unfit(module, origin, faults)
    module.load_state_dict(tensors)


def _has_more(reading: Reading, module: nn.Module, trunk: nn.Module) -> bool:
    """Return whether it has a tensor of the module that is none of the trunk's."""
    return bool(reading.tensors.keys() & (module.state_dict().keys() - trunk.state_dict().keys()))


def _faults(expected: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> str:
    """Return what keeps tensors from being those expected, in words; "" for nothing."""
    faults: dict[str, list[str]] = {
        "missing": lacking(expected, tensors),
        "not in the network": [name for name in tensors if name not in expected],
        "of another shape": [],
        "of another kind": [],
        "with NaN or infinite values": [],
    }
    for name in (name for name in expected if name in tensors):
        tensor, own = tensors[name], expected[name]
        same_shape, same_kind = tensor.shape == own.shape, _is_same_kind(tensor, own)
        if not same_shape:
            faults["of another shape"].append(f"{name} {tuple(tensor.shape)}, not {tuple(own.shape)}")
        if not same_kind:
            kind = f"{tensor.dtype} {tensor.layout} on {tensor.device}"
            faults["of another kind"].append(f"{name} {kind}, not {own.dtype} torch.strided on cpu")
        # The values of any other shape or kind may be more than memory holds.
        if same_shape and same_kind and not torch.isfinite(tensor.to(own.dtype)).all():
            faults["with NaN or infinite values"].append(name)
    return "; ".join(f"{len(names)} {fault} ({_first(names)})" for fault, names in faults.items() if names)


def _unfit(module: nn.Module, origin: str, faults: str) -> BadInput:
    return BadInput(
        f"the weights in {origin} do not fit {type(module).__name__}: tensors {faults}; expected finite values for "
        "exactly its tensors: give weights that were saved from this architecture"
    )


def _no_fit(module: nn.Module, possible: Sequence[Reading], path: str, takes_classes: bool) -> BadInput:
    """The error of a file whose readings, nearest first, all lack something or have something else."""
    expected = module.state_dict()
    nearest_reading, *others = possible
    outputs = _other_outputs(expected, nearest_reading.tensors)
    if takes_classes and outputs:
        return bad_value(
            "classes", outputs[0], f"{outputs[1]}, as many outputs as the weights in {path} have",
            f"classes={outputs[1]} builds the network that they fit",
        )  # fmt: skip
    most = nearest_reading.matches(expected)
    if 4 * most < len(expected):
        absent = [name for name in expected if name not in nearest_reading.tensors]
        lacking = f"lacks {_first(absent)}"
        if not absent:
            name, theirs = next(
                (name, nearest_reading.tensors[name])
                for name, own in expected.items()
                if nearest_reading.tensors[name].shape != own.shape
            )
            lacking = f"has {name} as {tuple(theirs.shape)}, not {tuple(expected[name].shape)}"
        return BadInput(
            f"the weights in {path} are of another network: of the {len(expected)} tensors of {type(module).__name__} "
            f"it has {most} by name and shape, and {lacking}; expected weights that were saved from this architecture: "
            "give those, or build the network that they are of"
        )
    as_near = [reading for reading in others if most and 2 * reading.matches(expected) > most][:1]
    faults = [
        ("" if reading.is_plain else f"read as {reading}, ") + _faults(expected, reading.tensors)
        for reading in (nearest_reading, *as_near)
    ]
    return _unfit(module, path, "; or tensors ".join(faults))


def _other_outputs(expected: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> tuple[int, int] | None:
    """Return (expected outputs, theirs) where nothing but the number of outputs is another, else None."""
    if lacking(expected, tensors) or tensors.keys() - expected.keys():
        return None
    pairs = [(expected[name].shape, tensor.shape) for name, tensor in tensors.items()]
    counts = {(own[:1], theirs[:1]) for own, theirs in pairs if own != theirs}
    same_inputs = all(own[1:] == theirs[1:] and len(own) == len(theirs) for own, theirs in pairs)
    if len(counts) != 1 or not same_inputs:
        return None
    ((own, theirs),) = counts
    return (own[0], theirs[0]) if own == list(expected.values())[-1].shape[:1] else None


def _is_same_kind(tensor: torch.Tensor, own: torch.Tensor) -> bool:
    """Return whether a tensor is dense in memory, and floating point just where the network's own is."""
    dense = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    return dense and tensor.is_floating_point() == own.is_floating_point() and not tensor.is_complex()


def _first(names: list[str]) -> str:
    return ", ".join(names[:MOST_NAMES]) + (", …" if len(names) > MOST_NAMES else "")
