"""A device "cuda:0" where there is none: its tensors hold real numbers on the CPU and mix with others as CUDA's do.

To Python a `Pretended` tensor lies on cuda:0; to torch's own C++ it lies on `meta`, since autograd asks CUDA's driver
about its own. Each operation is checked (`refuse_mixed`), computed by the CPU's kernels, and counted where it copies.

What no test without the device can hold: kernels of its own (other rounding, TF32, orders of adding), its own random
numbers, autocast, memory and streams, `torch.load` onto it of what was saved elsewhere. In other threads than the one
that entered `on_pretended_device` nothing can be brought to it, which raises.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE, CPU, META = torch.device("cuda:0"), torch.device("cpu"), torch.device("meta")
COPYING = frozenset({"copy", "_to_copy", "fill"})
"""Between any two devices; `fill` takes one number."""
INDEXED = frozenset({"index", "index_put", "_index_put_impl", "_unsafe_index"})
"""A tensor on the device may be indexed by tensors on the CPU, which are copied; not the other way round."""
WITH_CPU_SCALARS = frozenset(
    "add sub rsub mul div true_divide floor_divide fmod remainder pow atan2 hypot maximum minimum fmax fmin xlogy "
    "copysign logaddexp heaviside bitwise_and bitwise_or bitwise_xor eq ne lt le gt ge logical_and logical_or "
    "logical_xor where masked_fill index_fill".split()
)
"""May read a tensor of no axes on the CPU: what TensorIterator builds with `allow_cpu_scalars`, `where`, fillings."""
FLOATING_ONLY = frozenset({"mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "convolution"})
"""Have kernels for whole numbers on the CPU alone."""

CONVOLUTIONS = frozenset({"convolution", "convolution_backward"})

counts: Counter[str] = Counter()
"""Since the device was entered: copies "to device" and "to cpu", single numbers too; convolutions "left here"."""
_seed = 0
_running = threading.local()  # .depth: how many of torch's functions on pretended tensors are running


class Misplaced(RuntimeError):
    """Something that CUDA would refuse, of tensors here and there."""


class Pretended(Tensor):
    """A tensor that says it is on cuda:0; `numbers` is the one on the CPU that holds its values."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor) -> Pretended:
        assert type(numbers) is Tensor and numbers.device == CPU
        layout = {"strides": numbers.stride(), "storage_offset": numbers.storage_offset(), "layout": numbers.layout}
        make: Any = Tensor._make_wrapper_subclass
        tensor: Pretended = make(cls, numbers.shape, dtype=numbers.dtype, device=META, **layout)
        tensor.numbers = numbers
        return tensor

    device = property(lambda self: DEVICE)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)

    @property
    def data(self) -> Tensor:
        tensor: Tensor = Tensor.data.__get__(self)  # type: ignore[attr-defined]
        return tensor

    @data.setter
    def data(self, value: Tensor) -> None:
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        assert isinstance(value, Pretended)
        self.numbers = value.numbers

    def get_device(self) -> int:
        return 0

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        if any(names(value, "meta") for value in (*args, *kwargs.values())):
            return self.numbers.to(*args, **kwargs)
        to: Any = super().to
        mapped = {name: META if names(value, "cuda") else value for name, value in kwargs.items()}
        tensor: Tensor = to(*(META if names(value, "cuda") else value for value in args), **mapped)
        return tensor

    def cuda(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.to("cuda")

    def new_tensor(self, data: Any, *, dtype: torch.dtype | None = None, **kwargs: Any) -> Tensor:  # type: ignore[override]
        return torch.tensor(data, dtype=dtype or self.dtype, device=DEVICE)

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.detach().cpu().numpy()
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.numpy()

    def data_ptr(self) -> int:
        raise Misplaced("the memory of a tensor on cuda:0 cannot be read here")

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any:
        raise BufferError("the memory of a tensor on cuda:0 cannot be read here")

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            memo[id(self)] = _as_before(self.detach().clone(), isinstance(self, nn.Parameter), self.requires_grad)
        tensor: Tensor = memo[id(self)]
        return tensor

    def __reduce_ex__(self, protocol: Any) -> Any:
        if protocol != 2:  # that of torch.save, whose reader says where tensors go
            raise Misplaced("what is pickled of cuda:0 can be read only where there is such a device")
        counts["to cpu"] += 1
        told = (self.numbers.tolist(), self.dtype, self.stride(), isinstance(self, nn.Parameter), self.requires_grad)
        return _read_again, told

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"pretended on cuda:0: {self.numbers}"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            args = (args[0], _placed(args[1]), *args[2:])
        _running.depth = getattr(_running, "depth", 0) + 1
        try:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        finally:
            _running.depth -= 1

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        kwargs = dict(kwargs or {})
        refuse_mixed(func, args, kwargs)
        written = written_to(func, args, kwargs)
        leaves = kwargs.get("device", META) == CPU or any(not isinstance(tensor, Pretended) for tensor in written)
        if "device" in kwargs:
            names(kwargs["device"], "cuda")
            kwargs["device"] = CPU
        args_here, kwargs_here = tree_map_only(Pretended, lambda tensor: tensor.numbers, (args, kwargs))
        result = func(*args_here, **kwargs_here)
        _count(func, args, leaves, result)
        if leaves:
            return written[0] if written else result
        answer = return_and_correct_aliasing(func, args, kwargs, on_device(result))
        for tensor in written:
            assert isinstance(tensor, Pretended)
            if (tensor.shape, tensor.stride()) != (tensor.numbers.shape, tensor.numbers.stride()):
                raise NotImplementedError(f"{func} gives what it writes to another shape")
        return answer


class _Mode(TorchDispatchMode):
    """Lets what makes tensors on cuda:0, or copies tensors to it, give pretended ones."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if plain_name(func) in CONVOLUTIONS and Pretended not in types:
            counts["left here"] += not args[0].is_meta
        like_others = getattr(_running, "depth", 0) > 0 and kwargs.get("device") == META
        if Pretended in types or not (like_others or names(kwargs.get("device"), "cuda")):
            return func(*args, **kwargs)
        refuse_generator(func, kwargs)
        counts["to device"] += plain_name(func) in COPYING
        return on_device(func(*args, **{**kwargs, "device": CPU}))


@contextmanager
def on_pretended_device() -> Iterator[Counter[str]]:
    """Let there be a cuda:0 in this thread; yield `counts`."""
    counts.clear()
    torch._C._ensureCUDADeviceGuardSet()  # as torch does itself for its FakeTensors: no driver is asked then
    lifts = torch._C._only_lift_cpu_tensors()
    with ExitStack() as stack:
        answers = {"is_available": True, "device_count": 1, "current_device": 0, "_lazy_init": None}
        for name, answer in answers.items():
            stack.enter_context(patch.object(torch.cuda, name, lambda answer=answer: answer))
        stack.enter_context(patch.multiple(torch.cuda, manual_seed_all=seed, get_rng_state=seeded, set_rng_state=seed))
        stack.enter_context(torch.serialization.safe_globals([_read_again]))
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifts)
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") asks no driver
        stack.enter_context(_Mode())
        yield counts


def seed(state: int | Tensor, device: Any = None) -> None:
    """Set the device's own generator, which draws nothing: numbers on the device are drawn by the CPU's."""
    global _seed
    _seed = int(state)


def seeded(device: Any = None) -> Tensor:
    """What the device's own generator was seeded by last."""
    return torch.tensor(_seed)


def refuse_mixed(func: Any, args: Any, kwargs: Any) -> None:
    """Raise Misplaced if CUDA would not compute this, for tensors of the CPU among those of the device."""
    refuse_generator(func, kwargs)
    name, tensors = plain_name(func), [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if name in FLOATING_ONLY and not any(tensor.is_floating_point() or tensor.is_complex() for tensor in tensors):
        raise Misplaced(f"{func} is not implemented for whole numbers on cuda:0")
    allowed: list[Tensor] = []
    if name in INDEXED and isinstance(args[0], Pretended):
        allowed = [*(index for index in args[1] if index is not None), *(t for t in tensors[1:] if not t.dim())]
    elif name in WITH_CPU_SCALARS:
        written = {id(tensor) for tensor in written_to(func, args, kwargs)}
        allowed = [tensor for tensor in tensors if not tensor.dim() and id(tensor) not in written]
    fine = {id(tensor) for tensor in allowed}
    strangers = [tensor for tensor in tensors if not isinstance(tensor, Pretended) and id(tensor) not in fine]
    if strangers and name not in COPYING:
        raise Misplaced(
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and "
            f"{strangers[0].device}! ({func}, a tensor of {tuple(strangers[0].shape)})"
        )


def _count(func: Any, args: Any, leaves: bool, result: Any) -> None:
    """Count an operation that copies: what is read of it, what is brought here or there, an index from here."""
    name = plain_name(func)
    counts["to cpu"] += (leaves and name in COPYING) or isinstance(result, bool | int | float | complex)
    brought = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor) and not isinstance(leaf, Pretended)]
    counts["to device"] += len(brought) if name in INDEXED or (name in COPYING and not leaves) else 0


def refuse_generator(func: Any, kwargs: Any) -> None:
    """Raise Misplaced if numbers are drawn on the device by a generator of the CPU."""
    if kwargs.get("generator") is not None:
        raise Misplaced(f"Expected a 'cuda' device type for generator but found 'cpu' ({func})")


def names(value: Any, kind: str) -> bool:
    """Whether a value is, or names, a device of that kind. Raises RuntimeError for a second one on CUDA."""
    device = torch.device(value) if isinstance(value, str | torch.device) else CPU
    if device.type == "cuda" and device.index not in (None, 0):
        raise RuntimeError("CUDA error: invalid device ordinal")
    return device.type == kind


def plain_name(func: Any) -> str:
    """`add` of aten.add_.Tensor."""
    name: str = func._schema.name
    return name.removeprefix("aten::").removesuffix("_")


def written_to(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The arguments that an operation writes to."""
    schema = func._schema.arguments
    pairs = [*zip(schema, args, strict=False), *((each, kwargs[each.name]) for each in schema if each.name in kwargs)]
    return [value for each, value in pairs if each.alias_info is not None and each.alias_info.is_write]


def on_device(values: Any) -> Any:
    """The tensors among values as pretended ones."""
    return tree_map_only(Tensor, lambda tensor: tensor if isinstance(tensor, Pretended) else Pretended(tensor), values)


def _placed(index: Any) -> Any:
    """An index with lists of numbers in it as tensors on the device: C++ would make them on meta, without values."""
    if isinstance(index, tuple):
        return tuple(_placed(each) for each in index)
    return torch.tensor(index, device=DEVICE) if isinstance(index, list) and index else index


def _as_before(tensor: Tensor, is_parameter: bool, requires_grad: bool) -> Tensor:
    return nn.Parameter(tensor, requires_grad) if is_parameter else tensor.requires_grad_(requires_grad)


def _read_again(values: Any, dtype: torch.dtype, stride: Any, is_parameter: bool, requires_grad: bool) -> Tensor:
    plain = torch.tensor(values, dtype=dtype)
    numbers = torch.empty_strided(plain.shape, stride, dtype=dtype).copy_(plain)
    there = names(torch._utils._get_restore_location("cuda:0"), "cuda")  # where torch.load is told to bring it
    return _as_before(Pretended(numbers) if there else numbers, is_parameter, requires_grad)
