"""Figure 7: a grey square over every place of a few images: one map's activity, its projection, and the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from deconv.analyses import occlusion
from deconv.analyses.choosing import check_units, number_labels, pick_images
from deconv.analyses.occlusion import Occlusion
from deconv.command.paper import Fig7Occlusion
from deconv.command.setup import Prepared, asked_explanations, open_rule, prepare
from deconv.errors import BadInput
from deconv.explanations import by_name, explain
from deconv.explanations.functions import Explanation
from deconv.figures import save_figure
from deconv.figures.occlusion import OcclusionRow, occlusion_figure
from deconv.files import safe_name, write_json, write_whole
from deconv.images import Source
from deconv.models.presets import called, class_names_of, open_network
from deconv.network import Network
from deconv.network.classes import name_classes, top_layer
from deconv.network.squares import places
from deconv.projection.rules import Rule
from deconv.records import LayerPeaks, Reconstructions
from deconv.records.provenance import Provenance, build

OTHERS = 3
"""Images beside the occluded one whose projections of the same map are shown."""


@dataclass(frozen=True, eq=False)
class Scene:
    """What all images of a run share."""

    network: Network
    images: Source
    layer: str
    names: list[str]
    colour: Tensor  # of the square, (3,) 0..255
    rule: Rule
    explanations: dict[str, Rule | Explanation]  # the rule first


@dataclass(frozen=True, eq=False)
class Subject:
    """One image: as a photograph uint8 (3, H, W), and preprocessed; its label and unit, where they were given."""

    number: int
    key: str
    input_image: Tensor
    picture: Tensor
    label: int | None
    unit: int | None


def run(options: Fig7Occlusion, folder: Path) -> Path:
    """Occlude, project, compare and draw; returns the picture."""
    scene, prepared = set_scene(options)
    subjects = choose(scene, options)
    peaks = prepared.mine(folder / "peaks.safetensors", k=1 + OTHERS)
    rows: dict[str, list[OcclusionRow]] = {name: [] for name in scene.explanations}
    summary = []
    for number, subject in enumerate(subjects):
        seen = see(scene, subject, options)
        save_maps(folder / f"{number}.maps.safetensors", seen, subject.label)
        agreement = {}
        for name, explanation in scene.explanations.items():
            others = project_others(scene, subject, seen.unit, peaks[scene.layer], explanation)
            own, controls = project_units(scene, subject, seen.unit, explanation, options)
            own.save(folder / f"{number}{after(scene, name)}.reconstructions.safetensors")
            rows[name].append(row_of(scene, subject, seen, [*own.paste(), *others.paste()]))
            label = true_class(seen, subject.label)
            agreement[name] = occlusion.agreement(seen, label, own.paste(), controls.paste())
        with_rule = {"correlation_with_projection": agreement.pop(scene.rule.name)}
        with_others = {"correlation_with_explanations": agreement} if agreement else {}
        summary.append(summarise(scene, subject, seen) | with_rule | with_others)
    for name, of_explanation in rows.items():
        save_figure(
            occlusion_figure(of_explanation, *heading(options, scene.network)), folder / f"fig7{after(scene, name)}.png"
        )
    write_json(
        folder / "summary.json", {"images": summary, "layer": scene.layer, "provenance": provenance(scene, options)}
    )
    return folder / "fig7.png"


def after(scene: Scene, name: str) -> str:
    """What the names of an explanation's files end with; the rule's are as if there were no other."""
    return "" if scene.explanations[name] is scene.rule else f".{safe_name(name)}"


def set_scene(options: Fig7Occlusion) -> tuple[Scene, Prepared]:
    """The network, the photographs, the layer and the square's colour; raises for what cannot be used."""
    network = open_network(options.model, options.seed, options.device)
    names = name_classes(network, class_names_of(options.model))
    layers = options.layers or [top_layer(network, maps_only=True)]
    if len(layers) != 1 or network.map_size(layers[0]) == (1, 1):
        raise BadInput(f"layers={layers}: expected one layer of maps that have more than one place, as layers=[fire9]")
    rule = open_rule(options.rule)
    explanations = {rule.name: rule} | by_name(asked_explanations(options, []))
    prepared = prepare(options, network, layers, explanations.values())
    preprocessing = network.needed_preprocessing()
    colour = torch.tensor(preprocessing.mean) * 255 if options.colour is None else torch.tensor(options.colour)
    if colour.shape != (3,) or not bool(((colour >= 0) & (colour <= 255)).all()):
        raise BadInput(f"colour={options.colour}: expected red, green and blue from 0 to 255, or null")
    return Scene(network, prepared.images, layers[0], names, colour, rule, explanations), prepared


def choose(scene: Scene, options: Fig7Occlusion) -> list[Subject]:
    """The images to occlude, their labels and units, checked."""
    preprocessing = scene.network.needed_preprocessing()
    chosen = pick_images(scene.images, options.images, first=3)
    numbered = number_labels(options.labels, len(chosen), scene.names)
    labels: Sequence[int | None] = [None] * len(chosen) if numbered is None else numbered
    units = units_of(scene, options.units, len(chosen))
    subjects = []
    for number, label, unit in zip(chosen, labels, units, strict=True):
        photograph, key = scene.images.image(number), scene.images.keys[number]
        if min(photograph.shape[:2]) < options.square:
            size = " x ".join(map(str, photograph.shape[:2]))
            raise BadInput(f"{key} has {size} pixels, fewer than square={options.square}; give a smaller square.")
        input_image = preprocessing.input_image(photograph)
        for side in input_image.shape[1:]:
            places(side, options.square, options.stride)
        subjects.append(Subject(number, key, input_image, preprocessing.normalize(input_image[None])[0], label, unit))
    return subjects


def units_of(scene: Scene, units: Sequence[int] | None, images: int) -> list[int | None]:
    """The unit of each image; None where the strongest is taken."""
    if units is None:
        return [None] * images
    if len(units) != images:
        raise BadInput(f"units: given {len(units)} for {images} images; expected one for each, or null.")
    check_units(scene.network, [scene.layer], units)
    return list(units)


def see(scene: Scene, subject: Subject, options: Fig7Occlusion) -> Occlusion:
    """The square over every place of one image."""
    preprocessing = scene.network.needed_preprocessing()
    unit = subject.unit
    if unit is None:
        unit = occlusion.strongest_unit(scene.network, subject.picture, scene.layer)
    colour = (scene.colour / 255 - torch.tensor(preprocessing.mean)) / torch.tensor(preprocessing.std)
    return occlusion.occlude(
        scene.network, subject.picture, scene.layer, unit, options.square, options.stride, colour, options.batch_size
    )


def project_others(
    scene: Scene, subject: Subject, unit: int, peaks: LayerPeaks, explanation: Rule | Explanation
) -> Reconstructions:
    """The same map's strongest peaks in other images, projected."""
    columns = peaks.of([unit])
    elsewhere = columns[0] != subject.number
    image, channel, row, col = (column[elsewhere][:OTHERS] for column in columns)
    return explain(scene.network, scene.images, scene.layer, image, channel, row, col, explanation)


def project_units(
    scene: Scene, subject: Subject, unit: int, explanation: Rule | Explanation, options: Fig7Occlusion
) -> tuple[Reconstructions, Reconstructions]:
    """The strongest peak of the unit in this image, and those of `controls` other units that fire here, projected."""
    maps = scene.network.forward(subject.picture[None], [scene.layer])[scene.layer][0].flatten(1).cpu()
    strongest, position = maps.max(dim=1)
    firing = [other for other in (strongest > 0).nonzero()[:, 0].tolist() if other != unit]
    shuffled = torch.randperm(len(firing), generator=torch.Generator().manual_seed(options.seed))
    drawn = sorted(firing[number] for number in shuffled[: options.controls].tolist())
    width = scene.network.map_size(scene.layer)[1]

    def sent(units: list[int]) -> Reconstructions:
        rows, cols = position[units] // width, position[units] % width
        pictures = subject.picture[None]
        return explain(scene.network, pictures, scene.layer, [0] * len(units), units, rows, cols, explanation)

    return sent([unit]), sent(drawn)


def save_maps(path: Path, seen: Occlusion, label: int | None) -> None:
    """What the figure's maps show, as tensors."""
    probability = seen.probability[..., true_class(seen, label)].contiguous()
    tensors = {"rows": seen.rows, "cols": seen.cols, "activity": seen.activity, "probability": probability}
    write_whole(path, save({**tensors, "label": seen.probability.argmax(dim=2)}))


def true_class(seen: Occlusion, label: int | None) -> int:
    """The class that was given, or the one most probable without a square."""
    return int(seen.probability_before.argmax()) if label is None else label


def row_of(scene: Scene, subject: Subject, seen: Occlusion, projections: Sequence[Tensor]) -> OcclusionRow:
    """One image of the figure."""
    label = true_class(seen, subject.label)
    title = scene.names[label] + ("" if subject.label is not None else " (as the network finds)")
    return OcclusionRow(title, subject.input_image, scene.colour, seen, label, scene.names, projections)


def summarise(scene: Scene, subject: Subject, seen: Occlusion) -> dict[str, object]:
    """The numbers of one image, without what they have to do with its projections."""
    label = true_class(seen, subject.label)
    probability = seen.probability[..., label]
    numbers, counts = seen.probability.argmax(dim=2).unique(return_counts=True)
    order = torch.argsort(counts, descending=True, stable=True)
    shares = zip(numbers[order].tolist(), (counts[order] / counts.sum()).tolist(), strict=True)
    return {
        "key": subject.key,
        "label": {"class": label, "name": scene.names[label], "given": subject.label is not None},
        "unit": seen.unit,
        "activity": {"without": seen.activity_before, **least(seen, seen.activity)},
        "probability": {"without": float(seen.probability_before[label]), **least(seen, probability)},
        "most_probable": [{"name": scene.names[number], "share_of_places": share} for number, share in shares],
    }


def least(seen: Occlusion, values: Tensor) -> dict[str, object]:
    """The least value of a map, and the middle of the square there, (row, column) in pixels of the input image."""
    row, col = divmod(int(values.argmin()), values.shape[1])
    half = (seen.square - 1) / 2
    return {"least": float(values.min()), "square_at": [float(seen.rows[row]) + half, float(seen.cols[col]) + half]}


def provenance(scene: Scene, options: Fig7Occlusion) -> Provenance:
    """Return what decides the numbers."""
    return build(
        scene.network.provenance(),
        scene.images.provenance(),
        square=options.square,
        stride=options.stride,
        colour=scene.colour.tolist(),
        rule=scene.rule.options(),
        controls=options.controls,
        explanations={name: each.options() for name, each in scene.explanations.items() if each is not scene.rule},
        seed=options.seed,
    )


def heading(options: Fig7Occlusion, network: Network) -> tuple[str, str]:
    """What stands above and beneath the figure."""
    caption = (
        f"Each place of a map is the middle of the square ({options.square} pixels, every {options.stride}); (a) has "
        "it where (d) is least. (b) the activations summed over the map. (c) zero at mid-grey, each on its own scale; "
        f"framed: this image; the other {OTHERS} are those that fire the map most."
    )
    return f"{called(options.model, network)}: a grey square over every place of an image", caption
