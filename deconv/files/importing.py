"""Functions of a user's own, imported by name from a package or a Python file."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from deconv.errors import bad_value, first_line, nearest

STATE = "__deconv_file__"
"""What a module that was read from a file remembers: its path, and the time of change and the size it had."""


def import_function(target: str, name: str = "target", kind: str = "a function") -> Callable[..., Any]:
    """Return what "package.module:function", or "path/to/file.py:function", names.

    The folder where the program runs is looked in. name, kind: the argument that `target` was given as, and what is
    expected of it, for messages. Raises BadInput for what cannot be imported, and for what cannot be called.

    >>> import_function("torch.nn.functional:relu").__name__
    'relu'
    """
    place, _, called = target.rpartition(":") if isinstance(target, str) else ("", "", "")
    if not place or not called:
        raise bad_value(name, target, "package.module:function, or path/to/file.py:function")
    try:
        with _importing_from_here():
            module = _from_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except Exception as error:  # whatever the file does when it is imported
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise bad_value(name, target, "what can be imported", reason) from error
    function = getattr(module, called, None)
    if not callable(function):
        names = [known for known, value in vars(module).items() if callable(value) and not known.startswith("_")]
        raise bad_value(name, target, f"{kind} of {place}", f"it has no {called}{nearest(called, names)}")
    imported: Callable[..., Any] = function
    return imported


def _from_file(path: Path) -> ModuleType:
    path = Path(os.path.expanduser(path)).resolve()
    state = os.stat(path).st_mtime_ns, os.stat(path).st_size
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, STATE, None) == (str(path), *state):
        return known  # its classes are those that pickle finds
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    setattr(module, STATE, (str(path), *state))
    sys.modules[path.stem] = module  # pickle and dataclasses look a class up by its module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]  # half a module must not be taken for one later
        raise
    return module


@contextmanager
def _importing_from_here() -> Iterator[None]:
    """Let modules be imported from the folder where the program runs, as `python -m` does."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
