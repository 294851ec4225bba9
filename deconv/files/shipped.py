"""The configs and experiments that travel with the package: where they lie, and what there is to choose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

PACKAGE = Path(__file__).resolve().parent.parent

HOMES = (PACKAGE, PACKAGE.parent)  # inside an installed wheel; the root of a checkout


def shipped(kind: str) -> Path:
    """Return the folder `configs` or `experiments` that belongs to this package, in a wheel or in a checkout."""
    for home in HOMES:
        if (home / kind).is_dir():
            return home / kind
    raise FileNotFoundError(f"deconv's folder {kind!r} is in none of {[str(home) for home in HOMES]}: install it again")


def groups() -> list[str]:
    """Return the names that choose a file of their own: experiment, hydra/launcher, model, source."""
    configs = shipped("configs")
    return sorted({path.parent.relative_to(configs).as_posix() for path in configs.glob("*/**/*.yaml")})


def choices(group: str) -> dict[str, str]:
    """Return name -> one line about it, for every choice of a group, in the order of the names."""
    return {path.stem: headline(path) for path in sorted((shipped("configs") / group).glob("*.yaml"))}


def headline(path: Path) -> str:
    """Return the first comment line of a YAML file that is not `# @package`, or "" where there is none."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and not line.startswith("# @package"):
            return line.lstrip("# ")
    return ""


def read_config(name: str, group: str = "") -> dict[str, Any]:
    """Return what the file of a choice of a group says, or of one of configs/ itself; {} for comments alone."""
    content = yaml.safe_load((shipped("configs") / group / f"{name}.yaml").read_text(encoding="utf-8"))
    return dict(content or {})


def default_choices() -> dict[str, str]:
    """Return {group: choice} of the defaults list of config.yaml."""
    listed = read_config("config")
    return {group: choice for entry in listed["defaults"] if entry != "_self_" for group, choice in entry.items()}
