"""The ways to read a checkpoint as a network's weights: which of its mappings, and what its names begin with.

Training frameworks wrap a network, so that names get a prefix ("module.conv1.weight"), and keep the names and tensors
in a mapping among others ("state_dict", "ema", "optimizer"). Nothing is guessed from such words: a reading is taken
because it has every tensor of the network in its shape, and no other beside them. A network that others published
says what they call its modules; those names are read as its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts of names that come from wrapping a network, or a part of it, for training."""
AS_THEY_ARE = "names as they are"
MOST_CONTAINERS = 10_000
"""Containers of a checkpoint that are looked into, from the outermost on: a small file may hold one a billion times."""

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Reading:
    """One way to read a checkpoint.

    - place: the keys that lead to a mapping.
    - prefix: what those of its names begin with that are read.
    - tensors: these, by the network's names.
    - aside: how many other tensors the mapping has.
    - wrapped: whether parts of the names that come from wrapping parts of the network were left out.
    - published: whether names were those that the network was published with.
    """

    place: tuple[str | int, ...]
    prefix: str
    tensors: Tensors
    aside: int
    wrapped: bool
    published: bool

    def __str__(self) -> str:
        said = [
            "".join(f"[{key!r}]" for key in self.place),
            f"names without {self.prefix!r}" if self.prefix else "",
            "names without wrappers inside" if self.wrapped else "",
            "published names" if self.published else "",
            f"{self.aside} other tensors left aside" if self.aside else "",
        ]
        return ", ".join(filter(None, said)) or AS_THEY_ARE

    @property
    def is_plain(self) -> bool:
        """Whether the file holds these tensors and nothing else, by the network's names."""
        return str(self) == AS_THEY_ARE

    def matches(self, expected: Tensors) -> int:
        """Return how many of the expected tensors it has, in their shape."""
        return sum(expected[name].shape == tensor.shape for name, tensor in self.tensors.items() if name in expected)

    def fits(self, expected: Tensors) -> bool:
        """Return whether it has exactly the expected tensors, in their shapes."""
        return not lacking(expected, self.tensors) and self.matches(expected) == len(self.tensors)


def lacking(expected: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the names of the expected tensors that are not there.

    Files from before batch norm counted its batches lack these counts; torch fills them in.
    """
    return [name for name in expected if name not in tensors and not name.endswith("num_batches_tracked")]


def readings(content: object, expected: Tensors, published: Mapping[str, str]) -> list[Reading]:
    """Return all ways to read the content of a checkpoint in which a name is the network's, nearest first.

    expected: the state dict of the network.  A mapping without any of its names is read as it is.
    published: what others call modules of the network, by their paths in it.
    """
    paths = {name: name.rpartition(".") for name in expected}
    theirs = {f"{published[path]}.{kind}": name for name, (path, _, kind) in paths.items() if path in published}
    own = {**theirs, **{_unwrapped(name): name for name in expected}}
    found: dict[str, Reading] = {}
    for place, tensors in _mappings(content):
        literal = tensors.keys() <= expected.keys()
        starts = set() if literal else {start for name in tensors for start, rest in _splits(name) if rest in own}
        for prefix in sorted(starts) or [""]:
            # The keys of a mapping of mappings are read as a prefix and, later, as a place, which stays.
            start = ".".join([*map(str, place), prefix])
            found.pop(start, None)
            found[start] = _reading(place, tensors, prefix, expected, own, theirs)
    return sorted(found.values(), key=lambda reading: (-reading.matches(expected), len(reading.tensors)))


def _reading(
    place: tuple[str | int, ...],
    tensors: Tensors,
    prefix: str,
    expected: Tensors,
    own: Mapping[str, str],
    theirs: Mapping[str, str],
) -> Reading:
    """The tensors whose names begin with the prefix, by the network's names; by their own where it has none.

    own: the network's names, by these without wrappers and by the published ones.  theirs: by the published ones.
    """
    renamed: Tensors = {}
    wrapped = published = False
    below = [name for name in tensors if name.startswith(prefix)]
    for name in below:
        rest = name.removeprefix(prefix)
        known = rest if rest in expected or rest.split(".")[0] in WRAPPERS else own.get(_unwrapped(rest), rest)
        renamed[name if known in renamed else known] = tensors[name]
        is_theirs = known != rest and known == theirs.get(_unwrapped(rest))
        published |= is_theirs
        wrapped |= known != rest and not is_theirs
    return Reading(place, prefix, renamed, len(tensors) - len(below), wrapped, published)


def _mappings(content: object) -> Iterator[tuple[tuple[str | int, ...], Tensors]]:
    """Yield (keys that lead to it, named tensors) of each mapping with named tensors, the outermost first."""
    waiting: deque[tuple[tuple[str | int, ...], list[object]]] = deque([((), [content])])
    looked_into = 0
    while waiting and looked_into < MOST_CONTAINERS:
        place, path = waiting.popleft()
        looked_into += 1
        inner = [(key, item) for key, item in _items(path[-1]) if isinstance(key, str | int)]
        tensors = _named(dict(inner))
        parts = {str(key): _named(item) for key, item in inner if isinstance(item, Mapping)}
        if tensors:
            yield place, tensors
        elif any(parts.values()) and all(
            isinstance(item, Mapping) and len(parts[str(key)]) == len(item) for key, item in inner
        ):
            yield place, {f"{key}.{name}": tensor for key, part in parts.items() for name, tensor in part.items()}
        for key, item in inner[: MOST_CONTAINERS - len(waiting)]:
            if isinstance(item, Mapping | list | tuple) and not any(item is above for above in path):
                waiting.append(((*place, key), [*path, item]))


def _items(container: object) -> Iterable[tuple[object, object]]:
    if isinstance(container, Mapping):
        return container.items()
    return enumerate(container) if isinstance(container, list | tuple) else ()


def _named(mapping: Mapping[object, object]) -> Tensors:
    return {name: item for name, item in mapping.items() if isinstance(name, str) and isinstance(item, torch.Tensor)}


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """Yield (prefix, rest without wrappers) for each way to cut a name at a dot that leaves no wrapper in front."""
    words = name.split(".")
    for count, word in enumerate(words):
        if word not in WRAPPERS:
            yield "".join(f"{word}." for word in words[:count]), _unwrapped(".".join(words[count:]))


def _unwrapped(name: str) -> str:
    return ".".join(word for word in name.split(".") if word not in WRAPPERS)
