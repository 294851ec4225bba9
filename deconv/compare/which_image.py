"""Of two images, which fires the unit more? What observers answer who were shown pictures of the unit.

Borowski et al. (ICLR 2021, arXiv 2010.12606) and Zimmermann et al. (NeurIPS 2024) ask people and machines so. Of a
unit's strongest images, one peak each, every other is a reference, and those between are queries; the other image of
each pair is one that fires the unit least of CANDIDATES images that are drawn by the seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from deconv.compare.controls import Opened
from deconv.compare.guesses import laid
from deconv.compare.judging import Study, options_of, side_by_side
from deconv.compare.observers import VIEW, OtherNetwork, view_likeness
from deconv.compare.peak_set import PeakSet
from deconv.compare.predicting import Predictions, answered, by_unit
from deconv.compare.tasks import PATCHES, unit_after
from deconv.errors import BadInput
from deconv.images.batches import whole_batches
from deconv.projection.masks import SHARE, SMOOTHING, masks_of
from deconv.records.formats import Columns

CANDIDATES = 100
"""Images, drawn by the seed, of which each unit's weak ones are those that fire it least."""
IMAGES_AT_ONCE = 32
MASKED = "masked_patches"
OTHER_PATCHES = "other_patches"
CONTRAST = "image_contrast"
BASELINES = (PATCHES, MASKED, OTHER_PATCHES, CONTRAST)
"""What is asked beside explanations: the references' patches; what the first explanation's masks leave of them; the
patches of another unit of the layer; and whoever takes the image that varies more, and saw no reference."""
VIEWS = {"views": "by small colour views, nine references", "views_one": "by small colour views, one reference"}
FEATURES = {"features": "by another network's features, nine", "features_one": "by another network's features, one"}


def ways(observer: OtherNetwork | None) -> dict[str, str]:
    """Return how answers are found, in words: by small views, and by another network's features where there is one."""
    return VIEWS | ({} if observer is None else FEATURES)


@dataclass(frozen=True, eq=False)
class ImageStudy(Study):
    """What is asked: explanations, the one under test first, of some units of each layer.

    peaks: one an image, of each unit at least twice as many as references. observer: another network that compares too.
    All else is as `Study` has it.
    """

    references: int
    observer: OtherNetwork | None

    def settings(self) -> dict[str, Any]:
        """Return what is decided beside peaks, units and explanations."""
        observer = None if self.observer is None else self.observer.describe()
        shared = {"references": self.references, "candidates": CANDIDATES, "view": VIEW, "seed": self.seed}
        return shared | {"observer": observer}

    def provenance(self, layer: str, name: str) -> dict[str, Any]:
        """Return all that decides the record of a layer by an explanation or one of BASELINES."""
        masks = {"masks": options_of(next(iter(self.explanations.values())))} if name == MASKED else {}
        made_of = {"units": self.units, "layer": layer, "peaks": self.peaks.provenance}
        return self.settings() | self.described(name) | masks | made_of

    def measure(self) -> Predictions:
        """Return what is measured, from records that are there, else measured and recorded."""
        return self.kept(BASELINES, partial(_ask_layer, self, draw_candidates(self)), "asking")


@dataclass(frozen=True, eq=False)
class Candidates:
    """Images that weak ones are taken from, and {layer: the strongest activation (M, units) of every unit on each}."""

    image_ids: Int64[np.ndarray, " M"]
    input_images: Tensor
    activations: dict[str, Float[np.ndarray, "M units"]]

    def weakest(self, layer: str, unit: int, strong: Int64[np.ndarray, " k"], n: int, seed: int) -> list[int]:
        """Return the places of the n images that fire the unit least and are not among its strong ones.

        Of images that fire it alike, as those do that fire it not at all, the seed draws.
        """
        draw = np.random.default_rng([seed, *b"weakest", *layer.encode(), unit]).random(len(self.image_ids))
        order = np.lexsort((draw, self.activations[layer][:, unit]))
        return [int(place) for place in order if self.image_ids[place] not in strong][:n]


def draw_candidates(study: ImageStudy) -> Candidates:
    """Draw the images that weak ones are taken from, and measure how they fire every unit."""
    ids = np.array(list(study.images.ids), dtype=np.int64)
    drawn = np.random.default_rng([study.seed, *b"candidates"]).permutation(ids)[:CANDIDATES]
    preprocessing, layers = study.network.needed_preprocessing(), list(study.units)
    batches, activations = [], {layer: [] for layer in layers}  # type: ignore[var-annotated]
    for _, batch in whole_batches(study.images, preprocessing, IMAGES_AT_ONCE, np.sort(drawn).tolist()):
        batches.append(batch)
        inputs = preprocessing.normalize(batch).to(study.network.device)
        for layer, _, maxima in study.network.forward_with_maxima(inputs, layers):
            activations[layer].append(maxima.float().cpu().numpy())
    values = {layer: np.concatenate(of_layer) for layer, of_layer in activations.items()}
    return Candidates(np.sort(drawn), torch.cat(batches), values)


@dataclass(frozen=True, eq=False)
class LayerOfImages:
    """What all tasks of one layer share; peaks: of each unit references and queries in turn, strongest first."""

    peaks: PeakSet
    units: list[int]
    candidates: Candidates
    references: int
    explanations: Mapping[str, Opened]
    names: list[str]
    observer: OtherNetwork | None


def _ask_layer(study: ImageStudy, candidates: Candidates, layer: str, names: list[str]) -> dict[str, Columns]:
    """Return {explanation: columns} of all units of a layer."""
    units = study.units[layer]
    peaks = study.gather(layer, units, 2 * study.references)
    shared = LayerOfImages(peaks, units, candidates, study.references, study.explanations, names, study.observer)
    return by_unit(study, ask_units, shared, layer, names, "asking")


def ask_units(shared: LayerOfImages, units: list[int]) -> Iterator[list[dict[str, dict[str, float]]]]:
    """Yield, for each unit, {explanation: {column: the share of its pairs that it names right}}."""
    yield [_ask_unit(shared, unit) for unit in units]


def _ask_unit(shared: LayerOfImages, unit: int) -> dict[str, dict[str, float]]:
    strong, weak = query_images(shared, unit)
    rows = {}
    for name in shared.names:
        answers = {column: _right(*scores) for column, scores in _scores(shared, unit, name, strong, weak).items()}
        rows[name] = {"unit": float(unit), "trials_pairs": float(len(weak))} | answers
    return rows


def query_images(shared: LayerOfImages, unit: int) -> tuple[Float[Tensor, "Q 3 H W"], Float[Tensor, "Q 3 H W"]]:
    """Return the images of a unit's pairs, strong and weak, less the mean colour."""
    of_unit = shared.peaks.subset(shared.peaks.channel == unit)
    image_ids = of_unit.peaks[:, 0].numpy()
    weak = shared.candidates.weakest(shared.peaks.layer, unit, image_ids, len(image_ids[1::2]), shared.peaks.seed)
    strong = np.searchsorted(of_unit.image_ids.numpy(), image_ids[1::2][: len(weak)])
    return neutral(of_unit, of_unit.input_images[strong]), neutral(of_unit, shared.candidates.input_images[weak])


def neutral(peaks: PeakSet, input_images: Tensor) -> Float[Tensor, "N 3 H W"]:
    """Return input images in 0..1 less the mean colour that preprocessing takes away."""
    mean = torch.tensor(peaks.network.needed_preprocessing().mean, dtype=torch.float32)
    return input_images.float() / 255 - mean.view(1, 3, 1, 1)


def _scores(
    shared: LayerOfImages, unit: int, name: str, strong: Tensor, weak: Tensor
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return {column: what speaks for the strong image of each pair, and for the weak one}; nan if not answered."""
    columns = ways(shared.observer)
    unanswered = np.full(len(weak), np.nan)
    if name == CONTRAST:
        contrast = strong.numpy().std(axis=(1, 2, 3)), weak.numpy().std(axis=(1, 2, 3))
        return {column: contrast if column == "views" else (unanswered, unanswered) for column in columns}
    shown = unit_after(shared.units, unit) if name == OTHER_PATCHES else unit
    if not len(weak) or (name == OTHER_PATCHES and shown == unit):
        return dict.fromkeys(columns, (unanswered, unanswered))
    references = references_of(shared, shown)
    pictures = pictures_of(shared, name, references)
    images = torch.cat([strong, weak])
    boxes = inside_boxes(references)
    likeness = dict.fromkeys(VIEWS, view_likeness(images, pictures, boxes).double().numpy())
    if shared.observer is not None:
        likeness |= dict.fromkeys(FEATURES, shared.observer.likeness(images, pictures).double().numpy())
    scores = {column: of[:, 0] if column.endswith("_one") else of.mean(axis=1) for column, of in likeness.items()}
    return {column: (of[: len(strong)], of[len(strong) :]) for column, of in scores.items()}


def _right(strong: np.ndarray, weak: np.ndarray) -> float:
    """Return the share of pairs whose strong image has more that speaks for it, equals being half; nan without any."""
    if not len(strong) or np.isnan(strong).any():
        return float("nan")
    return float(np.where(strong == weak, 0.5, (strong > weak).astype(np.float64)).mean())


def references_of(shared: LayerOfImages, unit: int) -> PeakSet:
    """Return every other one of a unit's peaks, the strongest first."""
    places = (shared.peaks.channel == unit).nonzero()[:, 0]
    return shared.peaks.subset(places[::2])


def inside_boxes(peaks: PeakSet) -> Int64[Tensor, "N 4"]:
    """Return the part of each receptive field that lies in the image."""
    height, width = peaks.input_images.shape[2:]
    low, high = torch.zeros(4, dtype=torch.int64), torch.tensor([height, width, height, width])
    return torch.minimum(torch.maximum(peaks.boxes, low), high)


def pictures_of(shared: LayerOfImages, name: str, references: PeakSet) -> Float[Tensor, "R 3 H W"]:
    """Return pictures of references where they lie in their images, zero elsewhere, as they would be shown.

    A picture of an explanation is scaled, its zero being neutral, to half of the range of colours; of a blank one
    nothing is shown.
    """
    if name in BASELINES:
        cut = (
            neutral(references, torch.from_numpy(references.patches * 255))
            * torch.from_numpy(references.inside)[:, None]
        )
        kept = _masks(shared, references) if name == MASKED else torch.ones_like(cut[:, :1])
        pictures = (cut * kept).numpy()
    else:
        pictures = references.reconstruct(shared.explanations[name]).astype(np.float64)
        largest = np.abs(pictures).max(axis=(1, 2, 3), keepdims=True)
        pictures = np.divide(pictures, 2 * largest, out=np.zeros_like(pictures), where=largest > 0)
    return torch.from_numpy(laid(references, pictures)).float()


def _masks(shared: LayerOfImages, references: PeakSet) -> Bool[Tensor, "R 1 h w"]:
    """Return the fewest pixels that hold most of the smoothed energy of the first explanation's pictures."""
    pictures = torch.from_numpy(references.reconstruct(next(iter(shared.explanations.values()))))
    return masks_of(pictures, SHARE, min(pictures.shape[2:]) * SMOOTHING)[:, None]


def summarise(study: ImageStudy, measured: Predictions) -> dict[str, Any]:
    """Return accuracies over units with 95 % intervals, by layer and over all, and how far the tested one is ahead."""
    trials = {layer: {"pairs": int(of[PATCHES]["trials_pairs"].sum())} for layer, of in measured.items()}
    if not any(of["pairs"] for of in trials.values()):
        raise BadInput(
            "no unit has a pair of images; expected two images that fire it and another that fires it less: give more "
            "images"
        )
    names = [*study.explanations, *BASELINES]
    return side_by_side(measured, names, study.seed, answered(next(iter(measured.values()))[names[0]])) | {
        "trials": trials,
        "columns": list(ways(study.observer)),
        "rules": study.options(),
        "settings": study.settings(),
        "units": study.units,
        "provenance": study.peaks.provenance,
    }
