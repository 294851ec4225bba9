"""When the image that fires a unit most stops changing, on tables worked out by hand and on a network's snapshots."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import deconv
from deconv.analyses.evolution import find_snapshots, mine_epochs, settling_epochs, summarise, winners
from deconv.errors import BadInput, RecordMismatch
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
    assert sorted(path.name for path in files) == ["epoch-001.parquet", "epoch-007.parquet", "epoch-030.parquet"]
    mine_epochs(networks, images, ["one", "two"], tmp_path / "peaks")
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "peaks").iterdir()}
    with pytest.raises(RecordMismatch, match=r"epoch-001\.parquet was made with weights"):
        mine_epochs({1: networks[7]}, images, ["one", "two"], tmp_path / "peaks")


def test_snapshots_are_found_in_the_order_of_their_epochs(trained: Path) -> None:
    assert list(find_snapshots(trained)) == [1, 2, 10, 120]
    found = find_snapshots(str(trained), [10, 2])
    assert list(found) == [2, 10] and found[10].name == "epoch-010.safetensors"


def test_snapshots_that_are_not_there_are_named(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"epochs \[3, 64\]: .* has no snapshot of them; expected some of 1, 2, 10, 120"):
        find_snapshots(trained, [1, 3, 64])
    with pytest.raises(BadInput, match="one snapshot shows no change"):
        find_snapshots(trained, [2])
    with pytest.raises(BadInput, match="there are no snapshots .* give the folder of a training"):
        find_snapshots(tmp_path / "nowhere")
