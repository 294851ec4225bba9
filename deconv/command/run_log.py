"""Where a run's log goes: to run.log in its folder, all of it, and in plain lines to the screen."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deconv import progress
from deconv.errors import BadInput

log = logging.getLogger("deconv")
warned = logging.getLogger("py.warnings")


@contextmanager
def logging_to(folder: Path) -> Iterator[None]:
    """Within it the library's log goes to run.log in the folder and to the screen. Raises BadInput if it cannot."""
    try:
        file = _Log(folder / "run.log", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise BadInput(
            f"cannot write into the folder {folder}: {error.strerror}; give another as folder=..."
        ) from error
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handlers = (file, _Screen(logging.INFO))
    level = log.level
    log.setLevel(logging.DEBUG)
    for handler in handlers:
        log.addHandler(handler)
    logging.captureWarnings(True)  # what libraries warn of, Pillow of damaged images above all, is for the log only
    warned.addHandler(file)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        warned.removeHandler(file)
        log.setLevel(level)
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()


class _Log(logging.FileHandler):
    """run.log. Where the disk is full the run goes on without it, and says so once.

    For the log is not what a run is for: what is, is written whole or refused with a line of its own.
    """

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            return super().handleError(record)
        for logger in (log, warned):
            logger.removeHandler(self)
        with suppress(OSError):  # the same once more: what could not be written is tried again on closing
            self.close()
        log.warning("cannot write %s: %s; going on without it", self.baseFilename, error.strerror)


class _Screen(logging.Handler):
    """Plain lines on stderr; while a bar is up, warnings appear above it and the rest only in run.log."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING or not progress.bar_is_up():
            progress.print_line(self.format(record))
