"""By class: means that are exact in any order, selectivity known by hand, shares of the peaks, one class alone."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import deconv
from deconv.analyses.by_class import ClassShare, class_shares
from deconv.command.settings import compose_jobs
from deconv.command.setup import open_images
from deconv.engines.local import Local
from deconv.errors import BadInput, RecordMismatch, UnknownName
from deconv.images import Source
from deconv.images.members import Member
from deconv.mining import by_class as sums
from deconv.mining import mine_into
from deconv.mining.by_class import ClassSums, selectivity_by_chance
from deconv.mining.firing import Tally, load_tallies, save_tallies
from deconv.mining.lots import lots_of
from deconv.records import ByClass, Peaks
from deconv.records.by_class import selectivity_of
from tests.promises import SAME_BYTES

COLOURS = {"green": (0, 255, 0), "n03028079": (0, 0, 255), "red": (255, 0, 0)}


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Two images of green and of blue, and four of red, by folders that name their classes."""
    root = tmp_path_factory.mktemp("colours")
    for name, colour in COLOURS.items():
        (root / name).mkdir()
        for n in range(4 if name == "red" else 2):
            Image.new("RGB", (4, 4), colour).save(root / name / f"{n}.png")
    return deconv.folder(root)


def network() -> deconv.Network:
    """Unit 0 answers to red alone, unit 1 alike to all, unit 2 to none, unit 3 thrice as much to green as to blue."""
    convolution = nn.Conv2d(3, 4, 1, bias=False)
    weights = torch.tensor([[2.0, 0, 0], [1, 1, 1], [-1, -1, -1], [0, 3, 1]])
    convolution.weight.data.copy_(weights.view(4, 3, 1, 1))
    preprocessing = deconv.Preprocessing((4, 4), None, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return deconv.Network(nn.Sequential(convolution, nn.ReLU()), (3, 4, 4), {"colour": "1"}, preprocessing)


def of(peaks: Peaks, layer: str = "colour") -> ByClass:
    assert peaks.firing is not None
    by_class = peaks.firing[layer].by_class
    assert by_class is not None
    return by_class


def same(first: ByClass, second: ByClass) -> bool:
    tensors = [(each.images, each.mean, each.chance.nan_to_num(-9)) for each in (first, second)]
    return first.classes == second.classes and all(torch.equal(a, b) for a, b in zip(*tensors, strict=True))


# --- known answers --------------------------------------------------------------------------------------------------


def test_selectivity_known_by_hand(colours: Source) -> None:
    peaks = deconv.mine(network(), colours, ["colour"], firing=True)
    by_class = of(peaks)
    assert by_class.selectivity == [1.0, 0.0, None, pytest.approx((3 - 0.5) / (3 + 0.5), abs=1e-4)]
    assert [by_class.preferred(unit) for unit in range(4)] == ["red", "green", None, "green"]
    assert by_class.strongest(3) == [("green", 3.0), ("n03028079", 1.0), ("red", 0.0)]
    assert by_class.images.tolist() == [2, 2, 4] and by_class.classes.names == ("green", "n03028079", "red")
    assert by_class.chance[1] == 0 and by_class.chance[2].isnan() and 0 < by_class.chance[0] < 1
    assert repr(by_class) == "<ByClass: 4 units, 3 classes>"
    with pytest.raises(BadInput, match="unit"):
        by_class.preferred(4)
    frame = peaks.units_to_pandas()
    assert (
        frame["channel"].tolist() == [0, 1, 2, 3] and set(frame["layer"]) == {"colour"} and set(frame["images"]) == {8}
    )
    assert frame["fires_on"].tolist() == [4, 8, 0, 4] and frame["preferred_class"][[0, 1, 3]].tolist() == [
        "red", "green", "green"
    ]  # fmt: skip
    for name in ("strongest", "class_mean"):
        assert np.allclose(frame[name], [2, 1, np.nan, 3], equal_nan=True), name
    assert frame["class_selectivity"][0] == 1 and frame.loc[2, ["sparsity", "preferred_class"]].isna().all()
    with pytest.raises(BadInput, match="these peaks were mined without firing=True"):
        deconv.mine(network(), colours, ["colour"]).units_to_pandas()


def test_without_labels_nothing_is_said_of_classes_and_of_one_class_no_index(colours: Source) -> None:
    plain = deconv.mine(network(), replace(colours, labels=None, class_names=None), ["colour"], firing=True)
    assert plain.firing is not None and plain.firing["colour"].by_class is None
    alone = of(deconv.mine(network(), colours.of_class("red"), ["colour"], firing=True))
    assert alone.selectivity == [None] * 4 and alone.preferred(0) == "red" and alone.chance.isnan().all()


def test_the_shares_of_peaks_beside_those_of_all_images(colours: Source) -> None:
    peaks = deconv.mine(network(), colours, ["colour"], k=5)["colour"]
    red, _, dead, green = class_shares(peaks, colours)
    assert red == [ClassShare(2, "red", 4, 4, 0.5)] and dead == []
    assert [str(share) for share in green] == [
        "2 of 4 are green (25 % of all images)", "2 of 4 are church (25 % of all images)"
    ]  # fmt: skip
    with pytest.raises(BadInput, match="no labels"):
        class_shares(peaks, replace(colours, labels=None))


def test_by_chance_is_what_shuffled_labels_give() -> None:
    """Of ten classes of eight images each, and of the same many times over, from a sample."""
    values = np.random.default_rng(1).exponential(size=(80, 3)).astype(np.float32)
    values[:, 2] = 4
    chance = selectivity_by_chance(values, np.full(10, 8))
    shuffled = []
    for seed in range(200):
        order = np.random.default_rng(seed).permutation(80)
        shuffled.append(selectivity_of(values[order].reshape(10, 8, 3).mean(axis=1).T))
    assert chance == pytest.approx(np.mean(shuffled, axis=0), abs=0.08) and chance[2] == 0 and chance[0] > 0.15
    assert selectivity_by_chance(values, np.full(10, 5000))[:2].max() < 0.02
    assert selectivity_by_chance(values * 0, np.full(10, 8)).tolist() == [1, 1, 1]  # fired, but on none of the sample


def test_many_classes_are_shuffled_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    values, images = np.random.default_rng(1).random((60, 2)).astype(np.float32), np.arange(1, 9)
    whole = selectivity_by_chance(values, images)
    monkeypatch.setattr(sums, "CLASSES_AT_ONCE", 3)
    assert selectivity_by_chance(values, images).tolist() == whole.tolist()


# --- any cut and any order ------------------------------------------------------------------------------------------


def activations(images: int, units: int) -> np.ndarray:
    """From the smallest float32 to nearly the largest, some negative, some zero; of the last unit all alike strong."""
    chance = np.random.default_rng(0)
    values = np.ldexp(chance.random((images, units)), chance.integers(-150, 128, (images, units)))
    values[:, -1] = chance.random(images)
    return (values * chance.choice([0, 1, 1, 1, -1], (images, units))).astype(np.float32)


def test_means_are_those_of_whole_numbers_as_large_as_it_takes() -> None:
    values, classes = activations(400, 4), np.random.default_rng(1).integers(0, 5, 400)
    total = ClassSums(4)
    total.see(values, classes)
    assert total.images.tolist() == np.bincount(classes).tolist() and total.number.tolist() == [0, 1, 2, 3, 4]
    for unit in range(4):
        least = 2.0 ** (16 * (int(np.log2(values[:, unit].max())) // 16) - 16)
        for number in range(5):
            counted = [float(value) for value in values[classes == number, unit] if value >= least]
            exact = sum(map(Fraction, counted), Fraction(0)) / int(total.images[number])
            assert total.means()[unit, number] == pytest.approx(float(exact), rel=1e-15)


@SAME_BYTES
@pytest.mark.parametrize("seed", range(4))
def test_any_cut_any_order_and_any_merging_sum_the_same(seed: int) -> None:
    """Weak images first, strong first, or mixed: windows rise while images are summed, or not."""
    values, chance = activations(300, 3), np.random.default_rng(seed)
    classes, whole = np.random.default_rng(9).integers(0, 7, 300), ClassSums(3)
    whole.see(values, classes)
    order = {0: np.argsort(values[:, 0]), 1: np.argsort(-values[:, 0])}.get(seed, chance.permutation(300))
    parts = []
    for shard in np.array_split(order, np.sort(chance.integers(0, 300, 9))):
        parts.append(ClassSums(3))
        for batch in np.array_split(shard, chance.integers(1, 5)):
            if len(batch):
                parts[-1].see(values[batch], classes[batch])
        kept = parts[-1].tensors()
        parts[-1] = ClassSums.of_tensors(kept)
    while len(parts) > 1:
        first, second = (parts.pop(chance.integers(len(parts))) for _ in range(2))
        before = second.sums.copy()
        first.merge(second)
        assert np.array_equal(second.sums, before)
        parts.append(first)
    assert np.array_equal(parts[0].sums, whole.sums) and np.array_equal(parts[0].window, whole.window)
    assert parts[0].images.tolist() == whole.images.tolist()


def test_tallies_keep_sums_by_class_on_disk(tmp_path: Path) -> None:
    values, classes = activations(40, 5), np.arange(40) % 3
    tallies = {"a": Tally(2), "b": Tally(3)}
    for tally in tallies.values():
        tally.sums.expect(np.arange(4))  # of which the last has no image
    for layer, columns in (("a", values[:, :2]), ("b", values[:, 2:])):
        tallies[layer].see(columns, np.arange(40), lots_of(map(str, range(40))), classes)
    save_tallies(tmp_path / "tallies.safetensors", tallies)
    loaded = load_tallies(tmp_path / "tallies.safetensors", ["a", "b"])
    for layer, tally in tallies.items():
        assert np.array_equal(tally.sums.means()[:, :3], loaded[layer].sums.means())
        assert loaded[layer].sums.images.tolist() == [14, 13, 13] and loaded[layer].sums.seen() == (0, 1, 2)


def test_shards_and_one_pass_say_the_same_and_it_is_kept(colours: Source, tmp_path: Path) -> None:
    whole = deconv.mine(network(), colours, ["colour", "0"], firing=True)
    path = tmp_path / "peaks.safetensors"
    in_shards = mine_into(path, network(), colours, ["colour", "0"], 9, 2, engine=Local(2), firing=True)
    for layer in ("colour", "0"):
        assert same(of(in_shards, layer), of(whole, layer)) and same(of(Peaks.load(path), layer), of(whole, layer))
    assert Peaks.load(path).save(tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


# --- records --------------------------------------------------------------------------------------------------------


def test_other_labels_are_refused_and_other_names_are_not(colours: Source, tmp_path: Path) -> None:
    path = tmp_path / "peaks.safetensors"
    mine_into(path, network(), colours, ["colour"], 9, firing=True)
    renamed = replace(colours, class_names=("a", "b", "c"))
    assert of(mine_into(path, network(), renamed, ["colour"], 9, firing=True)).preferred(0) == "red"
    relabelled = replace(colours, labels=(0, 0, 0, 1, 1, 1, 2, 2))
    with pytest.raises(RecordMismatch, match=r"was made with labels [0-9a-f]{8}\.\.\.; .* delete that file to mine"):
        mine_into(path, network(), relabelled, ["colour"], 9, firing=True)
    assert mine_into(path, network(), relabelled, ["colour"], 9)["colour"].found.any()
    with pytest.raises(RecordMismatch, match="record of these peaks was made with labels .* Mine these images again"):
        deconv.write_atlas(network(), Peaks.load(path), relabelled, tmp_path / "site")


def test_a_class_of_which_no_image_can_be_read_is_none(colours: Source) -> None:
    absent = Member(Path("absent.png"))
    damaged = replace(colours, members=(absent, absent, *colours.members[2:]))
    by_class = of(deconv.mine(network(), damaged, ["colour"], firing=True))
    assert by_class.classes.names == ("n03028079", "red") and by_class.images.tolist() == [2, 4]


def test_too_many_classes_are_refused(colours: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deconv.mining.by_class.MOST_SUMS", 8)
    with pytest.raises(BadInput, match="firing: given True; expected at most 2 classes for 4 units, .* not 3: take fe"):
        deconv.mine(network(), colours, ["colour"], firing=True)


def test_names_that_do_not_fit_are_refused(colours: Source, tmp_path: Path) -> None:
    peaks = deconv.mine(network(), colours, ["colour"], firing=True)
    assert peaks.firing is not None
    by_class = of(peaks)
    wrong = replace(by_class, classes=replace(by_class.classes, names=("red",)))
    told = replace(peaks, firing={"colour": replace(peaks.firing["colour"], by_class=wrong)})
    with pytest.raises(BadInput, match="it names 1 classes; expected 3"):
        Peaks.load(told.save(tmp_path / "peaks.safetensors"))


# --- one class alone ------------------------------------------------------------------------------------------------


def test_the_images_of_a_class_keep_their_ids_and_their_peaks(colours: Source) -> None:
    red = colours.of_class("red")
    assert repr(red) == "<Source folder: 4 images of the class red>" and red.ids == (4, 5, 6, 7)
    assert red.keys == tuple(f"red/{n}.png" for n in range(4)) and red.part([5]).within == "red"
    peaks = deconv.mine(network(), red, ["colour"], k=2)
    assert peaks["colour"].image[1].tolist() == [4, 5] and peaks.provenance["source"]["within"] == "red"
    assert "within" not in colours.provenance("x")["source"]
    assert colours.of_class("Church").keys == colours.of_class("n03028079").keys == colours.of_class(1).keys


def test_a_class_is_named_in_any_of_its_words_or_by_its_number(colours: Source) -> None:
    named = replace(colours, class_names=("goldfish, Carassius auratus", "crane", "Crane"))
    for which in ("goldfish", "CARASSIUS AURATUS", "goldfish, Carassius auratus", 0, "0"):
        assert named.of_class(which).ids == (0, 1)
    assert named.of_class("Crane").ids == (4, 5, 6, 7)  # exactly so
    with pytest.raises(BadInput, match="class: given CRANE; expected one class; 1, 2 are called so: give the number"):
        named.of_class("CRANE")
    with pytest.raises(UnknownName, match=r"^unknown class 'goldfihs'; expected one of .*; did you mean 'goldfish'\?$"):
        named.of_class("goldfihs")
    with pytest.raises(UnknownName, match="unknown class 7"):
        named.of_class(7)
    with pytest.raises(UnknownName, match="unknown class 'red'; expected one of 0, 1, 2"):
        replace(colours, class_names=None).of_class("red")
    with pytest.raises(BadInput, match="the source bundled has no labels"):
        deconv.bundled().of_class("cat")


def test_within_takes_one_class_from_the_shell(colours: Source) -> None:
    root = colours.members[0].path.parent.parent
    for said, ids in (("within=red", (4, 5, 6, 7)), ("within=2", (4, 5, 6, 7)), ("within=null", range(8))):
        asked = ["experiment=fig2_features", "source=folder", f"source.root={root}", said]
        (job,) = compose_jobs(asked, sweep=False)
        assert open_images(job.options).ids == ids  # type: ignore[arg-type]
    (job,) = compose_jobs(["experiment=atlas", "within=cat"], sweep=False)
    with pytest.raises(BadInput, match="the source bundled has no labels"):
        open_images(job.options)  # type: ignore[arg-type]
