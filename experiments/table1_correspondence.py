"""Table 1 and Figure 8: the same part masked in several images, and how alike the features change in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deconv.analyses.correspondence import (
    MEASURES,
    PAPER,
    Box,
    Result,
    box_in_frame,
    disagreement,
    means,
    random_boxes,
    read_annotations,
)
from deconv.command.paper import Table1Correspondence
from deconv.errors import BadInput
from deconv.figures import save_figure
from deconv.figures.correspondence import correspondence_figure, masks_figure
from deconv.files import write_json
from deconv.images import Source, open_source
from deconv.images.preprocessing import Preprocessing
from deconv.models.presets import called, open_network
from deconv.network import Network
from deconv.network.classes import class_layer, top_layer
from deconv.progress import track
from deconv.records.provenance import build

DOGS = Path(__file__).with_name("table1_dogs.csv")


def run(options: Table1Correspondence, folder: Path) -> Path:
    """Mask the parts, then random places; returns the chart."""
    network, images = open_network(options.model, options.seed, options.device), open_source(**options.source)
    layers = check_layers(network, options.layers)
    annotated = read_annotations(options.annotations or DOGS)
    input_images, boxes = place_boxes(images, annotated, network.needed_preprocessing())
    regions = take_region(boxes, options.region, input_images)
    pixels = network.needed_preprocessing().normalize(input_images)
    drawn = draw_boxes(boxes, regions, options.draws, options.seed)
    seen = network.forward(pixels, layers)
    parts = {part: disagreement(network, pixels, boxes[part], layers, seen) for part in boxes}
    progress = track(drawn, "masking random places", len(drawn), unit="draws")
    random = [disagreement(network, pixels, random_boxes_drawn, layers, seen) for random_boxes_drawn in progress]
    summary = {
        "layers": {layer: summarise(layer, parts, random) for layer in layers},
        "paper": {"layer 5": PAPER[0], "layer 7": PAPER[1]},
        "boxes_in_frame": {part: dict(zip(annotated, boxes[part], strict=True)) for part in boxes},
        "provenance": build(
            network.provenance(),
            images.provenance(),
            annotations=annotated,
            settings={"region": options.region, "draws": options.draws, "seed": options.seed},
        ),
    }
    write_json(folder / "summary.json", summary)
    heading = (
        f"{called(options.model, network)}: what masking one part changes, between {len(input_images)} images; "
        "lower is more alike"
    )
    save_figure(masks_figure(input_images, list(annotated), {**boxes, "random": drawn[0]}), folder / "fig8.png")
    return save_figure(correspondence_figure(layers, parts, random, heading), folder / "table1.png")


def check_layers(network: Network, layers: Sequence[str] | None) -> list[str]:
    """The layers asked for, or the last one of maps and the top one. Raises UnknownName."""
    if layers is None:
        low, top = top_layer(network, maps_only=True), top_layer(network)
        layers = [low, top if top != low else class_layer(network)]
    for layer in layers:
        network.node(layer)
    return list(layers)


def place_boxes(
    images: Source, annotated: Mapping[str, Mapping[str, Box]], preprocessing: Preprocessing
) -> tuple[Tensor, dict[str, list[Box]]]:
    """The input images uint8 (N, 3, H, W) of the annotated photographs, and {part: a box in each input image}."""
    for file in annotated:
        if file not in images.keys:
            raise BadInput(
                f"the annotations name {file}, which the source {images.name} does not hold; expected a key such as "
                f"{images.keys[0]}: choose the source, as source=folder source.root=PATH, or give annotations=PATH."
            )
    input_images: list[Tensor] = []
    boxes: dict[str, list[Box]] = {part: [] for part in next(iter(annotated.values()))}
    for file, parts in annotated.items():
        photograph = images.image(images.keys.index(file))
        input_images.append(preprocessing.input_image(photograph))
        for part in boxes:
            try:
                boxes[part].append(box_in_frame(parts[part], photograph.shape[:2], preprocessing))
            except BadInput as error:
                raise BadInput(f"{part!r} in {file}: {error}") from error
    return torch.stack(input_images), boxes


def take_region(boxes: dict[str, list[Box]], region: str | None, input_images: Tensor) -> list[Box]:
    """Where random boxes may lie in each input image; the region is taken out of the parts."""
    if region is None:
        return [(0, 0, input_images.shape[2], input_images.shape[3])] * len(input_images)
    if region not in boxes or len(boxes) < 2:
        raise BadInput(
            f"region={region}: the annotations have the parts {', '.join(boxes)}; expected one of them and another "
            "to mask, or region=null for the whole input image."
        )
    return boxes.pop(region)


def draw_boxes(parts: Mapping[str, list[Box]], regions: list[Box], draws: int, seed: int) -> list[list[Box]]:
    """`draws` times a random box in each image; their sizes are those of the parts, in turn."""
    if draws < 2:
        raise BadInput(f"draws={draws}: expected 2 or more, for a spread.")
    sizes, generator = list(parts.values()), torch.Generator().manual_seed(seed)
    return [random_boxes(sizes[draw % len(sizes)], regions, generator) for draw in range(draws)]


def summarise(layer: str, parts: Mapping[str, Result], random: Sequence[Result]) -> dict[str, object]:
    """The numbers of one layer: of each part its spread over pairs of images, of the random places that over draws.

    as_low_by_chance: the share of draws whose mean over the pairs is not above the part's.
    """
    rows: dict[str, dict[str, object]] = {part: {"moved": mean(result[layer].moved)} for part, result in parts.items()}
    rows["random"] = {"moved": mean(np.array([result[layer].moved for result in random]))}
    for measure in MEASURES:
        drawn = means(layer, measure, random)
        rows["random"][measure] = {"mean": mean(drawn), "std_over_draws": round(float(drawn.std()), 6)}
        for part, result in parts.items():
            pairs = getattr(result[layer], measure)
            rows[part][measure] = {
                "mean": mean(pairs),
                "std_over_pairs": round(float(pairs.std()), 6),
                "as_low_by_chance": mean(drawn <= pairs.mean()),
            }
    return dict(rows)


def mean(values: np.ndarray) -> float:
    """The mean, to six places."""
    return round(float(values.mean()), 6)
