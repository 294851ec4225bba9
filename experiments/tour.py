"""The tour: a page that walks through the layers of a network, nine units of each in pictures and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deconv.analyses.choosing import firing_units
from deconv.analyses.tour import Chapter, check_placeholders, fill, numbers_of, read_chapters
from deconv.command.ahead import Ahead, Projections
from deconv.command.options import Tour
from deconv.command.setup import Prepared, open_rule, prepare, yaml_file
from deconv.errors import BadInput, bad_value, check_indices
from deconv.figures import save_as
from deconv.figures.features import unit_panels
from deconv.figures.tour import Section, chapter_figure, page
from deconv.files import safe_name, write_json, write_whole
from deconv.models.presets import called, open_network, replaced_settings
from deconv.progress import track
from deconv.projection import project_peaks
from deconv.projection.patches import patches_of
from deconv.projection.rules import Rule
from deconv.records import Peaks

WORDS = ("title", "introduction", "ending", "chapters")
"""The options that a file of words may have."""


@dataclass(frozen=True, eq=False)
class Visited:
    """A network of the tour, what it is called, and the images that it is mined over; record: the file of its peaks."""

    title: str
    prepared: Prepared
    record: str


def run(options: Tour, folder: Path) -> Path:
    """Mine every network, project and draw the units of every chapter, write the page; returns it."""
    if options.words is not None:
        options = replace(options, **yaml_file("words", options.words, WORDS))
    rule, chapters = open_rule(options.rule), read_chapters(options.chapters, options.networks)
    check_texts(options, chapters)
    visited = visit(options, chapters, rule)
    peaks = {
        name: one.prepared.mine(folder / one.record, options.k, ahead=work_ahead(options, chapters, name, rule))
        for name, one in visited.items()
    }
    units = {chapter.name: pick_units(chapter, peaks[chapter.network], options) for chapter in chapters}
    numbers = {}
    for chapter in track(chapters, "projecting and drawing", len(chapters), unit="chapters"):
        one, mined = visited[chapter.network], peaks[chapter.network]
        numbers[chapter.name] = draw_chapter(chapter, one, mined, units[chapter.name], rule, options, folder)
    text = write_page(options, chapters, numbers)
    provenance = {one.title: peaks[name].provenance for name, one in visited.items()}
    write_json(folder / "summary.json", {"chapters": numbers, "provenance": provenance, "rule": rule.options()})
    return write_whole(folder / "tour.md", text.encode())


def work_ahead(options: Tour, chapters: Sequence[Chapter], network: str | None, rule: Rule) -> Ahead:
    """Count what comes after mining a network: pictures of all peaks of the units of its chapters."""
    of_network = [chapter for chapter in chapters if chapter.network == network]
    units = [options.n_units if chapter.units is None else len(chapter.units) for chapter in of_network]
    counts = zip(of_network, units, strict=True)
    return Ahead([Projections(chapter.layer, rule, number * options.k) for chapter, number in counts])


def check_texts(options: Tour, chapters: Sequence[Chapter]) -> None:
    """Raise UnknownName for a name in braces that no number has."""
    names = [chapter.name for chapter in chapters]
    texts = {"title": options.title, "introduction": options.introduction, "ending": options.ending}
    for chapter in chapters:
        texts |= {f"chapters.{chapter.name}.heading": chapter.heading, f"chapters.{chapter.name}.text": chapter.text}
    for option, text in texts.items():
        check_placeholders(option, text or "", names)


def visit(options: Tour, chapters: Sequence[Chapter], rule: Rule) -> dict[str | None, Visited]:
    """{network: what its chapters need}, None being the run's own; all of it is checked before any is mined."""
    visited: dict[str | None, Visited] = {}
    for name in dict.fromkeys(chapter.network for chapter in chapters):
        own = [chapter for chapter in chapters if chapter.network == name]
        visited[name] = visit_network(options, name, own, rule)
        network = visited[name].prepared.network
        for chapter in own:
            option, of = f"chapters.{chapter.name}.units", f"units of {chapter.layer}"
            check_indices(option, chapter.units or [], network.channels(chapter.layer), of)
    if None in visited and visited[None].title in visited:
        title = visited[None].title
        raise BadInput(f"networks.{title}: given the name of the run's own network; expected another: rename it")
    return visited


def visit_network(options: Tour, name: str | None, chapters: Sequence[Chapter], rule: Rule) -> Visited:
    """The run's own network, or one of the options `networks`, over the images of its `source` if it has one."""
    layers = list(dict.fromkeys(chapter.layer for chapter in chapters))
    if name is None:
        network = open_network(options.model, options.seed, options.device)
        title = called(options.model, network)
        return Visited(title, prepare(options, network, layers, [rule]), "peaks.safetensors")
    settings = options.networks[name]
    network = open_network(
        replaced_settings(f"networks.{name}", settings or {}, own=("source",)), options.seed, options.device
    )
    options = replace(options, source=source_of(name, settings, options.source))
    return Visited(name, prepare(options, network, layers, [rule]), f"{safe_name(name)}.peaks.safetensors")


def source_of(name: str, settings: Mapping[str, Any] | None, usual: dict[str, Any]) -> dict[str, Any]:
    """The images of one of the options `networks`: its own, or the usual ones."""
    source = (settings or {}).get("source")
    if source is None:
        return usual
    if not isinstance(source, Mapping) or not isinstance(source.get("name"), str):
        raise bad_value(f"networks.{name}.source", source, "a source with its options, as {name: folder, root: photos}")
    return dict(source)


def pick_units(chapter: Chapter, peaks: Peaks, options: Tour) -> dict[int, str | None]:
    """{unit: words} of a chapter, drawn and without words if it names none. Raises BadInput for one that is dead."""
    of_layer = peaks[chapter.layer]
    if chapter.units is None:
        return dict.fromkeys(firing_units(chapter.layer, of_layer, None, options.n_units, options.seed))
    for unit in chapter.units:
        if not bool(of_layer.found[unit].any()):
            raise BadInput(f"chapters.{chapter.name}.units: unit {unit} of {chapter.layer} is dead; choose another")
    return chapter.units


def draw_chapter(
    chapter: Chapter,
    visited: Visited,
    peaks: Peaks,
    words: Mapping[int, str | None],
    rule: Rule,
    options: Tour,
    folder: Path,
) -> dict[str, Any]:
    """Records and picture of one chapter; returns its numbers."""
    network, images, units = visited.prepared.network, visited.prepared.images, list(words)
    recon = project_peaks(network, images, chapter.layer, peaks[chapter.layer], units, rule)
    patches = patches_of(network, images, recon)
    recon.save(folder / f"{safe_name(chapter.name)}.reconstructions.safetensors")
    patches.save(folder / f"{safe_name(chapter.name)}.patches.safetensors")
    shown = recon.zoomed()
    numbers = numbers_of(chapter, visited.title, network, images, peaks[chapter.layer], units, recon, shown)
    titles = {unit: text for unit, text in words.items() if text}
    notes = {unit: text for unit, text in zip(units, numbers["classes"], strict=True) if text}
    panels = unit_panels(shown, patches.cut_to(shown.box), options.k, titles=titles, notes=notes)
    save_as(chapter_figure(panels, numbers), folder / picture_of(options, chapter))
    return numbers | {"words": list(words.values())}


def picture_of(options: Tour, chapter: Chapter) -> str:
    """Where the picture of a chapter lies, seen from the page."""
    return f"figures/{safe_name(f'{options.name}_{chapter.name}')}.jpg"


def write_page(options: Tour, chapters: Sequence[Chapter], numbers: Mapping[str, dict[str, Any]]) -> str:
    """The page; in title, introduction and ending a number that names no chapter is the first one's."""
    sections = [
        Section(
            fill(chapter.heading, chapter.name, numbers),
            fill(chapter.text, chapter.name, numbers),
            picture_of(options, chapter),
            dict(zip(numbers[chapter.name]["units"], numbers[chapter.name]["words"], strict=True)),
        )
        for chapter in chapters
    ]
    first = chapters[0].name
    title, introduction, ending = (
        fill(text or "", first, numbers) for text in (options.title, options.introduction, options.ending)
    )
    return page(title, introduction, sections, ending)
