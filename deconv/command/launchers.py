"""The runs of a sweep through Hydra's launchers: joblib for the cores of one machine, submitit for SLURM."""

from __future__ import annotations

import importlib.util
import io
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.experimental.callback import Callback
from hydra.types import HydraContext

from deconv.errors import BadInput, DeconvError, first_line
from deconv.files.shipped import shipped

GROUP = "hydra/launcher"
JOBLIB, SUBMITIT = ("hydra_joblib_launcher", "joblib"), ("hydra_submitit_launcher", "slurm")
NEEDS = {  # launcher, ours or Hydra's own: the package in hydra_plugins, and the extra that installs it
    "processes": JOBLIB,
    "slurm": SUBMITIT,
    "joblib": JOBLIB,
    "submitit_local": SUBMITIT,
    "submitit_slurm": SUBMITIT,
}
OF_SLURM = ("slurm", "submitit_slurm")
# Hydra would keep a folder and a log of its own for each run, beside those that the run makes itself.
QUIET = ("hydra/hydra_logging=none", "hydra/job_logging=none", "hydra.output_subdir=null", "hydra.sweep.subdir=.")


@dataclass(frozen=True)
class Ending:
    """How a run ended: 0 and the path it made, 2 and a mistake of the user's, or 1 and a bug, as exit statuses are."""

    status: int
    text: str


def check_installed(name: str) -> None:
    """Raise BadInput unless the launcher's plugin is installed and, where it is for SLURM, SLURM's commands too."""
    package, extra = NEEDS[name]
    if not (importlib.util.find_spec("hydra_plugins") and importlib.util.find_spec(f"hydra_plugins.{package}")):
        raise BadInput(f"{GROUP}={name} is not installed: pip install 'deconvnet[{extra}]'")
    if name in OF_SLURM and not (shutil.which("srun") and shutil.which("sbatch")):
        raise BadInput(
            f"{GROUP}={name} needs SLURM, and there is no srun and sbatch here: start it where jobs are sent from, or "
            f"try it with {GROUP}=submitit_local"
        )


def launch(
    words: Sequence[str], overrides: Sequence[Sequence[str]], run: Callable[[int], Path], home: Path
) -> list[Ending]:
    """Call `run` with the number of each run, from 0, in the launcher's processes, and return how each ended.

    `words` choose and set the launcher, `overrides` are each run's arguments. `run` is pickled. A run that fails does
    not end the others. Submitit's own files are in `home`/.submitit until all runs have ended, and stay after a bug.
    Raises DeconvError if the launcher itself gives up, as when a process is killed.
    """
    into = f"hydra.sweep.dir={QuotedString(str(home), Quote.double).with_quotes()}"
    with initialize_config_dir(str(shipped("configs")), job_name="deconv", version_base="1.3"):
        config = compose("config", overrides=[*words, *QUIET, into], return_hydra_config=True)
        none: Any = Callback()  # does nothing; Hydra's own list of callbacks, which it stands for, is private
        context = HydraContext(GlobalHydra.instance().config_loader(), none)
        launcher = Plugins.instance().instantiate_launcher(context, partial(_end, run, len(overrides)), config)
        with _in_one_line(config.hydra.runtime.choices[GROUP], home):
            done = launcher.launch(overrides, initial_job_idx=0)
    endings = [job.return_value for job in done]
    if all(ending.status != 1 for ending in endings):
        shutil.rmtree(home / ".submitit", ignore_errors=True)  # joblib has none
    return endings


@contextmanager
def _in_one_line(name: str, home: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        kept = "SLURM keeps the jobs that it has, scancel ends them; " if name in OF_SLURM else ""
        raise KeyboardInterrupt(f": {kept}go on with folder={home} and the same options") from None
    except (RuntimeError, ValueError, TypeError, OSError) as error:  # a killed process, a refused setting, a full disk
        raise DeconvError(f"{GROUP}={name} gave up: {first_line(error)}; go on with folder={home}") from error


def _end(run: Callable[[int], Path], of: int, _: Any) -> Ending:
    """What the launcher calls in its process; `_` are the settings, which Hydra has composed once more."""
    number = HydraConfig.get().job.num
    with redirect_stderr(_Numbered(f"run {number + 1} of {of}: ", sys.stderr)):
        try:
            return Ending(0, str(run(number)))
        except DeconvError as error:
            return Ending(2, str(error))
        except Exception as error:  # returned: Hydra would raise it again in place of the other runs' endings
            traceback.print_exc()
            return Ending(1, f"{type(error).__name__}: {first_line(error)}; the traceback is in its run.log")


class _Numbered(io.TextIOBase):
    """Whole lines, each after the run's name, and no terminal: several processes write to one screen."""

    def __init__(self, name: str, screen: Any) -> None:
        self.name, self.screen, self.begun = name, screen, ""

    def write(self, text: str) -> int:
        *lines, self.begun = (self.begun + text).split("\n")
        if lines:
            self.screen.write("".join(f"{self.name}{line}\n" for line in lines))
            self.screen.flush()
        return len(text)
