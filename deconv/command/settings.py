"""From `key=value` arguments to checked options, by Hydra; every mistake is a DeconvError of one line.

config.yaml chooses the experiment, its dataclass (`deconv.command.options`, which Hydra finds in its ConfigStore) and a
file of each group. Hydra composes them with the arguments and checks the types that the dataclass has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException, ValidationError

from deconv.command import launchers
from deconv.command.arguments import as_text, expanded, is_launcher, override_of, parsed, short, split
from deconv.command.describing import described, expected, option_of, shown
from deconv.command.options import EXPERIMENTS, Options
from deconv.errors import BadInput, DeconvError, UnknownName, first_line, nearest, unknown
from deconv.files.shipped import choices, default_choices, groups, read_config, shipped

MISSING = "???"
LAUNCHER = "hydra.launcher"
MERGING = "Error merging override "
"""How Hydra begins to say that a value is not of its option's type."""
TEXTS = ("source.urls",)
"""Options whose file leaves them open that take a list of texts as well as one."""
LIKE: dict[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "a text"),
    list: ((list,), "a list such as [a,b]"),
    dict: ((dict,), "a mapping such as {a: b}"),
}
"""What may stand in the place of a value in a file of configs/, and what it is called."""


@dataclass(frozen=True)
class Job:
    """One run: its experiment, the arguments that set it apart, its options, and its folder where one was given.

    `options` is what the experiment reads, `config` the same as it is written down. `launcher` holds the arguments for
    Hydra's launcher, the same for all runs of a sweep; without any a run stays in this process.
    """

    experiment: str
    said: tuple[str, ...]
    options: Options
    config: DictConfig
    folder: Path | None
    launcher: tuple[str, ...] = ()

    @property
    def keys(self) -> list[str]:
        """All that can be set, nested keys as outer.inner."""
        return list(_flat(self.config))


def compose_jobs(arguments: Sequence[str], sweep: bool) -> list[Job]:
    """Return the runs that the arguments ask for: one, or with `sweep` one for each combination of their values.

    All are checked before any is returned. Raises UnknownName and BadInput for a mistake in the arguments.
    """
    with initialize_config_dir(str(shipped("configs")), job_name="deconv", version_base="1.3"):
        overrides = [parsed(argument) for argument in arguments]
        jobs = [_compose_job(said) for said in expanded(overrides, sweep)]
    if jobs and jobs[0].launcher and not sweep:
        raise BadInput(f"{' '.join(jobs[0].launcher)} says how the runs of a sweep are started: add -m")
    if not jobs:
        raise BadInput(f"{' '.join(arguments)} leaves nothing to run: give every option at least one value")
    return jobs


def _compose_job(said: tuple[str, ...]) -> Job:
    overrides, of_files = [override_of(argument) for argument in said], groups()
    chosen = {override.key_or_group: override for override in overrides if override.key_or_group in of_files}
    for group, override in chosen.items():
        _check_choice(group, override.value())
    defaults = default_choices()
    experiment = str(chosen["experiment"].value() if "experiment" in chosen else defaults["experiment"])
    shape = _shape(experiment)
    for override in overrides:
        _check_used(override.key_or_group, experiment, shape)
    used = (*shape.__dataclass_fields__, "experiment")
    unused = [f"~{group}" for group in defaults if group in of_files and group not in used]
    of_choices = (*(str(override.input_line) for override in chosen.values()), *unused)
    known = _known(shipped("configs"), experiment, of_choices)
    for override in overrides:
        _check_key(override, shape, known)
        _check_text(override, shape, known)
    settings = _compose(shape, [*said, *unused])
    _check_like_files(known, _flat(settings))
    settings.pop(LAUNCHER, None)  # which is composed again where the runs are started
    try:
        options = _built(shape, settings)
    except DeconvError as error:
        raise in_words_of_the_command(error, known) from error
    _check_limits(options)
    del settings["folder"]
    return Job(
        experiment,
        tuple(word for word in said if not is_launcher(word)),
        options,
        OmegaConf.create(settings, flags={"struct": True, "readonly": True}),
        None if options.folder is None else Path(options.folder),
        tuple(filter(is_launcher, said)),
    )


def _shape(experiment: str) -> type[Options]:
    if experiment not in EXPERIMENTS:
        raise UnknownName(f"experiment {experiment!r} has no options: add its class to deconv.command.options")
    return EXPERIMENTS[experiment]


@cache
def _known(configs: Path, experiment: str, of_choices: tuple[str, ...]) -> Mapping[str, Any]:
    """Return all that can be set and what it is in the files of the choices, which the runs of a sweep share."""
    return _flat(_compose(_shape(experiment), of_choices))


def _compose(shape: type[Options], said: Sequence[str]) -> dict[str, Any]:
    """Return the settings as plain values, a launcher's among them."""
    name = next(name for name, known in EXPERIMENTS.items() if known is shape)
    ConfigStore.instance().store(group="options", name=name, node=shape, package="_global_", provider="deconv")
    try:
        config = compose("config", overrides=list(said), return_hydra_config=True)
        launcher: Any = OmegaConf.to_container(config.hydra.launcher)
        with open_dict(config):
            del config["hydra"]
        settings: Any = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise _unusable(said, error, shape) from error
    del launcher["_target_"]  # a launcher is chosen by its name
    return {**settings, **({LAUNCHER: launcher} if launcher else {})}


def _built(shape: Any, settings: Mapping[str, Any]) -> Any:
    """Return a dataclass of plain values, with dataclasses and tuples in it where it has such."""
    made = {}
    for name, hint in get_type_hints(shape).items():
        value = settings[name]
        made[name] = _built(hint, value) if is_dataclass(hint) else tuple(value) if get_origin(hint) is tuple else value
    return shape(**made)


def _unusable(said: Sequence[str], error: Exception, shape: type[Options]) -> BadInput:
    message = first_line(error)
    if message.startswith(MERGING):
        key, _, value = message.removeprefix(MERGING).lstrip("+").partition("=")
        if option := option_of(shape, key):
            return BadInput(f"{key}={value}: expected {expected(option.type)} ({option.help})")
    cause = error.__cause__ if isinstance(error.__cause__, ValidationError) else error  # Hydra says only where
    if texts := [as_text(*split(word)) for word in said if "${" in word]:
        return BadInput(f"cannot use {' '.join(said)}: {short(cause)}; if it is a text, write {' '.join(texts)}")
    return BadInput(f"cannot use {' '.join(said)}: {short(cause)}; deconv --help shows what can be given")


def _check_choice(group: str, name: Any) -> None:
    possible = launchers.NEEDS if group == launchers.GROUP else choices(group)
    if name not in list(possible):
        raise unknown(group, shown(name), possible, _of_torchvision(name) if group == "model" else "")
    if group == launchers.GROUP:
        launchers.check_installed(str(name))


def _of_torchvision(name: Any) -> str:
    """What is said of the name of a network of torchvision's, given as a model; "" of any other."""
    from deconv.models.presets import architectures  # brings torch, which a run without a mistake need not wait for

    return f"it is torchvision's, model=torchvision model.arch={name}" if name in architectures() else ""


def _check_used(key: str, experiment: str, shape: type[Options]) -> None:
    """Refuse what only other experiments can be told, naming what this one has of that name, or nearly, or at all."""
    first, own = key.split(".")[0], shape.__dataclass_fields__
    if first in own or all(first not in other.__dataclass_fields__ for other in EXPERIMENTS.values()):
        return
    nested = [option.name for option in described(shape)] + list(_choice_keys("experiment", experiment))
    has = sorted({_with_any_name(name) for name in nested if name.endswith(f".{first}")})
    has = has or get_close_matches(first, own, cutoff=0.8) or sorted(own)
    raise UnknownName(f"experiment={experiment} has no {first}; it has {', '.join(has)}")


def _check_key(override: Override, shape: type[Options], known: Mapping[str, Any]) -> None:
    key = override.key_or_group
    if key in known or key in groups():
        return
    group, _, rest = key.partition(".")
    owners = [name for name in choices(group) if rest.split(".")[0] in _choice_keys(group, name)]
    if override.type is not OverrideType.CHANGE and rest and _grows(shape, group) and (owners or group not in groups()):
        return
    if owners and group in groups():
        raise UnknownName(f"{key} belongs to {' or '.join(f'{group}={name}' for name in owners)}: add that")
    if key.startswith(f"{LAUNCHER}.") and LAUNCHER not in known:
        raise UnknownName(f"{key} belongs to {launchers.GROUP}=NAME: add that, with {' or '.join(launchers.NEEDS)}")
    raise UnknownName(f"unknown option {key!r}{nearest(key, sorted({*known, *groups()}))}; deconv --help lists all")


def _check_text(override: Override, shape: type[Options], known: Mapping[str, Any]) -> None:
    """Refuse what Hydra reads as a number, a list or nothing where a text is expected, with what gives that text."""
    key, said = split(str(override.input_line))
    option, value = option_of(shape, override.key_or_group), override.value()
    in_file = known.get(override.key_or_group)
    typed = option is not None and option.type in (str, str | None)
    if isinstance(value, str) or not (typed or isinstance(in_file, str)):
        return
    if value is None and in_file == MISSING:
        raise BadInput(f"{key} is not given: add {key}=...; for the text {said} write {as_text(key, said)}")
    several = override.key_or_group in TEXTS and isinstance(value, list)
    if value is None or several or (typed and str(value) == said):
        return
    wanted = f"{expected(option.type)} ({option.help})" if typed and option else "a text"
    raise BadInput(f"{override.key_or_group}={said}: expected {wanted}; for the text {said} write {as_text(key, said)}")


def _grows(shape: type[Options], name: str) -> bool:
    """Whether an option is a mapping to which a key can be added: one more alias, network or variant."""
    option = option_of(shape, name)
    return option is not None and not is_dataclass(option.type) and "dict" in str(option.type)


def _with_any_name(key: str) -> str:
    """Return networks.zfnet64.model as networks.NAME.model."""
    first, *_, last = key.split(".")
    return f"{first}.NAME.{last}" if key.count(".") == 2 else key


def _choice_keys(group: str, name: str) -> dict[str, Any]:
    return _flat(read_config(name, group))


def _check_like_files(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Refuse what the dataclasses cannot check: values in a choice's own keys that are not like those in its file."""
    of_files = groups()
    for key, value in after.items():
        if value == MISSING or (before.get(key) == MISSING and value is None):
            raise BadInput(f"{key} is not given: add {key}=...")
        if key.partition(".")[0] in of_files or key.startswith(f"{LAUNCHER}."):
            _check_like(key, before.get(key), value)
    if after.get(f"{LAUNCHER}.n_jobs") == 0:
        raise BadInput(f"{LAUNCHER}.n_jobs=0: expected how many runs go at once, or -1 for one on each core")
    if after.get(f"{LAUNCHER}.timeout_min", 1) < 1:
        raise BadInput(f"{LAUNCHER}.timeout_min={after[f'{LAUNCHER}.timeout_min']}: expected 1 or more")


def _check_like(key: str, before: Any, after: Any) -> None:
    if before is None or before == MISSING or (after is None and "." in key):
        return  # what reads it says whether it can do without
    items: Any = after
    kinds, wanted = LIKE[type(before)]
    if not isinstance(after, kinds) or (isinstance(after, bool) and bool not in kinds):
        raise BadInput(f"{key}={shown(after)}: expected {wanted}, as in {key}={shown(before)}")
    if isinstance(before, list) and before and isinstance(after, list):
        kinds = (int, float) if isinstance(before[0], (int, float)) else (type(before[0]),)
        if not all(isinstance(item, kinds) and not isinstance(item, bool) for item in items):
            raise BadInput(f"{key}={shown(after)}: expected values like those in {key}={shown(before)}")


def _check_limits(options: Any, prefix: str = "") -> None:
    for entry in fields(options):
        key, value, about = f"{prefix}{entry.name}", getattr(options, entry.name), entry.metadata
        least, most = about.get("least"), about.get("most")
        numbers = [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, int | float)]
        if is_dataclass(value):
            _check_limits(value, f"{key}.")
        if value == "" or (value == [] and about.get("filled")):
            raise BadInput(f"{key}={shown(value)}: expected a value, or null ({about['help']})")
        if numbers and least is not None and min(numbers) < least:
            raise BadInput(f"{key}={shown(value)}: expected {least} or more ({about['help']})")
        if numbers and most is not None and max(numbers) > most:
            raise BadInput(f"{key}={shown(value)}: expected {most} or less ({about['help']})")


def in_words_of_the_command(error: DeconvError, known: Iterable[str]) -> DeconvError:
    """Return the library's error about an argument with the option that sets it: `size: ...` as `model.size: ...`."""
    argument = error.argument
    owners = [key for key in known if key.endswith(f".{argument}")]
    if argument is None or argument in known or len(owners) != 1 or not str(error).startswith(f"{argument}: "):
        return error
    return type(error)(f"{owners[0]}{str(error).removeprefix(argument)}")


def _flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items() if isinstance(settings, Mapping) else ():
        flat[f"{prefix}{key}"] = value
        flat.update(_flat(value, f"{prefix}{key}."))
    return flat
