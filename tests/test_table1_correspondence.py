"""Table 1's experiment, run small on photographs and annotations of a user's own; its mistakes are one line each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deconv.analyses.correspondence import read_annotations
from deconv.command.cli import main
from tests.commands import refusal, words
from tests.samples import noise

DOGS = Path(__file__).resolve().parent.parent / "experiments" / "table1_dogs.csv"
SMALL = [
    "experiment=table1_correspondence", "model=squeezenet", "model.weights=random", "model.size=[64,64]",
    "source=folder", "region=head", "draws=4",
]  # fmt: skip
BOXES = "file,part,y0,x0,y1,x1\n" + "".join(
    f"{n}.png,eye,20,{30 + n},36,{46 + n}\n{n}.png,mouth,44,40,56,60\n{n}.png,head,8,20,78,80\n" for n in range(3)
)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    heads = noise(tmp_path_factory.mktemp("heads"), 3, (80, 100))
    (heads / "boxes.csv").write_text(BOXES)
    return [*SMALL, f"source.root={heads}", f"annotations={heads / 'boxes.csv'}"]


@pytest.fixture(scope="module")
def finished(said: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    assert main([*said, f"folder={folder}"]) == 0
    return folder


def test_it_leaves_pictures_and_every_number(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert set(summary["layers"]) == {"fire9", "flatten"}
    for parts in summary["layers"].values():
        assert set(parts) == {"eye", "mouth", "random"}
        for numbers in parts.values():
            assert 0 <= numbers["of_all"]["mean"] <= numbers["of_moved"]["mean"] <= 1 and 0 < numbers["moved"] <= 1
    assert summary["boxes_in_frame"]["eye"]["0.png"] == [
        16,
        16,
        29,
        29,
    ]  # 80 rows become 64; of 100 columns the middle 80
    for name in ("table1", "fig8"):
        assert (finished / f"{name}.png").stat().st_size > 10_000 and (finished / f"{name}.pdf").is_file()


def test_the_same_configuration_gives_the_same_bytes(said: list[str], finished: Path, tmp_path: Path) -> None:
    assert main([*said, f"folder={tmp_path / 'again'}"]) == 0
    for name in ("summary.json", "table1.png", "table1.pdf", "fig8.png"):
        assert (finished / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["layers=[conv9]"], "unknown layer 'conv9'"),
        (["region=tail"], "region=tail: the annotations have the parts eye, mouth, head"),
        (["draws=1"], "draws=1: expected 2 or more"),
        (["annotations=/nowhere.csv"], "cannot read the annotations /nowhere.csv: No such file"),
        (["annotations=null"], "n02096294_Australian_terrier.jpg, which the source folder does not hold"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_result(
    arguments: list[str], expected: str, said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refusal(words(said, arguments), tmp_path / "run", capsys)


def test_a_box_outside_its_image_is_named_with_its_part_and_file(
    said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "boxes.csv").write_text(BOXES.replace("2.png,eye,20,32,36,48", "2.png,eye,20,32,36,148"))
    line = refusal(words(said, [f"annotations={tmp_path / 'boxes.csv'}"]), tmp_path / "run", capsys)
    assert "'eye' in 2.png: the box (20, 32, 36, 148) reaches outside its image of 80 x 100 pixels" in line


def test_the_five_dogs_have_two_eyes_and_a_nose_below_them() -> None:
    dogs = read_annotations(DOGS)
    assert len(dogs) == 5
    for parts in dogs.values():
        assert list(parts) == ["right eye", "left eye", "nose", "dog"]
        right, left, nose = ((y0 + y1, x0 + x1) for y0, x0, y1, x1 in list(parts.values())[:3])
        assert right[1] < nose[1] < left[1] and nose[0] > max(right[0], left[0])
        top, start, bottom, end = parts["dog"]
        for y0, x0, y1, x1 in parts.values():
            assert top <= y0 < y1 <= bottom and start <= x0 < x1 <= end
