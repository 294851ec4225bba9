"""Weights in files: read without running code, and put into a network only if every tensor fits it."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from deconv.errors import BadInput, DeconvError, UnknownName, nearest, shown

SUFFIXES = (".safetensors", ".pth", ".pt")
"""What the names of files of weights end in."""
MOST_NAMES = 3
"""Tensors that a message names of each fault."""


def is_file_name(weights: str | PathLike[str]) -> bool:
    """Return whether this names a file rather than a set of weights.

    It does if it is a Path, has one of SUFFIXES or a slash, or if there is such a file.

    >>> is_file_name("shipped"), is_file_name("trained.safetensors")
    (False, True)
    """
    text = str(weights)
    return not isinstance(weights, str) or text.endswith(SUFFIXES) or "/" in text or os.path.isfile(text)


def unknown_weights(model: str, weights: object, choices: Iterable[str]) -> UnknownName:
    """Return the error of a set of weights that a model does not have, with those that it has."""
    names = list(choices)
    return UnknownName(
        f"unknown weights {shown(weights, quoted=True)} for {model}; expected {', '.join(names)}, or the path of a "
        f".safetensors or .pth file{nearest(str(weights), names)}"
    )


def randomly(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Make a network in eval mode whose random weights depend on the seed alone; torch's generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()


def read_tensors(path: str | PathLike[str]) -> dict[str, torch.Tensor]:
    """Return the tensors, by name, of a .safetensors file or of one that torch.save wrote; no code in it is run.

    Raises BadInput for a file that is missing, cut, or holds anything but named tensors.
    """
    file = Path(os.path.expanduser(path))
    if not os.path.isfile(file):  # unlike Path.is_file, false for names that are too long
        raise BadInput(f"there is no weights file {file}; expected a .safetensors or .pth file: check the path")
    try:
        content = load_file(file) if file.suffix == ".safetensors" else _load_pth(file)
    except DeconvError:
        raise
    except Exception as error:  # cut or foreign bytes raise many types, in torch as in safetensors
        raise BadInput(
            f"the weights file {file} cannot be read ({type(error).__name__}); expected a whole .safetensors file, or "
            "a .pth file with nothing but tensors in it: copy or save it again"
        ) from error
    return _state_dict(content, str(file))


def _load_pth(file: Path) -> object:
    _refuse_packed(file)
    return torch.load(file, map_location="cpu", weights_only=True)


def _refuse_packed(file: Path) -> None:
    """Refuse a compressed file, which torch.save never writes: it can unpack to a thousand times its size."""
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > file.stat().st_size:
        raise BadInput(
            f"the weights file {file} would unpack to {unpacked} bytes; expected no more than it has, as torch.save "
            "writes it: save it again"
        )


def load_into(module: nn.Module, tensors: Mapping[str, torch.Tensor], origin: str) -> None:
    """Copy the tensors into the module.

    Raises BadInput, naming `origin`, unless they are exactly the module's own, by name, shape and kind, and finite.
    """
    expected = module.state_dict()
    # Files from before batch norm counted its batches lack these; torch fills them in.
    missing = [name for name in expected if name not in tensors and not name.endswith("num_batches_tracked")]
    faults: dict[str, list[str]] = {
        "missing": missing,
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
        if same_shape and same_kind and not torch.isfinite(tensor.float()).all():
            faults["with NaN or infinite values"].append(name)
    if any(faults.values()):
        texts = (f"{len(names)} {fault} ({_first(names)})" for fault, names in faults.items() if names)
        raise BadInput(
            f"the weights in {origin} do not fit {type(module).__name__}: tensors {'; '.join(texts)}; expected finite "
            "values for exactly its tensors: give weights that were saved from this architecture"
        )
    module.load_state_dict(tensors)


def _state_dict(content: object, origin: str) -> dict[str, torch.Tensor]:
    if isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in content.items()
    ):
        return content
    raise BadInput(
        f"the weights file {origin} holds a {type(content).__name__} that is not just named tensors; expected a state "
        "dict: save it with torch.save(network.state_dict(), path)"
    )


def _is_same_kind(tensor: torch.Tensor, own: torch.Tensor) -> bool:
    """Return whether a tensor is dense in memory, and floating point just where the network's own is."""
    dense = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    return dense and tensor.is_floating_point() == own.is_floating_point() and not tensor.is_complex()


def _first(names: list[str]) -> str:
    return ", ".join(names[:MOST_NAMES]) + (", …" if len(names) > MOST_NAMES else "")
