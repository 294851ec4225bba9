"""Watching a module run on real images: every ATen call that depends on them, with the module it stands in.

The calls are seen as the user's code makes them, before autograd and autocast take them apart, and run for real: what
does not depend on the images is an ordinary tensor when it is met, however it was made (of weights, in a scripted part,
under autocast). In-place calls are recorded as plain ones; who shares memory with what they wrote learns of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import (
    ProxyTorchDispatchMode,
    enable_python_dispatcher,
)
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from deconv.errors import UnsupportedOperation
from deconv.network.operations import copied, renumbered
from deconv.network.tracing.calls import Called, Frame, Geometry, Recording, Ref, makers_of, refs_in, tensors_in
from deconv.network.tracing.functions import watched_functions, without_tensor_hooks
from deconv.network.tracing.values import Values, whole_memory

SHAPE_ONLY = frozenset(
    "zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_full new_empty "
    "new_empty_strided sym_size sym_numel sym_stride".split()
)
"""Read the shape of their tensor, not its values: what they give is a constant."""
FINITE_CHECKS = frozenset("isnan isinf isfinite any all logical_not logical_or bitwise_not sum eq ne".split())
"""What may lie between `isnan` or its like and a truth value that an assertion reads."""


def record(module: nn.Module, images: Tensor) -> Recording:
    """Run `module`, a copy of one's own, on the batch and write down what it does."""
    paths = {submodule: path for path, submodule in module.named_modules()}
    batch = images.clone()  # which the module may write to
    recorder = _Recorder(batch)
    recording = recorder.recording
    recording.images = images
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(recorder.frames_of(paths))
        stack.enter_context(torch.jit.optimized_execution(False))
        stack.enter_context(watched_functions(recorder.run_function))
        stack.enter_context(without_tensor_hooks())
        try:
            with enable_python_dispatcher(), recorder:
                output = module(batch)
            numbers = [(recorder.values.number(tensor), tensor) for tensor in tensors_in(output)]
            recording.kept = [(number, tensor) for number, tensor in numbers if number is not None]
        except Exception as error:  # of the user's module, which may raise anything
            recording.stopped = error
            recording.kept = recorder.values.alive()
            error.__traceback__ = None
    return recording


class _Recorder(ProxyTorchDispatchMode):
    """The mode under which the module runs."""

    def __init__(self, images: Tensor):
        super().__init__(None, "real", pre_dispatch=True)  # type: ignore[arg-type]
        self.recording = Recording(images)
        self.values = Values(self._emit)
        self.frames: list[Frame] = []
        self.frames_seen = 0
        self.paused = False
        self.detached: set[int] = set()  # values that autograd knows no origin of
        self.values.hold(images, self.recording.new_value(images.shape, images.dtype))

    @contextmanager
    def frames_of(self, paths: dict[nn.Module, str]) -> Iterator[None]:
        """Let the modules, scripted ones too, say when they begin and end."""
        thread = get_ident()

        def begins(submodule: nn.Module, _: Any) -> None:
            if submodule in paths and get_ident() == thread:
                kind = type(submodule)
                self.frames_seen += 1
                name = f"{kind.__module__}.{kind.__qualname__}"
                self.frames.append(Frame(paths[submodule], name, self.frames_seen))

        def ends(submodule: nn.Module, *_: Any) -> None:
            if submodule in paths and get_ident() == thread:
                while self.frames and self.frames.pop().path != paths[submodule]:
                    pass

        handles = [register_module_forward_pre_hook(begins), register_module_forward_hook(ends)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.paused:
            return func(*args, **kwargs)
        self.values.time += 1
        name = func._schema.name.partition("::")[2]
        recorded = any(self.values.number(tensor) is not None for tensor in tensors_in((args, kwargs)))
        if func is torch.ops.prim.device.default or not recorded or name in SHAPE_ONLY:
            return func(*args, **kwargs)
        if func._schema.is_mutable:
            return self._write(func, name, args, kwargs)
        arguments, keywords = self.referring(args), self.referring(kwargs)
        output = func(*args, **kwargs)
        if not any(isinstance(item, Tensor) for item in _items(output)):
            if self._asks_whether_finite(name, arguments):
                return output
            raise UnsupportedOperation(
                f"'{name}' in {self._where()} reads pixel values; expected a module whose path does not depend on "
                "pixel values: cut the network before it"
            )
        self._give(func, name, arguments, keywords, args, output)
        return output

    @staticmethod
    def _carries() -> bool:
        """Whether autograd sees what is done now."""
        return torch.is_grad_enabled() and not torch.is_inference_mode_enabled()

    def _where(self) -> str:
        return self.frames[-1].path if self.frames and self.frames[-1].path else "the network"

    def _asks_whether_finite(self, name: str, arguments: Any) -> bool:
        """Whether a bool comes of nothing but `isnan` and its like: true of every image that is one."""
        makers = makers_of(self.recording.calls)
        pending, asked = [ref.number for ref in refs_in(arguments)], False
        while pending:
            call = makers.get(pending.pop())
            if call is None or call.name not in FINITE_CHECKS:
                return False
            if call.name.startswith("is"):
                asked = True
            else:
                pending += [ref.number for ref in refs_in(call.arguments)]
        return asked

    def _write(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An in-place call: its plain form is recorded, and gives the tensor its new value."""
        target, plain = args[0], plain_form(func)
        if plain is None or not isinstance(target, Tensor):
            raise UnsupportedOperation(
                f"'{name}' in {self._where()} writes into memory in a way that cannot be followed; "
                "expected its form that gives a new tensor"
            )
        below: Tensor = target
        before: Tensor | None = None
        if self.values.number(target) is None:
            with self._off():
                below, before = target.detach().clone(), whole_memory(target)
        arguments = self.referring((below, *args[1:]))
        if name == "zero_":
            plain, arguments = torch.ops.aten.fill.Scalar, (*arguments, 0)
        geometry = Geometry.of(target)
        keywords = self.referring(kwargs)
        output = func(*args, **kwargs)
        number = self.recording.new_value(target.shape, target.dtype)
        self._append(plain, name.removesuffix("_"), arguments, keywords, (number,))
        if Geometry.of(target) == geometry:
            old, seen = self.values.number(below), self._carries()
            if old is not None and old not in self.detached and not seen:
                self.values.write(target, self._emit(renumbered, "copy", (Ref(old), Ref(number)), target), before, True)
            else:
                self.values.write(target, number, before, old in self.detached)
        else:  # squeeze_ and its like: another view of the same numbers
            self.values.hold(target, number)
        return output

    def _give(
        self,
        function: Any,
        name: str,
        arguments: Any,
        keywords: Any,
        given: tuple[Any, ...],
        output: Any,
        carries: bool | None = None,
    ) -> None:
        """Record the call, unless it gives an argument back as it is."""
        if isinstance(output, Tensor) and any(output is tensor for tensor in tensors_in(given)):
            return
        items = _items(output)
        numbers = tuple(
            self.recording.new_value(item.shape, item.dtype) if isinstance(item, Tensor) else None for item in items
        )
        self._append(function, name, arguments, keywords, numbers, not isinstance(output, Tensor), carries)
        for item, number in zip(items, numbers, strict=True):
            if number is not None:
                self.values.hold(item, number)

    def _emit(self, function: Any, name: str, arguments: tuple[Any, ...], like: Tensor) -> int:
        """Record what happened to a tensor's memory, whatever is on while that is noticed."""
        number = self.recording.new_value(like.shape, like.dtype)
        self._append(function, name, arguments, {}, (number,), carries=True)
        return number

    def _append(
        self,
        function: Any,
        name: str,
        arguments: Any,
        keywords: Any,
        outputs: tuple[int | None, ...],
        several: bool = False,
        carries: bool | None = None,
    ) -> None:
        carries = self._carries() if carries is None else carries
        read = [ref.number for ref in refs_in([arguments, keywords])]
        if name == "detach" or not carries or (read and self.detached.issuperset(read)):
            self.detached.update(number for number in outputs if number is not None)
        device = self.recording.images.device.type
        casts = device != "meta" and torch.is_autocast_enabled(device)
        autocast = torch.get_autocast_dtype(device) if casts else None
        self.recording.calls.append(
            Called(function, name, arguments, keywords, outputs, several, tuple(self.frames), carries, autocast)
        )

    def referring(self, value: Any) -> Any:
        """The arguments with a Ref in the place of each tensor that depends on the images."""
        if isinstance(value, Tensor):
            number = self.values.number(value)
            return value if number is None else Ref(number)
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(self.referring, value))
        if isinstance(value, list | tuple):
            return type(value)(map(self.referring, value))
        if isinstance(value, dict):
            return {key: self.referring(item) for key, item in value.items()}
        return value

    @contextmanager
    def _off(self) -> Iterator[None]:
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before

    def run_function(
        self, kind: Any, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any], carries: bool
    ) -> Any:
        """Run the `forward` of an autograd.Function as one call: its derivative is not that of what it does inside."""
        context = args[0] if args and isinstance(args[0], torch.autograd.function.FunctionCtx) else None
        inputs = args if context is None else args[1:]
        if self.paused or not any(self.values.number(tensor) is not None for tensor in tensors_in(inputs)):
            return forward(*args, **kwargs)
        self.values.time += 1
        arguments = self.referring(inputs)
        with self._off():
            output = forward(*args, **kwargs)
            dirty = getattr(context, "dirty_tensors", None) or ()
            written = isinstance(output, Tensor) and any(output is tensor for tensor in dirty)
            if not written and any(output is tensor for tensor in tensors_in(inputs)):
                output = output.view_as(output)
        function = getattr(context, "_forward_cls", kind).apply
        if written:
            number = self.recording.new_value(output.shape, output.dtype)
            self._append(function, kind.__name__, arguments, kwargs, (number,), carries=carries)
            self.values.write(output, number)
        else:
            self._give(function, kind.__name__, arguments, kwargs, (), output, carries)
        return output


def plain_form(in_place: Any) -> Any:
    """`aten.relu` for `aten.relu_`; None where there is none, or where more than the first argument is written to."""
    if in_place is torch.ops.aten.copy_.default:
        return copied  # aten.copy has no derivative
    written = [a for a in in_place._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    name = in_place._schema.name.removeprefix("aten::")
    if written != in_place._schema.arguments[:1] or not name.endswith("_"):
        return None
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
    return getattr(packet, in_place._overloadname, None)


def _items(output: Any) -> tuple[Any, ...]:
    return tuple(output) if isinstance(output, list | tuple) else (output,)
