"""What `deconv --help` says: the choices in configs/, and the options of the experiments' dataclasses."""

from __future__ import annotations

import re
import textwrap
from dataclasses import is_dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from deconv.command.describing import described, shown
from deconv.command.options import EXPERIMENTS
from deconv.errors import unknown
from deconv.files.shipped import choices, default_choices, groups, shipped

USAGE = """deconv [-m] key=value ...            (-m: run every combination of comma-separated values)
       deconv --dry-run key=value ...   (what a run would do, what is refused, how long mining takes; nothing is made)
       deconv --help experiment=NAME    (what it shows, what to expect, its options)"""
EXAMPLES = (
    "deconv experiment=fig2_features",
    "deconv experiment=fig2_features source=folder source.root=photos layers=[fire5,fire9] units=[3,17]",
    "deconv -m experiment=fig2_features rule=deconvnet,guided,gradient",
)
WIDEST = 34
"""Characters of the first column; a longer name has its line to itself."""
LONGEST_VALUE = 120
"""Characters of a default; of a longer one, as whole paragraphs are, its beginning is shown."""
OWN_KEY = re.compile(r"^(\w+):", re.MULTILINE)


def text() -> str:
    """Return the whole page: usage, the choices of each group, the options of the usual experiment, examples."""
    parts = ["deconv: what the units of a convolutional network look for, projected back to pixels.", f"usage: {USAGE}"]
    parts += [_section(_title(group), list(choices(group).items())) for group in groups()]
    usual = default_choices()["experiment"]
    parts.append(_section(f"options of experiment={usual}; most are those of the others too", options(usual)))
    parts.append(_section("examples", [(example, "") for example in EXAMPLES]))
    return "\n\n".join(parts)


def experiment_text(name: str) -> str:
    """Return the page of one experiment: the header of its file and its options. Raises UnknownName."""
    if name not in choices("experiment"):
        raise unknown("experiment", name, choices("experiment"))
    lines = _file(name).read_text(encoding="utf-8").splitlines()
    header = [line.removeprefix("#").removeprefix(" ") for line in takewhile(lambda line: line.startswith("#"), lines)]
    chosen = [f"{group}=NAME" for group in groups() if group in EXPERIMENTS[name].__dataclass_fields__]
    title = f"its options, beside {', '.join(chosen)} (see deconv --help)"
    return "\n\n".join([f"experiment={name}", "\n".join(header[1:]), _section(title, options(name))])


def options(experiment: str) -> list[tuple[str, str]]:
    """Return (option=default, what it is) of an experiment, its own first; what its file sets is the default."""
    shape = EXPERIMENTS[experiment]
    differences: Any = OmegaConf.load(_file(experiment))
    own = {key: differences[key] for key in shape.__dataclass_fields__ if key in differences}
    defaults = OmegaConf.merge(OmegaConf.structured(shape), own, {"seed": 0})
    rows = []
    for entry in sorted(described(shape), key=lambda entry: entry.name.split(".")[0] not in shape.__annotations__):
        value = OmegaConf.select(defaults, entry.name)
        if is_dataclass(entry.type) or (shipped("configs") / entry.name).is_dir():
            continue  # its own rows follow; a group has a section on the first page
        mapping = isinstance(value, DictConfig)
        rows.append((f"{entry.name}={'...' if mapping else _beginning(shown(value))}", entry.help))
        rows += [(f"{entry.name}.{key}={_beginning(shown(value[key]))}", "") for key in (value if mapping else ())]
    return rows


def _beginning(value: str) -> str:
    return value if len(value) <= LONGEST_VALUE else textwrap.shorten(value, LONGEST_VALUE, placeholder=" ...")


def _file(experiment: str) -> Path:
    return shipped("configs") / "experiment" / f"{experiment}.yaml"


def own_keys(group: str) -> list[str]:
    """Return the keys that the choices of a group have of their own; experiments have none: they set options."""
    if group in ("experiment", "rule"):
        return []
    texts = [path.read_text(encoding="utf-8") for path in (shipped("configs") / group).glob("*.yaml")]
    return sorted({key for text in texts for key in OWN_KEY.findall(text)} - {"defaults"})


def _title(group: str) -> str:
    keys = own_keys(group)
    about = f"   (and {group.replace('/', '.')}.KEY=..., with KEY one of {', '.join(keys)})" if keys else ""
    return textwrap.fill(f"{group}=NAME{about}", 120, subsequent_indent=" " * 4)


def _section(title: str, rows: list[tuple[str, str]]) -> str:
    width = min(WIDEST, max((len(name) for name, line in rows if line), default=0))
    return "\n".join([title, *(line for name, about in rows for line in _row(name, about, width))])


def _row(name: str, about: str, width: int) -> list[str]:
    lines = textwrap.wrap(about, 116 - width) or [""]
    if len(name) > width and about:
        return [f"  {name}", *(f"    {'':<{width}}{line}" for line in lines)]
    return [f"  {name:<{width}}  {lines[0]}".rstrip(), *(f"    {'':<{width}}{line}" for line in lines[1:])]
