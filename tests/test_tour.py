"""The tour over the bundled photographs, two chapters and a second network; and its texts, filled and refused."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from deconv.analyses.tour import check_placeholders, fill, read_chapters
from deconv.command.cli import main
from deconv.errors import BadInput, UnknownName
from deconv.figures.tour import Section, page
from deconv.images import bundled
from deconv.records import Patches, Peaks, Reconstructions
from tests.commands import refusal, words
from tests.labelled import folder_of

SMALL = [
    "experiment=tour",
    "model=zfnet64_trunk",
    "model.size=[64,64]",
    "k=4",
    "n_units=3",
    *(f"chapters.conv{n}=null" for n in (3, 4, 5)),
    'chapters.conv1.units={3: "bars, leaning", 17: null}',
    'chapters.conv1.text="{units} units; {conv2.receptive_field} pixels in {conv2.layer}"',
    'introduction="{images} photographs, {k} patches"',
    "ending=null",
    "name=walk",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    assert main([*SMALL, f"folder={folder}"]) == 0
    return folder


def test_the_page_has_its_numbers_from_the_summary_and_its_pictures_beside_it(finished: Path) -> None:
    text = (finished / "tour.md").read_text()
    chapters = json.loads((finished / "summary.json").read_text())["chapters"]
    assert chapters["conv1"]["images"] == len(bundled()) and chapters["conv1"]["channels"] == 96
    field = " x ".join(map(str, chapters["conv2"]["receptive_field"]))
    assert text.startswith(f"# What the units of zfnet64 see\n\n{len(bundled())} photographs, 4 patches\n\n## Layer 1")
    assert f"\n96 units; {field} pixels in conv2\n" in text and "{" not in text
    shown = re.findall(r"^!\[(.*)\]\((.*)\)$", text, flags=re.MULTILINE)
    drawn = "; ".join(f"unit {unit}" for unit in chapters["conv2"]["units"])
    assert shown == [
        ("unit 3: bars, leaning; unit 17", "figures/walk_conv1.jpg"),
        (drawn, "figures/walk_conv2.jpg"),
    ]
    for _, path in shown:
        with Image.open(finished / path) as picture:
            assert picture.format == "JPEG" and picture.size[0] <= 1900


def test_each_chapter_leaves_its_records(finished: Path) -> None:
    chapters = json.loads((finished / "summary.json").read_text())["chapters"]
    peaks = Peaks.load(finished / "peaks.safetensors")
    assert list(peaks) == ["conv1", "conv2"] and len(chapters["conv2"]["units"]) == 3
    assert chapters["conv1"]["units"] == [3, 17] and chapters["conv1"]["words"] == ["bars, leaning", None]
    for layer, numbers in chapters.items():
        recon = Reconstructions.load(finished / f"{layer}.reconstructions.safetensors")
        assert list(dict.fromkeys(recon.channel.tolist())) == numbers["units"]
        assert torch.equal(recon.box, Patches.load(finished / f"{layer}.patches.safetensors").box)


def test_other_words_leave_what_was_mined(finished: Path) -> None:
    mined = (finished / "peaks.safetensors").stat().st_mtime_ns
    said = words(SMALL, ["chapters.conv2.heading=Corners", "ending=Thanks", f"folder={finished}"])
    try:
        assert main(said) == 0
        text = (finished / "tour.md").read_text()
        assert "\n## Corners\n" in text and text.endswith("\n\nThanks\n")
        assert (finished / "peaks.safetensors").stat().st_mtime_ns == mined
    finally:
        assert main([*SMALL, f"folder={finished}"]) == 0


def test_another_network_over_other_images_stands_beside(tmp_path: Path) -> None:
    photographs = folder_of(tmp_path / "photos", each=3, side=64)
    source = f"source: {{name: folder, root: {photographs}}}"
    beside = [
        "chapters.conv2=null",
        f"+networks.alexnet={{model: alexnet, weights: random, size: [64,64], resize: null, {source}}}",
        "+chapters.beside={network: alexnet, layer: conv1, text: '{network} {images} {conv1.images}', "
        "units: {5: null}}",
    ]
    said = [word for word in SMALL if "conv2.receptive_field" not in word]
    assert main([*words(said, beside), f"folder={tmp_path / 'run'}"]) == 0
    assert f"\nalexnet 6 {len(bundled())}\n" in (tmp_path / "run/tour.md").read_text()
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert list(summary["provenance"]) == ["alexnet", "zfnet64"]
    peaks = Peaks.load(tmp_path / "run/alexnet.peaks.safetensors")
    (image,) = peaks["conv1"].image[[5]].tolist()
    classes = Counter(peaks.image_keys[image_id].split("/")[0] for image_id in image)
    shared = ", ".join(f"{name} {count}" for name, count in classes.most_common() if count > 1)
    assert summary["chapters"]["beside"]["classes"] == [f"{shared} of 4"]
    assert (tmp_path / "run/figures/walk_beside.jpg").exists()


def test_words_of_ones_own_stand_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "words.yaml"
    file.write_text('title: Mine\nending: The end\nchapters: {conv2: {units: {7: "a corner"}}}\n')
    said = [word for word in SMALL if "chapters" not in word and "ending" not in word]
    assert main([*said, f"words={file}", f"folder={tmp_path / 'run'}"]) == 0
    text = (tmp_path / "run/tour.md").read_text()
    assert text.startswith("# Mine\n") and text.endswith("\nThe end\n") and "![unit 7: a corner]" in text
    file.write_text("tittle: Mine\n")
    assert "'tittle'; expected one of title" in refusal([*said, f"words={file}"], tmp_path / "other", capsys)
    for content in ("- 1\n", "title: [\n"):
        file.write_text(content)
        assert "expected a YAML file that is a mapping" in refusal([*said, f"words={file}"], tmp_path / "other", capsys)
    assert "words: given nowhere.yaml" in refusal([*said, "words=nowhere.yaml"], tmp_path / "other", capsys)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["+chapters.conv9={heading: none}"], "unknown layer 'conv9'; expected one of conv1"),
        (["chapters.conv1.units={96: bars}"], "chapters.conv1.units: given 96; expected a whole number, 0 to 95"),
        (["chapters.conv1.units={bars: 3}"], "chapters.conv1.units: given {'bars': 3}; expected the words for"),
        (["chapters.conv1.units={}"], "chapters.conv1.units: given {}; expected the words for each unit"),
        (["chapters.conv1.text='{image} photographs'"], "in chapters.conv1.text '{image}'; expected one of {network}"),
        (["introduction='{conv3.images}'"], "unknown name in braces in introduction '{conv3.images}'; expected one of"),
        (["+chapters.conv1.headline=Edges"], "unknown setting of chapters.conv1 'headline'"),
        (["chapters.conv1=null", "chapters.conv2=null"], "chapters: given none; expected at least one"),
        (["+chapters.conv2.network=alexnet"], "unknown network of chapters.conv2 'alexnet'"),
        (
            ["+networks.alexnet={model: alexnet, weights: random, source: folder}", "+chapters.conv2.network=alexnet"],
            "networks.alexnet.source: given folder; expected a source with its options",
        ),
        (
            ["+networks.zfnet64={model: zfnet64_trunk}", "+chapters.conv2.network=zfnet64"],
            "networks.zfnet64: given the name of the run's own network",
        ),
        (["rule=guidd"], "unknown rule 'guidd'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_before_anything_is_mined(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refusal(words(SMALL, arguments), tmp_path / "run", capsys)


# --- texts -----------------------------------------------------------------------------------------------------------


def test_numbers_stand_in_for_what_is_in_braces() -> None:
    numbers: dict[str, dict[str, Any]] = {
        "low": {"images": 1234567, "channels": 96, "receptive_field": [7, 9], "network": "zfnet64"},
        "layer1.0.relu": {"dead_units": 0},
    }
    text = "{network}: {units} of {images}, {receptive_field}; {layer1.0.relu.dead_units} and {low.units}"
    check_placeholders("text", text, numbers)
    assert fill(text, "low", numbers) == "zfnet64: 96 of 1,234,567, 7 x 9; 0 and 96"


@pytest.mark.parametrize("text", ["{}", "{image}", "{low.image}", "{high.images}", "{images!r}", "{images:>9}"])
def test_a_name_in_braces_that_no_number_has_is_refused(text: str) -> None:
    with pytest.raises(UnknownName, match=r"^unknown name in braces in text '\{.*\}'; expected one of \{network\}"):
        check_placeholders("text", text, ["low"])


def test_a_chapter_is_called_after_its_layer() -> None:
    first, second = read_chapters({"conv1": {}, "gone": None, "deep": {"layer": "conv5", "heading": "Things"}})
    assert (first.layer, first.heading, first.text, first.units, first.network) == ("conv1", "conv1", "", None, None)
    assert (second.name, second.layer, second.heading) == ("deep", "conv5", "Things")


@pytest.mark.parametrize(
    "settings", ["edges", {"text": 3}, {"units": [3]}, {"units": {True: "bars"}}, {"units": {3: 4}}]
)
def test_settings_of_another_type_are_refused(settings: object) -> None:
    with pytest.raises(BadInput, match="^chapters.conv1"):
        read_chapters({"conv1": settings})


def test_brackets_in_words_do_not_end_the_description_of_a_picture() -> None:
    text = page("A tour", "", [Section("Layer 1", "", "a.jpg", {3: "bars [not ](lines)"})], "")
    assert text == "# A tour\n\n## Layer 1\n\n![unit 3: bars (not )(lines)](a.jpg)\n"
