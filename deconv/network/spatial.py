"""The operations that read more than one position of their input's map, or shift it: convolution, pooling, padding.

Each knows its geometry (`Window`), so that receptive fields follow from it, and `unpadded` gives the same operation for
a window that already holds what the padding would have been. All tensors are (N, C, H, W).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Integer
from torch import Tensor

Pair = tuple[int, int]
SMALL_BATCH = 16


@contextmanager
def whole_float32(tensor: Tensor) -> Iterator[None]:
    """Let convolutions on a GPU keep all bits of float32; by torch's default (TF32) they lose 13 of 23 there."""
    if not tensor.is_cuda:
        yield
        return
    cudnn: Any = torch.backends.cudnn
    is_recent = hasattr(cudnn, "conv")  # torch 2.9
    holder, setting, exact = (cudnn.conv, "fp32_precision", "ieee") if is_recent else (cudnn, "allow_tf32", False)
    before = getattr(holder, setting)
    setattr(holder, setting, exact)
    try:
        yield
    finally:
        setattr(holder, setting, before)


@dataclass(frozen=True)
class Window:
    """How output position i reads its input: from i * stride - before on, `kernel` taps `dilation` apart."""

    kernel: Pair
    stride: Pair
    before: Pair
    dilation: Pair

    @property
    def extent(self) -> Pair:
        """The input positions from the first tap to the last, both included."""
        (ky, kx), (dy, dx) = self.kernel, self.dilation
        return (ky - 1) * dy + 1, (kx - 1) * dx + 1


@dataclass(frozen=True, eq=False)
class Convolution:
    """2-D cross-correlation of (N, C_in, H, W) to (N, C_out, H_out, W_out).

    weight: (C_out, C_in / groups, kh, kw).  bias: (C_out,).  padding: (top, bottom, left, right) zeros.
    """

    weight: Tensor
    bias: Tensor | None
    stride: Pair
    padding: tuple[int, int, int, int]
    dilation: Pair
    groups: int

    @property
    def window(self) -> Window:
        """How an output position reads the input."""
        kernel = (self.weight.shape[2], self.weight.shape[3])
        return Window(kernel, self.stride, (self.padding[0], self.padding[2]), self.dilation)

    @cached_property
    def _unpadded(self) -> Convolution:
        return replace(self, padding=(0, 0, 0, 0))

    def unpadded(self) -> Convolution:
        """Return the same for an input that already holds the padding."""
        return self._unpadded

    def forward(self, x: Tensor) -> Tensor:
        """Return the filtered maps."""
        top, bottom, left, right = self.padding
        if (top, left) != (bottom, right):
            x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
        if self._is_pointwise and _is_small_batch(x):
            return _by_rows(x, self.weight, self.bias)
        with whole_float32(x):
            return F.conv2d(x, self.weight, self.bias, self.stride, (top, left), self.dilation, self.groups)

    def transposed(self, signal: Tensor, input_shape: torch.Size) -> Tensor:
        """Return a signal, shaped as the output, sent through the transposed filters: shaped as the input."""
        top, _, left, _ = self.padding
        height, width = input_shape[2:]
        if self._suits_shuffle:
            whole = self._transposed_by_shuffle(signal)
        elif self._is_pointwise and _is_small_batch(signal):
            whole = _by_rows(signal, self._transposed_weight)
        else:
            kernel = self.window.extent
            sizes = [(n - 1) * s + k for n, s, k in zip(signal.shape[2:], self.stride, kernel, strict=True)]
            like = _empty_channels_last(signal, (len(signal), input_shape[1], *sizes))
            with whole_float32(signal):
                whole = torch.ops.aten.convolution_backward(
                    signal, like, self.weight, None, self.stride, (0, 0), self.dilation,
                    False, (0, 0), self.groups, (True, False, False),
                )[0]  # fmt: skip
        if whole.shape[2] >= top + height and whole.shape[3] >= left + width:
            return whole[:, :, top : top + height, left : left + width]
        return F.pad(whole, (-left, left + width - whole.shape[3], -top, top + height - whole.shape[2]))

    @cached_property
    def _is_pointwise(self) -> bool:
        """Whether an output position reads the input at the same position alone, and all channels of it."""
        alone = self.weight.shape[2:] == (1, 1) and self.stride == (1, 1) and not any(self.padding)
        return alone and self.groups == 1

    @cached_property
    def _transposed_weight(self) -> Tensor:
        """(C_in, C_out, 1, 1), of a pointwise convolution."""
        return self.weight.transpose(0, 1).contiguous(memory_format=torch.channels_last)

    @property
    def _suits_shuffle(self) -> bool:
        """Libraries do few output channels badly; at a stride, the detour by more of them is 3 to 30 times faster."""
        few = self.weight.shape[1] <= 4 and self.groups == 1
        return few and self.stride[0] == self.stride[1] > 1 and self.dilation == (1, 1)

    @cached_property
    def _shuffled_weight(self) -> Tensor:
        """(s * s * C_in, C_out, J, J): output pixel s * q + r takes tap s * j + r at q - j, J taps in all."""
        (units, colours, kh, kw), step = self.weight.shape, self.stride[0]
        rows, cols = -(-kh // step), -(-kw // step)
        padded = F.pad(self.weight.contiguous(), (0, cols * step - kw, 0, rows * step - kh))
        taps = padded.view(units, colours, rows, step, cols, step).permute(3, 5, 1, 0, 2, 4).flip(4, 5)
        shuffled = taps.reshape(step * step * colours, units, rows, cols)
        return shuffled.contiguous(memory_format=torch.channels_last)

    def _transposed_by_shuffle(self, signal: Tensor) -> Tensor:
        """As a stride-1 convolution to stride**2 * C_in channels, which are then laid out as pixels; may be longer.

        Channels stand as (row, col, colour) within a step, so that a row of pixels is a run of memory:
        torch's pixel shuffle, of (colour, row, col), takes two and a half times as long.
        """
        weight, step = self._shuffled_weight, self.stride[0]
        with whole_float32(signal):
            spread = F.conv2d(signal, weight, padding=(weight.shape[2] - 1, weight.shape[3] - 1))
        count, _, height, width = spread.shape
        runs = spread.permute(0, 2, 3, 1).unflatten(3, (step, -1)).transpose(2, 3)
        return runs.reshape(count, height * step, width * step, -1).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class MaxPool:
    """The maximum over each window; what lies outside the map counts as minus infinity."""

    window: Window
    ceil_mode: bool

    def unpadded(self) -> MaxPool:
        """Return the same for an input that already holds the padding."""
        return MaxPool(replace(self.window, before=(0, 0)), ceil_mode=False)

    def _arguments(self) -> tuple[Pair, Pair, Pair, Pair, bool]:
        return self.window.kernel, self.window.stride, self.window.before, self.window.dilation, self.ceil_mode

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled maps (N, C, H_out, W_out)."""
        return F.max_pool2d(x, *self._arguments())

    def covers(self, size: int, pooled: int, axis: int) -> bool:
        """Return whether `pooled` windows reach each of the `size` positions along an axis."""
        w = self.window
        end = (pooled - 1) * w.stride[axis] - w.before[axis] + w.kernel[axis]
        return w.dilation[axis] == 1 and w.stride[axis] <= w.kernel[axis] and end >= size

    def forward_with_switches(
        self, x: Float[Tensor, "N C H W"]
    ) -> tuple[Float[Tensor, "N C h w"], Int[Tensor, "N C h w"]]:
        """Return the pooled maps and their switches: the flat index row * W + col of each window's winning input."""
        pooled, switches = F.max_pool2d(x, *self._arguments(), return_indices=True)
        return pooled, switches

    def taps(self, switches: Int[Tensor, "N C h w"], width: int) -> Integer[Tensor, "N C h w"]:
        """Return switches into maps of `width` columns as the numbers of the winning taps in their windows.

        Taps, unlike switches, stay what they are when a window is cut out of the map; uint8 if there are few, or int64.
        """
        (ky, kx), (dy, dx) = self.window.kernel, self.window.dilation
        first_row, first_col = self._first_taps(switches)
        row = switches.div(width, rounding_mode="floor")
        number = (row - first_row) // dy * kx + (switches - row * width - first_col) // dx
        return number.to(torch.uint8) if ky * kx < 256 else number

    def switches(self, taps: Integer[Tensor, "N C h w"], width: int) -> Int[Tensor, "N C h w"]:
        """Return taps as switches into maps of `width` columns."""
        ky, kx = self.window.kernel
        rows = torch.arange(ky, device=taps.device) * self.window.dilation[0] * width
        cols = torch.arange(kx, device=taps.device) * self.window.dilation[1]
        steps = (rows[:, None] + cols).flatten()
        first_row, first_col = self._first_taps(taps)
        by_channel = taps.permute(0, 2, 3, 1)  # as they lie in memory; index_select takes a quarter of indexing's time
        within = steps.index_select(0, by_channel.flatten().int()).view(by_channel.shape).permute(0, 3, 1, 2)
        return within + (first_row * width + first_col)

    def _first_taps(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Row (H_out, 1) and column (W_out,) of each window's first tap; negative in the padding."""
        height_out, width_out = like.shape[-2:]
        rows = torch.arange(height_out, device=like.device) * self.window.stride[0] - self.window.before[0]
        cols = torch.arange(width_out, device=like.device) * self.window.stride[1] - self.window.before[1]
        return rows[:, None], cols

    def unpool(self, signal: Tensor, switches: Tensor, input_shape: torch.Size) -> Tensor:
        """Return a signal, shaped as the output, with each value where its switch says: shaped as the input.

        Values that share a switch add (nn.MaxUnpool2d overwrites them).
        """
        last = signal.is_contiguous(memory_format=torch.channels_last)
        like = _empty_channels_last(signal, input_shape) if last else signal.new_empty(input_shape)
        return torch.ops.aten.max_pool2d_with_indices_backward(signal, like, *self._arguments(), switches)


@dataclass(frozen=True)
class AveragePool:
    """The mean over each window; `divisor`, if given, replaces the number of taps.

    uniform: whether every window divides by the same number, at the border too.
    """

    window: Window
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor: int | None = None
    uniform: bool = True

    def unpadded(self) -> AveragePool:
        """Return the same for an input that already holds the padding."""
        ky, kx = self.window.kernel
        return AveragePool(replace(self.window, before=(0, 0)), divisor=self.divisor or ky * kx)

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled maps (N, C, H_out, W_out)."""
        w = self.window
        return F.avg_pool2d(x, w.kernel, w.stride, w.before, self.ceil_mode, self.count_include_pad, self.divisor)


@dataclass(frozen=True)
class Pad:
    """Constant rows and columns around the map; `padding` is their number at (top, bottom, left, right)."""

    padding: tuple[int, int, int, int]
    value: float = 0.0

    @property
    def window(self) -> Window:
        """How an output position reads the input."""
        return Window((1, 1), (1, 1), (self.padding[0], self.padding[2]), (1, 1))

    def unpadded(self) -> Pad:
        """Return the same for an input that already holds the padding."""
        return Pad((0, 0, 0, 0), self.value)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map with its frame."""
        top, bottom, left, right = self.padding
        return F.pad(x, (left, right, top, bottom), value=self.value)


def _is_small_batch(x: Tensor) -> bool:
    """Of these torch hands pointwise convolutions to a library of half the speed, where it has one thread (2.14)."""
    last = x.is_contiguous(memory_format=torch.channels_last)
    return len(x) < SMALL_BATCH and last and x.device.type == "cpu" and x.dtype == torch.float32


def _by_rows(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A pointwise convolution of (N, C, H, W), channels last, whose rows are images of their own: a large batch."""
    count, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(count * height, 1, width, channels).permute(0, 3, 1, 2)
    filtered = F.conv2d(rows, weight, bias)
    return filtered.permute(0, 2, 3, 1).reshape(count, height, width, -1).permute(0, 3, 1, 2)


def _empty_channels_last(signal: Tensor, shape: Sequence[int]) -> Tensor:
    """Channels last from the start: `new_empty(...).to(...)` would copy what holds nothing yet."""
    return torch.empty(shape, dtype=signal.dtype, device=signal.device, memory_format=torch.channels_last)


Spatial = Convolution | MaxPool | AveragePool | Pad


def outside_value(operation: Spatial, dtype: torch.dtype) -> float:
    """Return what an operation reads outside its input's map of `dtype`; for a maximum the least that stays finite."""
    if isinstance(operation, MaxPool):
        return max(torch.finfo(dtype).min, torch.finfo(torch.float32).min)
    return operation.value if isinstance(operation, Pad) else 0.0
