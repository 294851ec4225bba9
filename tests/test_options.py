"""deconv/command/options.py: each experiment reads all that it can be told, and refuses at once what it cannot."""

from __future__ import annotations

import ast
import shlex
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from deconv.command import options, shared
from deconv.command.describing import described, expected
from deconv.command.options import EXPERIMENTS
from deconv.command.settings import compose_jobs
from deconv.errors import UnknownName
from deconv.files.shipped import choices
from deconv.projection.rules import NAMED, Rule
from deconv.training.recipe import Settings
from tests import written

ROOT = Path(__file__).resolve().parent.parent
READ_BY_THE_COMMAND = {"folder"}
SHARED = {
    "model": "model=alexnet",
    "engine": "engine=ray",
    "rule": "rule=guided",
    "cache": "cache=frames",
    "layers": "layers=[fire5]",
    "units": "units=[3]",
    "n_units": "n_units=2",
    "k": "k=4",
    "per_image": "per_image=2",
    "precision": "precision=bfloat16",
    "batch_size": "batch_size=8",
    "training": "training.lr=0.5",
    "features": "features=kept",
    "labels": "labels=[3]",
    "reference": "reference=peaks.safetensors",
    "device": "device=cuda",
    "within": "within=goldfish",
}
REQUIRED = {"fig4_evolution": ["trained=runs/train"], "photograph": ["image=cat.jpg"]}


def test_every_experiment_has_its_options() -> None:
    assert set(EXPERIMENTS) == set(choices("experiment"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_option_is_there_to_be_read_or_refused_at_once(name: str) -> None:
    usual = [f"experiment={name}", *REQUIRED.get(name, [])]
    has = [option for option in SHARED if option in EXPERIMENTS[name].__dataclass_fields__]
    for option in SHARED.keys() - has:
        with pytest.raises(UnknownName, match=f"^experiment={name} has no {option}; it has [a-z]"):
            compose_jobs([*usual, SHARED[option]], sweep=False)
    (before,), (after,) = (
        compose_jobs(said, sweep=False) for said in (usual, [*usual, *(SHARED[option] for option in has)])
    )
    assert [option for option in has if before.config[option] == after.config[option]] == []


@pytest.mark.parametrize(
    ("said", "instead"),
    [
        (["experiment=train", "batch_size=64"], "experiment=train has no batch_size; it has training.batch_size"),
        (
            ["experiment=fig6_filters", "model=alexnet"],
            "experiment=fig6_filters has no model; it has networks.NAME.model",
        ),
        (["experiment=table3_ablation", "model.size=[8,8]"], "has no model; it has variants.NAME.model"),
        (["experiment=table4_transfer", "layers=[fire5]"], "experiment=table4_transfer has no layers; it has layer"),
        (["experiment=sanity_checks", "rule=guided"], "experiment=sanity_checks has no rule; it has rules"),
        (
            ["experiment=fig5_invariance", "+rule.relu=both"],
            "experiment=fig5_invariance has no rule; it has batch_size, ",
        ),
        (["experiment=fig5_invariance", "++cache=x"], "experiment=fig5_invariance has no cache; it has batch_size, "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_an_experiment_has_instead_is_named(said: list[str], instead: str) -> None:
    with pytest.raises(UnknownName) as caught:
        compose_jobs(said, sweep=False)
    assert instead in str(caught.value)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_option_is_read(name: str) -> None:
    """By the experiment's own functions, or by those of the set-up that it calls with its options."""
    own = functions(ROOT / "experiments" / f"{name}.py")
    shared = functions(ROOT / "deconv" / "command" / "setup.py")
    reached = closure(set(own), own | shared)
    read = {attribute for function in reached for attribute in read_by((own | shared)[function])}
    assert {entry.name for entry in fields(EXPERIMENTS[name])} - read == READ_BY_THE_COMMAND


def functions(path: Path) -> dict[str, ast.AST]:
    """{name: tree} of a file's functions and classes."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def closure(names: set[str], known: dict[str, ast.AST]) -> set[str]:
    """The functions, and all that they call with `options` among the arguments, again and again."""
    called = {name for function in names for name in calls_with_options(known[function]) if name in known}
    return names if called <= names else closure(names | called, known)


def calls_with_options(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            named = [argument.id for argument in node.args if isinstance(argument, ast.Name)]
            yield from [node.func.id] if "options" in named else []


def read_by(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "options":
            yield node.attr


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_option_says_what_it_is(name: str) -> None:
    for option in described(EXPERIMENTS[name]):
        assert 5 <= len(option.help) <= 110, option.name


# --- rules and the recipe -------------------------------------------------------------------------------------------


def test_a_rule_is_what_the_library_calls_so() -> None:
    assert [(entry.name, entry.default) for entry in fields(shared.Rule)] == [
        (entry.name, entry.default) for entry in fields(Rule)
    ]
    assert set(choices("rule")) == set(NAMED)
    for name, rule in NAMED.items():
        (job,) = compose_jobs([f"rule={name}"], sweep=False)
        assert isinstance(job.options, options.Fig2Features) and asdict(job.options.rule) == rule.options()


def test_a_named_rule_can_be_changed() -> None:
    (job,) = compose_jobs(["rule=guided", "rule.switches=random", "rule.lrn=identity"], sweep=False)
    assert isinstance(job.options, options.Fig2Features)
    assert asdict(job.options.rule) == Rule(relu="both", switches="random").options()


def test_the_shipped_recipe_is_the_default_and_the_others_differ_where_they_say() -> None:
    recipes = {}
    for name in ("train", "table3_ablation", "table4_transfer"):
        (job,) = compose_jobs([f"experiment={name}", "seed=7"], sweep=False)
        recipes[name] = job.options.training  # type: ignore[attr-defined]
    assert recipes["train"] == Settings(seed=7)
    short = {"epochs": 4, "decay_epochs": 1.6, "whole_epochs": 1, "snapshots": ()}
    assert recipes["table3_ablation"] == Settings(**short, seed=7)  # type: ignore[arg-type]
    assert recipes["table4_transfer"].schedule == "one_cycle" and recipes["table4_transfer"].rms_limit is None


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "a whole number"),
        (float | None, "a number, or null"),
        (list[str], "a list of texts"),
        (list[int | str] | None, "a list of whole numbers or texts, or null"),
        (tuple[float, ...], "a list of numbers"),
        (dict[str, int], "a mapping such as {a: b}"),
    ],
    ids=str,
)
def test_what_a_type_is_called(hint: object, words: str) -> None:
    assert expected(hint) == words


# --- commands that are written down -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / "configs/experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_commands_of_headers_are_taken(path: Path) -> None:
    commands = written.header_commands(path.read_text(encoding="utf-8"))
    assert commands
    for command in commands:
        check_command(command.partition(" (")[0])


@pytest.mark.parametrize(
    "command", [command for page in written.PAGES for command in written.commands(page.read_text(encoding="utf-8"))]
)
def test_commands_that_are_written_down_are_taken(command: str) -> None:
    check_command(command.removeprefix("python -m "))


def check_command(command: str) -> None:
    words = shlex.split(command)[1:]
    said = [word for word in words if "..." not in word and "launcher" not in word]
    if "--help" not in said:
        compose_jobs([word for word in said if word not in ("-m", "--dry-run")], sweep="-m" in said)
