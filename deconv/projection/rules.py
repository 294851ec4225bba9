"""What a rule is: the choices on the way down, each an option; `deconvnet`, `guided` and `gradient` are three settings.

Which of the choices carries the picture is the question of Mahendran and Vedaldi 2016, Salient Deconvolutional
Networks: their DeConvNet is `deconvnet`, their SaliNet `gradient`, their DeSaliNet `guided`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from deconv.errors import BadInput, UnknownName

CHOICES: dict[str, tuple[str, ...]] = {
    "relu": ("backward", "forward", "both", "none"),
    "switches": ("recorded", "random", "centre", "other"),
    "bias": ("none", "subtract"),
    "lrn": ("identity", "derivative"),
    "batch_norm": ("scale", "identity"),
}


@dataclass(frozen=True)
class Rule:
    """How each kind of operation is sent backwards.

    relu: what passes a rectifier: "backward" the positive part of the signal; "forward" the signal where the unit fired
        on the way up; "both"; "none" the signal as it is.
    switches: where a max-pooled signal goes: "recorded" to the input that won; "random" to any input of its window,
        drawn once for each channel and place, whatever the image; "centre" to the middle of its window; "other" to the
        input that won in another image (`project` is told which).
    bias: "none", or "subtract": a signal that is not zero loses the bias before it passes the transposed filters; so a
        scaled seed no longer scales the result.
    lrn: local response normalisation: "identity" leaves it out, "derivative" does not.
    batch_norm: "scale" multiplies by its scale, which is also its derivative; "identity" leaves it out.
    seed: decides random switches.
    Raises UnknownName for any other choice.
    """

    relu: str = "backward"
    switches: str = "recorded"
    bias: str = "none"
    lrn: str = "identity"
    batch_norm: str = "scale"
    seed: int = 0

    def __post_init__(self) -> None:
        for option, possible in CHOICES.items():
            given = getattr(self, option)
            if given not in possible:
                raise UnknownName(f"rule.{option} {given!r} is unknown; expected one of {', '.join(possible)}.")

    @property
    def name(self) -> str:
        """The name of one of the three rules, or what sets this one apart, as "relu=both,switches=random"."""
        for name, rule in RULES.items():
            if rule == self:
                return name
        standard = Rule()
        shown = [f.name for f in fields(self) if getattr(self, f.name) != getattr(standard, f.name)]
        return ",".join(f"{option}={getattr(self, option)}" for option in shown)

    def options(self) -> dict[str, Any]:
        """All options in plain types, for a record."""
        return asdict(self)


RULES: dict[str, Rule] = {
    "deconvnet": Rule(),
    "guided": Rule(relu="both", lrn="derivative"),
    "gradient": Rule(relu="forward", lrn="derivative"),
}


def as_rule(rule: str | Rule | Mapping[str, Any]) -> Rule:
    """A rule by its name, by its options (those left out as in `deconvnet`), or itself.

    Raises UnknownName for a name, an option or a choice that does not exist, BadInput for anything else.
    """
    if isinstance(rule, Rule):
        return rule
    if isinstance(rule, Mapping):
        known = [f.name for f in fields(Rule)]
        for option in rule:
            if option not in known:
                raise UnknownName(f"rule.{option} is unknown; expected some of {', '.join(known)}.")
        return Rule(**dict(rule))
    if not isinstance(rule, str):
        raise BadInput(f"rule: given {rule!r}; expected one of {', '.join(RULES)}, or a mapping of options.")
    if rule not in RULES:
        raise UnknownName(f"rule {rule!r} is unknown; expected one of {', '.join(RULES)}.")
    return RULES[rule]
