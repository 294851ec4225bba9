"""Files of weights as they are met: read without running anything in them, and named where they are something else.

A checkpoint may hold objects of any class beside its tensors, such as the arguments of the training. torch reads it
with weights_only, and whatever is no tensor, number, text or container becomes a `StandIn`: nothing is built or called.
"""

from __future__ import annotations

import json
import os
import warnings
import zipfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from deconv.errors import BadInput, DeconvError

ZIP = b"PK\x03\x04"
HEAD = 512
"""Bytes from which the kind of a file is known."""
MOST_JSON = 2**26
"""Bytes of the largest JSON file that is looked into."""
MOST_MEMBERS = 3
"""Members of a foreign archive that a message names."""


class StandIn:
    """What stands in the place of an object of a class that is not loaded; it keeps nothing but what it stands for.

    stands_for: the name of the class.  is_module: whether the object was an nn.Module.
    """

    stands_for = ""
    is_module = False

    def __new__(cls, *_: Any, **__: Any) -> StandIn:
        """Return a stand-in, whatever the object would have been made of."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        """Forget the state, but for whether it is a module's."""
        self.is_module = isinstance(state, Mapping) and "_modules" in state and "_parameters" in state


def read_content(path: str | PathLike[str]) -> object:
    """Return the content of a .safetensors file or of one that torch.save wrote, with stand-ins for what is no tensor.

    Raises BadInput for a file that is missing, cut or of another kind, naming the kind where it is a known one.
    """
    if "://" in os.fspath(path):
        raise BadInput(
            f"the weights are at {os.fspath(path)}; expected a file on this machine: download it, and give its path"
        )
    file = Path(os.path.expanduser(path))
    if not os.path.isfile(file):  # unlike Path.is_file, false for names that are too long
        folder = ", which is a folder" if os.path.isdir(file) else ""
        raise BadInput(f"there is no weights file {file}{folder}; expected a .safetensors or .pth file: check the path")
    try:
        head = _head(file)
        if _starts_as_safetensors(head):  # whatever its name
            return load_file(file)
        _refuse_foreign(file, head)
        return load_file(file) if file.suffix == ".safetensors" and head[:4] != ZIP else _load_pth(file, head)
    except DeconvError:
        raise
    except Exception as error:  # cut or foreign bytes raise many types, in torch as in safetensors
        raise BadInput(
            f"the weights file {file} cannot be read ({_reason(error)}); expected a whole .safetensors file, or "
            "a .pth file of tensors: copy or save it again"
        ) from error


def _load_pth(file: Path, head: bytes) -> object:
    _refuse_packed(file)
    # Of a file in the form of before torch 1.6 torch cannot tell what classes it asks for; those it then refuses.
    names = get_unsafe_globals_in_checkpoint(file) if head.startswith(ZIP) else []
    stand_ins: Any = [(type("StandIn", (StandIn,), {"stands_for": name}), name) for name in names]
    with safe_globals(stand_ins), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pickles of a newer protocol, which are then read or refused
        content = torch.load(file, map_location="cpu", weights_only=True)
    for where, item in _top_items(content):
        if isinstance(item, StandIn) and (item.is_module or item is content):
            kind = "a whole module" if item.is_module else "an object"
            raise BadInput(
                f"the weights file {file} holds {kind} of class {item.stands_for}{where}, which would have to be run; "
                "expected a state dict: load it where that class is, and save its weights, as "
                "torch.save(module.state_dict(), 'weights.pth')"
            )
    return content


def _top_items(content: object) -> list[tuple[str, object]]:
    """(where it stands, item) of the content and, in a mapping without tensors of its own, of what it names."""
    items = content.items() if isinstance(content, Mapping) else ()
    return [("", content), *((f" as {name!r}", item) for name, item in items)]


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


def _head(file: Path) -> bytes:
    with open(file, "rb") as opened:
        return opened.read(HEAD)


def _starts_as_safetensors(head: bytes) -> bool:
    """Whether a file begins with the length of a header of at most 100 MB in 8 bytes, and then JSON."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= 10**8


# --- files of another kind --------------------------------------------------------------------------------------------

_ARRAYS = "save its arrays under the network's names with safetensors"
_UNPACK = "unpack it, and give the file of weights in it"
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"Rar!")
"""The first bytes of what gzip, bzip2, xz, zstd, 7z and rar write."""
_TENSORFLOW = (".pb", ".index", ".meta")


def _refuse_foreign(file: Path, head: bytes) -> None:
    if head.startswith(ZIP):
        _refuse_foreign_zip(file)
    if head.lstrip()[:1] == b"{":
        _refuse_json(file)
    onnx = head[:1] == b"\x08" and head[1:2] > b"\x02" and head[2:3] == b"\x12"  # version 3 or later, and a producer
    saved_model = head[:3] == b"\x08\x01\x12"
    if head.startswith(b"\x89HDF"):
        raise _foreign(file, "an HDF5 file, as Keras writes it", _ARRAYS)
    if head[4:8] == b"TFL3" or file.suffix == ".tflite":
        raise _foreign(file, "a TensorFlow Lite model", _ARRAYS)
    if file.suffix == ".onnx" or onnx:
        raise _foreign(file, "an ONNX model", "export the weights from what made it, or " + _ARRAYS)
    if file.suffix in _TENSORFLOW or ".data-0" in file.suffix or saved_model:
        raise _foreign(file, "a file of TensorFlow", "load it there, and " + _ARRAYS)
    if head.startswith(b"\x93NUMPY"):
        raise _foreign(file, "a NumPy array", "save arrays under the network's names with safetensors")
    if head.startswith(b"version https://git-lfs"):
        raise _foreign(file, "a pointer of Git LFS, not the file itself", "fetch that, as git lfs pull does")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise _foreign(file, "a web page", "download the file itself")
    if head.startswith(_PACKED):
        raise _foreign(file, "a compressed file", _UNPACK)
    if head[257:262] == b"ustar":
        raise _foreign(file, "a tar archive", _UNPACK)


def _refuse_foreign_zip(file: Path) -> None:
    if not zipfile.is_zipfile(file):
        return  # it is cut: torch says so
    with zipfile.ZipFile(file) as archive:
        members = archive.namelist()
    ends = {member.rpartition("/")[2] for member in members}
    if "constants.pkl" in ends or any("/code/" in f"/{member}" for member in members):
        raise _foreign(
            file, "a TorchScript archive, whose code would have to be run", "where you trust it, save its weights, as "
            f"torch.save(torch.jit.load({str(file)!r}).state_dict(), 'weights.pth')",
        )  # fmt: skip
    if ends & {"archive_format", "serialized_exported_program.json"}:
        raise _foreign(
            file, "a program of torch.export", "save its weights, as "
            f"torch.save(torch.export.load({str(file)!r}).state_dict, 'weights.pth')",
        )  # fmt: skip
    if "data.pkl" in ends:
        return
    if members and all(member.endswith(".npy") for member in members):
        raise _foreign(file, "an archive of NumPy arrays", "save them under the network's names with safetensors")
    if "model.weights.h5" in ends:
        raise _foreign(file, "a Keras model", _ARRAYS)
    more = ", ..." if len(members) > MOST_MEMBERS else ""
    listed = f"{', '.join(members[:MOST_MEMBERS])}{more}" or "nothing"
    raise _foreign(file, f"a zip of {listed}", _UNPACK)


def _refuse_json(file: Path) -> None:
    if file.stat().st_size > MOST_JSON:
        return
    try:
        content = json.loads(file.read_bytes())
    except ValueError:
        return
    if isinstance(content, dict) and isinstance(content.get("weight_map"), dict):
        shards = sorted({str(shard) for shard in content["weight_map"].values()})
        listed = ", ".join(shards[:MOST_MEMBERS]) + (", ..." if len(shards) > MOST_MEMBERS else "")
        raise _foreign(
            file, f"an index, which only names the {len(shards)} files that hold the tensors ({listed})",
            "put their tensors into one file: load each with safetensors.torch.load_file, and save them together with "
            "save_file",
        )  # fmt: skip
    raise _foreign(file, "JSON text, without tensors", "give the file of weights, which often lies beside it")


def _foreign(file: Path, kind: str, remedy: str) -> BadInput:
    return BadInput(
        f"the weights file {file} is {kind}; expected a state dict in a .safetensors or .pth file: {remedy}"
    )


def _reason(error: Exception) -> str:
    """The type of an error, and what a pickle asks for that torch does not load; what torch advises is not repeated."""
    _, _, asked = str(error).partition("GLOBAL ")
    name = asked.split(" ", 1)[0]
    return f"{type(error).__name__}: it asks for {name}" if name else type(error).__name__
