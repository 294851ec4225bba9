"""The command's `key=value` arguments, read and multiplied out by Hydra's parser; every mistake is one line."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from deconv.errors import BadInput, first_line
from deconv.files.shipped import choices

ARGUMENTS = ("model.args.", "source.args.", "explanations.", "directions.", "other.")
"""Mappings to which any key can be added: the arguments of a function that a model or a source is made by, and
explanations and directions by their names, the settings of another network."""
CLOSING = {"[": "]", "{": "}"}
"""What ends a list and a mapping."""


def parsed(argument: str) -> Override:
    """Return an argument of the command as Hydra reads it. Raises BadInput for what is no option."""
    if "=" not in argument:
        hint = f"; did you mean experiment={argument}?" if argument in choices("experiment") else ""
        raise BadInput(f"cannot read {argument!r}: options are given as key=value, see deconv --help{hint}")
    if argument.startswith("hydra.run.dir="):
        argument = argument.replace("hydra.run.dir", "folder", 1)
    if argument.startswith(ARGUMENTS):
        argument = f"++{argument}"
    override = override_of(argument)
    foreign = override.is_hydra_override() and not is_launcher(argument)
    if foreign or override.is_delete() or override.package:
        raise BadInput(
            f"cannot use {argument!r}: of Hydra's own settings only hydra.run.dir and, with -m, hydra/launcher and "
            "hydra.launcher.KEY are known; to unset, use null"
        )
    return override


def is_launcher(argument: str) -> bool:
    """Return whether an argument chooses or sets the launcher of a sweep."""
    return argument.lstrip("+").startswith(("hydra/launcher=", "hydra.launcher."))


def override_of(argument: str) -> Override:
    """Return one `key=value` as Hydra reads it. Raises BadInput for what it cannot read."""
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException as error:
        key, value = split(argument)
        if value[:1] in CLOSING and CLOSING[value[0]] not in value:
            raise BadInput(
                f"cannot read {argument!r}, which the shell ended at a space; expected all of {key}={value[0]}..."
                f"{CLOSING[value[0]]} in one word: leave the spaces out, or quote it, as {shlex.quote(f'{key}=[a, b]')}"
            ) from error
        raise BadInput(
            f"cannot read {argument!r}: {short(error)}; if it is a text, write {as_text(*split(argument))}"
        ) from error
    override.config_loader = GlobalHydra.instance().config_loader()
    return override


def split(argument: str) -> tuple[str, str]:
    """Return the key and the value of an argument, as they were said."""
    key, _, value = argument.partition("=")
    return key, value


def as_text(key: str, value: str) -> str:
    """Return the argument by which a shell and Hydra give an option this very text, whatever signs it has.

    >>> print(as_text("source.root", "100"))
    'source.root="100"'
    """
    # Hydra takes a backslash for one of its own before a quote and at the end, OmegaConf before an interpolation.
    value = re.sub(r'(\\*)"', r'\1\1\\"', value)
    value = re.sub(r"(\\+)$", r"\1\1", value)
    value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return shlex.quote(f'{key}="{value}"')


def expanded(overrides: list[Override], sweep: bool) -> Iterator[tuple[str, ...]]:
    """Yield the arguments of each run: all combinations of the values in a sweep. Raises BadInput for a mistake."""
    said: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if key in said:
            raise BadInput(
                f"{key} is given twice, the second time as {override.input_line}: give it once, and quote braces, "
                "which a shell takes apart"
            )
        if not override.is_sweep_override():
            said[key] = [str(override.input_line)]
        elif override.is_hydra_override():
            raise BadInput(f"{override.input_line} gives several values: all runs of a sweep are started in one way")
        elif not sweep:
            as_list = shlex.quote(f"{key}=[{override.get_value_string()}]")
            raise BadInput(
                f"{override.input_line} gives several values: add -m to run each, write {as_list} for a list, or for a "
                f"text write {as_text(*split(str(override.input_line)))}"
            )
        elif not override.is_discrete_sweep():
            raise BadInput(f"{override.input_line} cannot be counted through: list values, as {key}=1,2 or range(1,5)")
        else:
            said[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
    return itertools.product(*said.values())


def short(error: Exception) -> str:
    """Return what Hydra says of an error, without the tokens that its parser would have taken."""
    return first_line(error).partition(" expecting ")[0]
