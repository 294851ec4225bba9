"""Mining against a full argsort over all activations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

import deconv
from deconv.errors import BadInput, RecordMismatch, UnknownName
from deconv.mining import mine_into
from deconv.records import Peaks
from tests import reference
from tests.annotations import jaxtyping_off
from tests.samples import SIZE, images, network, photographs, with_preprocessing


def by_full_sort(maps: Tensor, k: int) -> list[list[tuple[float, int, int, int]]]:
    """For each channel the first k of all images' strongest places, by (-score, image, row, col)."""
    ranked = []
    for channel in range(maps.shape[1]):
        best = []
        for image, values in enumerate(maps[:, channel]):
            places = [(-float(v), image, *divmod(i, maps.shape[3])) for i, v in enumerate(values.flatten()) if v > 0]
            best += sorted(places)[:1]
        ranked.append([(-score, *place) for score, *place in sorted(best)[:k]])
    return ranked  # type: ignore[return-value]


def as_lists(peaks: Any) -> list[list[tuple[float, int, int, int]]]:
    columns = peaks.score, peaks.image, peaks.row, peaks.col
    rows = [zip(*(column[c].tolist() for column in columns), strict=True) for c in range(len(peaks.score))]
    return [[peak for peak in row if peak[1] >= 0] for row in rows]


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_mining_is_a_full_sort_for_any_batch_size(batch_size: int) -> None:
    net, given = network(), images(30)
    peaks = deconv.mine(net, given, ["one", "two"], k=9, batch_size=batch_size)
    for layer in ("one", "two"):
        maps = torch.cat([net.forward(part, [layer])[layer] for part in given.split(batch_size)])
        assert as_lists(peaks[layer]) == by_full_sort(maps, 9)


def test_more_peaks_wanted_than_images_and_a_single_image() -> None:
    peaks = deconv.mine(network(), images(30)[:1], ["two"], k=4)["two"]
    assert (peaks.image[:, 1:] == -1).all() and peaks.score[:, 1:].isnan().all()
    assert ((peaks.image[:, 0] == 0) == (peaks.score[:, 0] > 0)).all()


def test_a_dead_unit_has_no_peak() -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU())
    with torch.no_grad():
        net.get_parameter("0.bias").copy_(torch.tensor([-1e6, 1e6]))
    peaks = deconv.mine(deconv.Network(net, (3, SIZE, SIZE)), images(5), ["1"], k=3)["1"]
    assert peaks.image[0].tolist() == [-1, -1, -1] and peaks.score[0].isnan().all()
    assert (peaks.image[1] >= 0).all() and (peaks.box[0] == -1).all()


def test_the_networks_output_is_mined_though_it_is_negative() -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Conv2d(2, 3, 1))
    with torch.no_grad():
        net.get_parameter("2.bias").fill_(-1e3)
    peaks = deconv.mine(deconv.Network(net, (3, SIZE, SIZE)), images(5), ["2"], k=3)["2"]
    assert (peaks.score < 0).all() and (peaks.image >= 0).all()


def test_boxes_are_the_receptive_fields_of_the_places() -> None:
    net = network()
    peaks, field = deconv.mine(net, images(12), ["two"], k=3)["two"], net.receptive_field("two")
    for box, row, col in zip(peaks.box[peaks.found], peaks.row[peaks.found], peaks.col[peaks.found], strict=True):
        assert tuple(box.tolist()) == field.box(int(row), int(col))


def test_several_peaks_of_an_image_overlap_by_half_at_most() -> None:
    """Against a greedy search written out; k is large enough that every peak is kept."""
    net, given = network(), images(4)
    peaks = deconv.mine(net, given, ["two"], k=40, per_image=5)["two"]
    maps, field = net.forward(given, ["two"])["two"], net.receptive_field("two")

    def overlap(a: tuple[int, int], b: tuple[int, int]) -> float:
        sides = [max(0, n - abs(p - q) * s) for p, q, n, s in zip(a, b, field.size, field.stride, strict=True)]
        return sides[0] * sides[1] / (field.size[0] * field.size[1])

    for channel in range(maps.shape[1]):
        wanted: list[tuple[float, int, int, int]] = []
        for image in range(len(given)):
            values = maps[image, channel]
            places = sorted(
                (-float(values[r, c]), r, c) for r in range(values.shape[0]) for c in range(values.shape[1])
            )
            taken: list[tuple[int, int]] = []
            for score, row, col in places:
                if score < 0 and len(taken) < 5 and all(overlap((row, col), other) <= 0.5 for other in taken):
                    taken.append((row, col))
                    wanted.append((score, image, row, col))
        assert as_lists(peaks)[channel] == [(-score, *place) for score, *place in sorted(wanted)]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_activations_that_are_no_numbers_name_the_image(value: float) -> None:
    given = images(8)
    given[5, 0, 3, 3] = value
    with pytest.raises(BadInput, match="image '5' gives NaN or infinite activations at 'one'"):
        deconv.mine(network(), given, ["one"], batch_size=3)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"layers": ["tow"]}, UnknownName, "did you mean 'two'"),
        ({"layers": []}, BadInput, "layers: given none"),
        ({"k": 0}, BadInput, "k: given 0; expected a whole number, 1 or more"),
        ({"k": 2.5}, BadInput, "k: given 2.5; expected a whole number, 1 or more"),
        ({"k": "9"}, BadInput, "k: given 9; expected a whole number"),
        ({"k": 2**25}, BadInput, "k: given 33554432 for 6 units; expected at most 5592405"),
        ({"batch_size": -1}, BadInput, "batch_size: given -1"),
        ({"batch_size": 0}, BadInput, "batch_size: given 0"),
        ({"batch_size": None}, BadInput, "batch_size: given None"),
        ({"per_image": 0}, BadInput, "per_image: given 0"),
        ({"per_image": True}, BadInput, "per_image: given True"),
        ({"layers": "one"}, BadInput, r"layers: given one; expected a list of layer names: \['one'\] for one"),
        ({"layers": 3}, BadInput, r"layers: given 3; expected a list of layer names: \[3\] for one"),
        ({"layers": [3]}, UnknownName, "3"),
        ({"precision": "float8"}, UnknownName, "unknown precision 'float8'; expected one of float32, bfloat16"),
        ({"precision": None}, UnknownName, "unknown precision None"),
        ({"images": np.zeros((2, 3, SIZE, SIZE))}, BadInput, r"images: given ndarray of shape \(2, 3, 20, 20\)"),
        (
            {"network": torch.nn.Conv2d(3, 4, 3)},
            BadInput,
            r"network: given Conv2d; expected a Network: Network\(",
        ),
        (
            {"images": [1]},
            BadInput,
            r"images: given a list of 1 int; expected a Source, a Dataset, or preprocessed images",
        ),
        ({"images": torch.zeros(())}, BadInput, "images: given"),
        ({"images": torch.zeros(0, 3, SIZE, SIZE)}, BadInput, "expected at least one"),
        (
            {"images": torch.zeros(2, 1, SIZE, SIZE)},
            BadInput,
            r"expected preprocessed images, a float tensor \(M, 3, H, W\)",
        ),
        ({"images": torch.zeros(2, 3, SIZE, SIZE, dtype=torch.uint8)}, BadInput, "uint8"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], error: type[Exception], said: str) -> None:
    given: dict[str, Any] = {"network": network(), "images": images(3), "layers": ["one"]} | arguments
    with jaxtyping_off(), pytest.raises(error, match=said):
        deconv.mine(**given)


def test_a_source_gives_what_its_frames_give(tmp_path: Path) -> None:
    source, net = photographs(tmp_path), with_preprocessing()
    preprocessing = net.needed_preprocessing()
    frames = torch.stack([preprocessing.input_image(source.image(i)) for i in range(len(source))])
    from_source, from_tensor = (
        deconv.mine(net, given, ["two"], k=3) for given in (source, preprocessing.normalize(frames))
    )
    assert as_lists(from_source["two"]) == as_lists(from_tensor["two"])
    assert set(from_source.image_keys.values()) <= set(source.keys)
    assert from_source.provenance["source"]["content"] == source.content_hash


def test_an_unreadable_image_is_left_out_and_told(tmp_path: Path) -> None:
    source = photographs(tmp_path)
    (tmp_path / "2.png").write_bytes(b"no picture")
    peaks = deconv.mine(with_preprocessing(), source, ["two"], k=5)
    assert 2 not in peaks["two"].image and [row[:2] for row in peaks.provenance["unreadable"]] == [[2, "2.png"]]
    assert "not an image of a format known here" in peaks.provenance["unreadable"][0][2]


def test_a_source_needs_preprocessing(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no preprocessing"):
        deconv.mine(network(), photographs(tmp_path), ["two"])


def test_mining_into_a_file_loads_it_again_and_refuses_another_making(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    source, path = photographs(tmp_path / "photos"), tmp_path / "peaks.safetensors"
    first = mine_into(path, with_preprocessing(), source, ["two"], k=3)
    written = path.read_bytes()
    again = mine_into(path, with_preprocessing(), source, ["two"], k=3)
    assert as_lists(again["two"]) == as_lists(first["two"]) and path.read_bytes() == written
    with pytest.raises(RecordMismatch, match="made with k 3; this run has 4"):
        mine_into(path, with_preprocessing(), source, ["two"], k=4)
    Image.new("RGB", (SIZE, SIZE)).save(tmp_path / "photos" / "0.png")
    with pytest.raises(RecordMismatch, match=r"source\.content"):
        mine_into(path, with_preprocessing(), deconv.folder(tmp_path / "photos"), ["two"], k=3)
    assert path.read_bytes() == written and list(Peaks.load(path)) == ["two"]


def copying(kernel: tuple[int, int], stride: int) -> deconv.Network:
    """A network whose two units are the image itself and its negative, at every stride-th place of fields of a size."""
    trunk = nn.Conv2d(1, 2, kernel, stride, bias=False)
    with torch.no_grad():
        trunk.weight.zero_()[:, 0, 0, 0] = torch.tensor([1.0, -1.0])
    return deconv.Network(nn.Sequential(trunk, nn.ReLU()), (1, 16, 14))


COPYING = [copying((4, 5), 1), copying((5, 3), 2), copying((1, 1), 1), copying((2, 6), 3)]


@settings(max_examples=60, deadline=None, derandomize=True)
@drawn(
    net=st.sampled_from(COPYING), seed=st.integers(0, 2**16), count=st.integers(1, 9), k=st.integers(1, 12),
    per_image=st.integers(1, 4), batch_size=st.sampled_from([1, 2, 7, 64]), levels=st.integers(1, 6),
)  # fmt: skip
def test_mining_images_full_of_ties_is_the_greedy_search(
    net: deconv.Network, seed: int, count: int, k: int, per_image: int, batch_size: int, levels: int
) -> None:
    shape, generator = (count, 1, 16, 14), torch.Generator().manual_seed(seed)
    given = torch.randint(-levels, levels + 1, shape, generator=generator).float()
    given[:, :, ::3] = 0
    peaks = deconv.mine(net, given, ["1"], k=k, batch_size=batch_size, per_image=per_image)["1"]
    field = net.receptive_field("1")
    maps = net.forward(given, ["1"])["1"]
    assert as_lists(peaks) == reference.strongest_apart(maps, k, per_image, field.stride, field.size)


@pytest.mark.parametrize("place", [(6, 9), (9, 12), (13, 0)])
def test_fields_that_overlap_by_exactly_half_are_two(place: tuple[int, int]) -> None:
    """(39 - 6) * (22 - 9) is not half of 39 * 22 in floating point; the others are more and less than half."""
    trunk = nn.Conv2d(1, 1, (39, 22), bias=False)
    with torch.no_grad():
        trunk.weight.zero_()[:, 0, 0, 0] = 1.0
    given = torch.zeros(1, 1, 60, 40)
    given[0, 0, 0, 0], given[0, 0, place[0], place[1]] = 5, 4
    network = deconv.Network(nn.Sequential(trunk, nn.ReLU()), (1, 60, 40))
    peaks = deconv.mine(network, given, ["1"], k=3, per_image=2)["1"]
    kept = 2 * (39 - place[0]) * (22 - place[1]) <= 39 * 22
    assert peaks.score[0, :2].nan_to_num().tolist() == [5, 4 if kept else 0]


def test_the_order_of_the_images_decides_nothing_but_ties() -> None:
    net, given = network(), images(30)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    there = deconv.mine(net, given, ["two"], k=30)["two"]
    back = deconv.mine(net, given[order], ["two"], k=30, batch_size=7)["two"]
    torch.testing.assert_close(back.score, there.score, equal_nan=True)
    for channel in range(len(there.score)):
        found = [(peak[0], int(order[peak[1]]), *peak[2:]) for peak in as_lists(back)[channel]]
        assert sorted(found) == sorted(as_lists(there)[channel])


def test_double_precision_is_ranked_as_it_is_recorded() -> None:
    """Scores that are one number in float32 tie, in one batch as in several."""
    convolution = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(convolution.weight)
    trunk = nn.Sequential(convolution, nn.ReLU()).double()
    given = 1 + torch.arange(6, dtype=torch.float64).view(6, 1, 1, 1) * 1e-12
    net = deconv.Network(trunk, (1, 1, 1))
    for batch_size in (1, 2, 6):
        assert deconv.mine(net, given, ["1"], k=3, batch_size=batch_size)["1"].image.tolist() == [[0, 1, 2]]
