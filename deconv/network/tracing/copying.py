"""A copy of the user's module to run and look at: the module itself never runs, and keeps its hooks, modes and state.

The copy has tensors of its own and is in eval mode. It has none of the user's hooks; those of torch.nn.utils (the older
weight_norm and spectral_norm, pruning) and of torch.ao (quantisation), without which the module is not itself, it has.
"""

from __future__ import annotations

import copy
import functools
import types
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

OF_TORCH = ("torch.nn.utils.", "torch.ao.")
WRAPPERS = ("DataParallel", "DistributedDataParallel", "OptimizedModule")


def unwrapped(module: nn.Module) -> nn.Module:
    """The network within DataParallel, DistributedDataParallel and torch.compile, which add nothing to what it does."""
    while type(module).__name__ in WRAPPERS and type(module).__module__.startswith("torch."):
        module = module._orig_mod if hasattr(module, "_orig_mod") else module.module  # type: ignore[assignment]
    return module


def private_copy(module: nn.Module) -> nn.Module:
    """The module with tensors of its own, without the user's hooks, in eval mode."""
    with torch.inference_mode(False), torch.no_grad():
        made: nn.Module = _Copier().module(unwrapped(module))
    with suppress(NotImplementedError):  # of a program of torch.export, which keeps the mode that it was exported in
        made.eval()
    return made


def states_of(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, buffers that are not saved with the module included."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


class _Copier:
    """Copies modules and tensors, and the lists and dicts that hold some; anything else is shared."""

    def __init__(self) -> None:
        self.copies: dict[int, Any] = {}
        self.kept: list[Any] = []  # so that no id is used twice

    def copy(self, value: Any) -> Any:
        if id(value) in self.copies:
            return self.copies[id(value)]
        made = self._made(value)
        self.copies[id(value)] = made
        self.kept.append(value)
        return made

    def _made(self, value: Any) -> Any:
        if isinstance(value, nn.Module):
            return self.module(value)
        if isinstance(value, Tensor):
            return self._tensor(value)
        if type(value) in (list, set):
            return type(value)(map(self.copy, value))
        if isinstance(value, tuple):
            items = [self.copy(item) for item in value]
            if all(item is old for item, old in zip(items, value, strict=True)):
                return value
            return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
        if isinstance(value, dict):
            made = copy.copy(value)
            for key, item in value.items():
                made[key] = self.copy(item)
            return made
        if isinstance(value, types.MethodType) and isinstance(value.__self__, nn.Module):
            return types.MethodType(value.__func__, self.copy(value.__self__))
        if isinstance(value, functools.partial):
            return functools.partial(self.copy(value.func), *map(self.copy, value.args), **self.copy(value.keywords))
        return value

    def _tensor(self, tensor: Tensor) -> Tensor:
        made = tensor.clone()
        if isinstance(tensor, nn.Parameter):
            made = nn.Parameter(made, requires_grad=False)
        return made

    def module(self, module: nn.Module) -> Any:
        if isinstance(getattr(module, "_orig_mod", None), nn.Module):  # a compiled part would run the user's own
            return self.copy(module._orig_mod)
        if id(module) in self.copies:
            return self.copies[id(module)]
        if isinstance(module, torch.jit.ScriptModule):
            scripted = copy.deepcopy(module)
            for parameter in scripted.parameters():
                parameter.requires_grad_(False)
            self.copies[id(module)] = scripted
            return scripted
        made = object.__new__(type(module))
        self.copies[id(module)] = made
        hooks = _torchs_own_hooks(module)
        for name, value in vars(module).items():
            made.__dict__[name] = hooks[name] if name in hooks else self.copy(value)
        made.__dict__["_compiled_call_impl"] = None  # of Module.compile(): it would run the user's own
        return made


def _torchs_own_hooks(module: nn.Module) -> dict[str, Any]:
    """A module's tables of hooks by name, with the entries that are torch's own."""
    tables = {
        name: table
        for name, table in vars(module).items()
        if "_hooks" in name and name.startswith("_") and "state_dict" not in name and "load" not in name
    }
    ours = {
        number
        for name in ("_forward_pre_hooks", "_forward_hooks")
        for number, hook in (tables.get(name) or {}).items()
        if isinstance(hook, prune.BasePruningMethod) or str(getattr(hook, "__module__", "")).startswith(OF_TORCH)
    }
    return {
        name: type(table)((number, hook) for number, hook in table.items() if number in ours)
        if isinstance(table, dict)
        else table
        for name, table in tables.items()
    }
