"""What a good explanation should beat: controls, each an explanation too, and the random choices that some need.

All draws depend on the seed and the peak alone, never on which others are looked at with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from deconv.compare.arrays import edges, grey, inside_rows_cols
from deconv.explanations import BUILT_IN, AnyExplanation, as_explanation
from deconv.explanations.functions import Explanation
from deconv.projection.rules import Rule, as_rule

if TYPE_CHECKING:
    from deconv.compare.peak_set import PeakSet

Opened = Rule | Explanation | str
"""An explanation as it is compared: a rule, a function, or a control by its name."""

CENTRE_SIGMA = 1 / 6
"""Standard deviation of `centre`, as a fraction of the field's sides. Effective fields are Gaussian (Luo et al. 2016,
arXiv 1701.04128)."""


def edge_picture(patch: Float[np.ndarray, "3 h w"], inside: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "3 h w"]:
    """Return Sobel's gradient magnitude of the grey patch, in every colour; zero outside the image."""
    rows, cols = inside_rows_cols(inside)
    picture = np.zeros_like(patch)
    picture[:, rows, cols] = edges(grey(patch[:, rows, cols]))
    return picture


def noise_picture(inside: Bool[np.ndarray, "h w"], peak: tuple[int, ...], seed: int) -> Float[np.ndarray, "3 h w"]:
    """Return uniform noise in [0, 1), the same in every colour; zero outside the image."""
    noise = _generator(seed, "noise", peak).random(inside.shape) * inside
    return np.broadcast_to(noise, (3, *inside.shape)).copy()


def centre_picture(inside: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "3 h w"]:
    """Return a Gaussian about the middle of the field, the same in every colour; zero outside the image."""
    y, x = (np.linspace(-0.5, 0.5, side) if side > 1 else np.zeros(1) for side in inside.shape)
    bump = np.exp(-(y[:, None] ** 2 + x[None] ** 2) / (2 * CENTRE_SIGMA**2)) * inside
    return np.broadcast_to(bump, (3, *inside.shape)).copy()


class Projection(NamedTuple):
    """A rule, and whether it projects another unit that fires at the position instead of the peak's own."""

    rule: Rule
    of_other_unit: bool = False


Pictures = Callable[["PeakSet"], np.ndarray]
"""Gives the pictures (N, 3, h, w) of a set of N peaks, each of its receptive field."""


@dataclass(frozen=True)
class Control:
    """One of CONTROLS: what it is, and what makes its pictures.

    A deconvnet that it projects is carried as far as the rule that it is compared with: `Rule.carried_like`.
    """

    about: str
    made_by: Projection | Pictures


def maker_of(explanation: AnyExplanation, like: Rule) -> Projection | Pictures:
    """Return what makes the pictures of an explanation: a projection, which others may share, or a function of peaks.

    like: the rule from which a control takes how far it is carried. Raises UnknownName for an unknown name.

    >>> maker_of("other_switches", as_rule("guided_beyond")).rule.name
    'switches=other,activation=rectify,gate=constant,norm=constant'
    """
    if isinstance(explanation, str) and explanation in CONTROLS:
        made_by = CONTROLS[explanation].made_by
        return made_by._replace(rule=made_by.rule.carried_like(like)) if isinstance(made_by, Projection) else made_by
    opened = as_explanation(explanation)
    return Projection(opened) if isinstance(opened, Rule) else partial(_explained, opened)


def rules_behind(explanations: Iterable[Opened], like: Rule) -> set[Rule]:
    """Return the rules that a network must be able to serve, those behind the controls among them."""
    explanations = list(explanations)
    controls = {each for each in explanations if isinstance(each, str)}
    deconvnets = {Rule().carried_like(like)} if controls & DECONVNETS else set()
    gradients = {as_rule("gradient")} if controls & BUILT_IN.keys() else set()
    return deconvnets | gradients | {each for each in explanations if isinstance(each, Rule)}


def functions_among(explanations: Iterable[Opened]) -> list[Explanation]:
    """Return those that are functions, which are tried before anything is mined."""
    return [each for each in explanations if isinstance(each, Explanation)]


def as_projected(explanation: Opened, like: Rule) -> Rule | Explanation | None:
    """Return the rule or function whose pictures take as long as an explanation's; None if it asks no network.

    >>> as_projected("other_unit", Rule()).name, as_projected("edges", Rule())
    ('deconvnet', None)
    """
    if isinstance(explanation, Rule):
        return replace(explanation, switches="recorded") if explanation.switches == "other" else explanation
    if not isinstance(explanation, str):
        return explanation
    if explanation in DECONVNETS:
        return Rule().carried_like(like)
    return as_explanation(explanation) if explanation in BUILT_IN else None


def _explained(explanation: Explanation, peaks: PeakSet) -> np.ndarray:
    pixels: np.ndarray = explanation.explain(peaks.network, peaks.layer, *peaks.inputs, peaks.boxes).numpy()
    return pixels


def _random_weights(peaks: PeakSet) -> np.ndarray:
    shuffled = replace(peaks, network=peaks.needed_random()).firing()
    return shuffled.reconstruct(Rule().carried_like(peaks.carried_like))


def _edges(peaks: PeakSet) -> np.ndarray:
    return _stacked(edge_picture(patch, inside) for patch, inside in zip(peaks.patches, peaks.inside, strict=True))


def _random_mask(peaks: PeakSet) -> np.ndarray:
    keys = zip(peaks.inside, peaks.keys, strict=True)
    return _stacked(noise_picture(inside, peak, peaks.seed) for inside, peak in keys)


def _centre(peaks: PeakSet) -> np.ndarray:
    return _stacked(centre_picture(inside) for inside in peaks.inside)


def _stacked(pictures: Iterable[np.ndarray]) -> np.ndarray:
    return np.stack(list(pictures)).astype(np.float32)


CONTROLS = {
    "gradient_times_input": Control(
        "gradient times input (Shrikumar et al. 2017, arXiv 1605.01713)",
        partial(_explained, Explanation("gradient_times_input", BUILT_IN["gradient_times_input"])),
    ),
    "random_switches": Control("deconvnet whose switches are drawn at random", Projection(Rule(switches="random"))),
    "other_switches": Control("deconvnet with the switches of another image", Projection(Rule(switches="other"))),
    "other_unit": Control(
        "deconvnet of another unit that fires at the same position (Nie et al. 2018, arXiv 1805.07039)",
        Projection(Rule(), of_other_unit=True),
    ),
    "random_weights": Control(
        "deconvnet of the network with all weights shuffled (Adebayo et al. 2018, arXiv 1810.03292), by another unit "
        "where the unit then is dead",
        _random_weights,
    ),
    "edges": Control(
        "an edge detector on the patch, which knows no network (Adebayo et al. 2018, section 5.1)", _edges
    ),
    "random_mask": Control("noise: its strongest p % are a random mask of that size", _random_mask),
    "centre": Control("a Gaussian about the peak's position, which knows neither network nor image", _centre),
}
"""The controls by name."""
DECONVNETS = {"random_switches", "other_switches", "other_unit", "random_weights"}
"""Those that are deconvnets, and need a network that one can serve."""


def another_unit(activations: Float[np.ndarray, " C"], peak: tuple[int, ...], seed: int) -> int:
    """Draw a unit other than the peak's, among those that fire at its position if any other does.

    activations: of all units there; peak: (image id, channel, row, col). A layer of one unit has no other: its own.
    """
    others = np.flatnonzero(np.arange(len(activations)) != peak[1])
    firing = others[activations[others] > 0]
    return _choice(firing if len(firing) else others, peak[1], "unit", peak, seed)


def firing_unit(activations: Float[np.ndarray, " C"], peak: tuple[int, ...], seed: int) -> int:
    """Return the peak's own unit if it fires, else draw one that does; its own if none does.

    activations: of all units at the peak's position.
    """
    if activations[peak[1]] > 0:
        return peak[1]
    return _choice(np.flatnonzero(activations > 0), peak[1], "firing", peak, seed)


def another_image(image_ids: Int[np.ndarray, " M"], peak: tuple[int, ...], seed: int) -> int:
    """Draw the id of an image that is not the peak's; its own if there is no other."""
    return _choice(image_ids[image_ids != peak[0]], peak[0], "image", peak, seed)


def _choice(possible: np.ndarray, otherwise: int, purpose: str, peak: tuple[int, ...], seed: int) -> int:
    return int(_generator(seed, purpose, peak).choice(possible)) if len(possible) else otherwise


def _generator(seed: int, purpose: str, peak: tuple[int, ...]) -> np.random.Generator:
    return np.random.default_rng([seed, *purpose.encode(), *peak])
