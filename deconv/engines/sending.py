"""What tasks share, as bytes that only number its networks, so that a network is sent once however many need it."""

from __future__ import annotations

import copyreg
import io
import pickle
from collections.abc import Sequence
from typing import Any

import torch
from torch._ops import OpOverload

from deconv.network import Network


def packed(shared: Any) -> tuple[bytes, list[Network]]:
    """Return `shared` without the networks in it, however deep, and those networks, each once."""
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(shared)
    return file.getvalue(), list(pickler.numbers)


def unpacked(content: bytes, networks: Sequence[Network]) -> Any:
    """Return what was packed, with its networks put back."""
    return _Unpickler(io.BytesIO(content), networks).load()


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
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.numbers: dict[Network, int] = {}

    def persistent_id(self, value: Any) -> int | None:
        """Return the number of a network; None, as pickle asks, for anything else."""
        return self.numbers.setdefault(value, len(self.numbers)) if isinstance(value, Network) else None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, networks: Sequence[Network]) -> None:
        super().__init__(file)
        self.networks = networks

    def persistent_load(self, number: int) -> Network:
        """Return the network of that number."""
        return self.networks[number]


def _operation(name: str, overload: str) -> Any:
    space, _, short = name.partition("::")
    return getattr(getattr(getattr(torch.ops, space), short), overload)


# A traced network holds such functions, which pickle does not know; they are there by name in every process.
copyreg.pickle(OpOverload, lambda function: (_operation, (function._schema.name, function._overloadname)))
