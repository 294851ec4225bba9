"""Sweeps through Hydra's launchers: the runs in other processes, the folders and lines those of a sweep in this one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deconv.command import launchers
from deconv.command.cli import CLAIM, main
from deconv.files import shipped
from tests.workshop import ROOT, start

cpu_count = pytest.importorskip("joblib", reason="needs the extra joblib").cpu_count
pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs the extra joblib")
pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs the extra slurm")

# SLURM on one machine: sbatch starts each task of the array in the background, as srun says.
SBATCH = """#!/bin/bash
cp "$1" seen.sh
for task in 0 1; do
    SLURM_JOB_ID=7$task SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$task SLURM_PROCID=0 bash "$1" > /dev/null 2>&1 &
done
echo "Submitted batch job 7"
"""
SRUN = """#!/bin/bash
[[ $1 == --unbuffered && $2 == --output && $4 == --error ]] && shift 5 && exec "$@"
"""
SACCT = "#!/bin/bash\nprintf 'JobID|State|NodeList\\n7_[0-1]|RUNNING|here\\n'\n"
TWO_AT_ONCE = ("hydra/launcher=processes", "hydra.launcher.n_jobs=2")


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put SLURM's commands, as far as submitit uses them, before all others."""
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT}.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def files(folder: Path) -> dict[str, bytes]:
    """All files below a folder but for the logs, whose lines have a time."""
    return {
        str(path.relative_to(folder)): b"" if path.name == "run.log" else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def log_of(folder: Path) -> list[str]:
    return [line.split(" ", 2)[2] for line in (folder / "run.log").read_text().splitlines()]


@pytest.mark.parametrize("launcher", [TWO_AT_ONCE, ("hydra/launcher=submitit_local",)], ids=["joblib", "submitit"])
def test_the_folders_are_those_of_a_sweep_in_this_process(
    workshop: Path, capsys: pytest.CaptureFixture[str], launcher: tuple[str, ...]
) -> None:
    assert main(["-m", "k=1,2", "folder=runs"]) == 0
    made = capsys.readouterr().out
    Path("runs").rename("before")
    assert ended(start(workshop, "-m", *launcher, "k=1,2", "folder=runs"))[:2] == (0, made)
    assert files(Path("runs")) == files(Path("before"))
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["before", "runs"]
    for number in "01":
        assert log_of(Path("runs") / number) == log_of(Path("before") / number)


def test_slurm_gets_the_runs_as_one_array(workshop: Path, slurm: None) -> None:
    settings = ["hydra.launcher.partition=gpu", "hydra.launcher.timeout_min=600", "hydra.launcher.cpus_per_task=4"]
    status, out, _ = ended(start(workshop, "-m", "hydra/launcher=slurm", *settings, "k=1,2"))
    made = [Path(line) for line in out.split()]
    assert status == 0 and [path.read_text() for path in made] == ["1 tiny\n", "2 tiny\n"]
    assert [path.parent.name for path in made] == ["0", "1"] and len({path.parent.parent for path in made}) == 1
    assert sorted(path.name for path in made[0].parent.parent.iterdir()) == ["0", "1"]
    asked = Path("seen.sh").read_text()
    for line in ("--partition=gpu", "--time=600", "--cpus-per-task=4", "--job-name=deconv"):
        assert f"#SBATCH {line}\n" in asked
    assert "#SBATCH --array=0-1%" in asked


def test_what_slurm_refuses_is_one_line(workshop: Path, slurm: None, tmp_path: Path) -> None:
    (tmp_path / "bin/sbatch").write_text("#!/bin/bash\necho 'sbatch: error: invalid partition: gqu' >&2; exit 1\n")
    status, out, err = ended(start(workshop, "-m", "hydra/launcher=slurm", "k=1,2", "folder=x"))
    assert status == 2 and out == "" and err.count("deconv: ") == 1  # after sbatch's own line
    refused = "sbatch: error: invalid partition: gqu"
    assert err.splitlines()[-1] == f"deconv: hydra/launcher=slurm gave up: {refused}; go on with folder=x"


def test_one_that_fails_does_not_end_the_others(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    status, out, err = ended(start(workshop, "-m", *TWO_AT_ONCE, "how=mismatch,bug,threads", "folder=x"))
    assert (status, out) == (1, f"{max(1, cpu_count() // 2)}\n")  # the processes share the cores
    said = [line for line in err.splitlines() if line.startswith("deconv: ")]
    assert said[0] == "deconv: run 1 of 3 (how=mismatch folder=x): the record has k=9, this run k=4"
    assert said[1].startswith("deconv: run 2 of 3 (how=bug folder=x): ") and "not_there" in said[1] and len(said) == 2
    assert {f"run {number} of 3: k is 4" for number in (1, 2, 3)} <= set(err.splitlines())
    assert not Path("x/0").exists() and "Traceback" in Path("x/1/run.log").read_text()


def sleeping(workshop: Path) -> subprocess.Popen[str]:
    """Start two runs that sleep, and wait until both do."""
    process = start(workshop, "-m", *TWO_AT_ONCE, "how=sleep", "k=1,2", "folder=x")
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["asleep\n"] * 2
    time.sleep(0.1)
    return process


def test_ctrl_c_ends_all_runs(workshop: Path) -> None:
    process = sleeping(workshop)
    process.send_signal(signal.SIGINT)
    status, _, err = ended(process)  # which also waits for the workers: they hold the other end of its pipe
    assert status == 130
    assert err.splitlines()[-1] == "deconv: interrupted: go on with folder=x and the same options"
    left = {name for name in files(Path("x")) if not name.endswith(CLAIM)}  # joblib kills its processes
    assert left == {f"{number}/{name}" for number in "01" for name in ("config.yaml", "run.log")}


def test_a_killed_process_is_one_line(workshop: Path) -> None:
    (workshop / "experiments/echo.py").write_text(
        "import os, signal\ndef run(config, folder):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    status, out, err = ended(start(workshop, "-m", *TWO_AT_ONCE, "k=1,2", "folder=x"))
    assert status == 2 and out == "" and err.count("\n") == 1
    assert err.startswith("deconv: hydra/launcher=processes gave up: ")
    assert err.endswith("; go on with folder=x\n")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["-m", "hydra/launcher=procesess"], ["unknown hydra/launcher 'procesess'", "did you mean 'processes'"]),
        (["-m", "hydra/launcher=basic"], ["unknown hydra/launcher 'basic'", "joblib, submitit_local, submitit_slurm"]),
        (["hydra/launcher=processes"], ["hydra/launcher=processes", "add -m"]),
        (["-m", "hydra.launcher.n_jobs=2"], ["belongs to hydra/launcher=NAME", "processes or slurm"]),
        (["-m", "hydra/launcher=joblib", "hydra.launcher.njobs=2"], ["did you mean 'hydra.launcher.n_jobs'"]),
        (["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=two"], ["n_jobs", "two", "Integer"]),
        (["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=0"], ["hydra.launcher.n_jobs=0", "-1"]),
        (["-m", "hydra/launcher=joblib,processes"], ["several values", "one way"]),
        (["-m", *TWO_AT_ONCE, "hydra.launcher.n_jobs=3"], ["given twice"]),
        (["-m", "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=0"], ["timeout_min=0", "1 or more"]),
        (["-m", "hydra/launcher=submitit_local", "hydra.launcher._target_=os.system"], ["hydra.launcher._target_"]),
        (["-m", "hydra/launcher=slurm"], ["hydra/launcher=slurm needs SLURM", "no srun", "submitit_local"]),
        (["-m", *TWO_AT_ONCE, "k=1,0"], ["k=0"]),
    ],
    ids=lambda words: " ".join(words),
)
def test_a_mistake_is_one_line_and_nothing_is_started(
    workshop: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    parts: list[str],
) -> None:
    monkeypatch.setenv("PATH", "")
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and [part for part in parts if part not in err] == [], err
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(("name", "extra"), [("processes", "joblib"), ("joblib", "joblib"), ("slurm", "slurm")])
def test_a_launcher_that_is_not_installed(
    workshop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, extra: str
) -> None:
    monkeypatch.setitem(launchers.NEEDS, name, ("hydra_not_there", launchers.NEEDS[name][1]))
    assert main(["-m", f"hydra/launcher={name}"]) == 2
    line = f"deconv: hydra/launcher={name} is not installed: pip install 'deconvnet[{extra}]'\n"
    assert capsys.readouterr().err == line


def test_neither_help_nor_a_mistake_loads_what_is_slow(workshop: Path) -> None:
    program = (
        "import sys; from deconv.command.cli import CLAIM, main\n"
        "for words in (['--help'], ['-m', 'hydra/launcher=joblib', 'k=0'], ['-m', 'k=0']): main(words)\n"
        "print(sorted({'joblib', 'loky', 'submitit', 'torch'} & set(sys.modules)))"
    )
    around = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=around, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]" and done.stderr.count("k=0") == 2


def test_help_names_the_launchers(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    page = capsys.readouterr().out
    assert (
        "hydra/launcher=NAME   (and hydra.launcher.KEY=..., with KEY one of max_num_timeout, n_jobs, timeout_min)"
        in page
    )
    for name in shipped.choices("hydra/launcher"):
        assert f"\n  {name} " in page and name in launchers.NEEDS
