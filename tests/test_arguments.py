"""Texts that Hydra reads as something else: the mend that a message gives works when it is pasted into a shell."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from deconv.command.arguments import as_text
from deconv.command.cli import main
from deconv.command.options import Fig2Features
from deconv.command.settings import compose_jobs
from deconv.errors import BadInput
from deconv.images import open_source
from tests.promises import REFUSED

READ_AS_SOMETHING_ELSE = [
    "100",
    "100_000",
    "1e5",
    "1.0",
    ".5",
    "nan",
    "inf",
    "true",
    "FALSE",
    "null",
    "[a]",
    "{a: b}",
    "[1,2]",
]
SEVERAL = ["a, b", "a,b", "1,2", "range(1,3)", "a,  b"]
UNREADABLE = [
    'a"b',
    "it's",
    'it\'s "x"',
    "x=y",
    "{a}",
    "(x)",
    "a#b",
    "a&b",
    "é",
    "日本",
    "a;b",
    "<x>",
    "`x`",
    "a]b",
    'a\\"b',
    "a}b",
]
INTERPOLATED = ["${a}", "$${x}", "a${b}c"]
TAKEN = ["-x", "--help", "007", "0x10", "a b", "a:b", "a@b", "*", "$HOME", "a\\", "x|y", "+x", "a  b", "nul"]


def mend(line: str) -> list[str]:
    """What a shell makes of the last thing that a message says to write."""
    command = f"printf '%s\\0' {line.rpartition('write ')[2]}"
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout.split("\0")[:-1]


def refused(said: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(said) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@REFUSED
@pytest.mark.parametrize("name", [*READ_AS_SOMETHING_ELSE, *SEVERAL, *UNREADABLE, *INTERPOLATED])
def test_the_mend_opens_the_folder_when_pasted(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    Image.new("RGB", (8, 8)).save(Path(name, "a.png"))
    line = refused(["experiment=fig2_features", "source=folder", f"source.root={name}"], capsys)
    (pasted,) = mend(line)
    (job,) = compose_jobs(["experiment=fig2_features", "source=folder", pasted], sweep=False)
    assert job.options.source["root"] == name and len(open_source(**job.options.source)) == 1
    assert shlex.split(line.rpartition("write ")[2]) == [pasted]


@pytest.mark.parametrize("name", TAKEN)
def test_what_hydra_reads_as_it_stands_is_taken(name: str) -> None:
    (job,) = compose_jobs(["experiment=fig2_features", "source=folder", f"source.root={name}"], sweep=False)
    assert job.options.source["root"] == name


@pytest.mark.parametrize("name", [*READ_AS_SOMETHING_ELSE, *SEVERAL, *UNREADABLE, *INTERPOLATED, *TAKEN])
def test_a_text_is_said_exactly(name: str) -> None:
    """Of two options at once, one of them as Hydra forces it: composing them takes a tenth of a second."""
    said = [word for key in ("source.root", "++model.weights") for word in shlex.split(as_text(key, name))]
    (job,) = compose_jobs(["experiment=fig2_features", "source=folder", *said], sweep=False)
    options = job.options
    assert isinstance(options, Fig2Features) and len(said) == 2
    assert options.source["root"] == options.model["weights"] == name


@pytest.mark.parametrize("option", ["folder", "cache", "model.weights"])
@pytest.mark.parametrize("value", ["1e5", "true", "1_000", "1.50"])
def test_other_texts_are_not_changed_either(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    usual = ["experiment=fig2_features", "model=squeezenet"]
    (pasted,) = mend(refused([*usual, f"{option}={value}"], capsys))
    (job,) = compose_jobs([*usual, pasted], sweep=False)
    found = job.config.model.weights if option == "model.weights" else getattr(job.options, option)
    assert found == value


@pytest.mark.parametrize("value", ["100", "007", "a"])
def test_a_number_that_stays_what_was_said_names_a_folder(value: str) -> None:
    (job,) = compose_jobs(["experiment=fig2_features", f"folder={value}"], sweep=False)
    assert job.options.folder == value


@pytest.mark.parametrize("value", ["1", "true"])
def test_urls_are_texts(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(["source=webdataset", "experiment=train", f"source.urls={value}"], capsys)
    assert "source.urls" in line or "urls:" in line


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("++source.root=x", "the source bundled has no option root; it has none"),
        ("+source.urls=x", "the source bundled has no option urls; it has none"),
        ("++source.classes=x", "the source bundled has no option classes; it has none"),
        ("source.root=x", "source.root belongs to source=folder or source=torchvision: add that"),
    ],
)
def test_options_of_another_source_are_one_line(
    said: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["experiment=fig2_features", "model=squeezenet", "model.weights=random", "model.size=[64,64]"]
    assert refused([*small, f"folder={tmp_path}", said], capsys) == f"deconv: {expected}"


def test_a_flag_is_no_folder() -> None:
    with pytest.raises(BadInput, match="cannot read '-x'"):
        compose_jobs(["-x"], sweep=False)
