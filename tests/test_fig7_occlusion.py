"""Figure 7's experiment, run small: its numbers, its maps and pictures, and what it says of mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from deconv.command.cli import main
from deconv.records import Reconstructions
from tests.commands import refusal, words
from tests.drawn import assert_drawn
from tests.samples import noise

SMALL = [
    "experiment=fig7_occlusion", "model=squeezenet", "model.weights=random", "model.size=[67,67]", "source=folder",
    "square=24", "stride=14", "controls=4",
]  # fmt: skip
SHOWN = ["images=[3.png,1]", "labels=[tench,5]"]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    photographs = noise(tmp_path_factory.mktemp("photographs"), 5, (72, 96), grain=5)
    return [*SMALL, f"source.root={photographs}"]


@pytest.fixture(scope="module")
def finished(said: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    assert main([*said, *SHOWN, f"folder={folder}"]) == 0
    return folder


def test_it_leaves_its_pictures_maps_and_numbers(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["layer"] == "fire9" and summary["provenance"]["square"] == 24
    assert [image["key"] for image in summary["images"]] == ["3.png", "1.png"]
    for number, image in enumerate(summary["images"]):
        seen = load_file(finished / f"{number}.maps.safetensors")
        assert seen["activity"].shape == seen["probability"].shape == seen["label"].shape == (4, 4)
        assert float(seen["activity"].min()) == pytest.approx(image["activity"]["least"])
        assert seen["rows"].tolist() == [0, 14, 28, 42]
        row, col = divmod(int(seen["probability"].argmin()), 4)
        assert image["probability"]["square_at"] == [14 * row + 11.5, 14 * col + 11.5]
        assert sum(label["share_of_places"] for label in image["most_probable"]) == pytest.approx(1)
        assert image["correlation_with_projection"]["controls"]["units"] == 4
        own = Reconstructions.load(finished / f"{number}.reconstructions.safetensors")
        assert own.channel.tolist() == [image["unit"]] and bool(own.pixels.any())
    assert [image["label"] for image in summary["images"]][0] == {"class": 0, "name": "tench", "given": True}
    assert_drawn(finished, "fig7")


def test_units_layers_and_colour_can_be_chosen(said: list[str], tmp_path: Path) -> None:
    chosen = ["images=[0]", "units=[7]", "layers=[fire2]", "colour=[255,0,0]", "rule=guided"]
    assert main([*said, *chosen, f"folder={tmp_path}"]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    (image,) = summary["images"]
    assert image["unit"] == 7 and summary["layer"] == "fire2" and not image["label"]["given"]
    assert summary["provenance"]["colour"] == [255, 0, 0]
    probability = load_file(tmp_path / "0.maps.safetensors")["probability"]
    assert not torch.equal(probability, probability[0, 0].expand_as(probability))


def test_explanations_beside_the_rule_have_figures_and_numbers_of_their_own(
    said: list[str], finished: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text("def ours(network, inputs, layer, channel, row, col):\n    return inputs.abs()\n")
    run, function = tmp_path / "run", f"explanations.ours={tmp_path}/mine.py:ours"
    assert main([*said, "images=[3.png]", "labels=[tench]", function, f"folder={run}"]) == 0
    (image,), provenance = (json.loads((run / "summary.json").read_text())[key] for key in ("images", "provenance"))
    (before, _) = json.loads((finished / "summary.json").read_text())["images"]
    ours = image.pop("correlation_with_explanations")
    assert image == before and list(ours) == ["ours"] and -1 <= ours["ours"]["activity"] <= 1
    assert provenance["explanations"]["ours"]["function"] == "mine:ours"
    recon = Reconstructions.load(run / "0.ours.reconstructions.safetensors")
    assert recon.rule == "ours" and bool((recon.pixels >= 0).all()) and recon.channel.tolist() == [image["unit"]]
    assert_drawn(run, "fig7", "fig7.ours")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["square=73"], "0.png has 72 x 96 pixels, fewer than square=73"),
        (["square=70"], "square: given 70; expected a square that fits into the image of 67 pixels a side"),
        (["stride=0"], "stride=0: expected 1 or more"),
        (["images=[5.png]"], "image '5.png' is not in the source folder"),
        (["labels=[tench]"], "expected one for each of 3 images"),
        (["labels=[tench,goldfish,tigre cat]"], "did you mean 'tiger cat'"),
        (["units=[1,2]"], "units: given 2 for 3 images"),
        (["units=[1,2,512]"], "units: given 512; expected a whole number, 0 to 511"),
        (["layers=[flatten]"], "expected one layer of maps"),
        (["layers=[fire2,fire3]"], "expected one layer of maps"),
        (["colour=[1,2]"], "expected red, green and blue"),
        (["colour=[0,0,256]"], "expected red, green and blue"),
        (["rule=deconvnt"], "unknown rule 'deconvnt'"),
        (
            ["explanations.mine=nowhere.py:f"],
            "explanations.mine: given nowhere.py:f; expected a file of Python",
        ),
        (["model=zfnet64_trunk"], "no class outputs"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], expected: str, said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refusal(words(said, arguments), tmp_path, capsys)
