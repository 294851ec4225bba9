"""Progress of anything that takes over two seconds: a bar on a terminal or in a notebook, plain log lines elsewhere."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

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
    """Yield the items of `iterable` and show how far it is: on stderr, or in the notebook.

    An item counts as done when the next one is asked for. A terminal gets a bar with count, rate and time left once two
    seconds have passed. Elsewhere the logger "deconv" gets at most one line each ten seconds, and one at the end of
    what took over two. Within something that has a bar there is no second one.

    - total: how many `unit`s there are; None if that is not known.
    - size: returns how many units an item holds, as a batch does; without it an item is one.
    - status: returns a few more words for the end of the line, such as a loss.

    >>> list(track([1, 2, 3], "counting", 3))
    [1, 2, 3]
    """
    if (on_terminal() or _in_notebook()) and _one_bar.acquire(blocking=False):
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


def print_line(text: str) -> None:
    """Print a line on stderr, above the bar if one is shown."""
    if bar_is_up():
        from tqdm.auto import tqdm

        tqdm.write(text, file=sys.stderr)
    else:
        print(text, file=sys.stderr)


def _in_notebook() -> bool:
    """Whether this is a kernel of Jupyter, whose stderr is no terminal."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return "IPKernelApp" in getattr(shell, "config", ())


def _with_bar(
    iterable: Iterable[T],
    description: str,
    total: int | None,
    unit: str,
    size: Callable[[T], int] | None,
    status: Callable[[], str] | None,
) -> Iterator[T]:
    with warnings.catch_warnings():  # in a notebook without ipywidgets, which gets a bar of text
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm
    bar = tqdm(
        total=total, desc=description, unit=unit, delay=SHOW_AFTER, file=sys.stderr, dynamic_ncols=True, smoothing=0
    )  # fmt: skip
    # A timer, since tqdm looks at the clock after an item only, and the first may take longer than two seconds itself.
    timer = threading.Timer(SHOW_AFTER, _show, [bar])
    timer.daemon = True
    if on_terminal():
        timer.start()
    try:
        for item in iterable:
            yield item
            if status:
                bar.set_postfix_str(status(), refresh=False)
            bar.update(size(item) if size else 1)
    finally:
        timer.cancel()
        if timer.ident is not None:
            timer.join()
        bar.close()
        _shown.clear()


def _show(bar: Any) -> None:
    bar.delay = 0  # so that the bar knows that it was shown
    bar.refresh()
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
        units = unit.removesuffix("s") if done == 1 else unit
        log.info("%s: %d %s in %.1f s%s", description, done, units, seconds, f", {status()}" if status else "")


def _line(description: str, done: int, total: int | None, unit: str, seconds: float) -> str:
    rate = done / seconds
    if total is None or done == 0:
        return f"{description}: {done} {unit}, {rate:.1f} {unit}/s"
    return f"{description}: {done} of {total} {unit}, {rate:.1f} {unit}/s, {(total - done) / rate:.0f} s left"
