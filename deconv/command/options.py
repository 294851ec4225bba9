"""What each experiment can be told: one dataclass an experiment, its fields the options, in one place.

Hydra composes a run's settings into them (`deconv.command.settings`), which checks their types; `deconv --help` prints
them; the experiment's `run(options, folder)` reads them. What several experiments have stands in
`deconv.command.shared`. What only one choice of a group has (`model.arch`, `source.root`, `engine.retries`) stands in
that choice's file in configs/, and is a plain mapping here. Nothing here needs torch, so help need not wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from deconv.command.paper import (
    Fig4Evolution,
    Fig5Invariance,
    Fig6Filters,
    Fig7Occlusion,
    Table1Correspondence,
    Table3Ablation,
    Table4Transfer,
    Table7Layers,
    Train,
)
from deconv.command.shared import (
    Mining,
    Options,
    Scanning,
    WithDirections,
    WithDraw,
    WithExplanations,
    WithField,
    WithLayers,
    WithModel,
    WithReference,
    WithRule,
    WithUnits,
    option,
)


@dataclass
class Fig2Features(Mining, WithUnits, WithRule, WithReference, WithField):
    """The options of experiments/fig2_features.py."""

    choose: str = option(
        "random", "how n_units are chosen: random, by the seed; or strongest, those most excited beside the reference"
    )
    beyond: bool = option(False, "whether to show weaker images as well, at quantiles of those that fire the unit")
    masks: bool = option(False, "whether to show, and to save as PNG files, what in each patch the unit answers to")


@dataclass
class Atlas(Mining, WithRule, WithExplanations, WithReference, WithField):
    """The options of experiments/atlas.py."""

    other_rules: list[str] = option(
        [], "rules, and other explanations, shown on each unit's page beside `rule`, as [guided,occlusion]"
    )
    beyond: bool = option(False, "whether units show weaker images as well, at quantiles of those that fire them")
    cues: bool = option(
        False,
        "whether units say what they make of their patches in grey, in other hues, blurred and scrambled",
    )
    circuits: bool = option(
        True, "whether units lead to the lower ones that they are made of, and to those that they are part of"
    )
    keep: str = option(
        "float32", "what is kept of reconstructions, in records/: float32; float16, half as large; or none, once drawn"
    )
    compared: str | None = option(
        None, "the folder of a finished compare_rules run on the same peaks: its numbers become ways to sort"
    )
    predicted: str | None = option(
        None, "the folder of a finished predict run on the same peaks: how far to trust units' pictures, a way to sort"
    )


@dataclass
class Circuit(Mining, WithUnits, WithRule):
    """The options of experiments/circuit.py."""

    layer: str | None = option(
        None, "of the units; null is the last with maps of more than one position that the rule can send back"
    )
    layers: list[str] | None = option(
        None,
        "lower ones that the tree goes through; null takes one for each of `branches`, none that a skip bypasses",
        filled=True,
    )
    branches: list[int] = option(
        [3, 2, 2, 2], "strongest lower units that a unit of each layer has in the tree, from above", 1, filled=True
    )


@dataclass
class CompareRules(Mining, WithUnits, WithRule, WithExplanations):
    """The options of experiments/compare_rules.py."""

    against: list[str] = option(
        [
            *("guided", "gradient", "gradient_times_input", "random_switches", "other_switches", "other_unit"),
            *("random_weights", "edges", "random_mask", "centre"),
        ],
        "what it is compared with, by name: other rules, explanations such as smoothgrad, controls",
    )


@dataclass
class Directions(Scanning, WithDirections, WithDraw, WithRule):
    """The options of experiments/directions.py."""

    layer: str | None = option(None, "whose channels they are of; null is the last layer of maps before class scores")
    methods: list[str] = option(
        ["nmf", "pca", "ica", "random"], "how directions are found: these, and sae", filled=True
    )
    n: int = option(32, "directions of each method", 1)
    samples: int = option(20000, "positions, drawn from all images by the seed, that they are fitted on", 2)
    k: int = option(9, "strongest peaks of each unit", 1)


@dataclass
class MatchNetworks(Scanning, WithModel, WithLayers, WithRule):
    """The options of experiments/match_networks.py."""

    other: dict[str, Any] = option(
        {}, "the other network: what replaces settings of `model`, as other.weights=FILE, or other.model=NAME"
    )
    other_layers: list[str] | None = option(
        None, "its layers, one for each of `layers`; null takes those of the same names", filled=True
    )
    k: int = option(9, "strongest peaks of each unit", 1)
    n_pairs: int = option(5, "pairs of units shown of each layer, from the best match to the worst", 1)


@dataclass
class SanityChecks(Scanning, WithModel, WithLayers, WithUnits, WithExplanations):
    """The options of experiments/sanity_checks.py."""

    rules: list[str] = option(
        ["deconvnet", "guided", "gradient"], "the rules that are checked, or other explanations by name"
    )
    smooth: int = option(
        1, "noisy copies of a photograph over which pictures are averaged first; 1 is the photograph itself", 1
    )


@dataclass
class PathCheck(Scanning, WithDirections, WithLayers, WithUnits, WithRule, WithExplanations):
    """The options of experiments/path_check.py."""

    against: list[str] = option(
        ["guided", "gradient", "other_unit", "random_weights", "edges", "random_mask", "centre"],
        "what is asked beside `rule`, by name: other rules, explanations such as smoothgrad, controls",
    )


@dataclass
class Predict(Scanning, WithDirections, WithLayers, WithUnits, WithRule, WithExplanations):
    """The options of experiments/predict.py."""

    against: list[str] = option(
        [
            *("guided", "gradient", "activation_map", "gradient_times_input", "other_unit", "random_weights"),
            *("edges", "random_mask", "centre"),
        ],
        "what is asked beside `rule`, by name: other rules, explanations such as smoothgrad, controls",
    )
    references: int = option(9, "each unit's strongest images, which explanations may know", 1)
    queries: int = option(6, "each unit's images of the ranks after those, on which squares lie", 1)
    squares: list[float] = option(
        [0.3, 0.4, 0.5], "sides of the squares, as fractions of the image's shorter side", filled=True
    )
    stride: int | None = option(
        None, "pixels from one position of a square to the next; null is an eighth of that side (paper: 2 of 224)", 1
    )
    fill: str = option("grey", "of the squares: grey, the mean colour; covered, the mean of what they cover (paper)")


@dataclass
class WhichImage(Scanning, WithDirections, WithLayers, WithUnits, WithRule, WithExplanations):
    """The options of experiments/which_image.py."""

    against: list[str] = option(
        ["guided", "gradient", "gradient_times_input", "other_unit", "random_weights", "edges", "random_mask"],
        "what is asked beside `rule`, by name: other rules, explanations such as smoothgrad, controls",
    )
    references: int = option(9, "images of each unit whose pictures are shown; as many others are asked about", 1)
    observer: dict[str, Any] = option(
        {}, "another network that compares too: its model, its layer, and what replaces the model file's settings"
    )


@dataclass
class Photograph(Mining, WithRule, WithReference):
    """The options of experiments/photograph.py."""

    image: str = option(MISSING, "the file of the photograph; must be given")
    n_units: int = option(4, "units of each layer, those first that reach the largest share of their strongest", 1)
    peaks: str | None = option(
        None, "a file in which the mined peaks are kept, for the next photograph; null is one in the run's folder"
    )


@dataclass
class Tour(Scanning, WithModel, WithDraw, WithRule):
    """The options of experiments/tour.py."""

    k: int = option(9, "strongest peaks of each unit", 1)
    name: str = option("tour", "what the names of the pictures begin with")
    words: str | None = option(
        None, "a YAML file with title, introduction, ending and chapters of your own, in place of those below"
    )
    title: str = option("What the units of a ConvNet see", "the page's")
    introduction: str | None = option(None, "what stands before the chapters; {images} and other names are numbers")
    ending: str | None = option(None, "what stands after them")
    chapters: dict[str, dict[str, Any] | None] = option(
        {}, "in the order of the page: layer, heading, text, network of `networks`, units and what is seen in each"
    )
    networks: dict[str, dict[str, Any] | None] = option(
        {}, "others beside `model`: a model of configs/model, what replaces that file's settings, and source if another"
    )


@dataclass
class VirtualUnits(Scanning, WithDirections, WithUnits, WithRule):
    """The options of experiments/virtual_units.py."""

    layer: str | None = option(None, "of the units; null is the last layer of maps before class scores")
    through: str | None = option(None, "the lower layer by whose units peaks are split; null is the nearest below")
    k: int = option(50, "strongest peaks of each unit, which are split", 2)
    clusters: int | None = option(2, "that the peaks are split into; null tries 2 to 5 and takes the clearest", 2)
    lower: int = option(3, "strongest lower units of each cluster that are told and drawn", 1)


EXPERIMENTS: dict[str, type[Options]] = {
    "atlas": Atlas,
    "circuit": Circuit,
    "compare_rules": CompareRules,
    "directions": Directions,
    "fig2_features": Fig2Features,
    "fig4_evolution": Fig4Evolution,
    "fig5_invariance": Fig5Invariance,
    "fig6_filters": Fig6Filters,
    "fig7_occlusion": Fig7Occlusion,
    "match_networks": MatchNetworks,
    "path_check": PathCheck,
    "photograph": Photograph,
    "predict": Predict,
    "sanity_checks": SanityChecks,
    "table1_correspondence": Table1Correspondence,
    "table3_ablation": Table3Ablation,
    "table4_transfer": Table4Transfer,
    "table7_layers": Table7Layers,
    "tour": Tour,
    "train": Train,
    "virtual_units": VirtualUnits,
    "which_image": WhichImage,
}
"""The options of each experiment, by its name in configs/experiment/ and experiments/."""
