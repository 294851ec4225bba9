"""The atlas without a browser: what its pages hold, that names stay text, what is written again, what is refused."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image

import deconv
from deconv.analyses.by_class import class_shares, percent
from deconv.atlas import drawings
from deconv.atlas.trust import Standing, Trust
from deconv.errors import BadInput, DeconvError, RecordMismatch
from deconv.images import Source
from deconv.mining import mine_into
from deconv.records import Peaks
from deconv.records.firing import DRAWN
from tests import atlases

HOSTILE_LAYER = '../"><script>alert(4)</script>'


class Page(HTMLParser):
    """Every element of a page with its attributes, and its text."""

    def __init__(self, path: Path):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("atlas")
    given = {"one": {"sharp<ness>": [n / 40 if n else None for n in range(40)]}}
    return atlases.write(root, rules=["deconvnet", "guided"], metrics=given, mined="2026-11-23").parent


def pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


def times(site: Path) -> dict[str, int]:
    return {str(path.relative_to(site)): path.stat().st_mtime_ns for path in site.rglob("*") if path.is_file()}


def test_there_is_a_page_for_the_front_each_layer_and_each_unit_that_fires(site: Path) -> None:
    names = {str(path.relative_to(site)) for path in pages(site)}
    ones = {f"01-one/unit-{unit:04d}.html" for unit in range(40) if unit != 3}
    twos = {f"02-two/unit-{unit:04d}.html" for unit in range(6)}
    assert names == {"index.html", "01-one/index.html", "02-two/index.html"} | ones | twos


def test_every_link_and_picture_is_a_file_of_the_site(site: Path) -> None:
    asked: set[Path] = set()
    for path in pages(site):
        for tag, attributes in Page(path).elements:
            for name in ("href", "src"):
                target = attributes.get(name)
                if target is None or target.startswith("#"):
                    continue
                assert re.fullmatch(r"[A-Za-z0-9_./#-]+", target), (path, tag, target)
                asked.add((path.parent / target.partition("#")[0]).resolve())
    assert [path for path in asked if not path.is_file() or site.resolve() not in path.parents] == []
    present = {path.resolve() for path in site.rglob("*") if path.is_file()}
    assert present - asked == {(site / "atlas.json").resolve()}


def test_no_word_is_glued_to_a_link(site: Path) -> None:
    """A line of a template that ends in a tag loses its end."""
    for page in site.rglob("*.html"):
        assert not re.findall(r".{20}[a-z,](?=<(?:a|code)\b)", page.read_text(encoding="utf-8")), page


def test_names_are_text_whatever_they_are(site: Path) -> None:
    text = "".join(Page(path).text for path in pages(site))
    for name in atlases.HOSTILE:
        assert name in text
    for path in pages(site):
        for tag, attributes in Page(path).elements:
            assert not [name for name in attributes if name.startswith("on") or name == "style"], (path, tag)
            assert attributes.get("src") != "x" and "javascript:" not in (attributes.get("href") or "")
            assert tag != "script" or list(attributes) == ["src", "defer"]
            assert tag != "style"
    assert {path.name for path in (site / "images").iterdir()} <= {f"{n:06d}.jpg" for n in range(12)}


def test_a_layers_name_makes_no_path_and_no_markup(tmp_path: Path) -> None:
    front = atlases.write(tmp_path, HOSTILE_LAYER)
    assert {path.name for path in tmp_path.iterdir()} == {"images", "site"}
    assert len([path for path in front.parent.iterdir() if path.name.startswith("01-")]) == 1
    page = Page(front)
    scripts = [attributes["src"] for tag, attributes in page.elements if tag == "script"]
    assert HOSTILE_LAYER in page.text and scripts == ["search.js", "assets/atlas.js"]


def test_every_page_forbids_what_it_does_not_need(site: Path) -> None:
    for path in pages(site):
        (policy,) = [
            attributes["content"] or ""
            for tag, attributes in Page(path).elements
            if attributes.get("http-equiv") == "Content-Security-Policy"
        ]
        assert policy.startswith("default-src 'none';") and "unsafe" not in policy and "http" not in policy


def test_the_pages_say_what_the_records_hold(site: Path) -> None:
    front, layer = Page(site / "index.html"), Page(site / "01-one/index.html")
    assert "46 units in 2" in front.text and "12 photographs" in front.text and "2026-11-23" in front.text
    assert "1 fire on none" in layer.text and "sharp<ness>" in layer.text
    units = [attributes for tag, attributes in layer.elements if tag == "li" and "data-unit" in attributes]
    assert [int(item["data-unit"] or -1) for item in units] == [unit for unit in range(40) if unit != 3]
    assert (units[0]["data-numbers"] or "").endswith("|") and (units[4]["data-numbers"] or "").endswith("|0.125")
    assert "guided" in Page(site / "01-one/unit-0000.html").text


def test_units_stand_in_the_order_of_what_a_reference_says_of_them(tmp_path: Path) -> None:
    net, images = atlases.network(), atlases.photographs(tmp_path / "images")
    peaks = deconv.mine(net, images, ["one", "two"])
    times, order = [4, 1, 2, 0.5, 8, 1], [3, 1, 5, 2, 0, 4]
    reference = atlases.stronger(peaks, "two", times)
    metrics = {"two": {"area": [0.5] * 6}}
    site = deconv.write_atlas(net, peaks, images, tmp_path / "site", reference=reference, metrics=metrics).parent
    page = Page(site / "02-two/index.html")
    units = [attributes for tag, attributes in page.elements if tag == "li" and "data-unit" in attributes]
    assert [int(item["data-unit"] or -1) for item in units] == order
    assert (units[0]["data-numbers"] or "").split("|")[3:] == ["2", "0.5"]
    (sort,) = [attributes for tag, attributes in page.elements if tag == "select"]
    (selected,) = [attributes for tag, attributes in page.elements if tag == "option" and "selected" in attributes]
    assert sort["data-usual"] == selected["value"] == "3" and "over 12 images" in page.text.replace("\n", " ")
    said = {unit: Page(site / f"02-two/unit-{unit:04d}.html").text for unit in (3, 4)}
    assert ", 2.00 of its strongest over 12 images" in said[3] and ", 0.12 of its strongest over" in said[4]
    front = Page(site / "index.html")
    featured = [
        attributes["alt"] for tag, attributes in front.elements if (attributes.get("alt") or "").startswith("Unit")
    ]
    best = (1 / torch.tensor(times).float()).argsort(descending=True)[:3].tolist()
    assert featured[3:] == [f"Unit {unit}, reconstructions" for unit in best]
    assert "Share of its strongest" in front.text


def test_nothing_is_written_again_when_nothing_changed(site: Path) -> None:
    before = times(site)
    root, metrics = site.parent, {"one": {"sharp<ness>": [n / 40 if n else None for n in range(40)]}}
    atlases.write(root, rules=["deconvnet", "guided"], metrics=metrics, mined="2026-11-23")
    assert [name for name, at in times(site).items() if before[name] != at] == ["atlas.json"]


def test_only_what_a_changed_record_shows_is_written_again(tmp_path: Path) -> None:
    net, images = atlases.network(), atlases.photographs(tmp_path / "images")
    peaks = deconv.mine(net, images, ["one", "two"])
    site = deconv.write_atlas(net, peaks, images, tmp_path / "site").parent
    before, two = times(site), peaks["two"]
    image, row, col, box = (part.clone() for part in (two.image, two.row, two.col, two.box))
    score = two.score.clone()
    for part in (image, row, col, box, score):
        part[5, 8] = part[5, 7]  # unit 5's weakest peak becomes the one before it, once more
    changed = dataclasses.replace(two, image=image, row=row, col=col, box=box, score=score)
    deconv.write_atlas(net, dataclasses.replace(peaks, layers={**peaks.layers, "two": changed}), images, site)
    written = {name for name, at in times(site).items() if before[name] != at}
    below = {name for name in written if name.startswith("01-one/")}  # they are part of unit 5, now to other shares
    assert all("02-two/unit-0005.html" in (site / name).read_text(encoding="utf-8") for name in below)
    assert written - below == {
        "02-two/unit-0005.html",
        "02-two/unit-0005.jpg" if (site / "02-two/unit-0005.jpg").exists() else "02-two/unit-0005.png",
        "02-two/recon-00.webp",
        "02-two/patch-00.webp",
        "02-two/masked-00.webp",
        "atlas.json",
        "search.js",
    }


def test_any_explanation_stands_beside_the_rule(tmp_path: Path) -> None:
    def ours(network: deconv.Network, inputs: torch.Tensor, layer: str, *unit: torch.Tensor) -> torch.Tensor:
        return inputs.flip(1)

    page = atlases.write(tmp_path, rules=["deconvnet", "occlusion", ours], records=tmp_path / "records")
    shown = Page(page.parent / "01-one/unit-0000.html").text
    assert "occlusion" in shown and "How far the activation falls where a grey square lies." in shown
    assert "ours" in shown and "A rule or a function of one's own." in shown
    kept = sorted((tmp_path / "records").glob("two.*.ours.reconstructions.safetensors"))
    recon = deconv.Reconstructions.load(kept[0])
    assert recon.rule == "ours" and bool(recon.pixels.any()) and len(recon.provenance["rule_options"]["sha256"]) == 64


def test_what_belongs_to_the_site_no_more_is_removed(tmp_path: Path) -> None:
    net, images = atlases.network(), atlases.photographs(tmp_path / "images")
    both = deconv.mine(net, images, ["one", "two"])
    site = deconv.write_atlas(net, both, images, tmp_path / "site").parent
    deconv.write_atlas(net, deconv.mine(net, images, ["two"]), images, site)
    assert {path.name for path in site.iterdir() if path.is_dir()} == {"01-two", "assets", "images"}


def test_records_are_kept_taken_up_again_and_refused_for_other_peaks(tmp_path: Path) -> None:
    net, images = atlases.network(), atlases.photographs(tmp_path / "images")
    peaks, records = deconv.mine(net, images, ["two"]), tmp_path / "records"
    first = deconv.write_atlas(net, peaks, images, tmp_path / "first", records=records).parent
    kept = times(records)
    second = deconv.write_atlas(net, peaks, images, tmp_path / "second", records=records).parent
    assert times(records) == kept and len(kept) == 4
    for path in first.rglob("*.*"):
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes()
    fewer = deconv.mine(net, images, ["two"], k=4)
    with pytest.raises(RecordMismatch, match="was made with which_peaks .* delete that file to make it again"):
        deconv.write_atlas(net, fewer, images, tmp_path / "third", records=records)


def test_other_weights_images_folders_and_metrics_are_refused_and_nothing_written(tmp_path: Path) -> None:
    net, images = atlases.network(), atlases.photographs(tmp_path / "images")
    peaks, site = deconv.mine(net, images, ["two"]), tmp_path / "site"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("keep")
    wrong: list[tuple[dict[str, object], str]] = [
        (
            {"network": atlases.network(seed=1)},
            r"made with weights [0-9a-f]{8}\.\.\.; this run has .* Mine these images with",
        ),
        (
            {"images": atlases.photographs(tmp_path / "fewer", (), 3)},
            "made with content .* Mine these images with this network",
        ),
        ({"folder": tmp_path / "full"}, "holds no atlas"),
        ({"metrics": {"two": {"area": [1.0]}}}, "expected one for each unit, 6"),
        (
            {"trust": {"two": Trust("centre", 0.05, {"a": {6: Standing(5, 5, 5.0, 0.0, 0.03, 0.03)}})}},
            r"expected .* of 0 to 5",
        ),
        ({"rules": ["guidd"]}, "guidd"),
        ({"rules": []}, "0 rules"),
        ({"reference": deconv.mine(atlases.network(seed=1), images, ["two"])}, "the reference was made with weights"),
        ({"reference": deconv.mine(net, images, ["one"])}, "unknown layer of the reference 'two'"),
    ]
    for change, message in wrong:
        given: dict[str, object] = {"network": net, "peaks": peaks, "images": images, "folder": site, **change}
        with pytest.raises(DeconvError, match=message):
            deconv.write_atlas(**given)  # type: ignore[arg-type]
    assert not site.exists() and [path.name for path in (tmp_path / "full").iterdir()] == ["letter.txt"]


def test_activations_that_are_not_those_of_the_record_are_refused(tmp_path: Path) -> None:
    net, images = atlases.network(), atlases.photographs(tmp_path / "images")
    peaks = deconv.mine(net, images, ["two"])
    doubled = dataclasses.replace(peaks["two"], score=2 * peaks["two"].score)
    with pytest.raises(RecordMismatch, match="but now gives"):
        deconv.write_atlas(net, dataclasses.replace(peaks, layers={"two": doubled}), images, tmp_path / "site")


@pytest.fixture(scope="module")
def of_classes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Peaks, Path]:
    return atlases.of_classes(tmp_path_factory.mktemp("classes"))


def test_classes_are_text_too_in_words_and_told_as_the_records_have_them(
    of_classes: tuple[Source, Peaks, Path],
) -> None:
    images, peaks, site = of_classes
    assert peaks.firing is not None
    firing, words = peaks.firing["one"], {"n03028079": "church", "<b>cat, tabby": "<b>cat"}
    by_class, prefer, text = firing.by_class, set(), Page(site / "index.html").text
    assert by_class is not None and "Class selectivity" in text
    alive = [(unit, shares[0]) for unit, shares in enumerate(class_shares(peaks["one"], images)) if shares]
    assert [unit for unit, _ in alive] == [0, 1, 2, 4, 5, 6, 7]
    for unit, first in alive:
        page, preferred = Page(site / f"01-one/unit-{unit:04d}.html"), by_class.preferred(unit)
        text, index = " ".join(page.text.split()), by_class.selectivity[unit] or 0.0
        assert f"{first.images} of its 4 photographs below" in text and f"as {percent(first.of_all)} of all are" in text
        assert "b" not in {tag for tag, _ in page.elements} and preferred is not None
        chance = by_class.chance[unit].item()
        said = f"Prefers {words.get(preferred, preferred)}, with a class selectivity of {index:.2f} ({chance:.2f} by"
        assert (said if index > chance else f"Prefers no class: its class selectivity is {index:.2f}") in text
        prefer |= {preferred} if index > chance else set()
        links = [attributes["href"] or "" for tag, attributes in page.elements if tag == "a"]
        assert {link for link in links if "find=" in link} <= {
            f"../index.html#find={name}" for name in ("%3Cb%3Ecat%2C%20tabby", "church", "n00000000")
        }
    assert len(prefer) > 1
    layer = Page(site / "01-one/index.html")
    sorts = [attributes["value"] for tag, attributes in layer.elements if tag == "option"]
    items = [
        (attributes["data-numbers"] or "").split("|") for _, attributes in layer.elements if "data-unit" in attributes
    ]
    assert len(sorts) == 7 and {len(numbers) for numbers in items} == {6}
    assert [float(numbers[3]) for numbers in items] == [index for index in by_class.selectivity if index is not None]


def test_the_index_of_the_search_holds_what_the_records_do(of_classes: tuple[Source, Peaks, Path]) -> None:
    images, peaks, site = of_classes
    script = (site / "search.js").read_text()
    assert script.isascii() and script.startswith("const atlasIndex = ") and script.endswith(";\n")
    index = json.loads(script.removeprefix("const atlasIndex = ").removesuffix(";\n"))
    assert index["classes"] == ["<b>cat, tabby", "church", "n00000000"]
    names = {0: 0, 1: 2, 2: 1}  # of the source, sorted as they are called
    assert images.labels is not None
    labels = images.labels
    expected = [[image, images.key(image), names[labels[image]]] for image in sorted(peaks.image_keys)]
    assert index["images"] == expected
    for layer, of_layer in zip(index["layers"], peaks.values(), strict=True):
        assert (site / layer["folder"] / layer["sheets"][0]).is_file()
        for unit, _, places in layer["units"]:
            assert [index["images"][n][0] for n in places] == of_layer.of([unit])[0].tolist()


def test_a_list_of_files_that_leads_outside_is_refused(tmp_path: Path) -> None:
    net, images = atlases.network(), atlases.photographs(tmp_path / "images")
    peaks = deconv.mine(net, images, ["two"])
    (tmp_path / "site").mkdir()
    for name in ("../letter.txt", str(tmp_path / "letter.txt"), "a\\..\\b"):
        about = {"format": 1, "files": [name], "provenance": {}}
        (tmp_path / "site" / "atlas.json").write_text(json.dumps(about))
        with pytest.raises(BadInput, match="damaged"):
            deconv.write_atlas(net, peaks, images, tmp_path / "site")


def test_peaks_that_say_how_units_fire_give_the_same_site_without_another_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, images = atlases.network(), atlases.photographs(tmp_path / "images")
    counted_after = deconv.write_atlas(net, deconv.mine(net, images, ["two"]), images, tmp_path / "after").parent
    peaks = deconv.mine(net, images, ["two"], firing=True)
    monkeypatch.setattr("deconv.atlas.records.mine", None)
    counted_before = deconv.write_atlas(net, peaks, images, tmp_path / "before", records=tmp_path / "records").parent
    assert not list((tmp_path / "records").glob("firing*"))
    for path in counted_after.rglob("*.*"):
        assert path.read_bytes() == (counted_before / path.relative_to(counted_after)).read_bytes()


def test_pages_show_what_lies_beyond_the_top_if_asked(tmp_path: Path) -> None:
    net, images = atlases.network(), atlases.photographs(tmp_path / "images")
    peaks, site = deconv.mine(net, images, ["two"], firing=True), tmp_path / "site"
    assert peaks.firing is not None
    firing, records = peaks.firing["two"], tmp_path / "records"
    deconv.write_atlas(net, peaks, images, site, records=records)
    without = {path.name for path in (site / "01-two").iterdir()}
    deconv.write_atlas(net, peaks, images, site, records=records, beyond=True)
    for unit in peaks["two"].found.any(dim=1).nonzero().flatten().tolist():
        page, steps = Page(site / f"01-two/unit-{unit:04d}.html"), firing.steps(unit)
        for step in steps:
            assert step.name[1:] in page.text
        (plate,) = (site / "01-two").glob(f"unit-{unit:04d}-beyond.*")
        with Image.open(plate) as picture:
            assert picture.width % (2 * DRAWN) == 0 and picture.height // len(steps) == picture.width // (2 * DRAWN)
        shown = [attributes for tag, attributes in page.elements if attributes.get("href") == plate.name]
        assert len(shown) == 2 * sum(len(step.drawn) for step in steps)
    before = times(site)
    deconv.write_atlas(net, peaks, images, site, records=records, beyond=True)
    assert {name for name, time in times(site).items() if before[name] != time} <= {"atlas.json"}
    deconv.write_atlas(net, peaks, images, site, records=records)
    assert {path.name for path in (site / "01-two").iterdir()} == without


def test_a_record_of_counts_without_counts_is_refused(tmp_path: Path) -> None:
    net, images = atlases.network(), atlases.photographs(tmp_path / "images")
    mine_into(tmp_path / "records" / "firing.safetensors", net, images, ["two"], 1)
    with pytest.raises(BadInput, match=r"firing.safetensors does not say how units fire: delete it to count again"):
        deconv.write_atlas(net, deconv.mine(net, images, ["two"]), images, tmp_path / "x", records=tmp_path / "records")


def test_a_box_that_reaches_outside_is_seen_whole() -> None:
    for box in [(0, 0, 10, 10), (-7, 30, 20, 60), (-3, -20, 37, 20)]:
        percent = drawings.pad_percent(box, (40, 60))
        x, y, width, height = map(float, drawings.padded_view((40, 60), percent).split())
        assert x <= box[1] and y <= box[0] and x + width >= box[3] and y + height >= box[2]
        assert -x / width == pytest.approx(percent / 100, abs=1e-4)
    assert drawings.pad_percent((0, 0, 10, 10), (40, 60)) == 0
