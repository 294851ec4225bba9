"""What a record was made of: built, hashed and checked here and nowhere else.

A provenance is a JSON object: the weights and the preprocessing of the network, the source and its content hash, the
versions of the libraries, and the settings of the stage that made the record.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from deconv.errors import RecordMismatch
from deconv.files.versions import versions

Provenance = dict[str, Any]

NEWER_SETTINGS = {"activation": "refuse", "gate": "refuse", "norm": "refuse", "linear": "transpose", "epsilon": 1e-6}
"""Settings that older records do not name, as they were then: the options of a rule that came later."""
WITHIN = "within"
"""A source's one class, which says more than that its content is another."""
LONGEST_VALUE = 80
"""Characters of a value that a refusal quotes; of a longer one it quotes the beginning."""
HASH = re.compile("[0-9a-f]{64}")


def build(*parts: Mapping[str, Any], **settings: Any) -> Provenance:
    """Return one provenance of several parts and settings, in plain JSON values, with the versions of the libraries.

    parts: what others say of themselves, such as `Network.provenance()` and `Source.provenance()`.
    settings: whatever else decides the record, by name.

    >>> made = build({"weights": "9f86d0"}, k=9, layers=("conv1", "conv2"))
    >>> made["weights"], made["k"], made["layers"]
    ('9f86d0', 9, ['conv1', 'conv2'])
    """
    merged: Provenance = {"versions": versions()}
    for part in parts:
        merged |= part
    return plain(merged | settings)


def plain(provenance: Mapping[str, Any]) -> Provenance:
    """Return the provenance as it is read back from a file: tuples as lists, keys as strings."""
    loaded: Provenance = json.loads(json.dumps(provenance))
    return loaded


def digest(value: Any) -> str:
    """Return the SHA-256, in hex, of a value that JSON can hold; the order of the keys of a mapping does not count.

    >>> digest({"k": 9, "layer": "conv1"}) == digest({"layer": "conv1", "k": 9})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def check_same(path: str | Path, found: Mapping[str, Any], expected: Mapping[str, Any], remedy: str) -> None:
    """Raise RecordMismatch, naming the first setting that differs, unless a record was made as this run would make it.

    found, expected: the provenances of the record at `path` and of this run. A setting that only one of them has
    differs, unless it is one of NEWER_SETTINGS and as it was before it had a name. remedy: what to do about it, as the
    last sentence of the message.
    """
    difference = first_difference(plain(found), plain(expected))
    if difference:
        name, before, now = difference
        raise RecordMismatch(f"{path} was made with {name} {_shown(before)}; this run has {_shown(now)}. {remedy}")


def first_difference(found: Any, expected: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """Return (dotted name, value found, value expected) of the first setting that differs, by name; None if none does.

    That of WITHIN comes first.

    >>> first_difference({"rule": {"relu": "both"}, "k": 9}, {"rule": {"relu": "none"}, "k": 9})
    ('rule.relu', 'both', 'none')
    """
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in sorted(found.keys() | expected.keys(), key=lambda key: (key != WITHIN, key)):
            inner = first_difference(
                found.get(key, NEWER_SETTINGS.get(key)), expected.get(key), f"{name}.{key}" if name else key
            )
            if inner:
                return inner
        return None
    return None if found == expected else (name, found, expected)


def weights_hash(state: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256, in hex, of a state_dict: sorted names, dtypes, shapes and bytes, wherever the tensors are."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        if tensor.numel():  # one without elements may have strides that are no view of bytes
            total.update(tensor.reshape(-1).view(torch.uint8).numpy())  # as bytes: numpy has no bfloat16
    return total.hexdigest()


def _shown(value: Any) -> str:
    text = str(value)
    if HASH.fullmatch(text):
        return f"{text[:8]}..."
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
