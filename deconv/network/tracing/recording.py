"""Watching a module run on real images: every ATen call that depends on them, with the module it stands in.

The calls are seen as the user's code makes them, before autograd and autocast take them apart, and run for real: what
does not depend on the images is an ordinary tensor when it is met, however it was made (of weights, in a scripted part,
under autocast). In-place calls are recorded as plain ones; who shares memory with what they wrote learns of it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode, enable_python_dispatcher  # type: ignore[attr-defined]
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from deconv.errors import UnsupportedOperation
from deconv.network.operations import copied

SHAPE_ONLY = frozenset(
    "zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_full new_empty "
    "new_empty_strided sym_size sym_numel sym_stride".split()
)
"""Read the shape of their tensor, not its values: what they give is a constant."""
FINITE_CHECKS = frozenset("isnan isinf isfinite any all logical_not logical_or bitwise_not sum eq ne".split())
"""Of what a program may ask pixel values about for an assertion, given that the question begins at `isnan` or its like."""


@dataclass(frozen=True)
class Frame:
    """One call of one submodule: its path, the full name of its class, and a number of its own."""

    path: str
    class_name: str
    number: int


@dataclass(frozen=True)
class Ref:
    """Stands in a call's arguments for a recorded value."""

    number: int


@dataclass(frozen=True)
class Geometry:
    """Where a tensor's elements lie in its memory."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @staticmethod
    def of(tensor: Tensor) -> Geometry:
        return Geometry(tuple(tensor.shape), tuple(tensor.stride()), tensor.storage_offset())


@dataclass(frozen=True)
class Overwriting:
    """The function of a call that lays one value over another in the memory that both share.

    It takes (below, above) and gives `below` with the elements that `above` has too replaced by those.
    """

    below: Geometry
    above: Geometry
    __name__ = "copy"


@dataclass(eq=False)
class Called:
    """One recorded call: its function (an ATen overload, `Function.apply` of the user's, or Overwriting).

    arguments, keywords: as given, a Ref for each value that depends on the images.  outputs: the numbers of the values
    that it gave; None for what is no tensor.  several: whether it gave a list or tuple.  frames: the modules around it,
    outermost first.  carries: False where gradients were off.  autocast: the type that autocast computes in, if on.
    """

    function: Any
    name: str
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    outputs: tuple[int | None, ...]
    several: bool
    frames: tuple[Frame, ...]
    carries: bool
    autocast: torch.dtype | None


@dataclass(eq=False)
class Recording:
    """All calls on one batch. `shapes`, `dtypes`: of each value, by number; 0 is the batch itself.

    output: what the module returned, Refs in the place of tensors that depend on the images; None if it stopped.
    stopped: why the module could not be followed to its end.  kept: (number, its value) to compare with.
    """

    images: Tensor
    calls: list[Called] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    dtypes: list[torch.dtype] = field(default_factory=list)
    output: Any = None
    stopped: BaseException | None = None
    kept: list[tuple[int, Tensor]] = field(default_factory=list)

    def new_value(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        self.shapes.append(tuple(shape))
        self.dtypes.append(dtype)
        return len(self.shapes) - 1


def record(module: nn.Module, images: Tensor, paths: dict[nn.Module, str]) -> Recording:
    """Run `module`, a copy of one's own, on the batch and write down what it does. `paths`: of its submodules."""
    recorder = _Recorder(images)
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        for handle in recorder.watch(paths):
            stack.callback(handle.remove)
        stack.enter_context(torch.jit.optimized_execution(False))
        stack.enter_context(recorder.functions_as_one_call())
        stack.enter_context(recorder.without_tensor_hooks())
        recording = recorder.recording
        try:
            with enable_python_dispatcher(), recorder:
                output = module(images)
            recording.output = recorder.referring(output)
            recording.kept = [(recorder.number(t), t) for t in tensors_in(output) if recorder.number(t) is not None]  # type: ignore[misc]
        except Exception as error:  # of the user's module, which may raise anything
            recording.stopped = error
            recording.kept = recorder.alive()
            error.__traceback__ = None
    return recording


@dataclass(eq=False)
class _Memory:
    """What is known of one piece of memory: who uses it, what was written to it, and when.

    before, held: of a constant that was written to, its elements before that, flat, and a tensor that keeps it.
    """

    users: list[Any] = field(default_factory=list)
    writes: list[tuple[int, Geometry, int]] = field(default_factory=list)
    held: Tensor | None = None
    before: Tensor | None = None

    def is_used(self) -> bool:
        return self.held is not None or any(user() is not None for user in self.users)


class _Recorder(ProxyTorchDispatchMode):
    """The mode under which the module runs."""

    def __init__(self, images: Tensor):
        super().__init__(None, "real", pre_dispatch=True)  # type: ignore[arg-type]
        self.recording = Recording(images)
        self.values: Any = WeakTensorKeyDictionary()  # tensor -> (number of its value, time at which it was so)
        self.memories: dict[int, _Memory] = {}
        self.frames: list[Frame] = []
        self.frames_seen = 0
        self.time = 0
        self.paused = False
        self.function_carries = True  # whether gradients were on where an autograd.Function was applied
        self._register(images, self.recording.new_value(images.shape, images.dtype))

    def watch(self, paths: dict[nn.Module, str]) -> list[Any]:
        """Let the submodules, scripted ones too, say when they begin and end."""
        thread = get_ident()

        def begins(submodule: nn.Module, _: Any) -> None:
            if submodule in paths and get_ident() == thread:
                kind = type(submodule)
                self.frames_seen += 1
                class_name = f"{kind.__module__}.{kind.__qualname__}"
                self.frames.append(Frame(paths[submodule], class_name, self.frames_seen))

        def ends(submodule: nn.Module, *_: Any) -> None:
            if submodule in paths and get_ident() == thread:
                while self.frames and self.frames.pop().path != paths[submodule]:
                    pass

        return [register_module_forward_pre_hook(begins), register_module_forward_hook(ends)]

    # -- which value a tensor holds

    def number(self, tensor: Tensor) -> int | None:
        """The number of the value that the tensor holds now; None if it does not depend on the images."""
        memory = self._memory(tensor)
        known = self.values.get(tensor)
        if known is None:
            if memory is None:
                return None
            known = self._value_of_unknown(tensor, memory)
        value, since = known
        if memory is not None and value is not None:
            for written, above, source in [write for write in memory.writes if write[0] > since]:
                value = self._laid_over(value, Geometry.of(tensor), source, above)
                since = written
            self.values[tensor] = value, self.time
        return value  # type: ignore[no-any-return]

    def _value_of_unknown(self, tensor: Tensor, memory: _Memory) -> tuple[int | None, int]:
        """Of a tensor that no recorded call gave but that lies in the memory of one: `x.data`, or a buffer written to."""
        for reference in memory.users:
            user = reference()
            if user is not None and user in self.values and Geometry.of(user) == Geometry.of(tensor):
                return self._emit(
                    torch.ops.aten.detach.default, "detach", (Ref(self._known(user)),), {}, tensor
                ), self.time
        if memory.before is None:
            return None, self.time
        with self._off():
            before = memory.before.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).clone()
        return self._emit(torch.ops.aten.clone.default, "clone", (before,), {}, tensor), 0

    def _known(self, user: Tensor) -> int:
        value = self.number(user)
        assert value is not None
        return value

    def _memory(self, tensor: Tensor) -> _Memory | None:
        key = _memory_key(tensor)
        memory = self.memories.get(key) if key is not None else None
        if memory is not None and not memory.is_used():
            del self.memories[key]  # type: ignore[arg-type]
            return None
        return memory

    def _laid_over(self, value: int, below: Geometry, source: int, above: Geometry) -> int:
        if below == above:
            return source
        if not overlap(below, above):
            return value
        function = Overwriting(below, above)
        dtype, shape = self.recording.dtypes[value], self.recording.shapes[value]
        number = self.recording.new_value(shape, dtype)
        self._append(function, "copy", (Ref(value), Ref(source)), {}, (number,))
        return number

    def _register(self, tensor: Tensor, number: int) -> None:
        self.values[tensor] = number, self.time
        key = _memory_key(tensor)
        if key is None:
            return
        memory = self.memories.get(key)
        if memory is None or not memory.is_used():
            memory = self.memories[key] = _Memory()
        memory.users = [user for user in memory.users if user() is not None] if len(memory.users) > 8 else memory.users
        memory.users.append(weakref.ref(tensor))

    def alive(self) -> list[tuple[int, Tensor]]:
        """The recorded values that still are in use, with their numbers."""
        found = []
        for tensor in list(self.values.keys()):
            number = self.number(tensor)
            if number is not None:
                found.append((number, tensor))
        return found

    # -- what the module does

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.paused:
            return func(*args, **kwargs)
        self.time += 1
        name = str(func).removeprefix("aten.").split(".")[0]
        recorded = any(self.number(tensor) is not None for tensor in tensors_in((args, kwargs)))
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

    def _where(self) -> str:
        return self.frames[-1].path if self.frames and self.frames[-1].path else "the network"

    def _asks_whether_finite(self, name: str, arguments: Any) -> bool:
        """Whether a bool comes of nothing but `isnan` and its like: true of every image that is one."""
        makers = {number: call for call in self.recording.calls for number in call.outputs if number is not None}
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
        below, before = target, None
        if self.number(target) is None:
            with self._off():
                below, before = target.detach().clone(), _whole_memory(target)
        arguments = self.referring((below, *args[1:]))
        if name == "zero_":
            plain, arguments = torch.ops.aten.fill.Scalar, (*arguments, 0)
        shape, dtype = target.shape, target.dtype
        output = func(*args, **kwargs)
        number = self.recording.new_value(shape, dtype)
        self._append(plain, name.removesuffix("_"), arguments, self.referring(kwargs), (number,))
        self._written(target, number, before)
        return output

    def _written(self, target: Tensor, number: int, before: Tensor | None = None) -> None:
        self._register(target, number)
        key = _memory_key(target)
        if key is not None:
            memory = self.memories[key]
            memory.writes.append((self.time, Geometry.of(target), number))
            if before is not None:
                memory.held, memory.before = target, before

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
                self._register(item, number)

    def _emit(self, function: Any, name: str, arguments: Any, keywords: Any, output: Tensor) -> int:
        number = self.recording.new_value(output.shape, output.dtype)
        self._append(function, name, arguments, keywords, (number,))
        self._register(output, number)
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
        if carries is None:
            carries = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        device = self.recording.images.device.type
        casts = device != "meta" and torch.is_autocast_enabled(device)
        autocast = torch.get_autocast_dtype(device) if casts else None
        self.recording.calls.append(
            Called(function, name, arguments, keywords, outputs, several, tuple(self.frames), carries, autocast)
        )

    def referring(self, value: Any) -> Any:
        """The arguments with a Ref in the place of each tensor that depends on the images."""
        if isinstance(value, Tensor):
            number = self.number(value)
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

    @contextmanager
    def without_tensor_hooks(self) -> Iterator[None]:
        """Hooks on tensors are no more part of the network than those on modules: registering one does nothing."""
        plain = {name: getattr(Tensor, name) for name in ("register_hook", "retain_grad")}

        def passing(name: str) -> Any:
            def called(tensor: Tensor, *args: Any) -> Any:
                return plain[name](tensor, *args) if tensor.requires_grad else RemovableHandle({})

            return called

        for name in plain:
            setattr(Tensor, name, passing(name))
        try:
            yield
        finally:
            for name, method in plain.items():
                setattr(Tensor, name, method)

    # -- autograd.Functions of the user's

    @contextmanager
    def functions_as_one_call(self) -> Iterator[None]:
        """An autograd.Function of the user's is one call, for its derivative is not that of what it does inside.

        However it is applied (`quantise = Round.apply` may be anywhere by now), its `forward` is run.
        """
        plain_apply = torch.autograd.Function.__dict__["apply"]
        plain_forwards: dict[Any, Any] = {}

        def watch(kind: Any) -> None:
            if "forward" in vars(kind) and kind not in plain_forwards and not kind.__module__.startswith("torch."):
                plain_forwards[kind] = vars(kind)["forward"]
                kind.forward = staticmethod(self._as_one_call(kind, kind.forward))

        def apply(kind: Any, *args: Any, **kwargs: Any) -> Any:
            for base in kind.__mro__:
                if issubclass(base, torch.autograd.Function):
                    watch(base)
            before, self.function_carries = self.function_carries, torch.is_grad_enabled()
            try:
                return plain_apply.__get__(None, kind)(*args, **kwargs)
            finally:
                self.function_carries = before

        pending = list(torch.autograd.Function.__subclasses__())
        while pending:
            kind = pending.pop()
            pending.extend(kind.__subclasses__())
            watch(kind)
        torch.autograd.Function.apply = classmethod(apply)  # type: ignore[assignment,method-assign]
        try:
            yield
        finally:
            torch.autograd.Function.apply = plain_apply  # type: ignore[method-assign]
            for kind, forward in plain_forwards.items():
                kind.forward = forward

    def _as_one_call(self, kind: Any, forward: Any) -> Any:
        def watched(*args: Any, **kwargs: Any) -> Any:
            context = args[0] if args and isinstance(args[0], torch.autograd.function.FunctionCtx) else None
            inputs = args if context is None else args[1:]
            if self.paused or not any(self.number(tensor) is not None for tensor in tensors_in(inputs)):
                return forward(*args, **kwargs)
            self.time += 1
            arguments = self.referring(inputs)
            with self._off():
                output = forward(*args, **kwargs)
                dirty = getattr(context, "dirty_tensors", None) or ()
                returned = isinstance(output, Tensor) and any(output is tensor for tensor in tensors_in(inputs))
                if returned and not any(output is tensor for tensor in dirty):
                    output = output.view_as(output)
            function = getattr(context, "_forward_cls", kind).apply
            if isinstance(output, Tensor) and any(output is tensor for tensor in dirty):
                number = self.recording.new_value(output.shape, output.dtype)
                self._append(function, kind.__name__, arguments, kwargs, (number,), False, self.function_carries)
                self._written(output, number)
            else:
                self._give(function, kind.__name__, arguments, kwargs, (), output, self.function_carries)
            return output

        return watched


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in nested lists, tuples and dicts, and in the fields of what else a module may return."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in tensors_in(item)]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    if hasattr(value, "__dataclass_fields__"):
        return [tensor for item in vars(value).values() for tensor in tensors_in(item)]
    return []


def refs_in(value: Any) -> list[Ref]:
    """All Refs in nested lists, tuples and dicts."""
    if isinstance(value, Ref):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [ref for item in value for ref in refs_in(item)] if isinstance(value, list | tuple) else []


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


def overlap(first: Geometry, second: Geometry) -> bool:
    """Whether two tensors in one memory may share elements, judged by the ranges that they span."""
    (low, high), (other_low, other_high) = _range(first), _range(second)
    return low <= other_high and other_low <= high


def _range(geometry: Geometry) -> tuple[int, int]:
    reach = sum((size - 1) * step for size, step in zip(geometry.shape, geometry.stride, strict=True))
    return geometry.offset, geometry.offset + reach


def _memory_key(tensor: Tensor) -> int | None:
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # sparse and other tensors without a plain memory
        return None


def _whole_memory(tensor: Tensor) -> Tensor:
    """A copy of all elements of the memory in which the tensor lies, flat."""
    count = tensor.untyped_storage().nbytes() // tensor.element_size()
    return tensor.detach().as_strided((count,), (1,), 0).clone()


def _items(output: Any) -> tuple[Any, ...]:
    return tuple(output) if isinstance(output, list | tuple) else (output,)
