"""The tour: chapters about layers, in words of their author's, whose every number comes from the analysis."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deconv.analyses.features import summarise
from deconv.errors import bad_value, check_choice, unknown
from deconv.images import Source
from deconv.network import Network
from deconv.records import LayerPeaks, Reconstructions

SETTINGS = ("layer", "network", "heading", "text", "units")
PLACEHOLDERS = {
    "network": "network",
    "layer": "layer",
    "images": "images",
    "k": "k",
    "units": "channels",
    "dead_units": "dead_units",
    "map_size": "map_size",
    "receptive_field": "receptive_field",
    "effective_field": "effective_field",
    "shown_field": "shown_field",
}
"""{what stands in braces in a text: the number of a chapter that takes its place}."""
IN_BRACES = re.compile(r"\{([^{}\n]*)\}")


@dataclass(frozen=True)
class Chapter:
    """One layer of a tour.

    - name: of its files, and of its numbers in the texts of the others.
    - layer, network: what is looked at; network None is the run's own.
    - heading, text: Markdown; numbers stand in braces.
    - units: {unit: what a person sees in it, or None}; None draws units, of which only the numbers are said.
    """

    name: str
    layer: str
    network: str | None
    heading: str
    text: str
    units: dict[int, str | None] | None


def read_chapters(chapters: Mapping[str, Any], networks: Collection[str] = ()) -> list[Chapter]:
    """Return the chapters of a mapping {name: settings}; a chapter whose settings are None is left out.

    The layer is the chapter's name and the heading the layer's unless the settings say others.
    Raises UnknownName for a setting or a network that does not exist, BadInput for a value of another type, for units
    without a number, and for no chapters.

    >>> read_chapters({"conv1": {"text": "Edges.", "units": {3: "bars"}}, "conv2": None})
    [Chapter(name='conv1', layer='conv1', network=None, heading='conv1', text='Edges.', units={3: 'bars'})]
    """
    read = [_read_chapter(name, settings, networks) for name, settings in chapters.items() if settings is not None]
    if not read:
        raise bad_value("chapters", "none", "at least one, as chapters={conv1: {text: Edges, units: {3: bars}}}")
    return read


def _read_chapter(name: str, settings: Any, networks: Collection[str]) -> Chapter:
    option = f"chapters.{name}"
    if not isinstance(settings, Mapping):
        raise bad_value(option, settings, f"a mapping of {', '.join(SETTINGS)}")
    for key in settings:
        check_choice(f"setting of {option}", key, SETTINGS)
    texts = {key: settings.get(key) for key in SETTINGS if key != "units"}
    for key, text in texts.items():
        if not isinstance(text, str | None):
            raise bad_value(f"{option}.{key}", text, "a text")
    if texts["network"] is not None and texts["network"] not in networks:
        raise unknown(f"network of {option}", texts["network"], networks, "networks.NAME={model: ...} adds one")
    layer = texts["layer"] or name
    units = _read_units(f"{option}.units", settings.get("units"))
    return Chapter(name, layer, texts["network"], texts["heading"] or layer, texts["text"] or "", units)


def _read_units(option: str, units: Any) -> dict[int, str | None] | None:
    if units is None:
        return None
    expected = "the words for each unit, as {3: bars, 17: null}, or null to draw units"
    if not isinstance(units, Mapping) or not units:
        raise bad_value(option, units, expected)
    for unit, words in units.items():
        if not isinstance(unit, int) or isinstance(unit, bool) or not isinstance(words, str | None):
            raise bad_value(option, {unit: words}, expected)
    return dict(units)


def check_placeholders(option: str, text: str, chapters: Iterable[str]) -> None:
    """Raise UnknownName if a name in braces is neither a number of a chapter nor, as `conv1.images`, one of another's.

    >>> check_placeholders("ending", "Of {images} images, {conv1.dead_units} ...", ["conv1"])
    >>> check_placeholders("ending", "Of {image} images", ["conv1"])
    Traceback (most recent call last):
    deconv.errors.UnknownName: unknown name in braces in ending '{image}'; expected one of ...
    """
    known = [*PLACEHOLDERS, *(f"{chapter}.{name}" for chapter in chapters for name in PLACEHOLDERS)]
    for name in IN_BRACES.findall(text):
        if name not in known:
            raise unknown(f"name in braces in {option}", f"{{{name}}}", [f"{{{name}}}" for name in known])


def fill(text: str, chapter: str, numbers: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a text with the numbers of its chapter, or of those that it names, in place of what stands in braces.

    numbers: {chapter: its numbers}, as `numbers_of` returns them.

    >>> numbers = {"conv1": {"images": 100000, "receptive_field": (7, 7)}, "conv2": {"receptive_field": (21, 24)}}
    >>> fill("{images} images; {receptive_field}, then {conv2.receptive_field} pixels", "conv1", numbers)
    '100,000 images; 7 x 7, then 21 x 24 pixels'
    """

    def number(match: re.Match[str]) -> str:
        other, _, name = match[1].rpartition(".")
        return _spelled(numbers[other or chapter][PLACEHOLDERS[name]])

    return IN_BRACES.sub(number, text)


def _spelled(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " x ".join(map(_spelled, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def numbers_of(
    chapter: Chapter,
    title: str,
    network: Network,
    images: Source,
    peaks: LayerPeaks,
    units: Sequence[int],
    recon: Reconstructions,
    shown: Reconstructions,
) -> dict[str, Any]:
    """Return what the texts can say of a chapter, and what its picture shows; `title` is what the network is called."""
    about = {"network": title, "layer": chapter.layer, "images": len(images), "k": peaks.score.shape[1]}
    return about | summarise(network, images, chapter.layer, peaks, units, recon, shown)
