"""What a Network is given: a module whose weights are there, and the shape of one image."""

from __future__ import annotations

import logging
from typing import Any

from torch import nn

from deconv.errors import (
    MOST_NAMES,
    BadInput,
    DeconvError,
    UnknownName,
    UnsupportedOperation,
    bad_value,
    check_count,
    unknown,
)
from deconv.images.preprocessing import Preprocessing
from deconv.network.graph import Graph

log = logging.getLogger("deconv")


def checked_module(module: Any) -> nn.Module:
    """Return the module. Raises BadInput for anything else, and for one whose weights are still to be made."""
    expected = "a torch.nn.Module"
    if isinstance(module, nn.Module):
        lazy = [name for name, value in module.named_parameters() if nn.parameter.is_lazy(value)]
        lazy += [name for name, value in module.named_buffers() if nn.parameter.is_lazy(value)]
        if lazy:
            raise bad_value(
                "module",
                f"a {type(module).__name__} whose {lazy[0]} is not initialised",
                "a module whose weights are there",
                "run it once on an image batch, which makes them",
            )
        return module
    if isinstance(module, type):
        remedy = (
            f"make one, as {module.__name__}()" if issubclass(module, nn.Module) else "give an instance of a module"
        )
    elif type(module).__name__ == "ExportedProgram":
        remedy = "module.module() is one, where it was exported for any number of images"
    elif isinstance(module, dict):
        remedy = "make the architecture and load this into it with load_state_dict"
    elif isinstance(module, str) or hasattr(module, "__fspath__"):
        remedy = "make the architecture and load the file into it: module.load_state_dict(torch.load(path))"
    else:
        remedy = "put what it does into the forward of a module"
    given = f"a {type(module).__name__}" if isinstance(module, dict) or callable(module) else module
    raise bad_value("module", given, expected, remedy)


def checked_shape(input_shape: Any) -> tuple[int, int, int]:
    """Return (C, H, W) as ints. Raises BadInput for anything but three whole numbers above zero."""
    expected = "(C, H, W), 3 whole numbers"
    try:
        sizes = tuple(input_shape)
    except TypeError:
        remedy = f"(3, {input_shape}, {input_shape}) for colour images" if isinstance(input_shape, int) else ""
        raise bad_value("input_shape", input_shape, expected, remedy) from None
    if len(sizes) != 3:
        remedies = {2: f"(3, {', '.join(map(str, sizes))}) for colour images", 4: f"{sizes[1:]}, without the batch"}
        raise bad_value("input_shape", input_shape, expected, remedies.get(len(sizes), ""))
    channels, height, width = (check_count("input_shape", size) for size in sizes)
    return channels, height, width


def checked_sizes(name: str, value: Any, axes: str) -> tuple[int, ...]:
    """Return the entries of a shape. Raises BadInput unless it has one whole number for each of `axes`, as "(H, W)"."""
    expected = f"{axes}, {axes.count(',') + 1} whole numbers"
    try:
        entries = tuple(value)
    except TypeError:
        raise bad_value(name, value, expected) from None
    if len(entries) != axes.count(",") + 1:
        raise bad_value(name, value, expected)
    return tuple(check_count(name, entry) for entry in entries)


def checked_preprocessing(preprocessing: Preprocessing | None, channels: int) -> Preprocessing:
    """Return what makes inputs of `channels` of photographs. Raises BadInput where nothing does, saying what to do."""
    if channels not in (1, 3):
        raise BadInput(
            f"this network takes inputs of {channels} channels, which photographs do not have; expected "
            f"preprocessed images, a float tensor (N, {channels}, H, W), in place of a Source"
        )
    if preprocessing is None:
        remedy = "give Network(..., preprocessing=...)"
        raise BadInput(f"this network has no preprocessing, so it cannot read a Source: {remedy}")
    if preprocessing.channels != channels:
        means = "one number, for grey" if channels == 1 else "three numbers, for red, green and blue"
        raise bad_value("mean", list(preprocessing.mean), f"{means}, as many as the network has input channels")
    return preprocessing


def warn_of_mistakes(graph: Graph, module: nn.Module, preprocessing: Preprocessing | None) -> None:
    """Log where the module is not followed to its end, and a preprocessing of another size than the graph's input.

    Raises BadInput for a preprocessing of other channels.
    """
    if graph.cut_short:
        log.warning("%s is followed up to %s: %s", type(module).__name__, [*graph.layers][-1], graph.cut_short)
    if preprocessing is None:
        return
    if not isinstance(preprocessing, Preprocessing):
        remedy = "deconv.Preprocessing.of(it) makes one of the transforms of torchvision, timm and transformers"
        raise bad_value("preprocessing", f"a {type(preprocessing).__name__}", "a deconv.Preprocessing", remedy)
    channels, *sizes = graph.nodes[0].shape
    size = checked_preprocessing(preprocessing, channels).size
    if size is not None and list(size) != sizes:
        log.warning(
            "preprocessing makes inputs of %d x %d, and input_shape says %d x %d, for which maps and fields are told",
            *size, *sizes,
        )  # fmt: skip


def other_names(name: str, graph: Graph, module: nn.Module) -> str:
    """Return what is said of a name that no node of the graph has: what it may stand for, and which names serve."""
    below = [node.name for node in graph.nodes if node.name.startswith(f"{name}.")]
    if below:
        return f"the output of the module {name} is {below[-1]!r}"
    if name and name in dict(module.named_modules()):
        return f"the module {name} has no map of its own: a batch normalisation is folded into its convolution"
    said = f"the module was followed up to where {graph.refusals['']}; " if "" in graph.refusals else ""
    return f"{said}any other map serves too, by its module or function, as {next(iter(graph.values))!r}"


def no_name(layer: Any, known: list[str], module: nn.Module) -> UnknownName:
    """Return the error of a layer that is given as anything but a name, with the name that it may stand for."""
    name = str(layer) if isinstance(layer, int) else ""
    if isinstance(layer, nn.Module):
        name = next((path for path, submodule in module.named_modules() if submodule is layer), "")
        layer = f"the module {type(layer).__name__}"
    return unknown("layer", layer, known, f"layers go by their names, as {name!r}" if name in known else "")


def no_layer(layer: str, name: str, graph: Graph, known: list[str], module: nn.Module) -> DeconvError:
    """Return the error of a name that is no layer's in the graph: why it is none, or which there are.

    layer: the name as it was given, an alias of `name` perhaps.  known: the names of the layers of the network.
    """
    reason = graph.refusals.get(name, graph.refusals.get("", "") if name in known else "")
    if reason:
        return not_carried(name, reason, graph.nodes[0].shape, list(graph.layers))
    shapes = {node.name: node.shape for node in graph.nodes[1:]}
    if name in shapes:
        return no_map(name, shapes[name], list(graph.layers))
    return unknown("layer", layer, known, other_names(name, graph, module))


def no_map(name: str, shape: tuple[int, ...], layers: list[str]) -> UnsupportedOperation:
    """Return the error of a node of the graph that is asked for as a layer but has no places, as in attention."""
    return UnsupportedOperation(
        f"{name!r} gives {shape} for an image, which is neither a map (C, H, W) nor a vector, so that its units cannot "
        f"be mined; expected one of the layers: {_listed(layers)}"
    )


def not_carried(layer: str, reason: str, shape: tuple[int, ...], layers: list[str]) -> UnsupportedOperation:
    """Return the error of a layer that the module has, but that cannot be computed for images of `shape`."""
    return UnsupportedOperation(
        f"layer {layer!r} cannot be traced for an input of {tuple(shape)}: {reason}; layers that remain: "
        f"{_listed(layers)}"
    )


def _listed(layers: list[str]) -> str:
    shown = layers if len(layers) <= MOST_NAMES else [*layers[:MOST_NAMES], f"... {len(layers) - MOST_NAMES} more"]
    return ", ".join(shown)
