"""What a Network is given: a module whose weights are there, and the shape of one image."""

from __future__ import annotations

from typing import Any

from torch import nn

from deconv.errors import bad_value, check_count, check_list


def checked_module(module: Any) -> nn.Module:
    """Return the module. Raises BadInput for anything else, and for one whose weights are still to be made."""
    expected = "an nn.Module that takes one image batch (N, C, H, W)"
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
    elif isinstance(module, dict):
        remedy = "make the architecture and load this into it with load_state_dict"
    elif isinstance(module, str) or hasattr(module, "__fspath__"):
        remedy = "deconv.load(name, weights=path) reads files of weights"
    else:
        remedy = "put what it does into the forward of a module"
    given = f"a {type(module).__name__}" if isinstance(module, dict) or callable(module) else module
    raise bad_value("module", given, expected, remedy)


def checked_shape(input_shape: Any) -> tuple[int, int, int]:
    """Return (C, H, W) as ints. Raises BadInput for anything but three whole numbers above zero."""
    expected = "three whole numbers (channels, height, width)"
    if isinstance(input_shape, int):
        raise bad_value("input_shape", input_shape, expected, f"(3, {input_shape}, {input_shape}) for colour images")
    sizes = check_list("input_shape", input_shape, "three whole numbers (channels, height, width)")
    if len(sizes) == 2:
        raise bad_value("input_shape", tuple(sizes), expected, f"(3, {sizes[0]}, {sizes[1]}) for colour images")
    if len(sizes) == 4:
        raise bad_value("input_shape", tuple(sizes), expected, f"{tuple(sizes[1:])}, without the number of images")
    if len(sizes) != 3:
        raise bad_value("input_shape", tuple(sizes), expected)
    channels, height, width = (check_count("input_shape", size) for size in sizes)
    return channels, height, width
