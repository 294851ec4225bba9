"""The command, on experiments of the test's own: what it composes, where it writes, how it fails."""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from contextlib import redirect_stderr
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from deconv import progress
from deconv.command import help
from deconv.command.cli import CLAIM, main
from deconv.command.options import EXPERIMENTS
from deconv.command.settings import compose_jobs
from deconv.command.shared import Options, option
from deconv.errors import BadInput
from deconv.files import claimed
from tests.disks import mounted
from tests.promises import GOES_ON, LOG, NOTHING_BEHIND, ONE_RUN, fault
from tests.workshop import start


def settings(path: Path) -> dict[Any, Any]:
    loaded = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(loaded, dict)
    return loaded


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command, check that it ends with status 2 and one line, and return the line."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("deconv: ") and err.count("\n") == 1 and "Traceback" not in err
    return err


def test_a_run_has_a_folder_of_its_own(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment=echo", "layers=[conv1]", "units=[3,17]"]) == 0
    out, err = capsys.readouterr()
    made = Path(out.strip())
    assert re.fullmatch(r"outputs/echo/\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(_\d+)?/said\.txt", str(made))
    assert made.read_text() == "4 tiny\n"
    assert err == "k is 4\n"
    log = (made.parent / "run.log").read_text()
    assert "INFO k is 4" in log and "DEBUG in detail" in log and "units=[3,17]" in log
    config = settings(made.parent / "config.yaml")
    assert config["experiment"] == "echo" and config["layers"] == ["conv1"] and config["units"] == [3, 17]
    assert config["model"]["aliases"] == {"conv1": "features.1"} and config["source"] == {"name": "bundled"}
    assert "torch" in config["versions"] and "folder" not in config and "hydra" not in config


def test_nothing_of_the_run_is_left_on_the_logger(workshop: Path) -> None:
    before = list(logging.getLogger("deconv").handlers)
    main(["experiment=echo"])
    main(["experiment=echo", "how=mismatch"])
    assert logging.getLogger("deconv").handlers == before


def test_two_runs_within_a_second_do_not_share_a_folder(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["seed=1"]) == main(["seed=1"]) == main(["seed=1"]) == 0
    assert len(set(capsys.readouterr().out.split())) == 3
    configs = {path.read_bytes() for path in Path("outputs").rglob("config.yaml")}
    assert len(configs) == 1


@pytest.mark.parametrize("key", ["folder", "hydra.run.dir"])
def test_a_given_folder_is_gone_on_with(workshop: Path, capsys: pytest.CaptureFixture[str], key: str) -> None:
    for _ in range(2):
        assert main([f"{key}=results/mine"]) == 0
    assert Path("results/mine/said.txt").read_text() == "4 tiny\n4 tiny\n"
    assert capsys.readouterr().out == "results/mine/said.txt\n" * 2
    assert not Path("outputs").exists()


def test_settings_that_the_experiment_refuses_do_not_replace_the_records_own(
    workshop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["folder=x", "k=9"]) == 0
    before = Path("x/config.yaml").read_bytes()
    capsys.readouterr()
    assert main(["folder=x", "how=mismatch"]) == 2
    assert capsys.readouterr().err == "k is 4\ndeconv: the record has k=9, this run k=4\n"
    assert Path("x/config.yaml").read_bytes() == before
    assert "RecordMismatch" in Path("x/run.log").read_text()
    assert main(["folder=x", "k=7"]) == 0
    assert settings(Path("x/config.yaml"))["k"] == 7


def test_a_sweep_runs_every_combination(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "experiment=echo", "k=1,2", "source=bundled,folder", "++source.root=a,b"]) == 0
    made = [Path(line) for line in capsys.readouterr().out.split()]
    assert [path.parent.name for path in made] == [str(number) for number in range(8)]
    assert len({path.parent.parent for path in made}) == 1
    assert [path.read_text() for path in made] == ["1 tiny\n"] * 4 + ["2 tiny\n"] * 4


@pytest.mark.parametrize("sweep", ["k=range(1,4)", "k=choice(1,2,3)", "k=1,2,3"])
def test_ways_to_write_a_sweep(workshop: Path, sweep: str) -> None:
    assert [job.config.k for job in compose_jobs([sweep], sweep=True)] == [1, 2, 3]


def test_a_sweep_over_all_choices(workshop: Path) -> None:
    jobs = compose_jobs(["source=glob(*)", "++source.root=x"], sweep=True)
    assert [job.config.source.name for job in jobs] == ["bundled", "folder"]


def test_a_sweep_with_one_mistake_runs_nothing(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "k=0" in fails(capsys, "-m", "k=2,1,0")
    assert "tyny" in fails(capsys, "--multirun", "model=tiny,tyny")
    assert not Path("outputs").exists()


def test_a_sweep_says_which_run_failed(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "how=write,mismatch"]) == 2
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    assert err.splitlines()[-1] == "deconv: run 2 of 2 (how=mismatch): the record has k=9, this run k=4"
    assert main(["-m", "how=mismatch,write"]) == 2
    assert capsys.readouterr().out == ""  # the first that fails is the last


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["experiment=ecko"], ["unknown experiment 'ecko'", "echo", "did you mean 'echo'"]),
        (["model=tny"], ["unknown model 'tny'", "tiny, torchvision", "did you mean 'tiny'"]),
        (
            ["model=resnet18"],
            ["unknown model 'resnet18'", "torchvision's, model=torchvision model.arch=resnet18"],
        ),
        (["layers=[relu,"], ["cannot read 'layers=[relu,', which the shell ended at a space", "as 'layers=[a, b]'"]),
        (["experiment=ech"], ["did you mean 'echo'"]),
        (["source=zzz"], ["unknown source 'zzz'", "bundled, folder"]),
        (["model=[tiny]"], ["unknown model"]),
        (["source=folder", "source.rot=x"], ["'source.rot'", "did you mean 'source.root'"]),
        (["source.root=photos"], ["source.root belongs to source=folder"]),
        (["source=folder"], ["source.root is not given", "source.root="]),
        (["model=torchvision"], ["model.name is not given"]),
        (["k=0"], ["k=0", "1 or more"]),
        (["k=2.5"], ["k=2.5", "a whole number"]),
        (["k=true"], ["k=true", "a whole number"]),
        (["k=null"], ["k=null", "a whole number"]),
        (["seed=-1"], ["seed=-1", "0 or more"]),
        (["rule=[a]"], ["unknown rule '[a]'", "deconvnet, deconvnet_beyond, gradient"]),
        (["scale=big"], ["scale=big", "a number"]),
        (["model.size=8"], ["model.size=8", "a list"]),
        (["model.aliases=8"], ["model.aliases=8", "a mapping"]),
        (["layers=conv1"], ["layers=conv1: expected a list of texts, or null", "as [fire5,fire9]"]),
        (["layers=[]"], ["layers=[]"]),
        (["units=3"], ["units=3: expected a list of whole numbers, or null", "as [3,17]"]),
        (["units=[3,-1]"], ["units=[3,-1]", "0 or more"]),
        (["units=[3,x]"], ["units=[3,x]"]),
        (["k=${nothing}"], ["k=${nothing}"]),
        (["k=1,2"], ["several values", "-m", "k=[1,2]"]),
        (["echo"], ["cannot read 'echo'", "did you mean experiment=echo?"]),
        (["nothing"], ["cannot read 'nothing'", "key=value"]),
        (["source.root=a(b"], ["cannot read 'source.root=a(b'", "write 'source.root=\"a(b\"'"]),
        (["source=folder", "source.root=null"], ["source.root is not given"]),
        (["model=null"], ["unknown model 'null'"]),
        (["folder="], ["folder=: expected a value, or null (where the run goes"]),
        (["folder=[a]"], ["folder=[a]: expected a text, or null", "where the run goes"]),
        (["+k.a=1"], ["unknown option 'k.a'"]),
        (["+rule.sees=1"], ["unknown option 'rule.sees'"]),
        (["+source.rot=x"], ["unknown option 'source.rot'"]),
        (["=3"], ["unknown option ''"]),
        (["draws=3"], ["experiment=echo has no draws; it has batch_size, "]),
        (["layer=a"], ["experiment=echo has no layer; it has layers"]),
        (["options=echo"], ["unknown option 'options'"]),
        (["++k=abc"], ["k=abc", "a whole number"]),
        (["+k=3"], ["+k=3"]),
        (["~k=4"], ["~k=4"]),
        (["hydra.verbose=true"], ["hydra.verbose"]),
        (["hydra/launcher=other"], ["unknown hydra/launcher 'other'", "processes, slurm"]),
        (["-m", "k=interval(1,2)"], ["k=interval(1,2)", "k=1,2"]),
        (["-m", "k=range(1,1)"], ["nothing to run"]),
        (["--multi"], ["unknown flag '--multi'", "did you mean '--multirun'"]),
        (["how=mismatch", "folder=a,b"], ["several values"]),
        (["k=3", "how=write", "k=4"], ["k is given twice", "k=4"]),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line(
    workshop: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], parts: list[str]
) -> None:
    line = fails(capsys, *arguments)
    assert [part for part in parts if part not in line] == [], line
    assert list(Path.cwd().iterdir()) == []


def test_values_that_are_right(workshop: Path) -> None:
    said = ["scale=2", "layers=[conv1]", "model.size=null", "model.resize=9", "+model.aliases.conv2=features.4", "k=2"]
    (job,) = compose_jobs([*said, "source=folder", "source.root=/my photos/2024"], sweep=False)
    assert job.config.model.aliases == {"conv1": "features.1", "conv2": "features.4"}
    assert (job.config.scale, job.config.source.root, job.config.model.size) == (2, "/my photos/2024", None)


def test_a_folder_that_cannot_be_made(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")
    assert "cannot make the folder file" in fails(capsys, "folder=file")
    assert "cannot make the folder file/x" in fails(capsys, "folder=file/x")


def test_settings_without_a_script(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workshop / "experiments/echo.py").unlink()
    assert "experiment 'echo'" in fails(capsys, "experiment=echo")


@NOTHING_BEHIND
@pytest.mark.parametrize("words", [["folder=x/y"], [], ["-m"], ["-m", "folder=x"]])
def test_a_refusal_removes_the_folders_that_were_made_for_it(
    words: list[str], workshop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for how in ("mismatch", "part"):
        assert main([*words, f"how={how}"]) == 2
        assert "k=9" in capsys.readouterr().err
        assert list(Path.cwd().iterdir()) == []


@NOTHING_BEHIND
def test_a_refusal_leaves_a_folder_that_was_there_and_what_is_finished(workshop: Path) -> None:
    Path("x").mkdir()
    assert main(["how=mismatch", "folder=x"]) == 2
    assert "RecordMismatch" in Path("x/run.log").read_text()
    assert main(["how=record", "folder=y"]) == 2
    assert {path.name for path in Path("y").iterdir()} == {"config.yaml", "run.log", "record"}
    assert main(["-m", "how=write,mismatch", "folder=z"]) == 2
    assert [path.name for path in Path("z").iterdir()] == ["0"]


@NOTHING_BEHIND
def test_bugs_and_interruptions_keep_their_log(workshop: Path) -> None:
    with pytest.raises(Exception, match="not_there"):
        main(["how=bug", "folder=x"])
    assert main(["how=interrupt", "folder=y"]) == 130
    assert all(Path(name, "run.log").is_file() for name in "xy")


@ONE_RUN
@fault("a second run in a folder")
def test_the_second_of_two_runs_of_any_experiment_ends_at_once(
    workshop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["folder=x"]) == 0
    before = {path.name: path.read_bytes() for path in Path("x").iterdir()}
    capsys.readouterr()
    with claimed("x", CLAIM):
        assert f"another run works in x (process {os.getpid()} on " in fails(capsys, "folder=x", "k=7")
        assert {path.name: path.read_bytes() for path in Path("x").iterdir() if path.name != CLAIM} == before
    assert main(["folder=x"]) == 0


@GOES_ON
def test_what_a_killed_run_left_is_removed(workshop: Path) -> None:
    for left in (
        "x/.fig.png.0123.part",
        "x/records/.one.safetensors.0123.part",
        "x/records/.lock",
        "x/records/one.safetensors",
    ):
        Path(left).parent.mkdir(parents=True, exist_ok=True)
        Path(left).write_bytes(b"half")
    Path("x/.held").mkdir()
    Path("x/.held/.fig.png.0123.part").write_bytes(b"of another process")
    with claimed("x/.held"):
        assert main(["folder=x"]) == 0
        assert Path("x/.held/.fig.png.0123.part").is_file()
    assert [path.name for path in Path("x/records").iterdir()] == ["one.safetensors"]
    assert {path.name for path in Path("x").iterdir()} == {".held", "config.yaml", "records", "run.log", "said.txt"}


@LOG
@fault("a disk that is full under run.log")
def test_a_log_on_a_full_disk_is_gone_on_without(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("x").mkdir()
    Path("x/run.log").symlink_to("/dev/full")
    assert main(["folder=x"]) == 0
    out, err = capsys.readouterr()
    log = Path.cwd() / "x" / "run.log"
    assert out == "x/said.txt\n"
    assert err == f"cannot write {log}: No space left on device; going on without it\nk is 4\n"


@LOG
@fault("a disk that is full under run.log")
def test_a_run_on_a_full_disk_says_what_it_cannot_write(
    workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with mounted(tmp_path / "disk", "size=8k"):
        (tmp_path / "disk/full").write_bytes(bytes(8192))
        assert main([f"folder={tmp_path / 'disk'}"]) == 2
        log, run = capsys.readouterr().err.splitlines()
        assert log.endswith("run.log: No space left on device; going on without it")
        assert run.startswith("deconv: cannot write ") and "config.yaml: No space left on device" in run


def test_what_libraries_warn_of_goes_to_the_log(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main(["how=warn", "folder=x"]) == 0
    assert capsys.readouterr().err == "k is 4\n"
    assert "WARNING" in Path("x/run.log").read_text() and "a palette is odd" in Path("x/run.log").read_text()


def test_a_bug_shows_its_traceback(workshop: Path) -> None:
    with pytest.raises(Exception, match="not_there"):
        main(["how=bug", "folder=x"])
    assert "Traceback" in Path("x/run.log").read_text()


def test_an_interruption_says_how_to_go_on(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["how=interrupt", "folder=x"]) == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("deconv: interrupted: go on with folder=x")


def test_an_interrupted_sweep_goes_on_in_its_own_folder(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "how=interrupt,write"]) == 130
    (folder,) = Path("outputs/echo").iterdir()
    expected = f"deconv: interrupted: go on with folder={folder} and the same options"
    assert capsys.readouterr().err.splitlines()[-1] == expected


def test_only_warnings_appear_beside_a_bar(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SHOW_AFTER", 0.05)
    monkeypatch.setenv("TERM", "xterm")
    with redirect_stderr(io.StringIO()) as screen:
        monkeypatch.setattr(screen, "isatty", lambda: True)
        assert main(["how=bar", "folder=x"]) == 0
    shown = screen.getvalue()
    assert "stirring" in shown and shown.count("look here") == 2 and "in passing" not in shown
    assert Path("x/run.log").read_text().count("in passing") == 2


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"], [], ["--help", "k=nonsense"]])
def test_help_lists_all_there_is(workshop: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert main(arguments) == 0
    page = capsys.readouterr().out
    for line in (
        "  echo  Says what it was given.",
        "  tiny         A small network.",
        "  folder   A tree of pictures.",
    ):
        assert line in page.splitlines()
    for key in ("layers", "units", "n_units", "k", "per_image", "rule.relu", "batch_size", "seed", "folder"):
        assert re.search(rf"^  {re.escape(key)}=\S+ +\w", page, re.MULTILINE)
    assert "model=NAME   (and model.KEY=..., with KEY one of aliases, name, resize, size, weights)" in page
    assert page.count("\n  deconv ") == 3
    assert max(map(len, page.splitlines())) <= 120


@dataclass
class Pot:
    lid: str | None = option(None, "its colour")
    long: list[int] = option([1, 2], "")


@dataclass
class Stir(Options):
    spoon: str = option("small", "of two sizes")
    pot: Pot = field(default_factory=Pot)
    soups: dict[str, dict[str, Any] | None] = option({}, "by name")


def test_help_on_one_experiment(
    workshop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EXPERIMENTS, "stir", Stir)
    header = "# @package _global_\n# Stirs.\n# Slowly.\n\n"
    text = f"{header}spoon: big\nsoups:\n  pea: {{hot: true}}\n"
    (workshop / "configs/experiment/stir.yaml").write_text(text)
    assert main(["--help", "experiment=stir"]) == 0
    page = capsys.readouterr().out.splitlines()
    assert page[:4] == ["experiment=stir", "", "Stirs.", "Slowly."]
    rows = ["  spoon=big     of two sizes", "  pot.lid=null  its colour", "  pot.long=[1,2]"]
    assert page[6:11] == [*rows, "  soups=...     by name", "  soups.pea={hot: true}"]
    assert main(["--help", "experiment=stirr"]) == 2
    assert "unknown experiment 'stirr'; expected one of echo, stir; did you mean 'stir'" in capsys.readouterr().err


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_option_has_its_line_in_the_help(name: str) -> None:
    listed = dict(help.options(name))
    assert all(listed[row] for row in listed if row.count(".") == 0)
    assert {row.split("=")[0].split(".")[0] for row in listed} == {
        entry.name for entry in fields(EXPERIMENTS[name]) if entry.name not in ("model", "source", "engine")
    }


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"deconv (\d+\.\d+\.\d+|not installed)\n", capsys.readouterr().out)


def test_ctrl_c_in_a_process(workshop: Path) -> None:
    process = start(workshop, "how=sleep", "folder=x")
    assert process.stdout is not None and process.stdout.readline() == "asleep\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "k is 4\ndeconv: interrupted: go on with folder=x and the same options\n"


def test_a_bug_in_a_process(workshop: Path) -> None:
    process = start(workshop, "how=bug", "folder=x")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and err.count("Traceback") == 1 and "not_there" in err


def test_a_reader_that_has_enough_is_no_bug(workshop: Path) -> None:
    process = start(workshop, "--help")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(timeout=60) == 0
    process.stderr.close()


def test_composing_leaves_hydra_as_it_was(workshop: Path) -> None:
    compose_jobs(["k=3"], sweep=False)
    with pytest.raises(BadInput):
        compose_jobs(["k=x"], sweep=False)
    shutil.rmtree(workshop / "configs/model")
    with pytest.raises(BadInput, match="model/tiny"):
        compose_jobs([], sweep=False)


@pytest.mark.parametrize(("set_before", "expected"), [(None, "1"), ("0", "0")])
def test_torch_is_asked_for_large_pages_unless_the_user_says_otherwise(
    set_before: str | None, expected: str, tmp_path: Path
) -> None:
    """Before torch, which reads the variable once, is there."""
    program = (
        "import os, sys; from deconv.command.cli import main; main(['--help'])\n"
        "print('torch' in sys.modules, os.environ['THP_MEM_ALLOC_ENABLE'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    environment |= {} if set_before is None else {"THP_MEM_ALLOC_ENABLE": set_before}
    said = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == f"False {expected}"


def test_a_part_of_a_gpu_is_a_number() -> None:
    (job,) = compose_jobs(["experiment=fig2_features", "engine=ray", "engine.num_gpus=0.5"], sweep=False)
    assert job.config.engine.num_gpus == 0.5
