"""What `deconv --help` says, read from the comments of the configs that travel with the package."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

from deconv.command.shipped import choices, groups, shipped
from deconv.errors import UnknownName, nearest

USAGE = """deconv [-m] key=value ...            (-m: run every combination of comma-separated values)
       deconv --help experiment=NAME    (what it shows, what to expect, its own options)"""
EXAMPLES = (
    "deconv experiment=fig2_features",
    "deconv experiment=fig2_features source=folder source.root=photos layers=[fire5,fire9] units=[3,17]",
    "deconv -m experiment=fig2_features rule=deconvnet,guided,gradient",
)
OWN_KEY = re.compile(r"^(\w+):", re.MULTILINE)
OPTION = re.compile(r"^(?P<indent> *)(?P<key>\w+):(?: +(?P<default>[^#\s].*?))?(?: +# (?P<comment>.*))?$")


def own_keys(group: str) -> list[str]:
    """Return the keys that the choices of a group have of their own; experiments have none: they set options."""
    if group == "experiment":
        return []
    texts = [path.read_text(encoding="utf-8") for path in (shipped("configs") / group).glob("*.yaml")]
    return sorted({key for text in texts for key in OWN_KEY.findall(text)} - {"defaults"})


def options() -> list[tuple[str, str, str]]:
    """Return (key, default, comment) of every option in config.yaml."""
    return [option for option in _options(shipped("configs") / "config.yaml") if option[2]]


def _options(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (key, default, comment) of every setting of a YAML file; "" for no comment.

    A nested one comes as outer.inner, after the outer, whose default is "...".
    """
    outer = ""
    for found in filter(None, map(OPTION.match, path.read_text(encoding="utf-8").splitlines())):
        key, default, comment = found["key"], found["default"], found["comment"] or ""
        if found["indent"]:
            yield f"{outer}.{key}", default or "", comment
        elif default is None:
            outer = key
            yield key, "...", comment
        else:
            yield key, default, comment


def experiment_text(name: str) -> str:
    """Return the page of one experiment: the header of its file and its settings. Raises UnknownName."""
    if name not in choices("experiment"):
        possible = choices("experiment")
        raise UnknownName(f"unknown experiment {name!r}; there are {', '.join(possible)}{nearest(name, possible)}")
    path = shipped("configs") / "experiment" / f"{name}.yaml"
    lines = path.read_text(encoding="utf-8").splitlines()
    header = [line.removeprefix("#").removeprefix(" ") for line in takewhile(lambda line: line.startswith("#"), lines)]
    rows = [(f"{key}={default}", comment) for key, default, comment in _options(path) if comment or default != "..."]
    settings = [_section("its settings", rows)] if rows else []
    return "\n\n".join([f"experiment={name}", "\n".join(header[1:]), *settings])


def text() -> str:
    """Return the whole page: usage, the choices of each group, options, examples."""
    parts = ["deconv: what the units of a convolutional network look for, projected back to pixels.", f"usage: {USAGE}"]
    parts += [_section(_title(group), list(choices(group).items())) for group in groups()]
    parts.append(_section("options", [(f"{key}={default}", comment) for key, default, comment in options()]))
    parts.append(_section("examples", [(example, "") for example in EXAMPLES]))
    return "\n\n".join(parts)


def _title(group: str) -> str:
    keys = own_keys(group)
    about = f"   (and {group.replace('/', '.')}.KEY=..., with KEY one of {', '.join(keys)})" if keys else ""
    return textwrap.fill(f"{group}=NAME{about}", 120, subsequent_indent=" " * 4)


def _section(title: str, rows: list[tuple[str, str]]) -> str:
    width = max((len(name) for name, line in rows if line), default=0)
    return "\n".join([title, *(f"  {name:<{width}}  {line}".rstrip() for name, line in rows)])
