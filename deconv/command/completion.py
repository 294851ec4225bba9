"""Completion of `deconv ...` in a shell, by Hydra's own means: bash, zsh and fish.

`deconv -sc install=bash` prints what the shell evaluates; from then on it asks `deconv -sc query=bash` at each Tab.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra

from deconv.command.options import EXPERIMENTS
from deconv.errors import BadInput
from deconv.files.shipped import default_choices, groups, shipped

FLAGS = ("-sc", "--shell-completion")
SUBCOMMANDS = ("install", "uninstall", "query")
SHELLS = ("bash", "fish", "zsh")


def complete(words: Sequence[str]) -> None:
    """Print what Hydra says to install=SHELL, uninstall=SHELL or query=SHELL. Raises BadInput for anything else."""
    commands = [word.partition("=") for word in words]
    if len(commands) != 1 or commands[0][0] not in SUBCOMMANDS or commands[0][2] not in SHELLS:
        raise BadInput(
            f"{' '.join(['-sc', *words])}: expected install=SHELL or uninstall=SHELL, SHELL being bash, fish or zsh"
        )
    if commands[0][0] == "query":
        _prepare(os.environ.get("COMP_LINE", ""))
    with initialize_config_dir(str(shipped("configs")), job_name="deconv", version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        hydra.shell_completion("config", list(words))


def _prepare(line: str) -> None:
    """Let Hydra know the options of the experiment that has been typed, and leave out the groups that it has not."""
    program, _, typed = line.partition(" ")
    if not program:
        raise BadInput("-sc query is what a shell asks while one types, with the line in COMP_LINE: give install=SHELL")
    named = [word.partition("=")[2] for word in typed.split() if word.startswith("experiment=")]
    defaults = default_choices()
    experiment = next((name for name in reversed(named) if name in EXPERIMENTS), defaults["experiment"])
    shape = EXPERIMENTS[experiment]
    ConfigStore.instance().store(group="options", name=experiment, node=shape, package="_global_", provider="deconv")
    has = (*shape.__dataclass_fields__, "experiment")
    unused = [f"~{group}" for group in groups() if group in defaults and group not in has]
    os.environ["COMP_LINE"] = " ".join([program, *unused, typed])  # where Hydra reads it
