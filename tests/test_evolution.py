"""When the image that fires a unit most stops changing, on tables worked out by hand and on a network's snapshots."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import deconv
from deconv.analyses.evolution import find_snapshots, mine_epochs, settling_epochs, summarise, winners
from deconv.errors import BadInput, RecordMismatch
from deconv.figures.evolution import EvolutionBlock, EvolutionRow, evolution_figure, evolution_rows
from deconv.figures.page import TILE
from deconv.figures.pictures import recon_tiles
from deconv.records import Patches, Reconstructions
from tests.drawn import axes_of
from tests.samples import photographs, with_preprocessing

EPOCHS = [1, 2, 5, 10]
# Of each unit: its winning image at epochs 1, 2, 5 and 10, and when it settled (inf: not yet, nan: dead).
UNITS = [
    ((3, 3, 3, 3), 1),
    ((1, 3, 3, 3), 2),
    ((3, 1, 3, 3), 5),  # what won early and was lost does not count
    ((1, 2, 3, 4), math.inf),
    ((3, 3, 3, 4), math.inf),
    ((-1, 3, 3, 3), 2),  # waking up is a change
    ((3, -1, 3, 3), 5),  # so is falling silent
    ((-1, -1, -1, 3), math.inf),
    ((-1, -1, -1, -1), math.nan),  # always silent is not settled
    ((3, 3, 3, -1), math.nan),
]
WINNING = torch.tensor([winners for winners, _ in UNITS]).T


def later(network: deconv.Network, seed: int) -> deconv.Network:
    """The same network with other weights, as training would leave it."""
    torch.manual_seed(seed)
    module = network.module
    with torch.no_grad():
        for weights in module.parameters():
            weights.add_(0.3 * torch.randn_like(weights))
    return deconv.Network(module, network.input_shape, network.aliases, network.preprocessing)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    for epoch in (1, 2, 10, 120):
        path = tmp_path / "snapshots" / f"epoch-{epoch:03d}.safetensors"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "snapshots" / "notes.txt").touch()
    return tmp_path


def test_units_settle_where_the_table_says() -> None:
    expected = torch.tensor([float(settled) for _, settled in UNITS], dtype=torch.float64)
    assert torch.allclose(settling_epochs(WINNING, EPOCHS), expected, equal_nan=True)


def test_the_summary_counts_the_dead_and_the_unsettled_apart() -> None:
    numbers = summarise(settling_epochs(WINNING, EPOCHS), EPOCHS)
    assert (numbers["units"], numbers["dead_units"], numbers["not_settled"]) == (10, 2, 3)
    assert numbers["settled_share"] == {1: 1 / 8, 2: 3 / 8, 5: 5 / 8}
    assert numbers["quartiles"] == [2, 5, None]


def test_a_dead_layer_has_no_shares() -> None:
    numbers = summarise(settling_epochs(torch.full((3, 4), -1), [1, 2, 5]), [1, 2, 5])
    assert numbers["dead_units"] == 4 and numbers["not_settled"] == 0
    assert numbers["settled_share"] == {1: None, 2: None} and numbers["quartiles"] == [None] * 3


def test_mining_takes_each_epochs_own_weights_and_goes_on_where_it_was(tmp_path: Path) -> None:
    images = photographs(tmp_path / "photos")
    start = with_preprocessing()
    networks = {1: start, 7: later(start, 1), 30: later(start, 2)}
    peaks = mine_epochs(networks, images, ["one", "two"], tmp_path / "peaks")
    for epoch, network in networks.items():
        own = deconv.mine(network, images, ["two"], k=1)["two"]
        assert torch.equal(peaks[epoch]["two"].score, own.score) and torch.equal(peaks[epoch]["two"].image, own.image)
    table = winners(peaks, "two")
    assert table.shape == (3, 5)
    assert torch.equal(table[2], peaks[30]["two"].image[:, 0])
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "peaks").iterdir()}
    assert sorted(path.name for path in files) == [
        "epoch-001.safetensors",
        "epoch-007.safetensors",
        "epoch-030.safetensors",
    ]
    mine_epochs(networks, images, ["one", "two"], tmp_path / "peaks")
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "peaks").iterdir()}
    with pytest.raises(RecordMismatch, match=r"epoch-001\.safetensors was made with weights"):
        mine_epochs({1: networks[7]}, images, ["one", "two"], tmp_path / "peaks")


def test_snapshots_are_found_in_the_order_of_their_epochs(trained: Path) -> None:
    assert list(find_snapshots(trained)) == [1, 2, 10, 120]
    found = find_snapshots(str(trained), [10, 2])
    assert list(found) == [2, 10] and found[10].name == "epoch-010.safetensors"


def test_snapshots_that_are_not_there_are_named(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"epochs: given \[3, 64\]; expected some of 1, 2, 10, 120"):
        find_snapshots(trained, [1, 3, 64])
    with pytest.raises(BadInput, match="one snapshot shows no change"):
        find_snapshots(trained, [2])
    with pytest.raises(BadInput, match="there are no snapshots .* give the folder of a training"):
        find_snapshots(tmp_path / "nowhere")


def recon_of(channels: list[int], size: int, input_size: int = 8) -> Reconstructions:
    n = len(channels)
    zeros, box = torch.zeros(n, dtype=torch.int64), torch.tensor([[0, 0, size, size]]).expand(n, 4)
    pixels = torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(n))
    return Reconstructions(
        "conv1",
        "deconvnet",
        pixels,
        torch.ones(n),
        box,
        box,
        zeros,
        torch.tensor(channels, dtype=torch.int64),
        zeros,
        zeros,
        (input_size,) * 2,
    )


def test_a_row_has_its_units_cells_and_none_where_it_is_dead() -> None:
    first, last = recon_of([3, 7], 4), recon_of([7], 4)
    patches = Patches(
        torch.full((1, 3, 4, 4), 9, dtype=torch.uint8), torch.ones(1, 4, 4, dtype=torch.bool), last.box, last.image
    )
    rows = evolution_rows([3, 7], [first, last], patches, torch.tensor([[False, True]]))
    assert [row.label for row in rows] == ["unit 3", "unit 7"] and [row.same for row in rows] == [(False,), (True,)]
    assert rows[0].cells[1] is None and rows[0].patch is None
    for cell, recon, place in zip(rows[1].cells, (first, last), (1, 0), strict=True):
        assert cell is not None and np.array_equal(cell, recon_tiles(recon.pixels, TILE)[place])
    assert rows[1].patch is not None and (rows[1].patch == 9).all()
    none_fires = evolution_rows([3], [recon_of([], 4), recon_of([], 4)], None, torch.tensor([[False]]))
    assert none_fires[0].cells == (None, None) and none_fires[0].patch is None


def test_blocks_stand_two_abreast_and_curves_have_their_layers_shares() -> None:
    grey = np.full((TILE, TILE, 3), 64, np.uint8)
    blocks = [EvolutionBlock(name, "note", (EvolutionRow("unit 0", (grey, grey), (True,), None),)) for name in "abc"]
    figure = evolution_figure(blocks, [1, 4], {"a": {1: 0.25}, "b": {1: None}, "c": {1: 0.75}}, "heading")
    where = {text.get_text(): text.get_position() for text in figure.texts}
    assert where["a"][1] == where["b"][1] > where["c"][1] == where["Units that have settled"][1]
    assert where["a"][0] == where["c"][0] < where["b"][0] == where["Units that have settled"][0]
    lines = [line for axes in axes_of(figure) for line in axes.get_lines()]
    assert [line.get_label() for line in lines] == ["a", "b", "c"]
    assert [np.asarray(line.get_ydata()).tolist() for line in lines] == [[0.25], [], [0.75]]
    brightness = [sum(line.get_color()[:3]) for line in lines]
    assert brightness == sorted(brightness, reverse=True)
