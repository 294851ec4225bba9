"""The tour: one picture a chapter, and the page of Markdown that they stand on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from deconv.figures.features import LayerPanels, UnitPanel, features_figure, layer_title

WIDEST = 1900
"""Pixels of a picture across: three units of nine peaks each."""


@dataclass(frozen=True)
class Section:
    """One chapter of the page, its numbers filled in; picture: where that lies, seen from the page.

    units: {unit: what a person sees in it, or None}, in the order of the picture.
    """

    heading: str
    text: str
    picture: str
    units: Mapping[int, str | None]


def chapter_figure(panels: Sequence[UnitPanel], numbers: Mapping[str, Any]) -> Figure:
    """Draw the units of one chapter; `numbers` are its own, as `deconv.analyses.tour.numbers_of` returns them."""
    title = f"{layer_title(numbers)}; {numbers['images']:,} images"
    return features_figure([LayerPanels(title, tuple(panels), WIDEST)], f"{numbers['network']}, {numbers['layer']}")


def page(title: str, introduction: str, sections: Sequence[Section], ending: str) -> str:
    """Return the page as Markdown, a picture below the heading of each section; empty texts are left away.

    >>> section = Section("Layer 1", "Edges.", "figures/tour_conv1.jpg", {3: "bars", 7: None})
    >>> print(page("A tour", "Look:", [section], ""))
    # A tour
    <BLANKLINE>
    Look:
    <BLANKLINE>
    ## Layer 1
    <BLANKLINE>
    ![unit 3: bars; unit 7](figures/tour_conv1.jpg)
    <BLANKLINE>
    Edges.
    <BLANKLINE>
    """
    parts = [f"# {title}", introduction]
    for section in sections:
        parts += [f"## {section.heading}", f"![{_described(section.units)}]({section.picture})", section.text]
    return "\n\n".join(part.strip() for part in [*parts, ending] if part.strip()) + "\n"


def _described(units: Mapping[int, str | None]) -> str:
    """What a picture shows, for those who cannot see it; a bracket would end it."""
    named = [f"unit {unit}: {words}" if words else f"unit {unit}" for unit, words in units.items()]
    return "; ".join(named).replace("[", "(").replace("]", ")")
