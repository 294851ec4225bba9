"""What a rule is: the choices on the way back, each an option; `deconvnet`, `guided` and `gradient` are three settings.

`deconvnet_beyond` and `guided_beyond` are these two carried further, through what their papers' networks did not have;
`lrp_epsilon` and `lrp_z_plus` send back no signal but shares of the activation (`relevance`).

Which of the choices carries the picture is the question of Mahendran and Vedaldi 2016, Salient Deconvolutional
Networks: their DeConvNet is `deconvnet`, their SaliNet `gradient`, their DeSaliNet `guided`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from math import inf
from typing import Any

from deconv.errors import bad_value, check_choice, check_count, unknown

CHOICES: dict[str, tuple[str, ...]] = {
    "relu": ("backward", "forward", "both", "none"),
    "switches": ("recorded", "random", "centre", "other"),
    "bias": ("none", "subtract"),
    "lrn": ("identity", "derivative"),
    "batch_norm": ("scale", "identity"),
    "activation": ("refuse", "rectify", "derivative"),
    "gate": ("refuse", "constant", "derivative"),
    "norm": ("refuse", "constant", "derivative"),
    "linear": ("transpose", "epsilon", "z_plus"),
}
EPSILON = 1e-6
"""What LRP divides by is kept at least so far from zero, if nothing else is asked for."""


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

    The papers' networks are linear but for rectifiers, pools and local response normalisation: so far the rule is
    theirs. The other three options say what is made of other operations. They are ours; "refuse", the default, makes
    nothing of them (with relu "forward", the derivative).

    activation: any other function of single values (SiLU, GELU, hard-swish, LeakyReLU, PReLU, tanh, ...): "rectify"
        does what `relu` says of a rectifier: the positive part of the signal passes, for the paper's rule does not ask
        what the rectifier was given; with "both" also only where the output was positive; with "forward" the
        derivative. "derivative" is that of the function, whatever `relu` says.
    gate: the product of two values of the image: "constant" holds the gate (squeeze-and-excitation, attention weights),
        whose factor multiplies the signal as a batch normalisation's scale does; no signal enters it. The gate is the
        factor that is the same at several positions or channels, else the one that was squashed (sigmoid, softmax,
        tanh), else the one that went through another activation (SwiGLU, linear attention). "derivative" is that of the
        product and of what squashes.
    norm: normalisation by the image's own statistics (of layers, groups, instances, by root mean square, GRN):
        "constant" holds the mean and the deviation, "derivative" is autograd's.

    The last two are those of layer-wise relevance propagation.

    linear: what goes back through convolutions, matrix products, sums, means and all else that is affine: "transpose"
        the signal, by the transposed weights; "epsilon" and "z_plus" shares of an output's relevance, one for each
        term of it ("z_plus": of its positive terms, at what has weights), so that pixels add up to the activation less
        the shares of the biases. With relu "none", the LRP rules of these names.
    epsilon: how far an output is kept from zero where it divides; larger, it leaves out what hardly matters.

    Raises UnknownName for any other choice; BadInput for an epsilon that is not above zero or that `linear` does not
    use, and for a bias to subtract where relevance is shared out.

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
    activation: str = "refuse"
    gate: str = "refuse"
    norm: str = "refuse"
    linear: str = "transpose"
    epsilon: float = EPSILON

    def __post_init__(self) -> None:
        for option, possible in CHOICES.items():
            check_choice(f"choice of the rule's {option}", getattr(self, option), possible)
        check_count("seed", self.seed, 0)
        if isinstance(self.epsilon, bool) or not isinstance(self.epsilon, int | float) or not 0 < self.epsilon < inf:
            raise bad_value("epsilon", self.epsilon, "a number above zero")
        if self.linear == "transpose" and self.epsilon != EPSILON:
            raise bad_value("epsilon", self.epsilon, "a rule that divides", "choose linear=epsilon or linear=z_plus")
        if self.linear != "transpose" and self.bias != "none":
            expected = f"bias=none with linear={self.linear}, where a bias takes its share"
            raise bad_value("bias", self.bias, expected)

    @property
    def name(self) -> str:
        """The name of one of NAMED, or what sets this one apart, as "relu=both,switches=random"."""
        for name, rule in NAMED.items():
            if rule == self:
                return name
        return ",".join(f"{option}={value}" for option, value in self.differing().items())

    @property
    def goes_beyond(self) -> bool:
        """Whether it makes anything of operations that the papers' rules do not know."""
        return (self.activation, self.gate, self.norm) != ("refuse", "refuse", "refuse")

    def carried_like(self, other: Rule) -> Rule:
        """Return the same rule with what another makes of activations, gates and norms.

        >>> RULES["guided"].carried_like(RULES["deconvnet_beyond"]).name
        'guided_beyond'
        """
        return replace(self, activation=other.activation, gate=other.gate, norm=other.norm)

    def differing(self) -> dict[str, Any]:
        """Return the options that are not as in `deconvnet`: what `as_rule` makes this rule of.

        >>> RULES["guided"].differing()
        {'relu': 'both', 'lrn': 'derivative'}
        """
        standard = Rule().options()
        return {option: value for option, value in self.options().items() if value != standard[option]}

    def options(self) -> dict[str, Any]:
        """Return all options in plain types, for a record."""
        return asdict(self)


RULES: dict[str, Rule] = {
    "deconvnet": Rule(),
    "guided": Rule(relu="both", lrn="derivative"),
    "gradient": Rule(relu="forward", lrn="derivative"),
    "deconvnet_beyond": Rule(activation="rectify", gate="constant", norm="constant"),
    "guided_beyond": Rule(relu="both", lrn="derivative", activation="rectify", gate="constant", norm="constant"),
}

NAMED = RULES | {
    "lrp_epsilon": Rule(relu="none", linear="epsilon"),
    "lrp_z_plus": Rule(relu="none", linear="z_plus"),
}
"""All that are known by name: RULES, which send a signal back, and those that share relevance out."""


def as_rule(rule: str | Rule | Mapping[str, Any]) -> Rule:
    """Return a rule given by its name, by its options (those left out as in `deconvnet`), or itself.

    Raises UnknownName for a name, an option or a choice that does not exist, BadInput for anything else.

    >>> as_rule("gradient") == as_rule({"relu": "forward", "lrn": "derivative"})
    True
    >>> as_rule("guide")
    Traceback (most recent call last):
    deconv.errors.UnknownName: unknown rule 'guide'; expected one of deconvnet, guided, gradient, ...
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
        raise bad_value("rule", rule, f"one of {', '.join(NAMED)}, a Rule, or a mapping of its options")
    return NAMED[check_choice("rule", rule, NAMED)]
