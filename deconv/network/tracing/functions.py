"""What else of autograd a module may call while it is watched: its own Functions, and hooks on tensors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointFunction
from torch.utils.hooks import RemovableHandle

Run = Callable[[Any, Callable[..., Any], tuple[Any, ...], dict[str, Any], bool], Any]
"""(class, its forward, arguments, keywords, whether gradients were on where it was applied) -> what it gives."""


@contextmanager
def without_tensor_hooks() -> Iterator[None]:
    """Hooks on tensors are no more part of the network than those on modules: registering one does nothing."""
    plain = {name: getattr(Tensor, name) for name in ("register_hook", "retain_grad")}

    def passing(name: str) -> Any:
        def called(tensor: Tensor, *args: Any) -> Any:
            return plain[name](tensor, *args) if tensor.requires_grad else RemovableHandle(OrderedDict())

        return called

    for name in plain:
        setattr(Tensor, name, passing(name))
    try:
        yield
    finally:
        for name, method in plain.items():
            setattr(Tensor, name, method)


@contextmanager
def watched_functions(run: Run) -> Iterator[None]:
    """Let `run` run the `forward` of each autograd.Function, however that is applied.

    `quantise = Round.apply` may be anywhere by now, so that it is the class's `forward` that is put in its place.
    """
    plain_apply = torch.autograd.Function.__dict__["apply"]
    plain_forwards: dict[Any, Any] = {}
    carries = [True]

    def watch(kind: Any) -> None:
        if "forward" not in vars(kind) or kind in plain_forwards:
            return
        plain_forwards[kind] = vars(kind)["forward"]
        forward = kind.forward
        if kind.__module__ == "torch.utils.checkpoint":
            kind.forward = staticmethod(passing_through if kind is CheckpointFunction else forward)
            return
        kind.forward = staticmethod(lambda *args, **kwargs: run(kind, forward, args, kwargs, carries[-1]))

    def passing_through(context: Any, function: Any, preserve: Any, *args: Any) -> Any:
        """What a checkpoint computes again has the derivative that it has without."""
        with torch.set_grad_enabled(carries[-1]):
            return function(*args)

    def apply(kind: Any, *args: Any, **kwargs: Any) -> Any:
        for base in kind.__mro__:
            if issubclass(base, torch.autograd.Function):
                watch(base)
        carries.append(torch.is_grad_enabled())
        try:
            return plain_apply.__get__(None, kind)(*args, **kwargs)
        finally:
            carries.pop()

    pending = list(torch.autograd.Function.__subclasses__())
    while pending:
        kind = pending.pop()
        pending.extend(kind.__subclasses__())
        watch(kind)
    torch.autograd.Function.apply = classmethod(apply)
    try:
        yield
    finally:
        torch.autograd.Function.apply = plain_apply
        for kind, forward in plain_forwards.items():
            kind.forward = forward
