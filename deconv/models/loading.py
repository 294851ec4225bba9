"""Weights in files: read without running code, and put into a network only if every tensor fits."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from deconv.errors import BadInput, DeconvError, UnknownName, nearest

SUFFIXES = (".safetensors", ".pth", ".pt")


def is_file_name(weights: str | PathLike[str]) -> bool:
    """Whether this names a file rather than a set of weights: a Path, known suffix, slash, or existing file."""
    text = str(weights)
    return not isinstance(weights, str) or text.endswith(SUFFIXES) or "/" in text or os.path.isfile(text)


def unknown_weights(model: str, weights: object, choices: Iterable[str]) -> UnknownName:
    """The error to raise for a set of weights that a model does not have; names the possible ones."""
    possible = list(choices)
    return UnknownName(
        f"unknown weights {weights!r} for {model}; expected {', '.join(possible)}, or the path of a .safetensors or "
        f".pth file{nearest(str(weights), possible)}"
    )


def randomly(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A new network in eval mode whose random weights depend on the seed alone; torch's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()


def read_tensors(path: str | PathLike[str]) -> dict[str, torch.Tensor]:
    """The tensors, by name, in a .safetensors file or in one that torch.save wrote; no code in it is run.

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
    """torch.save packs nothing; what is packed, or overlaps, can be a thousand times larger than its file."""
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        unpacked = sum(part.file_size for part in archive.infolist())
    if unpacked > file.stat().st_size:
        raise BadInput(
            f"the weights file {file} would unpack to {unpacked} bytes; expected no more than it has, as torch.save "
            "writes it: save it again"
        )


def load_into(module: nn.Module, tensors: Mapping[str, torch.Tensor], origin: str) -> None:
    """Copy the tensors into the module; raises BadInput, naming `origin`, unless names, shapes and values are sound."""
    wanted = module.state_dict()
    # Files from before batch norm counted its batches lack these; torch fills them in.
    missing = [name for name in wanted if name not in tensors and not name.endswith("num_batches_tracked")]
    shared = [name for name in wanted if name in tensors]
    alike = [name for name in shared if _is_alike(tensors[name], wanted[name])]
    faults = {
        "missing": missing,
        "not in the network": [name for name in tensors if name not in wanted],
        "of another shape": [_shapes(n, tensors[n], wanted[n]) for n in shared if tensors[n].shape != wanted[n].shape],
        "of another kind": [_kinds(n, tensors[n], wanted[n]) for n in shared if not _is_kin(tensors[n], wanted[n])],
        "with NaN or infinite values": [name for name in alike if not torch.isfinite(tensors[name].float()).all()],
    }
    found = "; ".join(f"{len(names)} {fault} ({_few(names)})" for fault, names in faults.items() if names)
    if found:
        raise BadInput(
            f"the weights in {origin} do not fit {type(module).__name__}: tensors {found}; expected finite values for "
            "exactly its tensors: give weights that were saved from this architecture"
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


def _is_alike(given: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Of the same shape and kind; the values of any other may be more than memory holds."""
    return given.shape == wanted.shape and _is_kin(given, wanted)


def _is_kin(given: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Dense in memory, and floating point just where the other is."""
    dense = given.layout == torch.strided and given.device.type == "cpu" and not given.is_quantized
    return dense and given.is_floating_point() == wanted.is_floating_point() and not given.is_complex()


def _kinds(name: str, given: torch.Tensor, wanted: torch.Tensor) -> str:
    return f"{name} {given.dtype} {given.layout} on {given.device}, not {wanted.dtype} torch.strided on cpu"


def _shapes(name: str, given: torch.Tensor, wanted: torch.Tensor) -> str:
    return f"{name} {tuple(given.shape)}, not {tuple(wanted.shape)}"


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
