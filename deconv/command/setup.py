"""From an experiment's options to what it works with: a network, images, an engine, a rule.

The library takes plain arguments; what files of configs/ say in their own words is translated into them here, once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from deconv.analyses.choosing import as_reference, check_units, firing_units
from deconv.command import shared
from deconv.command.ahead import Ahead
from deconv.engines import Engine, open_engine
from deconv.errors import BadInput, RecordMismatch, UnknownName, bad_value, check_choice, first_line
from deconv.explanations import as_explanation, check_explanations, try_functions
from deconv.explanations.functions import Explanation, load
from deconv.images import Source, StreamedSource, open_source
from deconv.images.cached import cached
from deconv.mining import mine_into
from deconv.models import reference_peaks
from deconv.models.directions import open_directions
from deconv.models.presets import open_network
from deconv.network import Network
from deconv.network.classes import alias_of
from deconv.network.directions import BETWEEN
from deconv.projection import said_of_unserved, served_layers
from deconv.projection.rules import Rule, as_rule
from deconv.records import Peaks

log = logging.getLogger("deconv")


_rehearsing: ContextVar[bool] = ContextVar("rehearsing", default=False)


@contextmanager
def rehearsing() -> Iterator[None]:
    """Within it an experiment goes as far as its first mining, which raises WorkBegins; no cache is filled."""
    token = _rehearsing.set(True)
    try:
        yield
    finally:
        _rehearsing.reset(token)


class WorkBegins(Exception):
    """All that an experiment checks has been checked, and it would mine now.

    record: where the peaks of `prepared` would be kept.  ahead: what comes then; None where that is not counted.
    """

    def __init__(self, prepared: Prepared, record: Path, k: int, per_image: int, ahead: Ahead | None):
        super().__init__(f"mining into {record}")
        self.prepared, self.record, self.k, self.per_image, self.ahead = prepared, record, k, per_image, ahead


@dataclass(frozen=True, eq=False)
class Prepared:
    """A network and the images to mine it over; `layers` are in forward order."""

    network: Network
    images: Source
    layers: list[str]
    engine: Engine
    batch_size: int
    precision: str

    def begin(self, record: Path, k: int, per_image: int = 1, ahead: Ahead | None = None) -> None:
        """Raise WorkBegins within `rehearsing`. An experiment calls it before work that comes before its mining."""
        if _rehearsing.get():
            raise WorkBegins(self, record, k, per_image, ahead)

    def mine(self, record: Path, k: int, per_image: int = 1, firing: bool = False, ahead: Ahead | None = None) -> Peaks:
        """Return the peaks of all layers, which `record` keeps; takes `firing` and raises as `deconv.mining.mine_into`.

        ahead: what the experiment does then. Within `rehearsing` it raises WorkBegins instead.
        """
        self.begin(record, k, per_image, ahead)
        counts: dict[str, Any] = {"k": k, "batch_size": self.batch_size, "per_image": per_image}
        how: dict[str, Any] = {"precision": self.precision, "engine": self.engine, "firing": firing}
        return mine_into(record, self.network, self.images, self.layers, **counts, **how)


def units_by_layer(options: shared.WithUnits, peaks: Peaks) -> dict[str, list[int]]:
    """Return {layer: its units that are asked about}: of `units`, or of `n_units` drawn ones, those that fire.

    Raises BadInput for a layer where none does.
    """
    return {layer: firing_units(layer, peaks[layer], options.units, options.n_units, options.seed) for layer in peaks}


def open_model(options: shared.WithDirections) -> Network:
    """Return the network of `model` with its `directions`. Raises what `open_network` and `open_directions` raise."""
    return open_directions(open_network(options.model, options.seed, options.device), options.directions)


def prepare(
    options: shared.Scanning,
    network: Network,
    layers: Sequence[str] | None,
    explanations: Iterable[str | Rule | Explanation],
    units: Sequence[int] | None = None,
) -> Prepared:
    """Return the network with the images to mine it over, everything that can be checked before that being checked.

    layers: names, or None for all with an alias and all directions, or simply all, but those that a rule cannot serve
    unless it serves none: they are left out, which is logged.  explanations: what is to serve every layer; functions
    are tried on one photograph. Raises UnknownName for a layer, unit or explanation, UnsupportedOperation for a rule
    that cannot serve, and BadInput.
    """
    opened = [as_explanation(each) for each in explanations]
    source = open_images(options)  # a mistake in it is told before what a rule cannot serve
    ordered = sorted(layers or _named_layers(network), key=network.node)
    if not layers:
        ordered = _served(network, ordered, [each for each in opened if isinstance(each, Rule)])
    _check_directions(network, ordered)
    check_explanations(network, ordered, opened)
    check_units(network, ordered, units)
    try_functions(network, source, ordered, opened)
    images, engine = _kept(options, network, source), open_engine(**options.engine)
    if network.device.type == "cuda" and engine.computes_on(network)["device"] == "cpu":
        raise bad_value("device", "cuda", "workers that have GPUs too", "give engine.num_gpus=1, or a part of one")
    return Prepared(network, images, ordered, engine, options.batch_size, options.precision)


def open_images(options: shared.Scanning) -> Source:
    """Return the images of `source`, those of one class alone if `within` names it.

    Raises UnknownName and BadInput as `open_source` and `Source.of_class` do.
    """
    source = open_source(**options.source)
    return source if options.within is None else source.of_class(options.within)


def _served(network: Network, layers: list[str], rules: list[Rule]) -> list[str]:
    """The layers that all rules can send back, the others being told; all of them where there is none."""
    served = served_layers(network, layers, rules)
    if served and (left_out := [layer for layer in layers if layer not in served]):
        log.info("no layers named: %s", said_of_unserved(network, left_out, rules))
    return served or layers


def _named_layers(network: Network) -> list[str]:
    """The layers that have an alias, and directions; all where none has one."""
    if not network.aliases:
        return network.layers
    return [*network.aliases, *(layer for layer in network.directions if layer not in network.aliases.values())]


def _check_directions(network: Network, layers: Sequence[str]) -> None:
    """Raise BadInput for directions that none of the layers is, nor reads."""
    used = {network.aliases.get(layer, layer) for layer in layers}
    for made, directions in network.directions.items():
        if not any(layer == made or layer.startswith(f"{made}{BETWEEN}") for layer in used):
            called = alias_of(network, made)
            raise BadInput(
                f"directions.{directions.name}: layers={','.join(layers)} leaves them out; add {called} to the layers, "
                "or leave the directions out"
            )


def open_reference(
    options: shared.WithReference, network: Network, images: Source, layers: Sequence[str]
) -> Peaks | None:
    """Return the peaks of `reference`, or those that travel with the model's weights, by the names of these layers.

    None if neither is there, or if those that travel do not serve, which is logged: over these very images, for a layer
    that they lack, or for another preprocessing than the model's own. Raises RecordMismatch and UnknownName if the ones
    of `reference` do not serve, BadInput if they cannot be read.
    """
    if options.reference is not None:
        return as_reference(network, layers, Peaks.load(options.reference))
    model = options.model
    shipped_peaks = reference_peaks(model["name"], model["weights"], bool(model.get("trunk")))
    if shipped_peaks is None:
        return None
    source = shipped_peaks.provenance["source"]
    listed = not isinstance(images, StreamedSource)  # the content of streamed ones is never that of a record of listed
    if listed and source["images"] == len(images) and source["content"] == images.content_hash:  # which reads all
        log.info("these are the images that the units' strongest activations were taken from: nothing to compare")
        return None
    try:
        return as_reference(network, layers, shipped_peaks)
    except (RecordMismatch, UnknownName) as error:
        log.info("units are not compared with their strongest over the training images: %s", error)
        return None


def _kept(options: shared.WithCache, network: Network, images: Source) -> Source:
    """The images as the network sees them, in the folder `cache` if there is one."""
    return (
        images
        if options.cache is None or _rehearsing.get()
        else cached(images, network.needed_preprocessing(), options.cache)
    )


def open_rule(rule: str | shared.Rule) -> Rule:
    """Return the rule of a name or of options. Raises UnknownName for what does not exist, BadInput for other switches.

    Those are of other images, which only compare_rules has.
    """
    opened = as_rule(rule if isinstance(rule, str) else asdict(rule))
    if opened.switches == "other":
        raise BadInput("rule.switches=other: only compare_rules has other images with switches; use another choice")
    return opened


def asked_explanations(options: shared.WithExplanations, names: Sequence[str]) -> dict[str, str | Explanation]:
    """Return what `names` ask for by name, then the functions of `explanations`, for `deconv.explanations.by_name`.

    Raises BadInput for a function that cannot be imported.
    """
    own = {name: load(name, target) for name, target in options.explanations.items()}
    return {**{name: name for name in names}, **own}


def yaml_file(option: str, path: str, known: Sequence[str]) -> dict[str, Any]:
    """Return what a YAML file says, a mapping with some of the keys that are known.

    Raises BadInput for a file that is missing or no such mapping, UnknownName for another key.
    """
    expected = f"a YAML file that is a mapping of {', '.join(known)}"
    try:
        content = OmegaConf.to_container(OmegaConf.load(Path(path).expanduser()))
    except Exception as error:  # YAML, OmegaConf and files have errors of their own
        raise bad_value(option, path, expected, f"it cannot be read: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise bad_value(option, path, expected)
    for key in content:
        check_choice(f"key of {option} {path}", key, known)
    return {str(key): value for key, value in content.items()}
