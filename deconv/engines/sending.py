"""What tasks share, as bytes that only number its networks, so that a network is sent once however many need it.

Large arrays are kept apart too, so that whoever has shared memory holds each once, however many read it.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch._ops import OpOverload

from deconv.network import Network

LARGE = 2**20
"""Bytes from which on an array is kept apart."""


def packed(shared: Any) -> tuple[bytes, list[np.ndarray], list[Network]]:
    """Return `shared` without its large arrays and its networks, however deep; these arrays, as bytes; the networks."""
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(shared)
    return file.getvalue(), pickler.arrays, list(pickler.numbers)


def unpacked(content: bytes, arrays: Sequence[np.ndarray], networks: Sequence[Network]) -> Any:
    """Return what was packed, with its arrays and networks put back. What may not be written to still may not be."""
    return _Unpickler(io.BytesIO(content), arrays, networks).load()


def network_to_bytes(network: Network) -> bytes:
    """Return a network as bytes, whatever device it is on."""
    file = io.BytesIO()
    torch.save(network, file)  # not pickle's form alone, since this can be loaded onto another device
    return file.getvalue()


def network_from_bytes(content: bytes, device: str) -> Network:
    """Return the network, on that device. The bytes must be one's own: they may say what code to run."""
    return torch.load(io.BytesIO(content), map_location=device, weights_only=False)


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL, buffer_callback=self._keeps_within)
        self.numbers: dict[Network, int] = {}
        self.arrays: list[np.ndarray] = []

    def persistent_id(self, value: Any) -> int | None:
        """Return the number of a network; None, as pickle asks, for anything else."""
        return self.numbers.setdefault(value, len(self.numbers)) if isinstance(value, Network) else None

    def _keeps_within(self, buffer: pickle.PickleBuffer) -> bool:
        """Take a large buffer apart, and return whether this one stays in the stream, as pickle asks."""
        content = np.frombuffer(buffer.raw(), dtype=np.uint8)
        if len(content) >= LARGE:
            self.arrays.append(content)
        return len(content) < LARGE


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, arrays: Sequence[np.ndarray], networks: Sequence[Network]) -> None:
        super().__init__(file, buffers=arrays)
        self.networks = networks

    def persistent_load(self, number: int) -> Network:
        """Return the network of that number."""
        return self.networks[number]


def _operation(name: str, overload: str) -> Any:
    space, _, short = name.partition("::")
    return getattr(getattr(getattr(torch.ops, space), short), overload)


# A traced network holds such functions, which pickle does not know; they are there by name in every process.
copyreg.pickle(OpOverload, lambda function: (_operation, (function._schema.name, function._overloadname)))
