"""deconv/compare/tasks.py: units of a layer in tasks, in this process and by Ray."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

import deconv
from deconv.compare.randomising import renewed, shuffled
from deconv.compare.tasks import PATCHES, Contest, joined, measure_units
from deconv.engines import Engine, open_engine
from deconv.projection.rules import RULES, Rule
from deconv.records.table import Columns
from tests.test_controls import FRAMES, PREPROCESSING, module, network

TASKS = [[4, 7], [2], [0, 1]]
NAMES = ["deconvnet", "other_switches", "random_weights", "edges", PATCHES]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in a worker: the last bits depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def contest() -> Contest:
    net = network()
    peaks = deconv.mine(net, PREPROCESSING.normalize(FRAMES), ["b"], k=2)["b"]
    rules: dict[str, str | Rule] = {"deconvnet": RULES["deconvnet"]} | {name: name for name in NAMES[1:-1]}
    random = renewed(net, shuffled(module(), ["0", "3", "6"], 0))
    return Contest(net, random, "b", peaks, FRAMES, torch.arange(3), rules, NAMES, seed=0)


def by(engine: Engine, shared: Contest) -> dict[str, Columns]:
    return joined(list(engine.work(measure_units, shared, TASKS)), NAMES)


def test_any_engine_ends_with_the_same_bytes() -> None:
    pytest.importorskip("ray")
    shared = contest()
    expected = by(open_engine("local"), shared)
    with open_engine("ray").connected():
        for workers in (1, 2):
            found = by(open_engine("ray", num_workers=workers), shared)
            for name in NAMES:
                for key, values in expected[name].items():
                    assert found[name][key].tobytes() == values.tobytes(), (workers, name, key)


def test_parts_are_joined_in_the_order_of_units_whatever_came_first() -> None:
    shared = contest()
    parts = [part for units in TASKS for part in measure_units(shared, units)]
    found, turned = joined(parts, NAMES), joined(parts[::-1], NAMES)
    assert found["edges"]["unit"].tolist() == [0, 1, 2, 4, 7] and set(found[PATCHES]) < set(found["edges"])
    for name in NAMES:
        for key in found[name]:
            np.testing.assert_array_equal(turned[name][key], found[name][key])
    (alone,) = measure_units(shared, [2])
    np.testing.assert_allclose(found["deconvnet"]["keep_blur"][2], alone.columns["deconvnet"]["keep_blur"], rtol=1e-5)
