"""deconv/compare/tasks.py: units of a layer in tasks, in this process and by Ray."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import deconv
from deconv.compare.controls import CONTROLS
from deconv.compare.peak_set import PeakSet, gather_peaks
from deconv.compare.randomising import renewed, shuffled
from deconv.compare.tasks import PATCHES, LayerComparison, join, keep_or_measure, measure_units, record_path
from deconv.engines import Engine, open_engine
from deconv.errors import BadInput, RecordMismatch
from deconv.explanations import by_name
from deconv.explanations.functions import Explanation, load
from deconv.records.formats import Columns
from tests.test_controls import FRAMES, PREPROCESSING, module, network

TASKS = [[4, 7], [2], [0, 1]]
NAMES = ["deconvnet", "other_switches", "random_weights", "edges", "mine", "smoothgrad", PATCHES]
OWN = "def explain(network, inputs, layer, channel, row, col):\n    return inputs.relu()\n"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in a worker: the last bits depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def mine(tmp_path: Path) -> Explanation:
    """A function of a file that no other process has imported."""
    (tmp_path / "own_explanation.py").write_text(OWN)
    return load("mine", f"{tmp_path}/own_explanation.py:explain")


def comparison(mine: Explanation) -> LayerComparison:
    net = network()
    peaks = deconv.mine(net, PREPROCESSING.normalize(FRAMES), ["b"], k=2)["b"]
    rules = by_name({name: name for name in NAMES[:-1]} | {"mine": mine}, CONTROLS)
    random = renewed(net, shuffled(module(), ["0", "3", "6"], 0))
    rows = torch.stack(peaks.of([0, 1, 2, 4, 7]), dim=1)
    peak_set = PeakSet(net, "b", FRAMES, torch.arange(3), rows, random, seed=0)
    return LayerComparison(peak_set, peaks.score[:, 0].numpy(), rules, NAMES)


def by(engine: Engine, shared: LayerComparison) -> dict[str, Columns]:
    return join(list(engine.work(measure_units, shared, TASKS)), NAMES)


def test_any_engine_ends_with_the_same_bytes(mine: Explanation, cluster: None) -> None:
    shared = comparison(mine)
    expected = by(open_engine("local"), shared)
    for workers in (1, 2):
        found = by(open_engine("ray", num_workers=workers), shared)
        for name in NAMES:
            for key, values in expected[name].items():
                assert found[name][key].tobytes() == values.tobytes(), (workers, name, key)


def test_parts_are_joined_in_the_order_of_units_whatever_came_first(mine: Explanation) -> None:
    shared = comparison(mine)
    parts = [part for units in TASKS for part in measure_units(shared, units)]
    found, turned = join(parts, NAMES), join(parts[::-1], NAMES)
    assert found["edges"]["unit"].tolist() == [0, 1, 2, 4, 7] and set(found[PATCHES]) < set(found["edges"])
    for name in NAMES:
        for key in found[name]:
            np.testing.assert_array_equal(turned[name][key], found[name][key])
    (alone,) = measure_units(shared, [2])
    np.testing.assert_allclose(
        found["deconvnet"]["insertion_blur"][2], alone.columns["deconvnet"]["insertion_blur"], rtol=1e-5
    )


def test_gathered_peaks_are_those_mined_with_the_photographs_they_lie_in(tmp_path: Path) -> None:
    for n, frame in enumerate(FRAMES):
        Image.fromarray(frame.permute(1, 2, 0).numpy()).save(tmp_path / f"{n}.png")
    net, images, units = network(), deconv.folder(tmp_path), [7, 1, 4]
    mined = deconv.mine(net, images, ["b"], k=2)["b"]
    gathered = gather_peaks(net, images, "b", mined, units)
    assert torch.equal(gathered.peaks, torch.stack(mined.of(units), dim=1))
    assert torch.equal(gathered.input_images, FRAMES[gathered.image_ids])
    strongest = gather_peaks(net, images, "b", mined, units, per_unit=1)
    assert torch.equal(strongest.peaks, gathered.peaks[gathered.strongest()]) and strongest.channel.tolist() == units
    with pytest.raises(BadInput, match="units: given 8; expected a whole number, 0 to 7"):
        gather_peaks(net, images, "b", mined, [8])


def test_what_has_a_record_is_not_measured_again_and_all_records_are_read_first(tmp_path: Path) -> None:
    measured: list[tuple[str, list[str]]] = []

    def measure(layer: str, rules: list[str]) -> dict[str, Columns]:
        measured.append((layer, rules))
        return {rule: {"unit": np.array([len(measured)])} for rule in rules}

    expected = {layer: {rule: {"layer": layer, "rule": rule} for rule in ("a", "b")} for layer in ("one/x", "two")}
    first = keep_or_measure(tmp_path, expected, measure, "measuring")
    assert measured == [("one/x", ["a", "b"]), ("two", ["a", "b"])]
    (tmp_path / "two.b.safetensors").unlink()
    again = keep_or_measure(tmp_path, expected, measure, "measuring")
    assert measured[2:] == [("two", ["b"])] and again["two"]["b"]["unit"].tolist() == [3]
    assert list(again) == list(first) and again["one/x"]["a"]["unit"].tolist() == [1]
    record_path(tmp_path, "one/x", "a").unlink()
    expected["two"]["b"]["rule"] = "c"
    with pytest.raises(RecordMismatch, match=r"two\.b\.safetensors was made with rule b; this run has c"):
        keep_or_measure(tmp_path, expected, measure, "measuring")
    assert len(measured) == 3
