"""What tasks are called where every name is kept for good."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from deconv.engines.engine import Task

NAMED_ALONE = 1000
"""Tasks that have names of their own: Ray's driver keeps 2 KiB of each name."""
NAMED_TOGETHER = 100
"""Later ones that have one name."""


def named(tasks: Iterable[Task], name: Callable[[Task], str]) -> Iterator[tuple[Task, str, str]]:
    """Yield (task, its name, what it is called); the first ones by their names, later ones a hundred alike.

    >>> list(named([3, 4], "shard {}".format))
    [(3, 'shard 3', 'shard 3'), (4, 'shard 4', 'shard 4')]
    >>> list(named(range(2000), "shard {}".format))[1234]
    (1234, 'shard 1234', 'shard 1200, or one of the 99 after it')
    """
    called = ""
    for number, task in enumerate(tasks):
        own_name = name(task)
        if number < NAMED_ALONE:
            called = own_name
        elif number % NAMED_TOGETHER == 0:
            called = f"{own_name}, or one of the {NAMED_TOGETHER - 1} after it"
        yield task, own_name, called
