"""From `key=value` arguments to checked settings, by Hydra; every mistake is a DeconvError of one line."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException, ValidationError

from deconv.command import launchers
from deconv.command.shipped import choices, groups, shipped
from deconv.errors import BadInput, UnknownName, first_line, nearest

MISSING = "???"
LAUNCHER = "hydra.launcher"
LEAST = {"n_units": 1, "k": 1, "per_image": 1, "batch_size": 1, "seed": 0, f"{LAUNCHER}.timeout_min": 1}
MOST = {"seed": 2**32 - 1}  # the libraries agree on no more
EXPECTED: dict[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "a text"),
    list: ((list,), "a list such as [a,b]"),
    dict: ((dict,), "a mapping such as {a: b}"),
}


@dataclass(frozen=True)
class Job:
    """One run: its experiment, the arguments that set it apart, its settings, and its folder where one was given.

    `launcher` holds the arguments for Hydra's launcher, the same for all runs of a sweep; without any a run stays in
    this process.
    """

    experiment: str
    said: tuple[str, ...]
    config: DictConfig
    folder: Path | None
    launcher: tuple[str, ...] = ()


def compose_jobs(arguments: Sequence[str], sweep: bool) -> list[Job]:
    """Return the runs that the arguments ask for: one, or with `sweep` one for each combination of their values.

    All are checked before any is returned. Raises UnknownName and BadInput for a mistake in the arguments.
    """
    with initialize_config_dir(str(shipped("configs")), job_name="deconv", version_base="1.3"):
        overrides = [_parse(argument) for argument in arguments]
        jobs = [_compose_job(said) for said in _expand(overrides, sweep)]
    if jobs and jobs[0].launcher and not sweep:
        raise BadInput(f"{' '.join(jobs[0].launcher)} says how the runs of a sweep are started: add -m")
    if not jobs:
        raise BadInput(f"{' '.join(arguments)} leaves nothing to run: give every option at least one value")
    return jobs


def _parse(argument: str) -> Override:
    if "=" not in argument:
        hint = f"; did you mean experiment={argument}?" if argument in choices("experiment") else ""
        raise BadInput(f"cannot read {argument!r}: options are given as key=value, see deconv --help{hint}")
    if argument.startswith("hydra.run.dir="):
        argument = argument.replace("hydra.run.dir", "folder", 1)
    override = _override(argument)
    foreign = override.is_hydra_override() and not _is_launcher(argument)
    if foreign or override.is_delete() or override.package:
        raise BadInput(
            f"cannot use {argument!r}: of Hydra's own settings only hydra.run.dir and, with -m, hydra/launcher and "
            "hydra.launcher.KEY are known; to unset, use null"
        )
    return override


def _is_launcher(argument: str) -> bool:
    return argument.lstrip("+").startswith(("hydra/launcher=", "hydra.launcher."))


def _override(argument: str) -> Override:
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException as error:
        key, _, value = argument.partition("=")
        quoted = shlex.quote(f'{key}="{value}"')
        raise BadInput(f"cannot read {argument!r}: {_first_line(error)}; if it is a text, write {quoted}") from error
    override.config_loader = GlobalHydra.instance().config_loader()
    return override


def _expand(overrides: list[Override], sweep: bool) -> Iterator[tuple[str, ...]]:
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
            as_list = f"{key}=[{override.get_value_string()}]"
            raise BadInput(
                f"{override.input_line} gives several values: add -m to run each, or write {as_list} for a list"
            )
        elif not override.is_discrete_sweep():
            raise BadInput(f"{override.input_line} cannot be counted through: list values, as {key}=1,2 or range(1,5)")
        else:
            said[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
    return itertools.product(*said.values())


def _compose_job(said: tuple[str, ...]) -> Job:
    overrides = [_override(argument) for argument in said]
    among = groups()
    chosen = [override for override in overrides if override.key_or_group in among]
    for override in chosen:
        _check_choice(override.key_or_group, override.value())
    before = _flat(_compose([override.input_line or "" for override in chosen], resolve=False))
    for override in overrides:
        if override.type is OverrideType.CHANGE and override.key_or_group not in among:
            _check_key(override.key_or_group, before)
    settings = _compose(said, resolve=True)
    after = _flat(settings)
    for key in before.keys() & after.keys():
        _check_kind(key, before[key], after[key])
    _check_values(after)
    folder = settings.pop("folder")
    settings.pop(LAUNCHER, None)
    config = OmegaConf.create(settings, flags={"struct": True, "readonly": True})
    launcher = tuple(filter(_is_launcher, said))
    own = tuple(word for word in said if word not in launcher)
    return Job(settings["experiment"], own, config, None if folder is None else Path(str(folder)), launcher)


def _compose(said: Sequence[str], resolve: bool) -> dict[str, Any]:
    try:
        config = compose("config", overrides=list(said), return_hydra_config=True)
        experiment = config.hydra.runtime.choices["experiment"]
        launcher = OmegaConf.to_container(config.hydra.launcher)
        with open_dict(config):
            del config["hydra"]
        settings = OmegaConf.to_container(config, resolve=resolve)
    except (HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__ if isinstance(error.__cause__, ValidationError) else error  # Hydra says only where
        raise BadInput(
            f"cannot use {' '.join(said)}: {_first_line(cause)}; deconv --help shows what can be given"
        ) from error
    assert isinstance(launcher, dict) and isinstance(settings, dict)
    del launcher["_target_"]  # a launcher is chosen by its name
    return {"experiment": experiment, **settings, **({LAUNCHER: launcher} if launcher else {})}


def _check_choice(group: str, name: Any) -> None:
    possible = launchers.NEEDS if group == launchers.GROUP else choices(group)
    if name not in list(possible):
        raise UnknownName(
            f"unknown {group} {_shown(name)!r}; there are {', '.join(possible)}{nearest(str(name), possible)}"
        )
    if group == launchers.GROUP:
        launchers.check_installed(str(name))


def _check_key(key: str, known: Mapping[str, Any]) -> None:
    if key in known:
        return
    group, _, rest = key.partition(".")
    owners = [name for name in choices(group) if rest in _choice_keys(group, name)] if group in groups() else []
    if owners:
        raise UnknownName(f"{key} belongs to {' or '.join(f'{group}={name}' for name in owners)}: add that")
    if key.startswith(f"{LAUNCHER}.") and LAUNCHER not in known:
        raise UnknownName(f"{key} belongs to {launchers.GROUP}=NAME: add that, with {' or '.join(launchers.NEEDS)}")
    possible = sorted({*known, *groups()} - set(choices("experiment")))
    raise UnknownName(f"unknown option {key!r}{nearest(key, possible)}; deconv --help lists all")


def _choice_keys(group: str, name: str) -> dict[str, Any]:
    return _flat(OmegaConf.to_container(OmegaConf.load(shipped("configs") / group / f"{name}.yaml")))


def _check_kind(key: str, before: Any, after: Any) -> None:
    if before == MISSING and after is None:
        raise BadInput(f"{key} is not given: add {key}=...")
    if before is None or before == MISSING or (isinstance(before, str) and "${" in before):
        return
    if key == "rule" and isinstance(before, dict) and isinstance(after, str):
        return  # a rule's name stands for its options
    kinds, wanted = EXPECTED[type(before)]
    unset = (
        after is None and "." in key
    )  # a choice's own keys may be unset; what reads them says whether it can do without
    if not unset and (not isinstance(after, kinds) or (isinstance(after, bool) and bool not in kinds)):
        raise BadInput(f"{key}={_shown(after)}: expected {wanted}, as in {key}={_shown(before)}")
    if isinstance(before, list) and before and isinstance(after, list):
        kinds = (int, float) if isinstance(before[0], (int, float)) else (type(before[0]),)
        if not all(isinstance(item, kinds) and not isinstance(item, bool) for item in after):
            raise BadInput(f"{key}={_shown(after)}: expected values like those in {key}={_shown(before)}")


def _check_values(settings: Mapping[str, Any]) -> None:
    for key, value in settings.items():
        if value == MISSING:
            raise BadInput(f"{key} is not given: add {key}=...")
        if key in LEAST and isinstance(value, int) and value < LEAST[key]:
            raise BadInput(f"{key}={value}: expected {LEAST[key]} or more")
        if key in MOST and isinstance(value, int) and value > MOST[key]:
            raise BadInput(f"{key}={value}: expected {MOST[key]} or less")
    if settings["folder"] is not None and not (isinstance(settings["folder"], (str, int)) and str(settings["folder"])):
        raise BadInput(f"folder={_shown(settings['folder'])}: expected the path of a folder, or null")
    if not isinstance(settings.get("cache"), (str, type(None))):
        raise BadInput(f"cache={_shown(settings['cache'])}: expected the path of a folder, or null")
    if settings.get(f"{LAUNCHER}.n_jobs") == 0:
        raise BadInput(f"{LAUNCHER}.n_jobs=0: expected how many runs go at once, or -1 for one on each core")
    _check_list("layers", settings.get("layers"), str, "names, as layers=[fire5,fire9]")
    _check_list("units", settings.get("units"), int, "numbers from 0 up, as units=[3,17]")


def _check_list(key: str, value: Any, kind: type, wanted: str) -> None:
    if value is None:
        return
    fits = isinstance(value, list) and value and all(type(item) is kind for item in value)
    if not fits or (kind is int and min(value) < 0):
        raise BadInput(f"{key}={_shown(value)}: expected a list of {wanted}, or null")


def _flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items() if isinstance(settings, Mapping) else ():
        flat[f"{prefix}{key}"] = value
        flat.update(_flat(value, f"{prefix}{key}."))
    return flat


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).replace("'", "").replace(", ", ",")


def _first_line(error: Exception) -> str:
    return first_line(error).partition(" expecting ")[0]  # antlr goes on with all the tokens that it would have taken
