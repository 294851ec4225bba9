"""What a rule is: the choices on the way back, each an option; `deconvnet`, `guided` and `gradient` are three settings.

Which of the choices carries the picture is the question of Mahendran and Vedaldi 2016, Salient Deconvolutional
Networks: their DeConvNet is `deconvnet`, their SaliNet `gradient`, their DeSaliNet `guided`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from deconv.errors import bad_value, check_choice, check_count, unknown

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
        in the forward pass; "both" what both let pass; "none" the signal as it is.
    switches: where a max-pooled signal goes: "recorded" to the input that won; "random" to any input of its window,
        drawn once for each channel and position, whatever the image; "centre" to the middle of its window; "other" to
        the input that won in another image (`switches_of` of `project`).
    bias: "none", or "subtract": a signal that is not zero loses the bias before it passes the transposed filters; so a
        scaled seed no longer scales the result.
    lrn: local response normalisation: "identity" leaves it out, "derivative" does not.
    batch_norm: "scale" multiplies by its scale, which is also its derivative; "identity" leaves it out.
    seed: decides random switches.
    Raises UnknownName for any other choice.

    >>> import deconv
    >>> deconv.Rule().name, deconv.Rule(relu="both", lrn="derivative").name
    ('deconvnet', 'guided')
    >>> deconv.Rule(relu="both", switches="random", seed=3).name
    'relu=both,switches=random,seed=3'
    """

    relu: str = "backward"
    switches: str = "recorded"
    bias: str = "none"
    lrn: str = "identity"
    batch_norm: str = "scale"
    seed: int = 0

    def __post_init__(self) -> None:
        for option, possible in CHOICES.items():
            check_choice(f"choice of the rule's {option}", getattr(self, option), possible)
        check_count("seed", self.seed, 0)

    @property
    def name(self) -> str:
        """The name of one of the three rules, or what sets this one apart, as "relu=both,switches=random"."""
        for name, rule in RULES.items():
            if rule == self:
                return name
        standard = Rule().options()
        differing = {option: value for option, value in self.options().items() if value != standard[option]}
        return ",".join(f"{option}={value}" for option, value in differing.items())

    def options(self) -> dict[str, Any]:
        """Return all options in plain types, for a record."""
        return asdict(self)


RULES: dict[str, Rule] = {
    "deconvnet": Rule(),
    "guided": Rule(relu="both", lrn="derivative"),
    "gradient": Rule(relu="forward", lrn="derivative"),
}


def as_rule(rule: str | Rule | Mapping[str, Any]) -> Rule:
    """Return a rule given by its name, by its options (those left out as in `deconvnet`), or itself.

    Raises UnknownName for a name, an option or a choice that does not exist, BadInput for anything else.

    >>> as_rule("gradient") == as_rule({"relu": "forward", "lrn": "derivative"})
    True
    >>> as_rule("guide")
    Traceback (most recent call last):
    deconv.errors.UnknownName: unknown rule 'guide'; expected one of deconvnet, guided, gradient; did you mean 'guided'?
    """
    if isinstance(rule, Rule):
        return rule
    if isinstance(rule, Mapping):
        known = [f.name for f in fields(Rule)]
        for option in rule:
            if option not in known:
                raise unknown("option of a rule", option, known)
        return Rule(**dict(rule))
    if not isinstance(rule, str):
        raise bad_value("rule", rule, f"one of {', '.join(RULES)}, a Rule, or a mapping of its options")
    return RULES[check_choice("rule", rule, RULES)]
