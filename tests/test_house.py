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
BASE = {"errors", "operations", "preprocessing", "progress", "records", "runs", "spatial"}
GRAPH = BASE | {"graph"}
STAGES = GRAPH | {"network", "receptive_field", "rules", "sources", "topk", "walk", "ways", "windows"}
PIPELINE = STAGES | {"compare", "frame_cache", "mining", "models", "patches", "projection"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "progress": set(),
    "spatial": set(),
    "operations": {"spatial"},
    "preprocessing": {"errors"},
    "runs": {"errors"},
    "records": {"errors", "runs"},
    # where images come from
    "ahead": set(),
    "members": set(),
    "decoding": {"errors", "members"},
    "photographs": {"errors"},
    "folders": {"decoding", "errors", "members"},
    "shard_files": BASE,
    "shards": BASE | {"decoding", "members", "shard_files"},
    "class_names": {"errors"},
    "sources": BASE | {"ahead", "class_names", "decoding", "folders", "members", "photographs", "shards"},
    "frame_cache": BASE | {"sources"},
    # a network as a graph, and how it is walked
    "graph": BASE,
    "exported": GRAPH,
    "axes": GRAPH | {"exported"},
    "sliding": GRAPH | {"exported"},
    "lowering": GRAPH | {"axes", "exported", "sliding"},
    "functional": set(),
    "tracing": GRAPH | {"exported", "functional", "lowering"},
    "receptive_field": GRAPH,
    "windows": GRAPH | {"receptive_field"},
    "rule_options": {"errors"},
    "rules": GRAPH | {"rule_options"},
    "unpooling": GRAPH | {"windows"},
    "walk": GRAPH | {"rules", "unpooling", "windows"},
    "head": GRAPH | {"rules"},
    "ways": GRAPH | {"head", "network", "receptive_field", "rules", "walk", "windows"},
    "network": GRAPH | {"receptive_field", "tracing"},
    "models": BASE | {"models", "network"},
    # the stages, and the analyses that use them
    "topk": BASE,
    "scanning": STAGES,
    "partials": STAGES,
    "passes": STAGES | {"partials", "scanning"},
    "tasks": STAGES | {"ahead", "frame_cache", "members", "partials", "passes"},
    "watching": STAGES | {"frame_cache"},
    "engines": STAGES | {"engines", "partials", "passes", "tasks"},
    "reduction": STAGES | {"engines", "frame_cache", "partials", "passes", "tasks"},
    "rough": STAGES | {"partials", "passes", "reduction"},
    "mining": STAGES | {"engines", "frame_cache", "partials", "passes", "reduction", "rough", "tasks", "watching"},
    "patches": STAGES,
    "projection": STAGES,
    "compare": STAGES | {"compare", "head", "patches", "projection"},
    "comparison_charts": BASE | {"compare", "figures", "rules"},
    "sanity_charts": {"comparison_charts"},
    "figures": BASE,
    "charts": BASE | {"figures"},
    "report": BASE | {"figures", "report"},
    "unit_records": PIPELINE | {"report"},
    "atlas": PIPELINE | {"report", "unit_records"},
    "subjects": STAGES,
    "changes": GRAPH,
    "reframing": {"errors", "preprocessing"},
    "occlusion": STAGES | {"changes", "subjects"},
    "invariance": STAGES | {"reframing", "subjects"},
    "curves": {"figures"},
    "maps": {"figures"},
    "correspondence": PIPELINE,
    "features": PIPELINE,
    "probing": PIPELINE,
    "transfer": PIPELINE | {"training_data"},
    "evolution": PIPELINE | {"engines"},
    "filters": BASE,
    "training_recipe": {"errors"},
    "training_log": BASE | {"figures"},
    "training_data": STAGES,
    "training_images": STAGES | {"frame_cache", "training_data"},
    "training_state": PIPELINE | {"training_log", "training_recipe"},
    "training": PIPELINE | {"training_data", "training_log", "training_recipe", "training_state"},
    "ablation": PIPELINE | {"training", "training_data"},
    "__init__": PIPELINE | {"atlas", "figures", "report"},
    # the command
    "help": {"errors"},
    "configuration": {"errors", "help"},
    "cli": BASE | {"configuration", "help"},
}
KNOWS_HYDRA = {"cli", "configuration"}

FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """Return the row of a file: its module, or the subpackage that it is in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


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
    """Return the modules of deconv that a file imports; "__init__" for a public name taken from the package itself."""
    parts = [name.split(".") for name in imports(path) if name.split(".")[0] == "deconv"]
    return {part[1] if len(part) > 1 and is_module(part[1]) else "__init__" for part in parts}


def is_module(name: str) -> bool:
    return (PACKAGE / f"{name}.py").is_file() or (PACKAGE / name).is_dir()


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=label)
def test_imports_go_one_way(path: Path) -> None:
    name = name_of(path)
    assert name in MAY_IMPORT, f"deconv/{name} has no row in MAY_IMPORT: place it"
    assert sorted(siblings(path) - MAY_IMPORT[name]) == []


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


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*/*.yaml")), ids=label)
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
