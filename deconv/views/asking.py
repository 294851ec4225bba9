"""What is asked about explanations of some units, checked before any work."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from deconv.analyses.choosing import check_units, firing_units
from deconv.compare.controls import CONTROLS, DECONVNETS, Opened, rules_behind
from deconv.compare.judging import first_rule, random_control
from deconv.errors import BadInput, UnsupportedOperation, bad_value, check_choice, check_count
from deconv.explanations import Explanations, by_name
from deconv.explanations.functions import Explanation
from deconv.images import MapDataset, Source, check_source
from deconv.mining import check_mined_from
from deconv.network import Network
from deconv.projection import check_rules
from deconv.projection.rules import Rule
from deconv.records import Peaks

Units = Sequence[int] | Mapping[str, Sequence[int]] | None
"""Those of every layer, or {layer: units}; None takes all that fire."""


@dataclass(frozen=True, eq=False)
class Asked:
    """Explanations by name, units that fire by layer, and the network with shuffled weights, where a control is one."""

    source: Source
    explanations: dict[str, Opened]
    units: dict[str, list[int]]
    random: Network | None


def check_asked(
    network: Network,
    images: Source | MapDataset,
    peaks: Peaks,
    explanations: Explanations,
    units: Units,
    seed: int,
    taken: Collection[str],
) -> Asked:
    """Return what is asked; taken: names that no explanation may have.

    Raises BadInput for what is no network, peaks or image, for peaks of other images or another network
    (RecordMismatch), and for a unit that is not there; UnknownName; UnsupportedOperation for a rule that cannot serve.
    """
    if not isinstance(network, Network):
        raise bad_value("network", type(network).__name__, "a deconv.Network")
    if network.input_shape[0] != 3:
        raise BadInput(f"the judge compares colours; expected inputs of 3 channels, not {network.input_shape[0]}")
    if not isinstance(peaks, Peaks):
        raise bad_value("peaks", type(peaks).__name__, "Peaks", "deconv.mine(network, images, layers)")
    opened: dict[str, Opened] = by_name(explanations, CONTROLS)
    if not opened or not opened.keys().isdisjoint(taken):
        raise bad_value("explanations", list(opened), f"at least one, none called {' or '.join(map(repr, taken))}")
    check_count("seed", seed, 0)
    source = check_source(images)
    check_mined_from(peaks, network, source)
    layers = sorted(peaks, key=network.node)
    asked = units if isinstance(units, Mapping) else dict.fromkeys(layers, units)
    for layer in asked:
        check_choice("layer of units", layer, layers)
        check_units(network, [layer], asked[layer])
    check_rules(network, layers, [each for each in opened.values() if isinstance(each, Rule)])
    _check_controls(network, layers, opened)
    chosen = {
        layer: firing_units(layer, peaks[layer], asked[layer], len(peaks[layer].score), seed)
        for layer in layers
        if layer in asked
    }
    random = random_control(network, layers, seed, opened.values())
    return Asked(source, opened, chosen, random)


def beside_rule(tested: Rule, others: Mapping[str, str | Explanation], taken: Collection[str]) -> dict[str, Opened]:
    """Return the rule under test and the explanations beside it, by name; taken: names that are always asked.

    Raises UnknownName for what does not exist, and BadInput for a name that is taken.
    """
    explanations = {tested.name: tested} | by_name(others, CONTROLS)
    if not explanations.keys().isdisjoint(taken):
        raise bad_value("against", list(explanations), f"names other than {' and '.join(taken)}, always asked")
    return explanations


def _check_controls(network: Network, layers: Sequence[str], explanations: Mapping[str, Opened]) -> None:
    """Raise UnsupportedOperation, naming them, for controls that are deconvnets which the network does not carry."""
    controls = [name for name in explanations.values() if isinstance(name, str)]
    try:
        check_rules(network, layers, rules_behind(controls, first_rule(explanations.values())))
    except UnsupportedOperation as error:
        deconvnets = ", ".join(name for name in controls if name in DECONVNETS) or "gradient_times_input"
        raise UnsupportedOperation(
            f"what is behind {deconvnets}: {error}; controls are carried as far as the first rule among the "
            "explanations: put deconvnet_beyond there"
        ) from error
