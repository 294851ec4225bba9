"""The files that a run's options name, looked for before torch is imported: a misspelt one is told within a second."""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deconv.command.shared import Options
from deconv.errors import BadInput, bad_value, nearest
from deconv.files import WEIGHT_SUFFIXES


def check_paths(options: Options) -> None:
    """Raise BadInput for a folder of images, a file of weights or a function in a file that is not there.

    Whether they can be used is found when they are: here is only looked for what exists.
    """
    source, model = options.source, getattr(options, "model", {})
    if source.get("name") == "folder" and not os.path.isdir(os.path.expanduser(root := str(source.get("root")))):
        raise BadInput(f"source.root: there is no folder {root}; expected a folder of images: check the path")
    weights = str(model.get("weights"))
    is_path = weights.endswith(WEIGHT_SUFFIXES) or "/" in weights
    if is_path and not os.path.isfile(os.path.expanduser(weights)):
        raise BadInput(f"there is no weights file {weights}; expected a .safetensors or .pth file: check the path")
    targets: Mapping[str, Any] = {f"explanations.{name}": t for name, t in getattr(options, "explanations", {}).items()}
    for option, target in {"model.target": model.get("target"), **targets}.items():
        check_function(option, target)


def check_function(option: str, target: Any) -> None:
    """Raise BadInput unless "path/to/file.py:function" names a file, and a name that it binds; others pass.

    >>> check_function("model.target", "nowhere.py:network")
    Traceback (most recent call last):
    deconv.errors.BadInput: model.target: given nowhere.py:network; expected a file of Python: there is no nowhere.py
    """
    place, _, called = target.rpartition(":") if isinstance(target, str) else ("", "", "")
    if not place.endswith(".py"):
        return  # a package's function, which only importing it finds
    path = Path(os.path.expanduser(place))
    if not path.is_file():
        raise bad_value(option, target, "a file of Python", f"there is no {place}")
    try:
        bound = _bound(ast.parse(path.read_bytes()))
    except (SyntaxError, ValueError):
        return  # importing it tells where
    if "*" not in bound and called not in bound:
        raise bad_value(option, target, f"a function of {place}", f"it has no {called}{nearest(called, sorted(bound))}")


def _bound(tree: ast.Module) -> set[str]:
    """The names that a file may bind, wherever in it; "*" where they cannot be told."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name):
            names.add("*" if node.id in ("globals", "exec", "setattr") else node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return names | ({"*"} if "__getattr__" in names else set())
