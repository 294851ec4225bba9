"""Progress of anything that takes over two seconds: a bar on a terminal, plain log lines elsewhere."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

T = TypeVar("T")
SHOW_AFTER = 2.0  # seconds
LOG_EVERY = 10.0  # seconds

log = logging.getLogger("deconv")
_one_bar = threading.Lock()  # held by the track that may show a bar, from its start
_shown = threading.Event()


def track(
    iterable: Iterable[T],
    description: str,
    total: int | None,
    unit: str = "images",
    size: Callable[[T], int] | None = None,
    status: Callable[[], str] | None = None,
) -> Iterator[T]:
    """Yield the items of `iterable` and tell how far it is, on stderr.

    An item counts as done when the next one is asked for. `total` counts `unit`s (None: not known), and so does
    `size`, which tells how many of them an item holds, as a batch does; without it an item is one. `status` gives a
    few more words for the end of the line, such as a loss; it is asked whenever a line is about to be shown.
    A terminal gets a bar with count, rate and time left once two seconds have passed. Elsewhere the logger "deconv"
    gets at most one line each ten seconds, and one at the end of what took over two.
    """
    if on_terminal() and _one_bar.acquire(blocking=False):
        try:
            yield from _with_bar(iterable, description, total, unit, size, status)
        finally:
            _one_bar.release()
    elif _one_bar.locked():
        yield from iterable  # within something that has a bar: two would overwrite each other
    else:
        yield from _with_lines(iterable, description, total, unit, size, status)


def on_terminal() -> bool:
    """Return whether stderr is a terminal that can redraw a line."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def bar_is_up() -> bool:
    """Return whether a bar of this process is shown, on the terminal's last line."""
    return _shown.is_set()


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        self.unit = unit
        super().__init__()

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} {self.unit}/s" if task.speed else f"{self.unit}")


class _Status(ProgressColumn):
    def __init__(self, status: Callable[[], str]) -> None:
        self.status = status
        super().__init__()

    def render(self, task: Task) -> Text:
        return Text(self.status())


def _with_bar(
    iterable: Iterable[T],
    description: str,
    total: int | None,
    unit: str,
    size: Callable[[T], int] | None,
    status: Callable[[], str] | None,
) -> Iterator[T]:
    columns: tuple[Any, ...] = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(unit),
        TimeRemainingColumn(),
        *([_Status(status)] if status else []),
    )
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task(description, total=total)
    # A timer, not a check at each item: the first item may take longer than two seconds itself.
    timer = threading.Timer(SHOW_AFTER, _show, [bar])
    timer.daemon = True
    timer.start()
    try:
        for item in iterable:
            yield item
            bar.advance(task, size(item) if size else 1)
    finally:
        timer.cancel()
        timer.join()
        if bar_is_up():
            bar.stop()
            _shown.clear()


def _show(bar: Progress) -> None:
    bar.start()
    _shown.set()


def _with_lines(
    iterable: Iterable[T],
    description: str,
    total: int | None,
    unit: str,
    size: Callable[[T], int] | None,
    status: Callable[[], str] | None,
) -> Iterator[T]:
    begun = said = time.monotonic()
    done = 0
    for item in iterable:
        yield item
        done += size(item) if size else 1
        now = time.monotonic()
        if now - said >= LOG_EVERY and done != total:
            log.info("%s%s", _line(description, done, total, unit, now - begun), f", {status()}" if status else "")
            said = now
    seconds = time.monotonic() - begun
    if seconds > SHOW_AFTER:
        log.info("%s: %d %s in %.1f s%s", description, done, unit, seconds, f", {status()}" if status else "")


def _line(description: str, done: int, total: int | None, unit: str, seconds: float) -> str:
    rate = done / seconds
    if total is None or done == 0:
        return f"{description}: {done} {unit}, {rate:.1f} {unit}/s"
    return f"{description}: {done} of {total} {unit}, {rate:.1f} {unit}/s, {(total - done) / rate:.0f} s left"
