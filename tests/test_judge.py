"""deconv/views/judge.py: a table whose answers are known, and the same numbers as compare_rules."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

import deconv
from deconv.compare.measuring import METRICS, mean_interval
from deconv.compare.tasks import PATCHES
from deconv.errors import BadInput, RecordMismatch, UnknownName, UnsupportedOperation
from deconv.network import Network
from tests.samples import SIZE, photographs, with_preprocessing

EXPLANATIONS: dict[str, Any] = {"gradient": "gradient", "edges": "edges", "mine": None, "centre": "centre"}


def tied(network: Network, inputs: Tensor, layer: str, channel: Tensor, row: Tensor, col: Tensor) -> Tensor:
    """The gradient, by autograd of the user's own module, with another scale for each."""
    points = inputs.clone().requires_grad_()
    maps = points
    for step in network.module.children():
        maps = step(maps)
        if maps.shape[1:] == (network.channels(layer), *network.map_size(layer)):
            break
    answers = nn.functional.relu(maps)[torch.arange(len(maps)), channel, row, col]
    return torch.autograd.grad(answers.sum(), points)[0] * (2 + channel)[:, None, None, None]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> deconv.Source:
    return photographs(tmp_path_factory.mktemp("photos"), 6)


@pytest.fixture(scope="module")
def judged(images: deconv.Source) -> deconv.Judgement:
    network = with_preprocessing()
    peaks = deconv.mine(network, images, ["one"], k=2)
    return deconv.judge(network, images, peaks, EXPLANATIONS | {"mine": tied}, units=[4, 0, 2])


def test_a_function_that_does_what_a_rule_does_is_measured_alike(judged: deconv.Judgement) -> None:
    gradient, mine = (judged.measured["one"][name] for name in ("gradient", "mine"))
    for metric in METRICS:
        np.testing.assert_allclose(mine[metric], gradient[metric], rtol=1e-3, atol=1e-4, err_msg=metric)
    assert gradient["unit"].tolist() == [0, 2, 4] and PATCHES in judged.measured["one"]
    for metric in ("area50", "insertion_blur"):
        ahead = judged.difference("mine", "gradient", metric, "one")
        assert abs(ahead["mean"]) < 1e-3 and ahead["units"] == 3


def test_differences_are_paired_over_units(judged: deconv.Judgement) -> None:
    columns = judged.measured["one"]
    expected = mean_interval(columns["gradient"]["reactivation"] - columns["centre"]["reactivation"], 0)
    assert judged.difference("gradient", "centre", "reactivation") == expected
    assert judged.summary["tested_minus"]["centre"]["reactivation"] == expected
    turned = judged.difference("centre", "gradient", "reactivation")
    assert (expected["mean"] or 0) > 0 and expected["mean"] == -(turned["mean"] or 0)
    with pytest.raises(UnknownName, match="unknown metric 'likeness'"):
        judged.difference("gradient", "centre", "likeness")
    with pytest.raises(
        UnknownName, match="unknown explanation 'guided'; expected one of gradient, edges, mine, centre"
    ):
        judged.difference("gradient", "guided", "rank")
    with pytest.raises(UnknownName, match="unknown layer 'two'"):
        judged.table("two")


def test_it_prints_itself_as_a_table_and_marks_what_differs(judged: deconv.Judgement) -> None:
    assert repr(judged) == "<Judgement: gradient, edges, mine, centre; 3 units of one>"
    title, head, *rows, note = str(judged).splitlines()
    assert title == "3 units of one" and head.split()[0] == "explanation"
    assert [row.split()[0] for row in rows] == list(EXPLANATIONS)
    assert "* differs from gradient" in note and max(map(len, rows)) <= 220
    column = head.index("reactivation")
    cells = {row.split()[0]: row[column:].split("]")[0] for row in rows}
    cell = judged.summary["all_layers"]["gradient"]["reactivation"]
    assert cells["gradient"] == f"{cell['mean']:.3g} [{cell['low']:.2g}, {cell['high']:.2g}"
    marked = {row.split()[0] for row in rows if row[column:].split("]")[1].startswith("*")}
    assert marked == {
        name
        for name in ("edges", "mine", "centre")
        if (ahead := judged.summary["tested_minus"][name]["reactivation"])["low"] * ahead["high"] > 0
    }
    assert "centre" in marked
    written = judged._repr_html_()
    assert written.count("<tr>") == 1 + len(EXPLANATIONS) and "insertion" in written and "by layer" not in written


def test_it_is_saved_in_every_form(judged: deconv.Judgement, tmp_path: Path) -> None:
    for suffix in ("json", "html", "txt", "png", "parquet"):
        assert judged.save(tmp_path / f"table.{suffix}").stat().st_size > 100
    assert json.loads((tmp_path / "table.json").read_text())["tested"] == "gradient"
    table = pq.read_table(tmp_path / "table.parquet").to_pandas()
    assert len(table) == len(EXPLANATIONS) * 3 * len(METRICS)
    chosen = table[(table.explanation == "mine") & (table.metric == "area50")]
    assert chosen.value.tolist() == judged.measured["one"]["mine"]["area50"].tolist()
    assert chosen.unit.tolist() == [0, 2, 4] and set(table.layer) == {"one"}
    assert judged.to_pandas().equals(table)
    with pytest.raises(BadInput, match="expected a file whose name ends in"):
        judged.save(tmp_path / "table.doc")


def test_it_is_kept_and_goes_on(images: deconv.Source, tmp_path: Path) -> None:
    network = with_preprocessing()
    peaks = deconv.mine(network, images, ["two", "one"], k=1)
    asked: list[str] = []

    def flat(network: Network, inputs: Tensor, layer: str, *unit: Tensor) -> Tensor:
        asked.append(layer)
        return torch.ones_like(inputs)

    first = deconv.judge(network, images, peaks, {"flat": flat}, {"one": [1], "two": [0, 3]}, keep=tmp_path)
    assert list(first.measured) == ["one", "two"] and set(asked) == {"one", "two"}
    asked.clear()
    (tmp_path / "two.flat.safetensors").unlink()
    again = deconv.judge(network, images, peaks, {"flat": flat}, {"one": [1], "two": [0, 3]}, keep=tmp_path)
    assert set(asked) == {"two"} and again.summary == first.summary
    assert "<details>" in first._repr_html_() and first.table("two").startswith("2 units of two")
    with pytest.raises(RecordMismatch, match="was made with units"):
        deconv.judge(network, images, peaks, {"flat": flat}, {"one": [1], "two": [0]}, keep=tmp_path)


@pytest.mark.parametrize(
    ("explanations", "units", "error", "message"),
    [
        (["guidd"], [0], UnknownName, "unknown explanation 'guidd'; expected one of deconvnet, .*, centre"),
        ({}, [0], BadInput, "expected at least one"),
        (["deconvnet"], [99], BadInput, "given 99"),
        (["deconvnet"], {"three": [0]}, UnknownName, "unknown layer of units 'three'; expected one of one"),
        ({"centre": "edges"}, [0], BadInput, "another name for it"),
    ],
)
def test_mistakes_are_named(
    explanations: Any, units: Sequence[int], error: type[Exception], message: str, images: deconv.Source
) -> None:
    network = with_preprocessing()
    peaks = deconv.mine(network, images, ["one"], k=1)
    with pytest.raises(error, match=message):
        deconv.judge(network, images, peaks, explanations, units)


def test_peaks_of_other_images_are_refused(images: deconv.Source) -> None:
    network = with_preprocessing()
    peaks = deconv.mine(network, images.part([0, 1]), ["one"], k=1)
    with pytest.raises(RecordMismatch, match="the record of these peaks was made with content"):
        deconv.judge(network, images, peaks, ["deconvnet"])


def test_what_needs_no_deconvnet_is_judged_where_none_can_be(images: deconv.Source) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 5), nn.SiLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
    preprocessing = deconv.Preprocessing((SIZE, SIZE), None, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    network = deconv.Network(module, (3, SIZE, SIZE), preprocessing=preprocessing)
    peaks = deconv.mine(network, images, ["3"], k=1)
    judgement = deconv.judge(network, images, peaks, ["gradient", "centre", "edges"], units=[0])
    assert "[" not in str(judgement).splitlines()[2]  # one unit has no interval
    assert judgement.difference("gradient", "centre", "insertion") == judgement.difference(
        "gradient", "centre", "insertion_blur"
    )
    with pytest.raises(
        UnsupportedOperation, match="what is behind other_unit, random_weights: .*silu.*deconvnet_beyond"
    ):
        deconv.judge(network, images, peaks, ["gradient", "other_unit", "random_weights"], units=[0])
    with pytest.raises(BadInput, match="500"):
        deconv.judge(network, images, peaks, ["gradient", "other_unit"], units=[500])
    deconv.judge(network, images, peaks, ["deconvnet_beyond", "other_unit"], units=[0])
