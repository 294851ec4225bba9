"""What may not be said to the command: checked before anything is built, mined or written."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

import torch

import deconv
from deconv.command.cli import main
from deconv.errors import DeconvError
from deconv.images import open_source
from tests.commands import words
from tests.hostile.images import small
from tests.hostile.rows import Done, Rows, line
from tests.samples import SIZE

SMALL = ["model=squeezenet", "model.weights=random", "model.size=[64,64]", "layers=[conv1,fire2]"]


def command(*said: str) -> Done:
    """Run it, check that it ends with status 2 and nothing but one line, and raise that as the library would."""

    def done(home: Path) -> None:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            assert main(words(SMALL, said, [f"folder={home.parent / 'run'}"])) == 2
        (only,) = err.getvalue().splitlines()
        assert out.getvalue() == "" and only.startswith("deconv: ")
        raise DeconvError(only)

    return done


def home(folder: Path) -> Path:
    return folder


def opened(name: str, option: str, value: object, home: Path) -> object:
    return open_source(name, **{option: value})


SAID: dict[str, str] = {
    "k=-1": "k=-1: expected 1 or more",
    "k=nine": "k=nine: expected a whole number .strongest peaks of each unit",
    "k=1000000": "k: given 1000000 for 192 units; expected at most 174762, .*take a smaller k, or fewer layers",
    "kk=3": "unknown option 'kk'; did you mean 'k'",
    "batchsize=3": "unknown option 'batchsize'; did you mean 'batch_size'",
    "model.sise=[8,8]": "unknown option 'model.sise'; did you mean 'model.size'",
    "experiment=fig2_feature": "unknown experiment 'fig2_feature'; expected one of .*did you mean 'fig2_features'",
    "seed=99999999999999999999": "seed=9+: expected 4294967295 or less",
    "model.mean=[0.5,0.5]": "mean: given .*; expected three finite numbers",
    "model.mean=[a,b,c]": r"model\.mean=\[a,b,c\]: expected values like those in model.mean=\[0.485",
    "model.std=[0.2,0.2,-0.2]": "std: given .*; expected three positive finite numbers",
    "model.size=[100000,100000]": "size: given .*; expected at most 33554432 pixels",
    "model.size=[1,2,3]": "size: given .*; expected two whole numbers",
    "model.size=[x,y]": r"model\.size=\[x,y\]: expected values like those in model.size=\[227,227\]",
    "cache=[3]": r"cache=\[3\]: expected a text, or null .a folder in which",
}
SETTINGS: Rows = {
    **{said: (home, command(said), line(expected)) for said, expected in SAID.items()},
    "a k of 10^20": (
        home,
        lambda folder: deconv.mine(small(), torch.zeros(1, 3, SIZE, SIZE), ["one", "two"], k=10**20),
        line("k: given 1000+ for 11 units; expected at most 3050402"),
    ),
    **{
        f"source={name} {option}={value}": (
            home,
            partial(opened, name, option, value),
            line(f"{option}: given .*; expected a text, as the source {name} takes it"),
        )
        for name, option, value in [("folder", "root", ["a"]), ("folder", "root", 2024), ("webdataset", "urls", 3)]
    },
}
