"""How units fire, counted in the mining pass: known answers, the same for any cut and order, and after a kill."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import deconv
from deconv import files
from deconv.engines.local import Local
from deconv.errors import BadInput, RecordMismatch
from deconv.figures.beyond import beyond_panels
from deconv.figures.page import TILE
from deconv.figures.pictures import on_grid, recon_tiles
from deconv.mining import firing as tallies
from deconv.mining import mine_into
from deconv.mining.beyond import peaks_beyond
from deconv.mining.firing import Tally
from deconv.mining.lots import Sample, lots_of
from deconv.records import Firing, Patches, Peaks, Reconstructions
from deconv.records.firing import BINS, DRAWN, OCTAVES, PARTS, STEPS, bin_edges
from deconv.records.formats import save_tensors
from tests.promises import GOES_ON, NEVER_MIXED, SAME_BYTES, fault
from tests.samples import images, network, photographs, with_preprocessing

SEED = 0


def identity(units: int) -> deconv.Network:
    """A network whose units are the channels of its one-pixel images."""
    convolution = nn.Conv2d(units, units, 1, bias=False)
    nn.init.dirac_(convolution.weight)
    return deconv.Network(nn.Sequential(convolution, nn.ReLU()), (units, 1, 1))


def fires(values: np.ndarray) -> Firing:
    """How units fire whose strongest activations on images are `values` (images, units)."""
    tally = Tally(values.shape[1])
    tally.see(values.astype(np.float32), np.arange(len(values)), lots(len(values)))
    return tally.firing()


def lots(count: int) -> np.ndarray:
    return lots_of(map(str, range(count)))


def same(first: Firing, second: Firing) -> bool:
    tensors = zip(first.tensors().values(), second.tensors().values(), strict=True)
    return first.images == second.images and all(torch.equal(a.nan_to_num(-9), b.nan_to_num(-9)) for a, b in tensors)


def maxima(images: int, units: int, spread: float = 2.0) -> np.ndarray:
    """Activations of very different strengths, some negative, some zero."""
    generator = np.random.default_rng(SEED)
    values = np.exp(spread * generator.standard_normal((images, units))) * generator.choice([0, 1, 1, -1], (images, 1))
    return values.astype(np.float32)


# --- known answers --------------------------------------------------------------------------------------------------


def test_a_histogram_known_by_hand() -> None:
    """Steps of 1/16 of 4, the power of two that the strongest, 7.5, begins with."""
    values = [0.0, 0.1, 0.25, 0.3, 1.0, 3.9, 4.0, 4.2, 7.5, 7.5]
    images = torch.tensor([[value, 0.0, -value] for value in values]).view(-1, 3, 1, 1)
    firing = deconv.mine(identity(3), images, ["1"], k=2, firing=True).firing
    assert firing is not None
    counts, width = firing["1"].histogram(0)
    assert width == 0.25
    assert {step * width: count for step, count in enumerate(counts) if count} == {
        0.0: 1, 0.25: 2, 1.0: 1, 3.75: 1, 4.0: 2, 7.5: 2
    }  # fmt: skip
    assert firing["1"].images == 10 and [firing["1"].fires_on(unit) for unit in range(3)] == [9, 0, 0]
    assert firing["1"].histogram(1)[0] == [] and firing["1"].steps(2) == [] and firing["1"].sparsity[1:] == [None, None]
    assert repr(firing["1"]) == "<Firing: 3 units over 10 images>"


def test_steps_of_a_histogram_are_those_of_numpy() -> None:
    values = maxima(500, 3)
    firing = fires(values)
    for unit in range(3):
        counts, width = firing.histogram(unit)
        expected, _ = np.histogram(values[values[:, unit] > 0, unit], len(counts), (0, width * len(counts)))
        assert counts == expected.tolist() and 17 <= len(counts) <= 32
        assert width * (len(counts) - 1) <= values[:, unit].max() < width * len(counts)


def test_bins_are_those_of_their_edges_and_the_first_holds_all_that_is_weaker() -> None:
    values = maxima(2000, 1, spread=4.0)
    firing, edges = fires(values), bin_edges(int(np.floor(np.log2(values.max()))))
    assert firing.counts[0].tolist() == np.histogram(values[values > 0], edges)[0].tolist()
    assert firing.counts[0, 0] > 100 and len(edges) == BINS + 1


def test_sparsity_is_that_of_the_activations_to_a_few_thousandths() -> None:
    values = maxima(400, 5)
    values[:, 1] = np.eye(400)[7]  # fires once
    values[:, 2] = 3.0  # fires alike on all
    above = values.clip(min=0).astype(np.float64)
    exact = (1 - above.mean(axis=0) ** 2 / (above**2).mean(axis=0)) / (1 - 1 / 400)
    assert fires(values).sparsity == pytest.approx(exact.tolist(), abs=3e-3)
    assert fires(values).sparsity[1:3] == [1.0, 0.0]


def test_units_that_fire_alike_are_those_with_the_largest_correlation() -> None:
    generator = np.random.default_rng(SEED)
    values = generator.random((50, 7)).astype(np.float32)
    values[:, 4] = 3 * values[:, 2]
    values[:, 5] = 0  # dead
    firing = fires(values)
    assert firing.most_alike(2)[0] == (4, 1.0) and firing.most_alike(4)[0] == (2, 1.0) and firing.most_alike(5) == []
    for unit in (0, 1, 2, 3, 4, 6):
        for other, value in firing.most_alike(unit):
            assert value == pytest.approx(np.corrcoef(values[:, unit], values[:, other])[0, 1], abs=1e-4) and value > 0


def test_over_many_images_units_are_correlated_over_those_with_the_largest_lots(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("deconv.mining.CORRELATED", 100)
    images = torch.from_numpy(maxima(400, 4)).abs().view(-1, 4, 1, 1)
    firing = deconv.mine(identity(4), images, ["1"], batch_size=32, firing=True).firing
    assert firing is not None
    chosen = np.argsort(-lots(400))[:100]
    values = images[torch.from_numpy(chosen)].flatten(1).numpy()
    assert firing["1"].images == 400 and firing["1"].fires_on(0) == int((images[:, 0] > 0).sum())
    for other, value in firing["1"].most_alike(0):
        assert value == pytest.approx(np.corrcoef(values[:, 0], values[:, other])[0, 1], abs=1e-4)


def test_the_images_of_a_step_are_those_with_the_largest_lots() -> None:
    values = maxima(600, 2)
    firing, all_lots = fires(values), lots(600)
    assert len(set(all_lots.tolist())) == 600
    for unit in range(2):
        edges = bin_edges(int(firing.octave[unit]))[::4]
        assert len(edges) == STEPS + 1
        for step in range(STEPS):
            lie = np.flatnonzero(
                (values[:, unit] >= edges[step]) & (values[:, unit] < edges[step + 1]) & (values[:, unit] > 0)
            )
            expected = lie[np.argsort(-all_lots[lie])][:DRAWN].tolist()
            assert [image for image in firing.drawn[unit, step].tolist() if image >= 0] == expected


def test_quantiles_are_those_of_the_images_that_fire_the_unit() -> None:
    values = np.arange(1, 101, dtype=np.float32)[:, None]  # the strongest, 100, lies in [64, 128)
    values = np.concatenate([values, np.zeros((50, 1), np.float32)])
    steps = fires(values).steps(0)
    assert [(step.name, step.low, step.high, step.images) for step in steps] == [
        ("99 %", 96, 112, 5), ("90 %", 80, 96, 16), ("median", 48, 56, 8), ("weakest", 1, 1.25, 1)
    ]  # fmt: skip
    for step in steps:
        assert len(step.drawn) == min(step.images, DRAWN)
        assert all(step.low <= values[image, 0] < step.high for image in step.drawn)
    assert [step.name for step in fires(values[:1]).steps(0)] == ["99 % and 90 % and median and weakest"]


def test_lots_hang_on_keys_and_are_spread_evenly() -> None:
    keys = [f"{n}.jpg" for n in range(4000)]
    spread = lots_of(keys)
    assert spread.tolist() == lots_of(reversed(keys))[::-1].tolist() and spread.dtype == np.float32
    assert np.histogram(spread, 10, (0, 1))[0].min() > 300 and spread.max() < 1


# --- any cut and any order ------------------------------------------------------------------------------------------


@SAME_BYTES
@pytest.mark.parametrize("seed", range(6))
def test_any_cut_any_order_and_any_merging_count_the_same(seed: int) -> None:
    """Weak images first, strong first, or mixed: bins rise while images are counted, or not."""
    values, image_lots, chance = maxima(300, 4, spread=3.0), lots(300), np.random.default_rng(seed)
    whole = Tally(4, 150)
    whole.see(values, np.arange(300), image_lots)
    order = {0: np.argsort(values[:, 0]), 1: np.argsort(-values[:, 0])}.get(seed, chance.permutation(300))
    parts = []
    for shard in np.array_split(order, np.sort(chance.integers(0, 300, 12))):
        parts.append(Tally(4, 150))
        for batch in np.array_split(shard, chance.integers(1, 5)):
            if len(batch):
                parts[-1].see(values[batch], batch, image_lots[batch])
    while len(parts) > 1:
        first, second = (parts.pop(chance.integers(len(parts))) for _ in range(2))
        before = second.firing()
        first.merge(second)
        assert same(second.firing(), before)
        parts.append(first)
    assert same(parts[0].firing(), whole.firing())


@SAME_BYTES
def test_ties_of_lots_are_broken_by_image_whatever_the_cut() -> None:
    tied, values = np.repeat(np.array([0.5, 0.25], np.float32), [6, 3]), np.arange(9, dtype=np.float32)[:, None]
    for order in (np.arange(9), np.arange(9)[::-1], np.array([8, 3, 0, 7, 5, 1, 6, 2, 4])):
        halves = Sample(1, 4), Sample(1, 4)
        for half, image_ids in zip(halves, (order[:5], order[5:]), strict=True):
            half.offer(tied[image_ids], image_ids, values[image_ids])
        halves[1].merge(pickle.loads(pickle.dumps(halves[0])))
        kept = [column.ravel().tolist() for column in halves[1].by_image()]
        assert kept == [[0.5] * 4, [0, 1, 2, 3], [0.0, 1.0, 2.0, 3.0]]


def test_what_a_later_shard_keeps_for_the_sample_is_little_and_the_answer_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten shards of four images; of those with the ten largest lots each shard after the third keeps what may enter."""
    monkeypatch.setattr("deconv.mining.CORRELATED", 10)
    photographs(tmp_path / "photos", 40)
    source, net, kept = deconv.folder(tmp_path / "photos"), with_preprocessing(), []
    save = tallies.save_tallies

    def saving(path: Path, of_layers: Any) -> None:
        of_layers["two"].count()
        kept.append(of_layers["two"].sample.by_image()[1])
        save(path, of_layers)

    monkeypatch.setattr("deconv.mining.partials.save_tallies", saving)
    path = tmp_path / "peaks.safetensors"
    in_shards = mine_into(path, net, source, ["two"], 3, 4, engine=Local(4), firing=True).firing
    whole = deconv.mine(net, source, ["two"], 3, 4, firing=True).firing
    assert in_shards is not None and whole is not None and same(in_shards["two"], whole["two"])
    largest = np.sort(np.argsort(-lots_of(source.keys))[:10]).tolist()
    assert [len(image_ids) for image_ids in kept[:3]] == [4, 4, 4] and sum(map(len, kept)) < 30
    assert set(largest) <= set(np.concatenate(kept).tolist())


@NEVER_MIXED
def test_half_done_counts_of_other_images_and_of_an_earlier_deconv_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample that left images out for the sake of others is whole only together with those."""
    sample = Sample(1, 2, least=0.5)
    sample.offer(np.array([0.4, 0.6], np.float32), np.arange(2), np.zeros((2, 1), np.float32))
    assert sample.lots.tolist() == [np.float32(0.6)] and not sample.is_whole
    sample.offer(np.array([0.5], np.float32), np.array([2]), np.zeros((1, 1), np.float32))
    assert sample.is_whole
    path = tmp_path / "shards" / "float32-00000.firing.safetensors"
    older = {name: torch.zeros(0, dtype=torch.int64) for name in ("counts", "octave", "lot", "drawn", "image_ids")}
    save_tensors(path, "tallies", older, dict.fromkeys(older, (torch.int64, "n")), {"units": [], "share": 1.0})
    with pytest.raises(BadInput, match=r"float32-00000\.firing.* as an earlier deconv did.*: delete .*shards to mine"):
        tallies.load_tallies(path, [])
    source, record = photographs(tmp_path / "photos", 8), tmp_path / "run" / "peaks.safetensors"
    monkeypatch.setattr(Sample, "is_whole", False)
    with pytest.raises(
        RecordMismatch, match=r"shards in .* left out images for the sake of others .*: delete .*/peaks"
    ):
        mine_into(record, with_preprocessing(), source, ["two"], 3, 4, engine=Local(4), firing=True)
    assert not record.exists()


def test_tallies_survive_the_disk(tmp_path: Path) -> None:
    values, image_lots = maxima(60, 5), lots(60)
    halves = [{"b": Tally(3, 30), "a": Tally(2, 30)} for _ in range(2)]  # not in the order of the alphabet
    for half, seen in zip(halves, (np.arange(30), np.arange(30, 60)), strict=True):
        half["a"].see(values[seen, :2], seen, image_lots[seen])
        half["b"].see(values[seen, 2:], seen, image_lots[seen])
    tallies.save_tallies(tmp_path / "half.safetensors", halves[1])
    loaded = tallies.load_tallies(tmp_path / "half.safetensors", ["a", "b"])
    for layer in "ab":
        assert same(loaded[layer].firing(), halves[1][layer].firing())
        halves[0][layer].merge(loaded[layer])
    assert same(halves[0]["b"].firing(), _seen(values[:, 2:], image_lots))


def _seen(values: np.ndarray, image_lots: np.ndarray) -> Firing:
    tally = Tally(values.shape[1], 30)
    tally.see(values, np.arange(len(values)), image_lots)
    return tally.firing()


@GOES_ON
@fault("an end before, between and after the two files of a shard")
@pytest.mark.parametrize("write", [1, 2, 3, 4, 7])
def test_ended_in_any_write_and_started_again_it_counts_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    """Three shards leave two files each, sums by class among them; the seventh write is that of the peaks."""
    for name in ("cat", "dog"):
        photographs(tmp_path / "photos" / name, 6)
    source, count, fill = deconv.folder(tmp_path / "photos"), 0, files._fill

    def mined(folder: Path) -> bytes:
        path = folder / "peaks.safetensors"
        mine_into(path, with_preprocessing(), source, ["one", "two"], 3, 4, engine=Local(4), firing=True)
        assert [left.name for left in folder.iterdir()] == ["peaks.safetensors"]
        return path.read_bytes()

    def ending(*arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == write:
            raise KeyboardInterrupt
        fill(*arguments)

    undisturbed = mined(tmp_path / "undisturbed")
    monkeypatch.setattr(files, "_fill", ending)
    with pytest.raises(KeyboardInterrupt):
        mined(tmp_path / "run")
    left = [path.name for path in (tmp_path / "run").rglob("[!.]*.safetensors")]
    assert len(left) == write - 1
    assert mined(tmp_path / "run") == undisturbed


# --- records --------------------------------------------------------------------------------------------------------


def counted(images: Tensor | None = None) -> Peaks:
    given = torch.from_numpy(maxima(20, 2)).view(-1, 2, 1, 1) if images is None else images
    return deconv.mine(identity(2), given, ["0", "1"], k=2, firing=True)


def test_peaks_keep_how_units_fire_on_disk(tmp_path: Path) -> None:
    peaks = counted()
    loaded = Peaks.load(peaks.save(tmp_path / "peaks.safetensors"))
    assert peaks.firing is not None and loaded.firing is not None and list(loaded.firing) == ["0", "1"]
    for layer in peaks.firing:
        assert same(loaded.firing[layer], peaks.firing[layer])
    assert loaded.save(tmp_path / "again.safetensors").read_bytes() == (tmp_path / "peaks.safetensors").read_bytes()


def test_counting_changes_no_peak(tmp_path: Path) -> None:
    peaks = counted()
    plain = deconv.mine(identity(2), torch.from_numpy(maxima(20, 2)).view(-1, 2, 1, 1), ["0", "1"], k=2)
    assert plain.firing is None
    assert (
        replace(peaks, firing=None).save(tmp_path / "a.safetensors").read_bytes()
        == plain.save(tmp_path / "b.safetensors").read_bytes()
    )


def test_peaks_that_are_there_are_returned_as_they_are(tmp_path: Path) -> None:
    photographs(tmp_path / "photos", 3)
    source, path = deconv.folder(tmp_path / "photos"), tmp_path / "peaks.safetensors"
    assert mine_into(path, with_preprocessing(), source, ["one"], 2).firing is None
    assert mine_into(path, with_preprocessing(), source, ["one"], 2, firing=True).firing is None


def test_a_table_has_no_room_for_counts_and_mining_into_one_is_refused(tmp_path: Path) -> None:
    assert Peaks.load(counted().save(tmp_path / "peaks.parquet")).firing is None
    photographs(tmp_path / "photos", 3)
    source = deconv.folder(tmp_path / "photos")
    with pytest.raises(BadInput, match=r"firing: given True; expected .* in a table, .*two.parquet: name it .safetens"):
        mine_into(tmp_path / "two.parquet", with_preprocessing(), source, ["one"], 2, firing=True)


def test_counts_of_other_units_are_refused(tmp_path: Path) -> None:
    peaks = counted()
    assert peaks.firing is not None
    wrong = replace(peaks, firing={layer: fires(maxima(20, 3)) for layer in peaks.firing})
    with pytest.raises(BadInput, match="it counts 6 units; expected 4"):
        Peaks.load(wrong.save(tmp_path / "peaks.safetensors"))


# --- beyond the top -------------------------------------------------------------------------------------------------


def test_peaks_beyond_the_top_lie_where_the_drawn_images_are_strongest() -> None:
    net, given = network(), images(40)
    peaks = deconv.mine(net, given, ["one", "two"], k=2, batch_size=8, firing=True)
    assert peaks.firing is not None
    beyond = peaks_beyond(net, given, peaks, batch_size=8)
    for layer, of_layer in beyond.items():
        maps, firing = net.forward(given, [layer])[layer], peaks.firing[layer]
        for unit in range(len(of_layer.score)):
            steps = firing.steps(unit)
            ranked = []
            for step in steps:
                strongest = {image: maps[image, unit].flatten().max(dim=0) for image in step.drawn}
                order = sorted(step.drawn, key=lambda image: (-float(strongest[image].values), image))
                ranked += [(image, *divmod(int(strongest[image].indices), maps.shape[3])) for image in order]
            columns = of_layer.image[unit], of_layer.row[unit], of_layer.col[unit]
            places = list(zip(*(column.tolist() for column in columns), strict=True))
            assert places[: len(ranked)] == ranked and all(place == (-1, -1, -1) for place in places[len(ranked) :])
            scores = of_layer.score[unit, : len(ranked)]
            torch.testing.assert_close(scores, maps[[image for image, _, _ in ranked], unit].amax(dim=(1, 2)))
    few = peaks_beyond(net, given, peaks, {"two": [3, 0]}, batch_size=8)
    assert list(few) == ["two"] and few["two"].found.any(dim=1).nonzero().flatten().tolist() == [0, 3]
    assert torch.equal(few["two"].image[3], beyond["two"].image[3])


def test_beyond_the_top_of_photographs_and_of_a_part_of_them(tmp_path: Path) -> None:
    net, source = with_preprocessing(), photographs(tmp_path / "photos", 9)
    peaks = deconv.mine(net, source, ["two"], k=1, firing=True)
    beyond = peaks_beyond(net, source, peaks)["two"]
    assert peaks.firing is not None and beyond.found.any()
    drawn = beyond.image[beyond.found].unique().tolist()
    assert torch.equal(peaks_beyond(net, source.part(drawn), peaks)["two"].image, beyond.image)
    recon = deconv.project_peaks(net, source, "two", beyond, [0])  # which compares the scores
    assert len(recon) == sum(len(step.drawn) for step in peaks.firing["two"].steps(0))


def test_a_row_of_panels_for_each_unit() -> None:
    """A top, three quantiles in steps of their own and an empty place, since the weakest lie where the median does."""
    values = np.array([[1.0]] * 30 + [[4.0]] * 20 + [[9.0]])
    firing = fires(np.concatenate([values, np.zeros_like(values)], axis=1))
    names = [step.name for step in firing.steps(0)]
    assert names == ["99 %", "90 %", "median and weakest"]
    pixels, zeros = torch.randn(9, 3, 5, 5), torch.zeros(9, dtype=torch.int64)
    box = torch.tensor([[0, 0, 5, 5]]).repeat(9, 1)
    recon = Reconstructions("1", "deconvnet", pixels, torch.ones(9), box, box, zeros, zeros, zeros, zeros, (5, 5))
    patches = Patches(torch.zeros(9, 3, 5, 5, dtype=torch.uint8), torch.ones(9, 5, 5, dtype=torch.bool), box, zeros)
    layer = beyond_panels((recon, patches), (recon, patches), firing, [0, 1])
    labels = [panel.label for panel in layer.units]
    assert labels == [
        "unit 0: top\n1 at most", "99 %\n8 to 10, 1 image", "90 %\n4 to 5, 20 images",
        "median and weakest\n1 to 1.25, 30 images", "",
    ]  # fmt: skip
    assert layer.abreast == 5 and {panel.size for panel in layer.units} == {layer.units[0].size}
    shown = on_grid(recon_tiles(pixels[1:5], TILE), 2, 2, places=4)
    assert np.array_equal(layer.units[2].blocks[0], shown)  # the one of 99 % is the first


def test_mistakes_are_one_line() -> None:
    with pytest.raises(BadInput, match="firing: given True; expected False with precision=bfloat16: .* in float32"):
        deconv.mine(identity(1), torch.ones(200, 1, 1, 1), ["1"], precision="bfloat16", firing=True)
    plain = deconv.mine(network(), images(4), ["one"], k=1)
    with pytest.raises(BadInput, match="these peaks were mined without firing=True; .*: mine again"):
        peaks_beyond(network(), images(4), plain)
    with pytest.raises(BadInput, match="units"):
        peaks_beyond(network(), images(4), deconv.mine(network(), images(4), ["one"], firing=True), {"one": [6]})
    firing = fires(maxima(9, 2))
    for ask in (firing.fires_on, firing.steps, firing.histogram, firing.most_alike):
        with pytest.raises(BadInput, match="unit"):
            ask(2)


def test_octaves_and_parts_make_the_bins() -> None:
    assert BINS == PARTS * OCTAVES and BINS % STEPS == 0
