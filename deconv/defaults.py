"""What a process may have set for all of torch, and what deconv computes without."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def plain_defaults() -> Iterator[None]:
    """Compute as in a fresh process: new tensors are float32 and on the CPU unless they say otherwise, autocast is off.

    What a function gives then depends on its arguments alone. It decorates the functions that users call.

    >>> import deconv, torch
    >>> with torch.device("meta"), plain_defaults():
    ...     print(torch.zeros(2))
    tensor([0., 0.])
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if dtype != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        yield
