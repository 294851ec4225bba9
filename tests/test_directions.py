"""Directions fitted on a layer: which positions are drawn, what the methods find, and the experiment, run small."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import deconv
from deconv.analyses.directions import METHODS, check_method, draws_of, fit_directions, sample_activations
from deconv.command.cli import main
from deconv.compare.measuring import difference_interval
from deconv.engines import Local, open_engine
from deconv.errors import BadInput, UnknownName
from deconv.figures.directions import SHOWN, directions_figure
from deconv.images import Source
from deconv.models.directions import load_directions
from tests.commands import refusal, words
from tests.drawn import assert_drawn
from tests.samples import noise, photographs, with_preprocessing

SETTINGS = [
    *("experiment=directions", "model=zfnet64", "model.weights=random", "model.maps=[8,12,4,4,4]", "model.trunk=true"),
    *("layer=conv2", "n=4", "samples=300", "k=2", "n_units=2", "source=folder", "batch_size=2"),
]


@pytest.fixture(scope="module")
def network() -> deconv.Network:
    return with_preprocessing()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return photographs(tmp_path_factory.mktemp("photographs"), 7)


# --- which positions are drawn ----------------------------------------------------------------------------------------


def all_draws(network: deconv.Network, source: Source, seed: int) -> tuple[np.ndarray, Tensor]:
    """The number of every position of all images, and its activations, by one pass over whole maps."""
    preprocessing = network.needed_preprocessing()
    draws, rows = [], []
    for image_id in source.ids:
        image = preprocessing.normalize(source.input_image(image_id, preprocessing)[None])
        maps = network.forward(image, ["one"])["one"]
        draws.append(draws_of(source.key(image_id), seed, *maps.shape[2:]))
        rows.append(maps.permute(0, 2, 3, 1).flatten(0, 2))
    return np.concatenate(draws), torch.cat(rows)


@pytest.mark.parametrize("count", [1, 30, 250, 699, 700, 5000])
def test_the_positions_of_least_hash_are_drawn(network: deconv.Network, source: Source, count: int) -> None:
    draws, rows = all_draws(network, source, seed=3)
    expected = rows[torch.from_numpy(np.argsort(draws)[:count])]
    for batch_size in (1, 3, 16):
        drawn = sample_activations(network, source, "one", count, 3, batch_size)
        torch.testing.assert_close(torch.from_numpy(drawn), expected)
    assert len(expected) == min(count, 700) and len(np.unique(draws)) == 700


@pytest.mark.filterwarnings("ignore")  # Ray's own, of what it finds on the machine
def test_any_engine_draws_the_same_bytes(
    network: deconv.Network, source: Source, tmp_path: Path, cluster: None
) -> None:
    """In one go and in four shards; one image of seven cannot be read."""
    damaged = photographs(tmp_path, 7)
    (tmp_path / "2.png").write_bytes(b"no picture")
    for images in (source, damaged):
        drawn = sample_activations(network, images, "one", 250, 3, 2)
        for engine in (Local(2), open_engine("ray", shard_size=2, num_workers=2)):
            assert sample_activations(network, images, "one", 250, 3, 2, engine).tobytes() == drawn.tobytes()


def test_more_than_half_unreadable_is_counted_over_all_shards(network: deconv.Network, tmp_path: Path) -> None:
    images = photographs(tmp_path, 7)
    for n in (0, 1, 2, 6):
        (tmp_path / f"{n}.png").write_bytes(b"no picture")
    with pytest.raises(BadInput, match="4 of the 7 images of the source folder cannot be read"):
        sample_activations(network, images, "one", 250, 3, 2, Local(2))


def test_neither_order_nor_other_images_matter(network: deconv.Network, source: Source) -> None:
    whole = sample_activations(network, source, "one", 60, 0)
    halves = [sample_activations(network, source.part(ids), "one", 60, 0) for ids in ([0, 2, 5], [1, 3, 4, 6])]
    pooled = {row.tobytes() for half in halves for row in half.round(4)}
    assert {row.tobytes() for row in whole.round(4)} <= pooled
    assert not np.allclose(whole, sample_activations(network, source, "one", 60, 1))


def test_draws_are_spread_evenly() -> None:
    draws = np.concatenate([draws_of(f"{n}.jpg", 0, 50, 50) for n in range(40)])
    counts, _ = np.histogram(draws.astype(np.float64), bins=20, range=(0, 2.0**64))
    assert abs(counts - 5000).max() < 5 * 5000**0.5
    kept = (draws.reshape(40, -1) < 2**60).sum(axis=1)  # of each image about 2500 / 16
    assert kept.min() > 110 and kept.max() < 205


# --- what the methods find --------------------------------------------------------------------------------------------


def mixed(count: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    """(activations (S, 8), directions (3, 8) of length 1): sums of three directions, each seldom there."""
    generator = np.random.default_rng(0)
    directions = np.zeros((3, 8))
    directions[0, :3], directions[1, 3:5], directions[2, 5:] = [2, 1, 1], [1, 3], [1, 1, 2]
    amounts = generator.exponential(size=(count, 3)) * (generator.random((count, 3)) < 0.3)
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    return (amounts @ directions).astype(np.float32), directions / lengths


@pytest.mark.parametrize("method", ["nmf", "ica", "sae"])
def test_parts_that_were_mixed_are_found(method: str) -> None:
    activations, directions = mixed()
    weights, bias = fit_directions(activations, method, 3, seed=0)
    alike = np.abs(weights.numpy() @ directions.T)
    assert sorted(alike.argmax(axis=1).tolist()) == [0, 1, 2] and alike.max(axis=1).min() > 0.98
    if method == "nmf":
        assert bool((weights >= 0).all()) and not bias.any()


def test_pca_has_the_most_variance_and_the_longer_tail() -> None:
    activations, _ = mixed()
    weights, bias = fit_directions(activations, "pca", 4, seed=0)
    values, vectors = np.linalg.eigh(np.cov(activations.T.astype(np.float64)))
    torch.testing.assert_close(weights @ weights.T, torch.eye(4), atol=1e-5, rtol=0)
    np.testing.assert_allclose(np.abs((weights.numpy() @ vectors[:, ::-1])[[0, 1, 2], [0, 1, 2]]), 1, atol=1e-4)
    units = activations @ weights.numpy().T + bias.numpy()
    np.testing.assert_allclose(units.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(units.var(axis=0, ddof=1)[:3], values[::-1][:3], rtol=1e-3)
    assert (units**3).mean(axis=0)[:3].min() > 0


def test_a_random_rotation_is_one_and_depends_on_the_seed() -> None:
    activations, _ = mixed()
    weights, bias = fit_directions(activations, "random", 8, seed=0)
    torch.testing.assert_close(weights @ weights.T, torch.eye(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(bias, -weights @ torch.from_numpy(activations.mean(axis=0)), atol=1e-4, rtol=1e-4)
    few, _ = fit_directions(activations, "random", 3, seed=0)
    other, _ = fit_directions(activations, "random", 8, seed=1)
    assert torch.equal(few, weights[:3]) and not torch.allclose(other, weights)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_sample_gives_the_same_directions(method: str) -> None:
    activations, _ = mixed(400)
    first, again = (fit_directions(activations, method, 3, seed=5) for _ in range(2))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])


def test_what_cannot_be_fitted_is_refused(unchecked: None) -> None:
    activations, _ = mixed(40)
    with pytest.raises(BadInput, match="^n: given 9; expected a whole number, 1 to 8$"):
        fit_directions(activations, "pca", 9, 0)
    with pytest.raises(BadInput, match="^n: given 129; expected a whole number, 1 to 128$"):
        fit_directions(activations, "sae", 129, 0)
    with pytest.raises(BadInput, match="expected 4 positions or more: draw more, or fit fewer"):
        fit_directions(activations[:3], "pca", 4, 0)
    with pytest.raises(BadInput, match="expected zero or more, as nmf needs them"):
        fit_directions(activations - 1, "nmf", 2, 0)
    with pytest.raises(UnknownName, match="unknown method 'vae'; expected one of nmf, pca, ica, sae, random"):
        fit_directions(activations, "vae", 2, 0)
    linear = deconv.Network(nn.Sequential(nn.Conv2d(3, 4, 3)), (3, 8, 8))
    with pytest.raises(BadInput, match="nmf needs activations of zero or more, and 0 is not rectified"):
        check_method(linear, "0", "nmf", 2)
    check_method(linear, "0", "pca", 4)


def test_the_interval_of_a_difference() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.normal(1, 1, 400), generator.normal(0, 2, 900)
    made = difference_interval(np.append(first, np.nan), second, seed=0)
    error = 1.96 * (first.var() / 400 + second.var() / 900) ** 0.5
    mean = first.mean() - second.mean()
    assert list(made.values()) == pytest.approx([mean, mean - error, mean + error], abs=0.015)
    assert difference_interval(np.array([np.nan]), second, seed=0) == {"mean": None, "low": None, "high": None}


# --- the experiment ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    home = tmp_path_factory.mktemp("home")
    save_file({"W_dec": torch.rand(3, 12, generator=torch.Generator().manual_seed(0))}, home / "sae.safetensors")
    return [*SETTINGS, f"source.root={noise(home / 'photographs', 5, (70, 80), 5)}"]


@pytest.fixture(scope="module")
def with_file(said: list[str]) -> list[str]:
    """What makes the run, and directions of somebody else's to be compared too."""
    file = Path(said[-1].partition("=")[2]).parent / "sae.safetensors"
    return [*said, "methods=[nmf,random]", f"directions.sae.file={file}", "directions.sae.layer=conv2",
            "directions.sae.weights=W_dec"]  # fmt: skip


@pytest.fixture(scope="module")
def finished(with_file: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    assert main([*with_file, f"folder={folder}"]) == 0
    return folder


def test_it_leaves_directions_numbers_and_pictures(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    sets = {name: f"conv2@{name}" for name in ("nmf", "random", "sae")}
    assert summary["layers"] == {"channels": "conv2", **sets} and summary["shown"]["sae"]["channels"] == 3
    assert all(len(units) == 2 for units in summary["units"].values())
    assert summary["shown"]["channels"]["channels"] == 12 and summary["shown"]["nmf"]["channels"] == 4
    assert summary["shown"]["nmf"]["receptive_field"] == summary["shown"]["channels"]["receptive_field"]
    for numbers in summary["sets"].values():
        assert set(SHOWN) <= set(numbers) and -1 <= numbers["pearson_grey"]["mean"] <= 1
        assert numbers["reactivation"]["low"] >= 0 and numbers["grouping"]["units"] == 2
    assert set(summary["ahead"]["nmf"]) == {"channels", "random"} and set(summary["ahead"]["random"]) == {"channels"}
    means = [summary["sets"][name]["insertion_blur"]["mean"] for name in ("nmf", "random")]
    assert summary["ahead"]["nmf"]["random"]["insertion_blur"]["mean"] == pytest.approx(means[0] - means[1])
    tensors, provenance = load_directions(finished / "nmf.safetensors")
    assert tensors["weights"].shape == (4, 12) and bool((tensors["weights"] >= 0).all())
    assert provenance["method"] == "nmf" and provenance["source"]["images"] == 5 and provenance["samples"] == 300
    assert_drawn(finished, "directions", "fig2", "channels", "nmf", "random", "sae")


def test_started_again_it_fits_nothing(finished: Path, with_file: list[str]) -> None:
    files = {path: path.stat().st_mtime_ns for path in finished.rglob("*.safetensors")}
    before = (finished / "summary.json").read_bytes()
    assert main([*with_file, f"folder={finished}"]) == 0
    assert files == {path: path.stat().st_mtime_ns for path in files}
    assert (finished / "summary.json").read_bytes() == before


def test_its_directions_are_taken_by_other_experiments(
    finished: Path, said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read = f"directions.parts.file={finished / 'nmf.safetensors'}"
    other = words(said, ["experiment=fig2_features", read, "layers=[conv2@parts]", "n_units=4"])
    other = [word for word in other if word.partition("=")[0] not in ("layer", "n", "samples")]
    assert main([*other, f"folder={tmp_path / 'fig2'}"]) == 0
    summary = json.loads((tmp_path / "fig2/summary.json").read_text())
    own = deconv.Peaks.load(finished / "peaks.safetensors")["conv2@nmf"]
    again = deconv.Peaks.load(tmp_path / "fig2/peaks.safetensors")["conv2@parts"]
    assert torch.equal(own.image, again.image) and torch.allclose(own.score, again.score, equal_nan=True)
    assert list(summary["layers"]) == ["conv2@parts"]
    capsys.readouterr()
    line = refusal([*words(other, ["layers=[conv2]"])], tmp_path, capsys)
    assert "directions.parts: layers=conv2 leaves them out; add conv2@parts to the layers" in line
    line = refusal([*words(other, ["seed=1"])], tmp_path, capsys)  # which are other random weights
    assert (
        line.startswith("deconv: directions.parts: ") and "was made with weights" in line and "Fit them again" in line
    )
    assert "experiment=sanity_checks has no directions" in refusal(["experiment=sanity_checks", read], tmp_path, capsys)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["layer=conv9"], "unknown layer 'conv9'"),
        (["methods=[vae]"], "unknown method 'vae'; expected one of nmf, pca, ica, sae, random"),
        (["methods=[nmf,nmf]"], "methods=nmf,nmf: expected each once"),
        (["n=200"], "n: given 200; expected a whole number, 1 to 12"),
        (["samples=1"], "samples=1: expected 2 or more"),
        (["directions.nmf.file=x.safetensors"], "directions.nmf: it has no layer, and x.safetensors names none"),
        (["layers=[conv2]"], "experiment=directions has no layers; it has layer"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_line(
    arguments: list[str], expected: str, said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refusal(words(said, arguments), tmp_path, capsys)


def test_a_set_without_numbers_is_drawn() -> None:
    row = {name: {"mean": 0.5, "low": 0.4, "high": 0.6} for name in SHOWN}
    none = {name: {"mean": None, "low": None, "high": None} for name in SHOWN}
    figure = directions_figure({"channels": row, "nmf": none}, "title")
    panel = figure.axes[0]
    assert [text.get_text() for text in panel.texts] == ["none"] and len(figure.axes) == len(SHOWN)
    assert [label.get_text() for label in panel.get_yticklabels()] == ["channels", "nmf"]
    assert panel.get_title() == "correlation with patch\nhigher is better"
