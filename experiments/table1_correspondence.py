"""Table 1 and Figure 8: the same part masked in several images, and how alike the features change in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from deconv.analyses.correspondence import Box, Disagreement, box_in_frame, disagreement, random_boxes, read_annotations
from deconv.command.options import Table1Correspondence
from deconv.command.setup import open_network
from deconv.errors import BadInput
from deconv.figures import save_figure
from deconv.files import write_json
from deconv.images import Source, open_source
from deconv.images.preprocessing import Preprocessing
from deconv.network import Network
from deconv.network.classes import class_layer, top_layer
from deconv.progress import track
from deconv.records.provenance import versions

DOGS = Path(__file__).with_name("table1_dogs.csv")
PAPER = [
    {"right eye": (0.067, 0.007), "left eye": (0.069, 0.007), "nose": (0.079, 0.017), "random": (0.107, 0.017)},
    {"right eye": (0.069, 0.015), "left eye": (0.068, 0.013), "nose": (0.069, 0.011), "random": (0.073, 0.014)},
]
"""Table 1 of the paper: layer 5, and layer 7."""

MEASURES = {
    "of_all": "of all features (the paper's measure)",
    "of_moved": "of those that move in either image",
}

Result = dict[str, Disagreement]
"""By layer."""


def run(options: Table1Correspondence, folder: Path) -> Path:
    """Mask the parts, then random places; returns the chart."""
    network, images = open_network(options.model, options.seed), open_source(**options.source)
    layers = check_layers(network, options.layers)
    annotated = read_annotations(options.annotations or DOGS)
    input_images, boxes = place(images, annotated, network.needed_preprocessing())
    regions = take_region(boxes, options.region, input_images)
    pixels = network.needed_preprocessing().normalize(input_images)
    drawn = draw_boxes(boxes, regions, options.draws, options.seed)
    parts = {part: disagreement(network, pixels, boxes[part], layers) for part in boxes}
    progress = track(drawn, "masking random places", len(drawn), unit="draws")
    random = [disagreement(network, pixels, places, layers) for places in progress]
    summary = {
        "layers": {layer: summarise(layer, parts, random) for layer in layers},
        "paper": {"layer 5": PAPER[0], "layer 7": PAPER[1]},
        "boxes_in_frame": {part: dict(zip(annotated, boxes[part], strict=True)) for part in boxes},
        "provenance": {
            "weights": network.weights_hash,
            "source": {"name": images.name, "content": images.content_hash, "images": len(images)},
            "preprocessing": network.needed_preprocessing().as_dict(),
            "annotations": annotated,
            "settings": {"region": options.region, "draws": options.draws, "seed": options.seed},
            "versions": versions(),
        },
    }
    write_json(folder / "summary.json", summary)
    told = f"what masking one part changes, between {len(input_images)} images; lower is more alike"
    heading = f"{options.model['name']}: {told}"
    save_figure(draw_masks(input_images, list(annotated), {**boxes, "random": drawn[0]}), folder / "fig8.png")
    return save_figure(draw_chart(layers, parts, random, heading), folder / "table1.png")


def check_layers(network: Network, layers: Sequence[str] | None) -> list[str]:
    """The layers asked for, or the last one of maps and the top one. Raises UnknownName."""
    if layers is None:
        low, top = top_layer(network, maps_only=True), top_layer(network)
        layers = [low, top if top != low else class_layer(network)]
    for layer in layers:
        network.node(layer)
    return list(layers)


def place(
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


def means(layer: str, measure: str, random: Sequence[Result]) -> np.ndarray:
    """(draws,): the mean over the pairs of images, for each draw."""
    return np.array([getattr(result[layer], measure).mean() for result in random])


def mean(values: np.ndarray) -> float:
    """The mean, to six places."""
    return round(float(values.mean()), 6)


def draw_masks(input_images: Tensor, names: list[str], boxes: Mapping[str, list[Box]]) -> Figure:
    """Figure 8: a row for each image, a column for each part, masked with grey."""
    columns = ["", *boxes]
    figure = Figure(figsize=(1.9 * len(columns) + 0.3, 1.9 * len(input_images) + 0.3), layout="constrained")
    grid = figure.subplots(len(input_images), len(columns), squeeze=False)
    for row, (input_image, name) in enumerate(zip(input_images.permute(0, 2, 3, 1).numpy(), names, strict=True)):
        for axes, part in zip(grid[row], columns, strict=True):
            axes.imshow(input_image)
            axes.set(xticks=[], yticks=[])
            if part:
                y0, x0, y1, x1 = boxes[part][row]
                axes.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, facecolor="0.5", edgecolor="white"))
            if row == 0:
                axes.set_title(part or "what the network sees", fontsize=10)
        grid[row, 0].set_ylabel(Path(name).stem.split("_", 1)[-1].replace("_", " "))
    return figure


def draw_chart(layers: list[str], parts: Mapping[str, Result], random: Sequence[Result], heading: str) -> Figure:
    """Table 1 as a chart: a row for each layer, a column for each measure; the paper's values where there are such."""
    figure = Figure(figsize=(10.5, 1.0 + 2.8 * len(layers)), layout="constrained")
    figure.suptitle(heading)
    grid = figure.subplots(len(layers), len(MEASURES), squeeze=False)
    for row, layer in enumerate(layers):
        for axes, (measure, title) in zip(grid[row], MEASURES.items(), strict=True):
            pairs = [getattr(result[layer], measure) for result in parts.values()]
            draw_values(axes, pairs, means(layer, measure, random))
            if measure == "of_all" and len(layers) == len(PAPER):
                draw_paper(axes, [*parts, "random"], row)
            axes.set_xticks(range(len(parts) + 1), [*parts, "random places"])
            axes.set_ylabel(f"{layer}\nshare with another sign of change")
            axes.spines[["top", "right"]].set_visible(False)
            if row == 0:
                axes.set_title(title, fontsize=10)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8.5)
    return figure


def draw_values(axes: Axes, pairs: Sequence[np.ndarray], drawn: np.ndarray) -> None:
    """The parts, each with its spread over the pairs of images; then the random draws, their mean as a line across."""
    at = np.arange(len(pairs))
    bars: dict[str, Any] = {"fmt": "o", "capsize": 3}
    part_means, part_stds = [p.mean() for p in pairs], [p.std() for p in pairs]
    axes.errorbar(at, part_means, part_stds, color="C0", label="a part: mean and std over pairs of images", **bars)
    aside = len(pairs) + 0.5 * (0.618 * np.arange(len(drawn)) % 1 - 0.5)  # so that equal draws do not cover each other
    axes.plot(aside, drawn, ".", color="0.75", markersize=4, label="one draw of random places")
    axes.errorbar(len(pairs), drawn.mean(), drawn.std(), color="k", label="their mean and std over draws", **bars)
    axes.axhline(drawn.mean(), color="k", linewidth=0.8, linestyle=":")


def draw_paper(axes: Axes, names: Sequence[str], row: int) -> None:
    """The paper's values of the parts that it has."""
    known = {at: PAPER[row][name] for at, name in enumerate(names) if name in PAPER[row]}
    places, values = np.array(list(known)) + 0.35, list(known.values())
    mean_values, stds = [value for value, _ in values], [std for _, std in values]
    axes.errorbar(
        places, mean_values, stds, fmt="D", mfc="none", color="C3", capsize=3, label="the paper, layers 5 and 7"
    )
