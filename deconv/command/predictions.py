"""What the experiments that predict can be told; `deconv.command.options` lists them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deconv.command.shared import (
    Scanning,
    WithDirections,
    WithExplanations,
    WithLayers,
    WithRule,
    WithUnits,
    option,
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
