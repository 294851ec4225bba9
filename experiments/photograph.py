"""One photograph: in every layer the units that it excites most, where, and what else excites them; as a page."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deconv import figures
from deconv.analyses import photograph as analysis
from deconv.analyses.features import summarise
from deconv.analyses.photograph import SeenLayer
from deconv.command.ahead import Ahead, projections
from deconv.command.options import Photograph
from deconv.command.setup import Prepared, open_model, open_reference, open_rule, prepare
from deconv.errors import bad_value
from deconv.explanations import BUILT_IN
from deconv.figures.photograph import Seen, photograph_figure, photograph_page
from deconv.files import safe_name, write_json, write_whole
from deconv.images.decoding import decode
from deconv.images.members import Member
from deconv.models.presets import class_names_of
from deconv.network import Network
from deconv.progress import track
from deconv.projection import project_peaks
from deconv.projection.patches import patches_of
from deconv.projection.rules import Rule
from deconv.records import Peaks
from deconv.views.strongest import OnPhotograph, project_strongest


def run(options: Photograph, folder: Path) -> Path:
    """Mine the images, find what the photograph excites in each layer, write page and picture; returns the page."""
    pixels = read_photograph(options.image)
    network, rule = open_model(options), open_rule(options.rule)
    prepared = prepare(options, network, options.layers, [rule])
    reference = open_reference(options, network, prepared.images, prepared.layers)
    record = folder / "peaks.safetensors" if options.peaks is None else Path(options.peaks)
    counts = dict.fromkeys(prepared.layers, options.n_units * (1 + options.k))
    ahead = Ahead(projections(counts, [rule]))  # the units on the photograph, and their peaks
    peaks = prepared.mine(record, options.k, options.per_image, ahead=ahead)
    beside = peaks if reference is None else reference
    layers = []
    for layer in track(prepared.layers, "projecting", len(prepared.layers), unit="layers"):
        here = project_strongest(network, None, pixels, layer, None, rule, options.n_units, beside)
        here.save(folder / f"{safe_name(layer)}.photograph.reconstructions.safetensors")
        layers.append(look_at_layer(prepared, peaks, beside, here, rule, folder))
    seen = as_seen(options, network, here, layers, beside, len(prepared.images), rule)
    figures.save_figure(photograph_figure(seen), folder / "photograph.png")
    summary = {
        "photograph": options.image,
        "answers": seen.answers,
        "layers": {layer.layer: layer.numbers for layer in layers},
        "provenance": peaks.provenance,
        "reference": beside.provenance,
        "rule": rule.options(),
    }
    write_json(folder / "summary.json", summary)
    return write_whole(folder / "photograph.html", photograph_page(seen).encode())


def read_photograph(image: str) -> np.ndarray:
    """The photograph's pixels (H, W, 3). Raises BadInput if there is no such file, UnreadableImage if it is none."""
    path = Path(image).expanduser()
    if not path.is_file():
        raise bad_value("image", image, "the file of a photograph", "there is no such file")
    return decode(Member(path))


def look_at_layer(
    prepared: Prepared, peaks: Peaks, reference: Peaks, here: OnPhotograph, rule: Rule, folder: Path
) -> SeenLayer:
    """The units of `here` on the photograph, beside their strongest peaks over the images."""
    network, images, layer = prepared.network, prepared.images, here.layer
    units, mined = here.channel.tolist(), peaks[layer]
    best = project_peaks(network, images, layer, mined, units, rule)
    best.save(folder / f"{safe_name(layer)}.reconstructions.safetensors")
    shown = best.zoomed()
    numbers = summarise(network, images, layer, mined, units, best, shown)
    numbers |= analysis.numbers_here(here.peaks, reference[layer], here) | {"indifferent": list(here.indifferent)}
    inputs = network.needed_preprocessing().normalize(here.photograph[None]).expand(len(here), -1, -1, -1)
    maps = BUILT_IN["activation_map"](network, inputs, layer, here.channel, here.row, here.col)[:, 0].cpu()
    zoomed = here.zoomed(max(numbers["shown_field"])) if len(best) else here.zoomed()
    return SeenLayer(layer, zoomed, maps, (shown, patches_of(network, images, shown)), numbers, mined.score.shape[1])


def as_seen(
    options: Photograph,
    network: Network,
    here: OnPhotograph,
    layers: list[SeenLayer],
    reference: Peaks,
    images: int,
    rule: Rule,
) -> Seen:
    """All that the page tells."""
    model = options.model
    title = model.get("arch") or Path(model.get("target") or model["name"]).name
    names = class_names_of(model)
    scored, class_scores = analysis.outputs(network, names), {}
    if scored is not None:
        layer, classes = scored
        class_scores = {seen.layer: classes for seen in layers if network.node(seen.layer) == network.node(layer)}
    answers = analysis.answers(network, here.photograph, names)
    name = Path(options.image).name
    return Seen(here.photograph, name, title, layers, answers, class_scores, images, reference, rule.name)
