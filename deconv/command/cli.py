"""The command `deconv`: compose the settings, run the experiment in a folder of its own, say where the result is.

Exit status: 0, 2 after a mistake of the user's (one line on stderr), 130 after Ctrl-C, 1 after a bug (a traceback).
A run that ends with 2 before it has made anything leaves nothing: the folder that was made for it is removed again.
With --dry-run it only says what each run would do, or what it would be refused with.
Of a sweep, the first run that fails is the last in this process; where a launcher starts them, all others are finished.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

from omegaconf import OmegaConf

from deconv import files
from deconv.command import completion, help, launchers
from deconv.command.paths import check_paths
from deconv.command.run_log import logging_to
from deconv.command.settings import Job, compose_jobs, in_words_of_the_command
from deconv.errors import BadInput, DeconvError, UnknownName, unknown
from deconv.files.shipped import shipped
from deconv.files.versions import versions

FLAGS = ("-h", "--help", "-m", "--multirun", "--dry-run", "--version", *completion.FLAGS)
ABOUT_THE_RUN = ("config.yaml", "run.log")
"""What a run says of itself: where a refused run has left nothing else, its folder is removed again."""
CLAIM = ".running"
"""The file that a run holds in its folder as long as it goes on; what it calls claims the folder in its own name."""
LARGE_PAGES = "THP_MEM_ALLOC_ENABLE"
"""The variable by which torch (2.2) asks Linux for pages of 2 MiB; it is read when torch first needs memory."""
log = logging.getLogger("deconv")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (sys.argv's by default) and return its exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    os.environ.setdefault(LARGE_PAGES, "1")  # this process, and those that it starts, are ours
    try:
        return _command(given)
    except DeconvError as error:
        return _end(str(error), 2)
    except KeyboardInterrupt as stop:
        return _end(f"interrupted{stop}", 130)


def _end(message: str, status: int) -> int:
    print(f"deconv: {' '.join(message.splitlines())}", file=sys.stderr)  # spaces in names stay as they are
    return status


def _say(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # who reads it, such as head, has enough; Python would complain again when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _command(given: list[str]) -> int:
    flags = {word for word in given if word.startswith("-")}
    for flag in sorted(flags.difference(FLAGS)):
        raise unknown("flag", flag, FLAGS)
    words, sweep = [word for word in given if word not in flags], bool(flags & {"-m", "--multirun"})
    if flags & set(completion.FLAGS):
        completion.complete(words)
    elif flags & {"-h", "--help"} or given in ([], ["help"]):
        named = [word.partition("=")[2] for word in words if word.startswith("experiment=")]
        _say(help.experiment_text(named[-1]) if named else help.text())
    elif "--version" in flags:
        _say(f"deconv {versions()['deconv']}")
    elif "--dry-run" in flags:
        _rehearse_all(words, sweep)
    else:
        return _run_all(words, sweep)
    return 0


def _jobs(words: list[str], sweep: bool) -> list[Job]:
    jobs = compose_jobs(words, sweep)
    if len(jobs) == 1:  # of several, those that can be done are
        check_paths(jobs[0].options)
    return jobs


def _rehearse_all(words: list[str], sweep: bool) -> None:
    """Say of each run what it would do; raises what the run would be refused with. No folder is made."""
    jobs = _jobs(words, sweep)
    from deconv.command import planning  # brings torch

    for number, job in enumerate(jobs):
        root = job.folder or Path("outputs") / job.experiment / "<time>"
        folder = root / str(number) if sweep else root
        try:
            text = planning.plan(job, _load(_script(job.experiment)), folder)
        except DeconvError as error:
            said = in_words_of_the_command(error, job.keys)
            raise type(error)(_of_run(jobs, number, str(said))) from error
        title = f"run {number + 1} of {len(jobs)}: {' '.join(job.said)}\n" if len(jobs) > 1 else ""
        _say(f"{title}{text}")


def _run_all(words: list[str], sweep: bool) -> int:
    jobs = _jobs(words, sweep)
    scripts = [_script(job.experiment) for job in jobs]
    if jobs[0].launcher:
        return _launch_all(jobs, scripts)
    programs = {job.experiment: _load(script) for job, script in zip(jobs, scripts, strict=True)}
    for number, (job, folder) in enumerate(zip(jobs, _folders(jobs, sweep), strict=True)):
        try:
            _say(str(_run(job, programs[job.experiment], folder)))
        except DeconvError as error:
            raise type(error)(_of_run(jobs, number, str(error))) from error
        except KeyboardInterrupt:
            again = folder.path.parent if sweep else folder.path
            raise KeyboardInterrupt(f": go on with folder={again} and the same options") from None
    return 0


def _launch_all(jobs: list[Job], scripts: list[Path]) -> int:
    """Run the jobs by their launcher: one that fails does not end the others, and all that failed are named."""
    folders = list(_folders(jobs, sweep=True))
    home = folders[0].path.parent
    run = partial(_run_number, jobs, scripts, folders)
    endings = launchers.launch(jobs[0].launcher, [job.said for job in jobs], run, home)
    for number, ending in enumerate(endings):
        if ending.status == 0:
            _say(ending.text)
        else:
            _end(_of_run(jobs, number, ending.text), ending.status)
        if ending.status == 2:
            folders[number].remove_if_unused()  # the sweep's folder, which the launcher has left by now
    return next(status for status in (1, 2, 0) if status in {ending.status for ending in endings})


def _run_number(jobs: list[Job], scripts: list[Path], folders: list[_Folder], number: int) -> Path:
    return _run(jobs[number], _load(scripts[number]), folders[number])


def _of_run(jobs: list[Job], number: int, message: str) -> str:
    return f"run {number + 1} of {len(jobs)} ({' '.join(jobs[number].said)}): {message}" if len(jobs) > 1 else message


def load_experiment(name: str) -> ModuleType:
    """Return the module of experiments/<name>.py, which has run(options, folder) -> Path; UnknownName without it."""
    return _load(_script(name))


def _script(name: str) -> Path:
    path = shipped("experiments") / f"{name}.py"
    if not path.is_file():
        raise UnknownName(
            f"experiment {name!r} has settings but no script {path}: add the script or remove the settings"
        )
    return path


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"deconv_experiments.{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look a class's module up there
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class _Folder:
    """A run's folder. made: of it and those above it, the ones that were made for the run, the innermost first."""

    path: Path
    made: tuple[Path, ...]

    def remove_if_unused(self) -> None:
        """Remove what was made for the run, unless more is in it than the run says of itself."""
        files = [path for path in self.path.rglob("*") if path.is_symlink() or not path.is_dir()]
        if not self.made or not {self.path / name for name in ABOUT_THE_RUN}.issuperset(files):
            return
        for file in files:
            file.unlink()
        below = [path for path in self.path.rglob("*") if path.is_dir()]
        with suppress(OSError):  # another run of a sweep has its folder beside this one
            for folder in (*sorted(below, reverse=True), *self.made):
                with suppress(FileNotFoundError):
                    folder.rmdir()


def _folders(jobs: list[Job], sweep: bool) -> Iterator[_Folder]:
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    unplaced = sorted({job.experiment for job in jobs if job.folder is None})
    roots = {name: _new_folder(Path("outputs") / name / stamp) for name in unplaced}
    for number, job in enumerate(jobs):
        root = roots[job.experiment] if job.folder is None else _Folder(job.folder, ())
        path = root.path / str(number) if sweep else root.path
        yield _Folder(path, (*_make(path, may_exist=True), *root.made))


def _new_folder(path: Path) -> _Folder:
    """Make a folder that no other run has, also when two start within one second."""
    free, number = path, 1
    while True:
        try:
            return _Folder(free, _make(free, may_exist=False))
        except FileExistsError:
            number += 1
            free = path.with_name(f"{path.name}_{number}")


def _make(folder: Path, may_exist: bool) -> tuple[Path, ...]:
    """Make a folder, and return what was made: it and those above it that were missing, the innermost first."""
    missing = tuple(path for path in (folder, *folder.parents) if not path.exists())
    try:
        folder.mkdir(parents=True, exist_ok=may_exist)
    except OSError as error:
        if isinstance(error, FileExistsError) and not may_exist:
            raise
        raise BadInput(f"cannot make the folder {folder}: {error.strerror}; give another as folder=...") from error
    return missing


def _run(job: Job, program: ModuleType, folder: _Folder) -> Path:
    try:
        with files.claimed(folder.path, CLAIM):
            files.remove_leftovers(folder.path)
            return _run_logged(job, program, folder.path)
    except DeconvError:
        folder.remove_if_unused()
        raise


def _run_logged(job: Job, program: ModuleType, folder: Path) -> Path:
    with logging_to(folder):
        log.debug("deconv %s", shlex.join(job.said))
        try:
            return _run_in(job, program, folder)
        except KeyboardInterrupt:
            log.debug("interrupted")
            raise
        except BaseException:
            log.debug("the run failed", exc_info=True)
            raise


def _run_in(job: Job, program: ModuleType, folder: Path) -> Path:
    saved = folder / "config.yaml"
    written = {"experiment": job.experiment, **job.config, "versions": versions()}
    config = OmegaConf.to_yaml(OmegaConf.create(written)).encode()
    if not saved.exists():
        files.write_whole(saved, config)
    try:
        made: Path = program.run(job.options, folder)
    except DeconvError as error:
        raise in_words_of_the_command(error, job.keys) from error
    # Only now: options that the experiment refused must not replace those of its records.
    files.write_whole(saved, config)
    return made


if __name__ == "__main__":
    sys.exit(main())
