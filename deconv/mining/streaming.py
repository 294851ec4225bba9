"""One pass over the images of a source by an engine: in shards that end between batches, whatever is taken from them.

Nothing is kept on disk; what a shard gives comes back, so it should be small beside its images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from deconv.engines import Engine
from deconv.images import Source
from deconv.images.batches import Unreadable, check_readable
from deconv.mining.looking import newly_seen
from deconv.mining.shards import shards_of
from deconv.progress import track

Shared = TypeVar("Shared")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Shard:
    """Images that follow one another; number: which shard of the pass it is.

    sources: what they are read from, more than one where several networks see them, each in its own way.
    """

    number: int
    sources: tuple[Source, ...]
    image_ids: tuple[int, ...]

    def __getstate__(self) -> dict[str, object]:
        """Return what another process needs: of the sources only the images of the shard."""
        return vars(self) | {"sources": tuple(source.part(self.image_ids) for source in self.sources)}


@dataclass(frozen=True, eq=False)
class Step(Generic[Result]):
    """How far a shard is: the images looked at by now, and at its end what they gave and which could not be read."""

    number: int
    seen: int
    result: Result | None = None
    skipped: tuple[Unreadable, ...] = ()


def pass_over(
    engine: Engine,
    look: Callable[[Shared, Shard], Iterator[Step[Result]]],
    shared: Shared,
    sources: tuple[Source, ...],
    batch_size: int,
    about: str,
) -> Iterator[tuple[int, Result]]:
    """Yield (number of the shard, what `look(shared, shard)` gave of it) in whatever order the shards end.

    look: a function of a module, for an engine; it yields after each batch, and once with what the shard gave. It lets
    any number of its images be unreadable, for that is judged here. sources: as `Shard` has them, of the same images.
    about: what is done, for the progress.

    Raises BadInput if more than half of all images cannot be read, and what `look` raises.
    """
    images = sources[0]
    ids, cuts = tuple(images.ids), shards_of(images, engine.shard_size, batch_size)
    shards = (Shard(number, sources, ids[cut.start : cut.stop]) for number, cut in enumerate(cuts))
    skipped: list[Unreadable] = []

    def title(shard: Shard) -> str:
        return f"{about}: shard {shard.number + 1} of {len(cuts)}"

    with engine.connected():
        for step in track(engine.work(look, shared, shards, title), about, len(images), size=newly_seen()):
            if step.result is not None:
                skipped.extend(step.skipped)
                check_readable(images, skipped, len(images), len(images) // 2)
                yield step.number, step.result


def in_order(results: Iterable[tuple[int, Result]]) -> Iterator[Result]:
    """Yield numbered results in the order of their numbers, 0 and on, each as soon as those before it are there.

    >>> list(in_order([(1, "b"), (0, "a"), (2, "c")]))
    ['a', 'b', 'c']
    """
    waiting: dict[int, Result] = {}
    following = 0
    for number, result in results:
        waiting[number] = result
        while following in waiting:
            yield waiting.pop(following)
            following += 1
