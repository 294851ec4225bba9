"""From an nn.Module to a graph of known operations, by running a copy of it on random images and watching.

Run on batches of two sizes, so that what counts images is known from what does not, and with real tensors, so that
whatever does not depend on the images is a constant. The graph is then run itself, on three images and on one, and has
to give what the module gave.
"""

from __future__ import annotations

import random
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deconv.defaults import plain_defaults
from deconv.errors import UnsupportedOperation, first_line
from deconv.network.graph import Graph
from deconv.network.tracing.building import Builder
from deconv.network.tracing.calls import Recording
from deconv.network.tracing.checking import check_graph
from deconv.network.tracing.copying import private_copy, states_of
from deconv.network.tracing.pairing import Pairing
from deconv.network.tracing.recording import record

__all__ = ["private_copy", "states_of", "trace"]
MANY, FEW = 3, (1, 2)
"""Images of the two recordings; two where the module cannot take a single one, or does something else with it."""
DIMENSIONS: dict[type[nn.Module], str] = {
    nn.Conv1d: "sequences (N, C, L)",
    nn.Conv2d: "images",
    nn.Conv3d: "volumes (N, C, D, H, W)",
}
_ONE_AT_A_TIME = threading.RLock()
"""Torch keeps the mode that sees calls before autograd in one place for all threads."""


def trace(module: nn.Module, precision: torch.dtype, input_shape: tuple[int, int, int], checked: bool = True) -> Graph:
    """Return the graph of a module of `private_copy` for images of `input_shape` (C, H, W).

    precision: the floating-point type of the images.  checked: compare the graph's output with the module's; then the
        module has to run to its end, else its layers up to where it stopped are enough.

    Raises UnsupportedOperation if the module fails, no layer of it can be carried, or the graph gives another output.
    """
    images = random_images(module, precision, input_shape)
    with ExitStack() as stack:
        stack.enter_context(_ONE_AT_A_TIME)
        stack.enter_context(_uncompiled())
        stack.enter_context(_random_states_kept(images.device))
        stack.enter_context(torch.inference_mode(False))
        for device in ("cpu", "cuda"):  # it runs in its own precision, whatever is on around deconv
            stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(_without_fast_attention())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        many = record(module, images)
        failed = many.stopped is not None and not isinstance(many.stopped, UnsupportedOperation)
        if failed and (checked or not many.calls):
            raise refusal(module, input_shape, many.stopped)
        pairing = _paired(module, many)
        stack.enter_context(plain_defaults())
        builder = Builder(pairing, module)
        graph = builder.graph()
        if not graph.layers:
            raise refusal(module, input_shape, many.stopped or builder.reason() or what_it_gives(many))
        if checked and not images.is_meta:
            check_graph(graph, builder, module)
    return graph


def random_images(module: nn.Module, precision: torch.dtype, input_shape: tuple[int, int, int]) -> Tensor:
    """(MANY, *input_shape) seeded normal numbers where the module's weights are."""
    states = [*module.parameters(), *module.buffers()]
    device = states[0].device if states else torch.device("cpu")
    if device.type == "meta":
        return torch.empty((MANY, *input_shape), dtype=precision, device=device)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn((MANY, *input_shape), generator=generator, dtype=torch.float32, device="cpu")
    return pixels.to(device, precision)


def _paired(module: nn.Module, many: Recording) -> Pairing:
    """The recording with one of fewer images: the one that has most calls in common with it."""
    pairing = Pairing(many, many)
    best = -1
    for count in FEW:
        candidate = Pairing(many, record(module, many.images[:count].clone()))
        common = candidate.same_calls()
        if common > best:
            best, pairing = common, candidate
        if common == len(many.calls) and candidate.few.stopped is None:
            break
    return pairing


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Run what torch.compile compiles as it is written: a compiled function is for one number of images."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and importing it takes seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def _random_states_kept(device: torch.device) -> Iterator[None]:
    """Let the user's random numbers go on as if nothing had run."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)


@contextmanager
def _without_fast_attention() -> Iterator[None]:
    """Let nn.MultiheadAttention run as products and a softmax, not as one operation that has no derivative."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def what_it_gives(recording: Recording) -> str:
    """Why a module that was followed to its end has no layer, by what it returned."""
    given = [f"{tuple(tensor.shape[1:])} of {tensor.dtype}" for number, tensor in recording.kept if number]
    instead = ", ".join(given) or ("its input as it is" if recording.kept else "nothing that is seen to depend on it")
    return f"it gives no map or vector for each image, but {instead}"


def refusal(module: nn.Module, input_shape: tuple[int, int, int], reason: Any) -> UnsupportedOperation:
    """The one line that says why a module cannot be traced."""
    kinds = {kind for each in module.modules() for kind in DIMENSIONS if isinstance(each, kind)}
    if kinds and nn.Conv2d not in kinds:
        reason = " and ".join(f"its {kind.__name__} takes {DIMENSIONS[kind]}" for kind in DIMENSIONS if kind in kinds)
    if isinstance(reason, UnsupportedOperation):
        return reason
    told = first_line(reason) if isinstance(reason, BaseException) else reason
    return UnsupportedOperation(
        f"{type(module).__name__} cannot be traced for an input of {tuple(input_shape)}: {told}; expected a module "
        "that takes one image batch (N, C, H, W): check input_shape and the module's forward"
    )
