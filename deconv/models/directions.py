"""Directions over a layer in files: those that deconv fits, and the coders and decoders of sparse autoencoders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from safetensors import safe_open
from torch import Tensor

from deconv.errors import BadInput, DeconvError, UnknownName, nearest, unknown
from deconv.models.checkpoints import read_content
from deconv.network import Network
from deconv.network.directions import BETWEEN
from deconv.records.formats import Axes, load_tensors, reading, save_tensors
from deconv.records.provenance import Provenance, check_same

KIND = "directions"
AXES: Axes = {"weights": (torch.float32, "U C"), "bias": (torch.float32, "U")}
SETTINGS = ("layer", "file", "weights", "bias", "centre", "transpose", "rectify")
"""What can be said of directions; `file` must be, and `layer` of a file that is not deconv's own."""
REFIT = "Fit them again, or give the network that they were fitted on"


def save_directions(
    path: str | PathLike[str], weights: Float32[Tensor, "U C"], bias: Float32[Tensor, " U"], provenance: Provenance
) -> Path:
    """Write directions with what they were fitted on: the layer, the method, the network's weights and the images."""
    return save_tensors(Path(path), KIND, {"weights": weights, "bias": bias}, AXES, provenance, checked=True)


def load_directions(path: str | PathLike[str]) -> tuple[dict[str, Tensor], Provenance]:
    """Return ({"weights": (U, C), "bias": (U,)}, provenance) of a file of `save_directions`.

    Raises BadInput for a file that is missing, damaged or of another kind.
    """
    with reading(Path(path)):
        return load_tensors(Path(path), KIND, AXES)


def open_directions(network: Network, directions: Mapping[str, Any]) -> Network:
    """Return the network with directions from files, by their names: layers `layer@name`, as `Network.with_units` has.

    directions: {name: settings}; a name whose settings are None is left out. The settings of each:

    - file: a file of `save_directions`, any other .safetensors file, or a checkpoint of torch.save.
    - layer: what they read; None for the layer that a file of `save_directions` names.
    - weights, bias: the names of the tensors (U, C) and (U,); None is "weights", and "bias" if there is one.
    - centre: the name of a tensor (C,) that is taken from the channels first, as a sparse autoencoder's decoder bias.
    - transpose: whether the weights are (C, U), as a coder's often are.
    - rectify: whether what is below zero becomes zero; None is True.

    Raises UnknownName for a setting, a tensor or a layer that does not exist; RecordMismatch for a file that was fitted
    on another network; BadInput for what cannot be used.

    >>> import deconv, tempfile
    >>> from safetensors.torch import save_file
    >>> module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    >>> network, file = deconv.Network(module, (3, 8, 8), {"conv1": "1"}), f"{tempfile.mkdtemp()}/sae.safetensors"
    >>> save_file({"W_enc": torch.rand(4, 16), "b_enc": torch.zeros(16), "b_dec": torch.ones(4)}, file)
    >>> coder = {"layer": "conv1", "weights": "W_enc", "bias": "b_enc", "centre": "b_dec", "transpose": True}
    >>> open_directions(network, {"sae": {"file": file, **coder}}).channels("conv1@sae")
    16
    """
    wide = network
    for name, settings in directions.items():
        if settings is not None:
            try:
                wide = _with_file(network, wide, str(name), _checked(settings))
            except DeconvError as error:
                raise type(error)(f"directions.{name}: {error}") from error
    return wide


def _checked(settings: Any) -> dict[str, Any]:
    """The settings, None where they are not said. Raises UnknownName and BadInput."""
    if not isinstance(settings, Mapping):
        raise BadInput(f"given {settings}; expected its settings, as file=nmf.safetensors and layer=fire7")
    for key in settings:
        if key not in SETTINGS:
            raise UnknownName(f"there is no setting {key!r}; expected {', '.join(SETTINGS)}{nearest(key, SETTINGS)}")
    said = dict.fromkeys(SETTINGS) | dict(settings)
    for key in ("layer", "file", "weights", "bias", "centre"):
        if said[key] is not None and not isinstance(said[key], str | Path):
            raise BadInput(f"{key}: given {said[key]}; expected a text")
    for key in ("transpose", "rectify"):
        if said[key] not in (None, True, False):
            raise BadInput(f"{key}: given {said[key]}; expected true or false")
    if said["file"] is None:
        raise BadInput("it has no file; expected file=PATH, a .safetensors file with a tensor (directions, channels)")
    return said


def _with_file(network: Network, wide: Network, name: str, said: Mapping[str, Any]) -> Network:
    """The network `wide` with the directions of a file; deconv's own were fitted on it, or on the plain `network`."""
    path, layer = Path(said["file"]).expanduser(), said["layer"]
    if _is_own(path):
        tensors, provenance = load_directions(path)
        fitted_on = provenance.get("weights")
        known = wide.weights_hash if fitted_on == wide.weights_hash else network.weights_hash
        check_same(path, {"weights": fitted_on}, {"weights": known}, REFIT)
        made_over = str(provenance.get("layer"))
        layer = made_over if layer is None else layer
        check_same(
            path, {"layer": made_over}, {"layer": own_name(wide, layer)}, "Leave the layer out, or give that one"
        )
        if provenance.get("method") == "nmf" and bool((tensors["weights"] < 0).any()):
            raise BadInput(f"{path} holds negative weights; expected none, as its method is nmf: fit it again")
    elif layer is None:
        raise BadInput(f"it has no layer, and {path} names none; expected layer=NAME")
    else:
        tensors = dict(_tensors(read_content(path)))
    weights = _tensor(tensors, said["weights"] or "weights", path)
    bias = _tensor(tensors, said["bias"], path) if said["bias"] else tensors.get("bias")
    if said["transpose"]:
        weights = weights.T
    if said["centre"]:
        centre = _tensor(tensors, said["centre"], path)
        if weights.dim() != 2 or centre.shape != weights.shape[1:]:
            raise BadInput(f"centre: {path} has {tuple(centre.shape)}; expected ({weights.shape[-1]},), one a channel")
        shift = -(weights.double() @ centre.double()).to(weights.dtype)
        bias = shift if bias is None else bias + shift
    rectify = said["rectify"] is not False
    try:
        return wide.with_units(layer, weights, bias, name=name, rectify=rectify)
    except BadInput as error:
        channels = wide.channels(layer)
        turned = weights.dim() == 2 and weights.shape[0] == channels != weights.shape[1]
        hint = f"; transpose={str(not said['transpose']).lower()} would turn them" if turned else ""
        raise BadInput(f"{path}: {error}{hint}") from error


def own_name(network: Network, layer: str) -> str:
    """Return a layer's own name, whatever alias it is asked for by. Raises UnknownName if it does not exist.

    >>> import deconv
    >>> module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    >>> own_name(deconv.Network(module, (3, 8, 8), {"conv1": "1"}), "conv1")
    '1'
    """
    network.node(layer)
    return network.aliases.get(layer, layer)


def asked_name(layer: str, name: str) -> str:
    """Return what the layer of directions is called: asked_name("fire7", "nmf") is "fire7@nmf"."""
    return f"{layer}{BETWEEN}{name}"


def _is_own(path: Path) -> bool:
    """Whether a file says of itself that `save_directions` wrote it; what cannot be read does not."""
    metadata: Mapping[str, str] = {}
    with suppress(Exception), safe_open(str(path), framework="pt") as file:  # each library has errors of its own
        metadata = file.metadata() or {}
    try:
        said = json.loads(metadata.get("deconv", "{}"))
    except ValueError:
        return False
    return isinstance(said, dict) and said.get("kind") == KIND


def _tensors(content: object, prefix: str = "") -> list[tuple[str, Tensor]]:
    """(name, tensor) of all that a file holds; of a nested mapping the keys are joined by dots."""
    named: list[tuple[str, Tensor]] = []
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, Tensor):
            named.append((f"{prefix}{key}", value))
        else:
            named += _tensors(value, f"{prefix}{key}.")
    return named


def _tensor(tensors: Mapping[str, Tensor], name: str, path: Path) -> Tensor:
    if name not in tensors:
        raise unknown(f"tensor of {path}", name, tensors, "weights=NAME, bias=NAME and centre=NAME say which to read")
    return tensors[name]
