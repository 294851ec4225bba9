"""The house rules that a machine can check: who may import whom, how long a file may be, what each config has."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deconv.files.shipped import headline

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "deconv"
MOST_LINES = 300


@dataclass(frozen=True)
class Room:
    """A package, or a module beside the packages.

    imports: the rooms that it may import.  doors: its modules that other rooms may import; the package itself always.
    """

    imports: str = ""
    doors: str = ""


# From the bottom up: who may import whom, and through which door.
HOUSE = {
    "defaults": Room(),
    "errors": Room(),
    "notebooks": Room(),
    "progress": Room(),
    "files": Room("errors", doors="importing shipped versions"),
    "records": Room("defaults errors notebooks files", doors="by_class firing formats provenance"),
    "images": Room(
        "errors notebooks progress files records",
        doors="ahead batches cached class_names decoding members preprocessing shards",
    ),
    "network": Room(
        "defaults errors notebooks images records",
        doors="classes directions graph incremental operations receptive_field roles spatial squares",
    ),
    "engines": Room("errors network", doors="local"),
    "mining": Room(
        "defaults errors progress files records images network engines", doors="beyond correlating moments streaming"
    ),
    "projection": Room(
        "defaults errors progress records images network", doors="by_layer masks patches responses rules"
    ),
    "explanations": Room("errors progress files records images network projection", doors="functions fields"),
    "models": Room("defaults errors files records images network", doors="directions loading presets"),
    "compare": Room(
        "errors progress files records images network engines projection explanations",
        doors="controls guesses judging measuring observers path_check predicting sanity_checks similarity sufficiency "
        "tasks trials trust which_image",
    ),
    "training": Room("errors progress files records images models", doors="data metrics recipe"),
    "analyses": Room(
        "errors progress files records images network engines mining projection models training",
        doors="ablation by_class choosing circuit correspondence cues features filters layers occlusion photograph "
        "transfer",
    ),
    "figures": Room(
        "defaults errors files records images network projection compare training analyses",
        doors="compare_rules features html path_check pictures predict strongest which_image",
    ),
    "views": Room(
        "defaults errors progress files records images network engines mining projection explanations compare analyses "
        "figures"
    ),
    "atlas": Room(
        "defaults errors progress files records images network engines mining projection explanations analyses figures"
    ),
    "command": Room(
        "errors progress files records images network engines mining projection explanations models training analyses",
        doors="ahead cli options settings setup",
    ),
    "__main__": Room("command"),
    "__init__": Room(
        "analyses atlas compare errors explanations figures images mining models network projection records training "
        "views"
    ),
}
UPWARD = {("notebooks", "figures")}
"""The one import that goes up: a network and a record show themselves, when a notebook asks, as figures draws them."""
KNOWS_HYDRA = "command"
READ_PICTURES = ("images",)
"""Rooms that read picture files."""
FOR_ALL_FIGURES = ("beyond", "html", "masks", "page", "pictures", "strongest")
FOR_ALL_ANALYSES = ("by_class", "choosing", "cues", "reframing")
"""Modules that have no figure: by_class and cues are numbers of the atlas, reframing makes what invariance measures."""

FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    """The room that a file is in."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> Iterator[str]:
    """Yield the full name of all that a file imports, wherever in it, with relative imports made absolute."""
    package = list(path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def modules_imported(path: Path) -> set[tuple[str, str]]:
    """Return (room, module in it) of what a file imports from other rooms; "" for the room itself."""
    names = [name.split(".")[1:] for name in imports(path) if name.split(".")[0] == "deconv"]
    modules = {module_in(parts) for parts in names}
    return {(room, inner) for room, _, inner in (module.partition(".") for module in modules) if room != room_of(path)}


def module_in(parts: list[str]) -> str:
    """The longest start of the parts that is a module or a package of deconv; "__init__" if none is."""
    for length in range(len(parts), 0, -1):
        path = PACKAGE.joinpath(*parts[:length])
        if path.with_suffix(".py").is_file() or path.is_dir():
            return ".".join(parts[:length])
    return "__init__"


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=label)
def test_imports_go_one_way(path: Path) -> None:
    assert room_of(path) in HOUSE, f"deconv.{room_of(path)} has no row in HOUSE: place it"
    upward = {room for below, room in UPWARD if below == room_of(path)}
    assert (
        sorted({room for room, _ in modules_imported(path)} - set(HOUSE[room_of(path)].imports.split()) - upward) == []
    )


@pytest.mark.parametrize("path", FILES, ids=label)
def test_rooms_are_entered_by_their_doors(path: Path) -> None:
    if room_of(path) == "__init__":
        return
    inner = {(room, module) for room, module in modules_imported(path) if module}
    assert sorted((room, module) for room, module in inner if module not in HOUSE[room].doors.split()) == []


@pytest.mark.parametrize("path", FILES, ids=label)
def test_only_the_command_knows_hydra_and_nothing_the_experiments(path: Path) -> None:
    tops = {name.split(".")[0] for name in imports(path)}
    assert "experiments" not in tops
    assert room_of(path) == KNOWS_HYDRA or not tops & {"hydra", "omegaconf"}


@pytest.mark.parametrize("path", [*FILES, *sorted((ROOT / "experiments").glob("*.py"))], ids=label)
def test_only_figures_and_the_atlas_draw(path: Path) -> None:
    tops = {name.split(".")[0] for name in imports(path)}
    drawers = {"figures"} if "matplotlib" in tops else {"figures", "atlas", *READ_PICTURES}
    assert not tops & {"matplotlib", "PIL"} or (path.is_relative_to(PACKAGE) and room_of(path) in drawers)


@pytest.mark.parametrize("path", sorted((PACKAGE / "figures").glob("[a-z]*.py")), ids=label)
def test_a_figure_bears_the_name_of_its_experiment(path: Path) -> None:
    assert path.stem in FOR_ALL_FIGURES or list((ROOT / "experiments").glob(f"*{path.stem}.py"))


@pytest.mark.parametrize("path", sorted((PACKAGE / "analyses").glob("[a-z]*.py")), ids=label)
def test_an_analysis_bears_the_name_of_its_figure_and_of_its_test(path: Path) -> None:
    assert path.stem in FOR_ALL_ANALYSES or (PACKAGE / "figures" / path.name).is_file()
    assert (ROOT / "tests" / f"test_{path.name}").is_file()


def test_few_modules_stand_beside_the_packages() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 6


@pytest.mark.parametrize("path", FILES, ids=label)
def test_no_file_is_long(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_the_house_stands() -> None:
    """Every room imports only rooms whose rows stand above its own, so that no two import each other."""
    above: set[str] = set()
    for room, row in HOUSE.items():
        assert set(row.imports.split()) <= above, room
        above.add(room)


def test_the_reading_of_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = PACKAGE / "models" / "made_up.py"
    lines = ["import deconv.errors", "from deconv import progress, Peaks", "from ..records.formats import x"]
    text = "\n".join([*lines, "from . import y", "from deconv.network import Network", "import torch"])
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: text if self == module else "")
    expected = {("errors", ""), ("progress", ""), ("__init__", ""), ("records", "formats"), ("network", "")}
    assert modules_imported(module) == expected


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*/**/*.yaml")), ids=label)
def test_every_choice_says_what_it_is(path: Path) -> None:
    assert 10 <= len(headline(path)) <= 100


@pytest.mark.parametrize("path", sorted((ROOT / "configs/experiment").glob("*.yaml")), ids=label)
def test_every_experiment_has_a_header_and_a_script(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# @package _global_\n# ")
    assert f"deconv experiment={path.stem}" in text
    script = ROOT / "experiments" / f"{path.stem}.py"
    assert script.is_file(), f"{label(path)} has no {label(script)}"
    tree = ast.parse(script.read_text(encoding="utf-8"))
    functions = {
        node.name: [argument.arg for argument in node.args.args]
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }
    assert functions.get("run") == ["options", "folder"]
    assert ast.get_docstring(tree)


@pytest.mark.parametrize(
    "path", sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")}), ids=label
)
def test_every_file_that_a_page_names_is_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = set(
        re.findall(
            r"\b(?:deconv|tests|experiments|configs|docs|benchmarks)/[\w./-]+\.(?:py|yaml|md|jpg|png|pyi)\b", text
        )
    )
    assert sorted(name for name in named if not (ROOT / name).exists()) == []
