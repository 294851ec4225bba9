"""Figure 5: how far the features of a low and of a top layer move when the picture is moved, enlarged or turned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deconv.analyses import invariance
from deconv.analyses.choosing import number_labels, pick_images
from deconv.analyses.reframing import Move, Reframing, reframing
from deconv.command.paper import Fig5Invariance
from deconv.errors import BadInput
from deconv.figures import save_figure
from deconv.figures.invariance import Chart, ChartRow, invariance_figure
from deconv.files import write_json
from deconv.images import Source, open_source
from deconv.models.presets import called, class_names_of, open_network
from deconv.network import Network
from deconv.network.classes import alias_of, class_layer, name_classes, probabilities, top_layer
from deconv.progress import track
from deconv.records.provenance import build

AXES = {"translation": "pixels down", "scale": "times larger", "rotation": "degrees counter-clockwise"}
TITLES = {"translation": "(a) vertical translation", "scale": "(b) scale", "rotation": "(c) rotation"}
SAMPLES = 5
"""Moves of each kind that are shown as pictures."""


@dataclass(frozen=True)
class Subject:
    """One photograph: its key, its true class, whether that was given, and how input images are cut from it."""

    key: str
    label: int
    label_known: bool
    cut: Reframing


def run(options: Fig5Invariance, folder: Path) -> Path:
    """Move, run, compare and draw; returns the picture."""
    network, images = open_network(options.model, options.seed, options.device), open_source(**options.source)
    layers = two_layers(network, options.layers)
    names = name_classes(network, class_names_of(options.model))
    spans = {"translation": options.translation, "scale": options.scale, "rotation": options.rotation}
    amounts = {kind: invariance.amounts(kind, span) for kind, span in spans.items()}
    moves = [move for kind, values in amounts.items() for move in invariance.moves(kind, values)]
    subjects = choose(network, images, names, options, moves)
    preprocessing = network.needed_preprocessing()
    still = preprocessing.normalize(torch.stack([subject.cut.input_image(Move())[0] for subject in subjects]))
    units = invariance.spread(network, still, layers)
    rows, summary = [], {}
    for kind, values in amounts.items():
        row, numbers = measure(network, subjects, layers, units, kind, values, options.batch_size)
        rows.append(row)
        summary[kind] = numbers
    most_filled = max(numbers["most_filled"] for numbers in summary.values())
    labels = [names[subject.label] + ("" if subject.label_known else " (as the network finds)") for subject in subjects]
    heading = f"{called(options.model, network)}: features of moved, enlarged and turned photographs"
    figure = invariance_figure(rows, labels, heading, caption(subjects, most_filled))
    picture = save_figure(figure, folder / "fig5.png")
    provenance = build(network.provenance(), images.provenance(), fill=options.fill)
    said = [describe(*both, names) for both in zip(subjects, predict(network, still), strict=True)]
    numbers = {"layers": layers, "between_images": units, "images": said, "moves": summary}
    write_json(folder / "summary.json", numbers | {"provenance": provenance})
    return picture


def describe(subject: Subject, probability: Tensor, names: Sequence[str]) -> dict[str, object]:
    """What a photograph is, and what the network makes of it unmoved."""
    label = {"class": subject.label, "name": names[subject.label], "given": subject.label_known}
    return {
        "key": subject.key,
        "label": label,
        "room": round(subject.cut.room, 4),
        "probability": float(probability[subject.label]),
    }


def two_layers(network: Network, names: Sequence[str] | None) -> list[str]:
    """The low and the top layer: the two asked for, or the first of the network and the last before its classes."""
    layers = list(names) if names is not None else [alias_of(network, network.layers[0]), top_layer(network)]
    if len(layers) != 2:
        raise BadInput(f"layers: given {len(layers)}; expected two, as layers=[conv1,fire9]: a low one and a top one.")
    for layer in layers:
        network.node(layer)
    return layers


def choose(
    network: Network, images: Source, names: Sequence[str], options: Fig5Invariance, moves: Sequence[Move]
) -> list[Subject]:
    """The photographs, each with its label: the one given, or what the network finds most probable."""
    chosen = pick_images(images, options.images, first=5)
    known = number_labels(options.labels, len(chosen), names)
    if len(chosen) < 2:
        raise BadInput(
            f"images: given {len(chosen)}; expected two or more: distances are told in those between images."
        )
    preprocessing = network.needed_preprocessing()
    cuts = [reframing(images.image(number), preprocessing, moves, options.fill, options.room) for number in chosen]
    input_images = torch.stack([cut.input_image(Move())[0] for cut in cuts])
    labels = known or predict(network, preprocessing.normalize(input_images)).argmax(dim=1).tolist()
    subjects = zip(chosen, labels, cuts, strict=True)
    return [Subject(images.keys[number], label, known is not None, cut) for number, label, cut in subjects]


def predict(network: Network, pictures: Tensor) -> Tensor:
    """(M, classes) probabilities of preprocessed pictures."""
    scores = class_layer(network)
    return probabilities(network, network.forward(pictures, [scores])[scores])


def measure(
    network: Network,
    subjects: Sequence[Subject],
    layers: Sequence[str],
    units: Mapping[str, float],
    kind: str,
    amounts: Sequence[float],
    batch_size: int,
) -> tuple[ChartRow, dict[str, Any]]:
    """One kind of move, of all photographs: what is drawn, and the numbers."""
    preprocessing = network.needed_preprocessing()
    shown = np.linspace(0, len(amounts) - 1, min(SAMPLES, len(amounts))).round().astype(int).tolist()
    samples, filled = [], []
    lines: dict[str, list[np.ndarray]] = {name: [] for name in (*layers, "probability")}
    for subject in track(subjects, kind, len(subjects)):
        input_images, outside = zip(
            *(subject.cut.input_image(move) for move in invariance.moves(kind, amounts)), strict=True
        )
        pictures = preprocessing.normalize(torch.stack([subject.cut.input_image(Move())[0], *input_images]))
        response = invariance.respond(network, pictures[0], pictures[1:], layers, batch_size)
        for layer in layers:
            lines[layer].append(response.distance[layer].numpy() / units[layer])
        lines["probability"].append(response.probability[:, subject.label].numpy())
        samples.append(torch.stack([input_images[number] for number in shown]))
        filled.append(outside)
    values = {name: np.stack(line).astype(np.float64) for name, line in lines.items()}
    top = 1.05 * max(float(values[layer].max()) for layer in layers) or 1.0  # nothing moved
    charts = [Chart(f"distance in {layer}", values[layer], top) for layer in layers]
    charts.append(Chart("probability of the true class", values["probability"], 1.02))
    said = [f"{amounts[number]:g}" for number in shown]
    row = ChartRow(TITLES[kind], amounts, AXES[kind], torch.stack(samples), said, charts)
    return row, summarise(kind, amounts, layers, values, np.array(filled))


def summarise(
    kind: str, amounts: Sequence[float], layers: Sequence[str], values: Mapping[str, np.ndarray], filled: np.ndarray
) -> dict[str, Any]:
    """The lines, and the distance at the smallest move and over all of them, low against top."""
    least = invariance.smallest(kind, amounts)
    means = {"smallest_move": least, "all_moves": list(range(len(amounts)))}
    means_of_layers = {
        name: {layer: _mean(values[layer][:, indices]) for layer in layers} for name, indices in means.items()
    }
    low, top = (means_of_layers["smallest_move"][layer] for layer in layers)
    return {
        "amounts": list(amounts),
        "distance": {layer: values[layer].round(6) for layer in layers},
        "probability": values["probability"].round(6),
        "filled_share": filled.round(6),
        "most_filled": float(filled.max().round(6)),
        "mean_distance": means_of_layers,
        "smallest_move_amounts": [amounts[number] for number in least],
        "low_over_top_at_the_smallest_move": round(low / top, 4) if low is not None and top else None,
        "mean_probability": _mean(values["probability"]),
    }


def _mean(values: np.ndarray) -> float | None:
    return round(float(values.mean()), 6) if values.size else None


def caption(subjects: Sequence[Subject], most_filled: float) -> str:
    """What is said beneath the figure; most_filled: the largest share of an input image outside its photograph."""
    beyond = "its mirror image" if subjects[0].cut.fill == "reflect" else "the mean colour"
    outside = f"Up to {100 * most_filled:.0f} % of an input image lies outside its photograph: there stands {beyond}."
    return (
        f"Distances are Euclidean, from the unmoved picture, in units of the mean distance between the {len(subjects)} "
        "unmoved pictures: at 1 a picture is as far from itself as from another. "
        + (outside if most_filled else "No input image leaves its photograph.")
    )
