"""docs/COVERAGE.md from the facts; nothing in it is typed in but what the words mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from functools import partial
from importlib.metadata import version

from deconv.projection.rules import RULES
from tests.coverage.architectures import OTHERS, SEED, transformers_of_torchvision
from tests.coverage.facts import AGREES, MOST_BYTES, Facts

OUTPUT_AGREES = 1e-9
MOST_ROUNDING = 10
"""Times what the module itself moves by rounding, that the network's output may be off."""
"""Of the largest number of a float64 output."""
PLAIN = ("deconvnet", "guided")
BEYOND = ("deconvnet_beyond", "guided_beyond")
ORDER = (*PLAIN, *BEYOND, "gradient")
GROUPS = {
    "torchvision": ("torchvision", "ConvNet"),
    "timm ConvNets": ("timm", "ConvNet"),
    "timm hybrids": ("timm", "hybrid"),
}

INTRODUCTION = """\
Every ConvNet of torchvision, and of each timm family of ConvNets, and of hybrids with attention, the smallest
architecture: with random weights, so that this page says what can be computed, and nothing of what units have learned.

**How to read it**

- *traces*: a `deconv.Network` can be made of it, up to its output; "in part" up to where it is refused, so that the
  layers before that can be used.
- *output*: the network's output is the module's for images that tracing has not seen (within {output});
  "equal, rounded": within ten times what the module's own output moves when its images are moved in their last bit.
- *fields*: at corners, in the middle and beside it, on up to three layers, all pixels whose derivative by autograd is
  not zero lie in the box that deconv says, and where the box lies inside the image they fill it. A unit that sees the
  whole image counts as right though the last rows, which no window reaches, are unread.
- the rules: "full" carries every layer, the output's fully connected one aside; "12 of 40" carries so many of the
  layers, "none" not one. `deconvnet` and `guided` are the papers' own; `deconvnet_beyond` and `guided_beyond` rectify
  the signal at any activation and hold gates and norms constant, which is ours (see `deconv.Rule`); `gradient` is
  autograd's derivative.
- *error*: the largest relative error of a picture against autograd on the module itself, whose activations, gates and
  norms are replaced as the rule says (tests/oracle.py, which knows nothing of deconv's graph): the strongest peak and
  two corners, on the same layers, by every rule that carries them. Below {agrees:g} is rounding to float32.

Images are 64 pixels high and wide where an architecture takes them, else as many as it needs; larger ones, too, where
the statistics of maps so small would multiply rounding ten thousand times.{valueless}

Written by `make coverage`, which goes on where it stopped; `outputs/coverage.jsonl` has every number. Seed {seed},
float64, torch {torch}, torchvision {torchvision}, timm {timm}, {today}.
"""


def page(measured: Sequence[Facts]) -> str:
    """The page, in Markdown."""
    introduction = INTRODUCTION.format(
        output=f"{OUTPUT_AGREES:g} of the largest",
        agrees=AGREES,
        seed=SEED,
        valueless=_without_values(measured),
        today=date.today().isoformat(),
        **{name: version(name).partition("+")[0] for name in ("torch", "torchvision", "timm")},
    )
    groups = {
        title: [facts for facts in measured if (facts.library, facts.kind) == group] for title, group in GROUPS.items()
    }
    sections = [
        "# What deconv can do with which network\n",
        introduction,
        "## Together\n",
        _summary(groups),
        *(f"## {_capital(title)}\n\n{_rows(group)}" for title, group in groups.items()),
        "## What is refused, and why\n",
        _refusals(measured),
        "## What was not looked at\n",
        _others(),
    ]
    return "\n".join(sections)


def _without_values(measured: Sequence[Facts]) -> str:
    names = ", ".join(facts.name for facts in measured if facts.valueless)
    return (
        f"\nToo large for {MOST_BYTES >> 30} GiB, so traced without weights and not compared: {names}." if names else ""
    )


def _capital(title: str) -> str:
    return title if title.startswith("t") else title.capitalize()


# -- the tables

COUNTED: dict[str, Callable[[Facts], bool]] = {
    "traces to its output": lambda facts: facts.whole,
    "traces in part": lambda facts: facts.traced and not facts.whole,
    "output equals the module's": lambda facts: output_equal(facts) is True,
    "fields equal autograd's, of those that trace": lambda facts: bool(facts.fields) and not facts.fields_wrong,
    "`deconvnet` and `guided` in full": lambda facts: all(_full(facts, rule) for rule in PLAIN),
    "`deconvnet_beyond` and `guided_beyond` in full": lambda facts: all(_full(facts, rule) for rule in BEYOND),
    "only `gradient` in full": lambda facts: (
        _full(facts, "gradient") and not any(_full(facts, rule) for rule in (*PLAIN, *BEYOND))
    ),
    "every picture agrees with autograd": lambda facts: (error := worst_error(facts)) is not None and error < AGREES,
    "refused altogether, by name": lambda facts: bool(facts.refusal),
    "crashed": lambda facts: bool(facts.crash),
}


def output_equal(facts: Facts) -> bool | None:
    """Whether the output is the module's; None where it was not compared."""
    if facts.output_error is None:
        return None
    return facts.output_error < max(OUTPUT_AGREES, MOST_ROUNDING * (facts.rounding or 0.0))


def _output(facts: Facts) -> str:
    if facts.output_error is None:
        return "–"
    rounded = "" if facts.output_error < OUTPUT_AGREES else ", rounded"
    return f"equal{rounded}" if output_equal(facts) else "**differs**"


def worst_error(facts: Facts) -> float | None:
    """The largest error of a picture by any rule; None where none was compared."""
    return max((of_rule.error for of_rule in facts.rules.values() if of_rule.error is not None), default=None)


def _full(facts: Facts, rule: str) -> bool:
    return rule in facts.rules and facts.rules[rule].full


def _summary(groups: dict[str, list[Facts]]) -> str:
    rows = [["architectures", *(str(len(group)) for group in groups.values())]]
    for title, holds in COUNTED.items():
        rows.append([title, *(str(sum(map(holds, group))) for group in groups.values())])
    return _table(["", *groups], rows)


def _rows(group: Iterable[Facts]) -> str:
    head = ["architecture", "traces", "layers", "output", "fields", *(f"`{rule}`" for rule in ORDER), "error"]
    rows = [
        [
            facts.name if facts.library == "torchvision" else f"{facts.name} ({facts.family})",
            "crashed" if facts.crash else "yes" if facts.whole else "in part" if facts.traced else "no",
            str(facts.layers),
            _output(facts),
            "**wrong**" if facts.fields_wrong else "equal" if facts.fields else "–",
            *(_carried(facts, rule) for rule in ORDER),
            "–" if (error := worst_error(facts)) is None else f"{error:.0e}",
        ]
        for facts in group
    ]
    return _table(head, rows)


def _carried(facts: Facts, rule: str) -> str:
    if rule not in facts.rules:
        return "–"
    of_rule = facts.rules[rule]
    if of_rule.full:
        return "full"
    return f"{of_rule.carried} of {facts.layers}" if of_rule.carried else "none"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# -- refusals


def _refusals(measured: Sequence[Facts]) -> str:
    """The reasons, the most frequent first; of each the first refusal in full."""
    kinds: dict[str, Callable[[Facts], str]] = {
        "Not traced": lambda facts: facts.refusal,
        "Traced in part": lambda facts: facts.stopped,
        **{names: partial(_words_of, rule) for names, rule in _rules_alike(measured).items()},
        "Crashed": lambda facts: facts.crash,
        "Fields that are not autograd's": lambda facts: "; ".join(facts.fields_wrong[:1]),
    }
    return "\n".join(section for kind, words in kinds.items() if (section := _grouped(kind, measured, words)))


def _rules_alike(measured: Sequence[Facts]) -> dict[str, str]:
    """The rules that refuse the same for the same reasons, by their names together; of each group the first."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for rule in ORDER:
        alike.setdefault(tuple(reason(_words_of(rule, facts)) for facts in measured), []).append(rule)
    return {" and ".join(f"`{rule}`" for rule in rules): rules[0] for rules in alike.values()}


def _words_of(rule: str, facts: Facts) -> str:
    return facts.rules[rule].refusal if facts.rules else ""


def _grouped(kind: str, measured: Sequence[Facts], words: Callable[[Facts], str]) -> str:
    reasons: dict[str, list[Facts]] = {}
    for facts in measured:
        if words(facts):
            reasons.setdefault(reason(words(facts)), []).append(facts)
    if not reasons:
        return ""
    lines = [
        f"- {key} ({len(group)}): {', '.join(facts.name for facts in group)}. In full, of {group[0].name}: "
        f"“{words(group[0])}”"
        for key, group in sorted(reasons.items(), key=lambda item: -len(item[1]))
    ]
    return f"### {kind}\n\n" + "\n".join(lines) + "\n"


def reason(words: str) -> str:
    """What several refusals have in common: the operation and why, without the module, the numbers and the remedy."""
    cause = words.partition(";")[0]
    cause = re.sub(r"^'\w+' has ", "", cause)
    cause = re.sub(r"^[\w.]+ (at|sees) .*", "a layer sees other pixels", cause)
    cause = re.sub(r"('[\w.]+') in (the network itself|the network|[\w.-]+)", r"\1", cause)
    return re.sub(r"\([^()]*\d[^()]*\)", "(...)", cause)


def _others() -> str:
    lines = [f"- torchvision, attention between patches: {', '.join(transformers_of_torchvision())}."]
    lines += [f"- Families of timm, {why}: {', '.join(families)}." for why, families in OTHERS.items()]
    return "\n".join(lines) + "\n"


assert set(ORDER) == set(RULES)
