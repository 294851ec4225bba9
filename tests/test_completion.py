"""Completion of the command line, by Hydra."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.completion_plugin import CompletionPlugin

from deconv.command.cli import main
from deconv.command.completion import SHELLS
from deconv.command.options import EXPERIMENTS


def offered(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    monkeypatch.setenv("COMP_LINE", line)
    assert main(["-sc", "query=bash"]) == 0
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("deconv exp", ["experiment="]),
        ("deconv experiment=", [f"experiment={name}" for name in sorted(EXPERIMENTS)]),
        ("deconv experiment=fig7", ["experiment=fig7_occlusion"]),
        ("deconv experiment=train validat", ["validation="]),  # which has no group rule
        ("deconv experiment=fig2_features rule=gui", ["rule=guided", "rule=guided_beyond"]),
        ("deconv --shell model=torchvision model.ar", ["model.arch="]),
        ("deconv experiment=nonsense", []),
    ],
)
def test_what_is_offered(
    line: str, expected: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert offered(line, monkeypatch, capsys) == expected


@pytest.mark.parametrize(
    "words", [[], ["install=csh"], ["install"], ["install=bash", "uninstall=bash"], ["query=bash"]]
)
def test_mistakes_are_named(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COMP_LINE", raising=False)
    assert main(["--shell-completion", *words]) == 2
    assert capsys.readouterr().err.startswith("deconv: -sc") and "Traceback" not in capsys.readouterr().err


def test_what_bash_evaluates(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With a `deconv` that offers two words, the function that is installed completes to the one that fits."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/deconv"])
    assert main(["-sc", "install=bash"]) == 0
    script = capsys.readouterr().out + (
        "deconv() { [ \"$*\" = '-sc query=bash' ] && echo experiment=atlas experiment=tour; }\n"
        "COMP_LINE='deconv experiment=t' COMP_POINT=19 COMP_CWORD=1\n"
        "complete -p deconv; hydra_bash_completion; echo ${COMPREPLY[@]}"
    )
    done = subprocess.run([bash, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "complete -o default -o nospace -F hydra_bash_completion deconv",
        "experiment=tour",
    ]


def test_hydras_shells_are_those_that_are_named() -> None:
    shells = {getattr(plugin, "provides")() for plugin in Plugins.instance().discover(CompletionPlugin)}  # noqa: B009
    assert shells == set(SHELLS)
