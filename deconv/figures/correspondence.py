"""Table 1 and Figure 8: the same part masked in several images, and how alike the features change in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from deconv.analyses.correspondence import MEASURES, PAPER, Box, Result, means


def masks_figure(input_images: Tensor, names: list[str], boxes: Mapping[str, list[Box]]) -> Figure:
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


def correspondence_figure(
    layers: list[str], parts: Mapping[str, Result], random: Sequence[Result], heading: str
) -> Figure:
    """Table 1 as a chart: a row for each layer, a column for each measure; the paper's values where there are such."""
    figure = Figure(figsize=(10.5, 1.0 + 2.8 * len(layers)), layout="constrained")
    figure.suptitle(heading)
    grid = figure.subplots(len(layers), len(MEASURES), squeeze=False)
    for row, layer in enumerate(layers):
        for axes, (measure, title) in zip(grid[row], MEASURES.items(), strict=True):
            pairs = [getattr(result[layer], measure) for result in parts.values()]
            _draw_values(axes, pairs, means(layer, measure, random))
            if measure == "of_all" and len(layers) == len(PAPER):
                _draw_paper(axes, [*parts, "random"], row)
            axes.set_xticks(range(len(parts) + 1), [*parts, "random places"])
            axes.set_ylabel(f"{layer}\nshare with another sign of change")
            axes.spines[["top", "right"]].set_visible(False)
            if row == 0:
                axes.set_title(title, fontsize=10)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8.5)
    return figure


def _draw_values(axes: Axes, pairs: Sequence[np.ndarray], drawn: np.ndarray) -> None:
    """The parts, each with its spread over the pairs of images; then the random draws, their mean as a line across."""
    at = np.arange(len(pairs))
    bars: dict[str, Any] = {"fmt": "o", "capsize": 3}
    part_means, part_stds = [p.mean() for p in pairs], [p.std() for p in pairs]
    axes.errorbar(at, part_means, part_stds, color="C0", label="a part: mean and std over pairs of images", **bars)
    aside = len(pairs) + 0.5 * (0.618 * np.arange(len(drawn)) % 1 - 0.5)  # so that equal draws do not cover each other
    axes.plot(aside, drawn, ".", color="0.75", markersize=4, label="one draw of random places")
    axes.errorbar(len(pairs), drawn.mean(), drawn.std(), color="k", label="their mean and std over draws", **bars)
    axes.axhline(drawn.mean(), color="k", linewidth=0.8, linestyle=":")


def _draw_paper(axes: Axes, names: Sequence[str], row: int) -> None:
    """The paper's values of the parts that it has."""
    known = {at: PAPER[row][name] for at, name in enumerate(names) if name in PAPER[row]}
    places, values = np.array(list(known)) + 0.35, list(known.values())
    mean_values, stds = [value for value, _ in values], [std for _, std in values]
    axes.errorbar(
        places, mean_values, stds, fmt="D", mfc="none", color="C3", capsize=3, label="the paper, layers 5 and 7"
    )
