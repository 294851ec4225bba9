"""Linear classifiers on features: splits, the lossless change of basis, and classes that can be told apart or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import nn
from torch.nn import functional

import deconv
from deconv.analyses.layers import LEFT_OUT, PAPER, Score, compress, draw_splits, extract, probe, readable_labels
from deconv.errors import BadInput, UnknownName
from deconv.figures.layers import layers_figure
from tests import samples
from tests.disks import mounted
from tests.drawn import axes_of

LABELS = np.repeat([3, 5, 9], 12)


def clusters(noise: float, columns: int = 200) -> np.ndarray:
    """Features of three classes: a centre each, and noise."""
    generator = np.random.default_rng(0)
    centres = {label: generator.standard_normal(columns) for label in (3, 5, 9)}
    rows = [centres[label] + noise * generator.standard_normal(columns) for label in LABELS.tolist()]
    return np.array(rows, np.float32)


@pytest.mark.parametrize("classifier", ["svm", "softmax"])
def test_separate_classes_are_told_apart_and_noise_is_not(classifier: str) -> None:
    (split,) = draw_splits(LABELS, 1, 6, 6, seed=0)
    accuracy = {}
    for noise in (0.1, 1000.0):
        train, test = (clusters(noise)[rows] for rows in (split.train, split.test))
        accuracy[noise] = probe(*compress(train, test), LABELS, split, classifier).accuracy
    assert accuracy[0.1] == 1.0 and accuracy[1000.0] < 0.7


def test_compressing_changes_no_prediction() -> None:
    (split,) = draw_splits(LABELS, 1, 8, 4, seed=0)
    features = clusters(3.0)
    scaler = StandardScaler().fit(features[split.train])
    train, test = (scaler.transform(features[rows]) for rows in (split.train, split.test))
    size = np.sqrt((train**2).sum(axis=1).mean())
    few = compress(features[split.train], features[split.test])
    assert few[0].shape[1] < 24 and np.allclose(few[1] @ few[0].T, test @ train.T / size**2, atol=1e-5)
    direct = LinearSVC(max_iter=100_000).fit(train / size, LABELS[split.train]).decision_function(test / size)
    again = LinearSVC(max_iter=100_000).fit(few[0], LABELS[split.train]).decision_function(few[1])
    assert np.allclose(direct, again, atol=1e-2)


def test_the_penalty_is_chosen_without_the_test_images() -> None:
    (split,) = draw_splits(LABELS, 1, 6, 6, seed=0)
    train, test = compress(clusters(2.0)[split.train], clusters(2.0)[split.test])
    wrong = LABELS.copy()
    wrong[split.test] = np.roll(wrong[split.test], 6)
    penalties = (1e-5, 0.1, 10.0)
    right = probe(train, test, LABELS, split, "svm", penalties)
    assert probe(train, test, wrong, split, "svm", penalties).penalty == right.penalty
    assert probe(train, test, wrong, split, "svm", penalties).accuracy < right.accuracy


def test_splits_are_balanced_apart_and_drawn_by_the_seed() -> None:
    labels = np.concatenate([LABELS, [LEFT_OUT] * 4])
    splits = draw_splits(labels, 3, 5, 4, seed=0)
    for split in splits:
        assert labels[split.train].tolist() == [3] * 5 + [5] * 5 + [9] * 5
        assert labels[split.test].tolist() == [3] * 4 + [5] * 4 + [9] * 4
        assert not set(split.train) & set(split.test)
    assert len({tuple(split.train) for split in splits}) == 3
    again = draw_splits(labels, 3, 5, 4, seed=0)
    assert all(np.array_equal(one.train, two.train) for one, two in zip(splits, again, strict=True))
    assert not np.array_equal(draw_splits(labels, 1, 5, 4, seed=1)[0].train, splits[0].train)


@pytest.mark.parametrize(
    ("labels", "arguments", "expected"),
    [
        (LABELS, (1, 12, 5), "class 3 has 12 readable images; expected more than train_per_class=12"),
        (LABELS[:12], (1, 5, 5), "the images are of 1 class; expected two or more"),
        (LABELS, (0, 5, 5), "splits: given 0; expected a whole number, 1 or more"),
        (LABELS, (1, 1, 5), "train_per_class: given 1; expected a whole number, 2 or more"),
        (LABELS, (1, 5, 0), "test_per_class: given 0; expected a whole number, 1 or more"),
    ],
)
def test_splits_that_cannot_be_drawn_are_refused(
    labels: np.ndarray, arguments: tuple[int, int, int], expected: str
) -> None:
    with pytest.raises(BadInput, match=expected):
        draw_splits(labels, *arguments, seed=0)


def test_mistakes_in_probing_are_named() -> None:
    (split,) = draw_splits(LABELS, 1, 6, 6, seed=0)
    train, test = compress(clusters(1.0)[split.train], clusters(1.0)[split.test])
    with pytest.raises(UnknownName, match="unknown classifier 'smv'; .* did you mean 'svm'"):
        probe(train, test, LABELS, split, "smv")
    with pytest.raises(BadInput, match="penalties: given"):
        probe(train, test, LABELS, split, "svm", (0.0, 1.0))
    with pytest.raises(BadInput, match="the same for all training images"):
        compress(np.ones((4, 3), np.float32), np.ones((2, 3), np.float32))


def test_features_are_the_layers_maps_averaged_over_a_grid_and_read_again(tmp_path: Path) -> None:
    network, source = samples.with_preprocessing(), samples.photographs(tmp_path / "photographs")
    found = extract(network, source, ["one", "two"], tmp_path / "cache", grid=3, batch_size=2)
    preprocessing = network.needed_preprocessing()
    frames = torch.stack([source.input_image(index, preprocessing) for index in range(len(source))])
    maps = network.forward(preprocessing.normalize(frames), ["one"])["one"]
    assert np.allclose(found["one"], functional.adaptive_avg_pool2d(maps, 3).flatten(1).numpy(), atol=1e-5)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    again = extract(network, source, ["one", "two"], tmp_path / "cache", grid=3, batch_size=5)
    assert len(before) == 2 and np.array_equal(found["two"], again["two"])
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}


def test_other_weights_images_or_grids_make_other_files(tmp_path: Path) -> None:
    network, source = samples.with_preprocessing(), samples.photographs(tmp_path / "photographs")
    other = samples.network(seed=1)
    other.preprocessing = network.preprocessing
    Image.new("RGB", (20, 20)).save(tmp_path / "photographs" / "new.png")
    more = deconv.folder(tmp_path / "photographs")
    for net, images, grid in ((network, source, 3), (other, source, 3), (network, more, 3), (network, source, 2)):
        extract(net, images, ["one"], tmp_path / "cache", grid)
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_an_unreadable_image_has_a_row_of_nan(tmp_path: Path) -> None:
    samples.photographs(tmp_path / "photographs")
    (tmp_path / "photographs" / "1.png").write_bytes(b"broken")
    network, source = samples.with_preprocessing(), deconv.folder(tmp_path / "photographs")
    found = extract(network, source, ["one"], tmp_path / "cache")["one"]
    assert np.isnan(found).all(axis=1).tolist() == [False, True, False, False, False]
    assert readable_labels([0, 0, 1, 1, 1], found).tolist() == [0, LEFT_OUT, 1, 1, 1]


def test_a_failed_extraction_leaves_nothing(tmp_path: Path) -> None:
    network, source = samples.with_preprocessing(), samples.photographs(tmp_path / "photographs")
    module = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU())
    nn.init.constant_(module[0].weight, float("nan"))  # type: ignore[arg-type]
    broken = deconv.Network(module, (3, 20, 20), preprocessing=network.preprocessing)
    with pytest.raises(BadInput, match="layer 1 has nan or infinite activations on 0.png"):
        extract(broken, source, ["1"], tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_what_a_killed_extraction_left_is_removed(tmp_path: Path) -> None:
    network, source = samples.with_preprocessing(), samples.photographs(tmp_path / "photographs")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / ".0123.npy.4567.part").write_bytes(b"half")
    extract(network, source, ["one"], tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    assert path.suffix == ".npy"


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    network, source = samples.with_preprocessing(), samples.photographs(tmp_path / "photographs")
    with mounted(tmp_path / "disk", "size=8k"):
        with pytest.raises(BadInput, match=r"cannot write .*/cache: No space left on device for [\d.]+ MB; nothing"):
            extract(network, source, ["one", "two"], tmp_path / "disk" / "cache", grid=20)
        assert not (tmp_path / "disk" / "cache").exists()


def test_the_chart_has_a_line_for_each_classifier_with_its_numbers() -> None:
    scores = {
        ("svm", "conv1"): [Score(0.4, 1.0), Score(0.6, 1.0)],
        ("svm", "fc6"): [Score(0.7, 1.0), Score(0.7, 1.0)],
        ("softmax", "fc6"): [Score(0.8, 0.1), Score(0.8, 0.1)],
    }
    ours, paper = axes_of(layers_figure(["conv1", "fc6"], scores, "a network", chance=0.1))
    svm, softmax = (bars.lines[0] for bars in ours.containers)
    assert svm.get_ydata().tolist() == pytest.approx([50, 70]) and svm.get_xdata().tolist() == [0, 1]
    assert softmax.get_ydata().tolist() == pytest.approx([80]) and softmax.get_xdata().tolist() == [1]
    assert svm.get_color() != softmax.get_color()
    (whiskers, *_) = ours.containers[0].lines[2]
    assert np.diff(whiskers.get_segments()[0][:, 1]) == pytest.approx([20])
    assert [text.get_text() for text in ours.texts] == ["50.0", "70.0", "80.0"]
    (chance,) = (line for line in ours.lines if line.get_label() == "chance")
    assert np.asarray(chance.get_ydata()).tolist() == pytest.approx([10, 10])
    for bars, (name, values) in zip(paper.containers, PAPER.items(), strict=True):
        line = bars.lines[0]
        assert line.get_ydata().tolist() == [mean for mean, _ in values.values()], name
    assert [label.get_text() for label in paper.get_xticklabels()] == list(PAPER["svm"])
