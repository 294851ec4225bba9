"""The house rules that a machine can check: who may import whom, how long a file may be, what each config has."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from deconv.help import headline

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "deconv"
MOST_LINES = 300

# From the bottom up: each module may import the modules of deconv named in its row, and no others.
# A new module needs a row; a row of a module that is not there yet does no harm.
BASE = {
    "errors",
    "graph.operations",
    "graph.spatial",
    "images.preprocessing",
    "progress",
    "record_files",
    "records",
    "runs",
}
GRAPH = BASE | {"graph"}
STAGES = GRAPH | {
    "network",
    "receptive_field",
    "rules",
    "sources",
    "topk",
    "projection.walk",
    "projection.ways",
    "projection.windows",
}
PIPELINE = STAGES | {"compare", "images.frame_cache", "mining", "models", "patches", "projection"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "progress": set(),
    "graph.spatial": set(),
    "graph.operations": {"graph.spatial"},
    "images.preprocessing": {"errors"},
    "runs": {"errors"},
    "record_files": {"errors", "runs"},
    "records": {"errors", "record_files", "runs"},
    # where images come from
    "images.ahead": set(),
    "images.members": {"errors"},
    "images.decoding": {"errors", "images.members"},
    "images.photographs": {"errors"},
    "images.folders": {"images.decoding", "errors", "images.members"},
    "images.shard_files": BASE,
    "images.shards": BASE | {"images.decoding", "images.members", "images.shard_files"},
    "images.class_names": {"errors"},
    "sources": BASE
    | {
        "images.ahead",
        "images.class_names",
        "images.decoding",
        "images.folders",
        "images.members",
        "images.photographs",
        "images.shards",
    },
    "images.frame_cache": BASE | {"sources"},
    # a network as a graph, and how it is walked
    "graph": BASE,
    "graph.exported": GRAPH,
    "graph.axes": GRAPH | {"graph.exported"},
    "graph.sliding": GRAPH | {"graph.exported"},
    "graph.lowering": GRAPH | {"graph.axes", "graph.exported", "graph.sliding"},
    "graph.functional": set(),
    "graph.tracing": GRAPH | {"graph.exported", "graph.functional", "graph.lowering"},
    "receptive_field": GRAPH,
    "projection.windows": GRAPH | {"receptive_field"},
    "rule_options": {"errors"},
    "rules": GRAPH | {"rule_options"},
    "projection.unpooling": GRAPH | {"projection.windows"},
    "projection.walk": GRAPH | {"rules", "projection.unpooling", "projection.windows"},
    "projection.head": GRAPH | {"rules"},
    "projection.ways": GRAPH
    | {"network", "receptive_field", "rules"}
    | {"projection.head", "projection.unpooling", "projection.walk", "projection.windows"},
    "network": GRAPH | {"receptive_field", "graph.tracing"},
    "models": BASE | {"models", "network"},
    "engines": {"engines", "errors", "network"},
    # the stages, and the analyses that use them
    "topk": BASE,
    "mining.scanning": STAGES,
    "mining.partials": STAGES,
    "mining.passes": STAGES | {"mining.partials", "mining.scanning"},
    "mining.tasks": STAGES
    | {"images.ahead", "images.frame_cache", "images.members", "mining.partials", "mining.passes"},
    "mining.watching": STAGES | {"images.frame_cache"},
    "mining.reduction": STAGES | {"engines", "images.frame_cache", "mining.partials", "mining.passes", "mining.tasks"},
    "mining.rough": STAGES | {"mining.partials", "mining.passes", "mining.reduction"},
    "mining": STAGES
    | {
        "engines",
        "images.frame_cache",
        "mining.partials",
        "mining.passes",
        "mining.reduction",
        "mining.rough",
        "mining.tasks",
        "mining.watching",
    },
    "patches": STAGES,
    "projection": STAGES,
    "compare": STAGES | {"compare", "projection.head", "patches", "projection"},
    "figures.comparison_charts": BASE | {"compare", "figures", "rules"},
    "figures.sanity_charts": {"figures.comparison_charts"},
    "figures": BASE,
    "figures.charts": BASE | {"figures"},
    "report": BASE | {"figures", "report"},
    "unit_blocks": PIPELINE,
    "unit_records": PIPELINE | {"engines", "report", "unit_blocks"},
    "atlas": PIPELINE | {"engines", "report", "unit_blocks", "unit_records"},
    "subjects": STAGES | {"rules"},
    "changes": GRAPH,
    "images.reframing": {"errors", "images.preprocessing"},
    "occlusion": STAGES | {"changes", "subjects"},
    "invariance": STAGES | {"images.reframing", "subjects"},
    "figures.curves": {"figures"},
    "figures.maps": {"figures"},
    "correspondence": PIPELINE,
    "features": PIPELINE,
    "probing": PIPELINE,
    "transfer": PIPELINE | {"training.data"},
    "evolution": PIPELINE | {"engines"},
    "filters": BASE,
    "training.recipe": {"errors"},
    "training.metrics": BASE | {"figures"},
    "training.data": STAGES,
    "training.images": STAGES | {"images.frame_cache", "training.data"},
    "training.state": PIPELINE | {"training.metrics", "training.recipe"},
    "training": PIPELINE | {"training.data", "training.metrics", "training.recipe", "training.state"},
    "ablation": PIPELINE | {"training", "training.data"},
    "__init__": PIPELINE | {"atlas", "figures", "report"},
    # the command
    "help": {"errors"},
    "launchers": {"errors", "help"},
    "configuration": {"errors", "help", "launchers"},
    "cli": BASE | {"configuration", "help", "launchers"},
}
KNOWS_HYDRA = {"cli", "configuration", "launchers"}

FILES = sorted(PACKAGE.rglob("*.py"))


def row_of(dotted: str) -> str:
    """The row of a module: its own, or that of the package it is in where the package's modules have none."""
    row = dotted
    while row not in MAY_IMPORT and "." in row:
        row = row.rpartition(".")[0]
        if row != dotted and any(name.startswith(f"{row}.") for name in MAY_IMPORT):
            return dotted
    return row


def name_of(path: Path) -> str:
    """Return the row of a file."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return row_of(".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts))


def imports(path: Path) -> Iterator[str]:
    """Yield the full name of all that a file imports, wherever in it, with relative imports made absolute."""
    package = ["deconv", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def siblings(path: Path) -> set[str]:
    """Return the rows of what a file imports; "__init__" for a public name taken from the package itself."""
    found = [name.split(".")[1:] for name in imports(path) if name.split(".")[0] == "deconv"]
    modules = [module_in(parts) for parts in found]
    return {row_of(module) if module else "__init__" for module in modules}


def module_in(parts: list[str]) -> str:
    """The longest start of the parts that is a module or a package of deconv; "" if none is."""
    for length in range(len(parts), 0, -1):
        path = PACKAGE.joinpath(*parts[:length])
        if path.with_suffix(".py").is_file() or path.is_dir():
            return ".".join(parts[:length])
    return ""


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=label)
def test_imports_go_one_way(path: Path) -> None:
    name = name_of(path)
    assert name in MAY_IMPORT, f"deconv.{name} has no row in MAY_IMPORT: place it"
    assert sorted(siblings(path) - MAY_IMPORT[name] - {name}) == []


@pytest.mark.parametrize("path", FILES, ids=label)
def test_only_the_command_knows_hydra_and_nothing_the_experiments(path: Path) -> None:
    tops = {name.split(".")[0] for name in imports(path)}
    assert "experiments" not in tops
    assert name_of(path) in KNOWS_HYDRA or not tops & {"hydra", "omegaconf"}


@pytest.mark.parametrize("path", FILES, ids=label)
def test_no_file_is_long(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_rows_have_no_circle() -> None:
    done: set[str] = set()
    left = {name: allowed - {name} for name, allowed in MAY_IMPORT.items()}
    while ready := {name for name, allowed in left.items() if allowed & left.keys() <= {name}}:
        done |= ready
        left = {name: allowed for name, allowed in left.items() if name not in ready}
    assert sorted(left) == []


def test_the_reading_of_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = PACKAGE / "models" / "made_up.py"
    lines = ["import deconv.errors", "from deconv import progress, Peaks", "from ..runs import x", "from . import y"]
    text = "\n".join([*lines, "import torch"])
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: text if self == module else "")
    assert siblings(module) == {"errors", "progress", "__init__", "runs", "models"}


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
    assert functions.get("run") == ["config", "folder"]
    assert ast.get_docstring(tree)
