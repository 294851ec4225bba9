"""deconv/compare: a unit that is exactly one oriented filter, whose perfect reconstruction is known; and odd inputs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.transform import resize
from torch import nn

from deconv.compare import measuring
from deconv.compare.arrays import edges, grey, inside_rows_cols
from deconv.compare.concentration import area_holding, concentration, off_centre
from deconv.compare.controls import noise_picture
from deconv.compare.grouping import alikeness, thumbnails
from deconv.compare.likeness import colour, likeness, pearson, rank_correlation, ssim
from deconv.compare.measuring import METRICS, group, mean_interval, measure
from deconv.compare.peak_set import PeakSet
from deconv.compare.reactivation import as_input, rank, reactivation
from deconv.compare.similarity import SIMILARITIES, similarities
from deconv.errors import BadInput
from deconv.images.preprocessing import Preprocessing
from deconv.network import Network

SIDE = 9
PICTURES = arrays(np.float64, (3, 6, 5), elements=st.floats(-1e3, 1e3, width=32))
EVERYWHERE = np.ones((SIDE, SIDE), dtype=bool)


def oriented_filter() -> np.ndarray:
    """(3, 9, 9): a wave at 30 degrees under a Gaussian, redder than it is blue."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    wave = np.sin(6 * (x * np.cos(0.5) + y * np.sin(0.5))) * np.exp(-(x**2 + y**2) * 2)
    return np.stack([wave, 0.5 * wave, 0.2 * wave])


def one_filter_network() -> Network:
    """Unit 0 is the filter; unit 1 a checkerboard, unit 2 its negative, unit 3 noise."""
    generator = np.random.default_rng(5)
    checks = np.indices((SIDE, SIDE)).sum(axis=0) % 2 - 0.5
    filters = np.stack(
        [oriented_filter(), *(np.stack([c] * 3) for c in (checks, -checks)), generator.normal(size=(3, SIDE, SIDE))]
    )
    convolution = nn.Conv2d(3, 4, SIDE, bias=False)
    convolution.weight.data = torch.from_numpy(filters).float()
    preprocessing = Preprocessing((24, 24), None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    return Network(nn.Sequential(convolution, nn.ReLU()), (3, 24, 24), {"one": "1"}, preprocessing)


def filter_peaks() -> PeakSet:
    """Two photographs that hold the filter at (4, 6), on different grounds; unit 0's peaks, and unit 1's."""
    generator = np.random.default_rng(1)
    frames = generator.integers(118, 138, (2, 3, 24, 24))
    shown = 127.5 + 110 * oriented_filter() / np.abs(oriented_filter()).max()
    frames[:, :, 4 : 4 + SIDE, 6 : 6 + SIDE] = shown.round()
    peaks = torch.tensor([[3, 0, 4, 6], [8, 0, 4, 6]])
    return PeakSet(one_filter_network(), "one", torch.from_numpy(frames.astype(np.uint8)), torch.tensor([3, 8]), peaks)


STRONGEST = np.full(4, 40.0)


def measured(peaks: PeakSet, rule: str, pixels: np.ndarray) -> dict[str, np.ndarray]:
    return measure(peaks, pixels, peaks.others.reconstruct(rule), STRONGEST)


def test_the_perfect_reconstruction_is_at_the_top_and_a_random_one_at_the_bottom() -> None:
    """deconvnet of a single filter is the filter, which is what the patch holds."""
    peaks = filter_peaks()
    perfect = peaks.reconstruct("deconvnet")
    np.testing.assert_allclose(
        perfect[0] / np.abs(perfect[0]).max(), oriented_filter() / np.abs(oriented_filter()).max(), atol=1e-6
    )
    of_noise = measured(peaks, "random_mask", peaks.reconstruct("random_mask"))
    found = measured(peaks, "deconvnet", perfect)
    for metric in ("pearson_grey", "pearson_absolute", "pearson_edges", "ssim_grey", "ssim_edges", "colour"):
        assert found[metric].min() > 0.9 and of_noise[metric].max() < 0.45, metric
    for name, column in METRICS.items():
        if name in found and column.better and name != "other_unit":  # noise differs more between units
            assert (column.better * found[name] > column.better * of_noise[name]).all(), name
    np.testing.assert_allclose(found["reactivation"], 1, atol=0.02)
    assert (found["rank"] == 1).all() and (found["blank"] == 0).all()


def test_no_order_of_pixels_keeps_more_or_leaves_less_than_that_of_a_linear_units_contributions() -> None:
    peaks = filter_peaks()
    best = measured(peaks, "deconvnet", peaks.reconstruct("deconvnet"))
    for seed in range(5):
        noise = np.stack([noise_picture(i, (seed, 0, 0, 0), 0) for i in peaks.inside])
        other = measured(peaks, "random_mask", noise)
        assert (best["insertion_mean"] > other["insertion_mean"]).all() and (
            best["deletion_mean"] < other["deletion_mean"]
        ).all()


def test_every_metric_ignores_the_scale_of_a_reconstruction() -> None:
    peaks = filter_peaks()
    pixels = peaks.reconstruct("gradient_times_input")
    once, louder = (measured(peaks, "deconvnet", a * pixels) for a in (1.0, 2.0**20))
    assert set(once) >= set(METRICS) - {"within", "between", "grouping"}
    for name in once:
        np.testing.assert_allclose(louder[name], once[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_an_all_zero_reconstruction_is_counted_and_not_scored() -> None:
    peaks = filter_peaks()
    pixels = peaks.reconstruct("deconvnet")
    pixels[1] = 0
    found = measured(peaks, "deconvnet", pixels)
    assert found["blank"].tolist() == [0, 1]
    assert all(np.isnan(values[1]) and np.isfinite(values[0]) for name, values in found.items() if name != "blank")


@given(recon=PICTURES, patch=PICTURES, scale=st.floats(1e-6, 1e6))
def test_scores_stay_in_their_ranges_and_ignore_scale(recon: np.ndarray, patch: np.ndarray, scale: float) -> None:
    found, scaled = likeness(recon, patch), likeness(recon * scale, patch)
    assert all(-1 <= value <= 1 for value in found.values())
    np.testing.assert_allclose(list(scaled.values()), list(found.values()), atol=1e-5)
    spread = concentration(recon)
    assert 1 / 30 <= spread["area50"] <= spread["area90"] <= 1
    assert not recon.any() or 0 <= spread["off_centre"] <= 1
    inside = np.ones((6, 5), dtype=bool)
    assert all(np.isnan(v) or -1 <= v <= 1 for v in similarities(recon, patch, inside).values())


@given(recon=PICTURES)
def test_a_picture_is_like_itself_and_unlike_its_negative(recon: np.ndarray) -> None:
    shown = grey(recon)
    varies = np.ptp(shown) > 1e-3
    assert pearson(shown, shown) == pytest.approx(1 if varies else pearson(shown, shown), abs=1e-6)
    if varies:
        assert pearson(shown, -shown) == pytest.approx(-1) and ssim(shown, shown) == pytest.approx(1)
        assert rank_correlation(shown, 3 * shown) == pytest.approx(1)


@pytest.mark.parametrize("metric", [pearson, ssim, rank_correlation])
def test_constant_pictures_say_nothing(metric: Callable[[np.ndarray, np.ndarray], float]) -> None:
    picture = np.arange(12.0).reshape(3, 4)
    assert metric(np.zeros((3, 4)), picture) == metric(picture, np.full((3, 4), 0.1)) == 0


def test_one_pixel_has_a_defined_value() -> None:
    one = np.ones((3, 1, 1))
    found = likeness(one, one)
    assert found["pearson_grey"] == found["colour"] == 0 and np.isnan(found["ssim_grey"])
    assert concentration(one) == {"area50": 1, "area90": 1, "off_centre": 0}
    assert thumbnails(one[None]).tolist() == [[[0]]]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("metric", [likeness, colour, lambda a, b: similarities(a, b, np.ones((4, 4), bool))])
def test_values_that_are_not_finite_are_refused(metric: Callable[..., object], bad: float) -> None:
    whole, broken = np.ones((3, 4, 4)), np.ones((3, 4, 4))
    broken[0, 1, 1] = bad
    for pair in ((whole, broken), (broken, whole)):
        with pytest.raises(BadInput, match="holds NaN or infinite values"):
            metric(*pair)
    with pytest.raises(BadInput, match="holds NaN"):
        concentration(broken)


def test_pictures_of_different_sizes_are_refused() -> None:
    with pytest.raises(BadInput, match=r"given shapes .*\(3, 4, 4\).*\(3, 4, 5\)"):
        likeness(np.ones((3, 4, 4)), np.ones((3, 4, 5)))
    with pytest.raises(BadInput, match="at least one pixel"):
        concentration(np.ones((3, 0, 4)))


def test_concentration_of_known_energies() -> None:
    energies = np.zeros((5, 5))
    energies[2, 2], energies[0, 0] = 6, 4
    assert area_holding(energies, 0.5) == 1 / 25 and area_holding(energies, 0.9) == 2 / 25
    assert off_centre(energies) == pytest.approx(0.4)  # four tenths of it in the corner
    assert area_holding(np.ones((5, 5)), 0.5) == 13 / 25 and off_centre(np.ones((5, 5))) == pytest.approx(0)
    assert area_holding(np.zeros((5, 5)), 0.5) == 1 and np.isnan(off_centre(np.zeros((5, 5))))


def test_colour_agreement_knows_hues() -> None:
    patch = np.zeros((3, 4, 4))
    patch[0, :2] = 1  # red above black
    red, blue = np.zeros((3, 4, 4)), np.zeros((3, 4, 4))
    red[0, :2], blue[2, :2] = 2, 2
    assert colour(red, patch) > 0.6 and colour(blue, patch) < -0.3 and colour(np.ones((3, 4, 4)), patch) == 0


def test_edges_stand_where_a_step_is() -> None:
    step = np.zeros((6, 8))
    step[:, 4:] = 1
    assert np.flatnonzero(edges(step)[3]).tolist() == [3, 4]


def test_the_part_inside_an_image() -> None:
    inside = np.zeros((5, 6), dtype=bool)
    inside[2:, :4] = True
    assert inside_rows_cols(inside) == (slice(2, 5), slice(0, 4))
    with pytest.raises(BadInput, match="outside its image"):
        inside_rows_cols(np.zeros((5, 6), dtype=bool))


def test_a_reconstruction_fed_back_is_as_strong_as_the_window() -> None:
    generator = np.random.default_rng(0)
    window, recon = generator.normal(3, 2, (3, 6, 6)), generator.normal(size=(3, 6, 6))
    inside = np.ones((6, 6), dtype=bool)
    fed, louder = as_input(recon, window, inside), as_input(1e5 * recon, window, inside)
    np.testing.assert_allclose(louder, fed)
    mean = window.mean(axis=(1, 2), keepdims=True)
    assert ((fed - mean) ** 2).sum() == pytest.approx(((window - mean) ** 2).sum())
    np.testing.assert_allclose(as_input(0 * recon, window, inside), np.broadcast_to(mean, window.shape))


def test_reactivation_and_rank_of_known_responses() -> None:
    responses = np.array([[2.0, 1, 0, 4], [0, 0, 0, 0]])
    assert reactivation(responses, np.array([0, 1]), np.array([4.0, 2])).tolist() == [0.5, 0]
    assert np.isnan(reactivation(responses, np.array([0, 1]), np.zeros(2))).all()
    strongest = np.array([2.0, 2, np.nan, 8])  # unit 2 never fires: no rank against it
    assert rank(responses, np.array([0, 1]), strongest).tolist() == [1, 0.5]


@pytest.mark.parametrize("size", [(40, 61), (24, 30), (9, 7)])
def test_thumbnails_are_shrunk_as_scikit_image_shrinks(size: tuple[int, int]) -> None:
    pictures = np.random.default_rng(4).normal(size=(2, 3, *size))
    for picture, small in zip(pictures, thumbnails(pictures), strict=True):
        expected = resize(grey(picture), [min(side, 24) for side in size], anti_aliasing=True)
        assert small.shape == expected.shape and (small**2).sum() == pytest.approx(1)
        assert pearson(small, expected) == pytest.approx(1, abs=1e-12)


def test_alikeness_equals_the_mean_over_pairs() -> None:
    generator = np.random.default_rng(2)
    pictures = generator.normal(size=(7, 3, 8, 8))
    small, unit = thumbnails(pictures), np.array([4, 4, 4, 9, 9, 2, 2])
    small[6] = 0  # a constant picture has no part
    pairs = np.array([[pearson(a, b) for b in small[:6]] for a in small[:6]])
    units, within, between = alikeness(small, unit)
    assert units.tolist() == [2, 4, 9] and np.isnan(within[0])
    assert within[1] == pytest.approx((pairs[0, 1] + pairs[0, 2] + pairs[1, 2]) / 3)
    assert between[1] == pytest.approx(pairs[:3, 3:].mean()) and between[0] == pytest.approx(pairs[5, :5].mean())
    copies = group(small[[0, 0, 3, 3]], np.array([1, 1, 2, 2]))
    np.testing.assert_allclose(copies["within"], 1)
    assert np.isnan(group(small[:2], np.array([1, 1]))["between"]).all()


def test_similarities_of_the_same_and_of_nothing() -> None:
    picture, inside = oriented_filter(), EVERYWHERE
    assert similarities(picture, 5 * picture, inside) == pytest.approx(dict.fromkeys(SIMILARITIES, 1.0))
    assert all(np.isnan(v) for v in similarities(picture, 0 * picture, inside).values())


def test_intervals_of_means() -> None:
    values = np.r_[np.random.default_rng(0).normal(2, 1, 100), np.nan]
    found = mean_interval(values, seed=0)
    assert found == mean_interval(values, seed=0) and found["units"] == 100
    assert found["low"] < found["mean"] < found["high"]  # type: ignore[operator]
    assert found["high"] - found["low"] == pytest.approx(4 * 0.1, rel=0.2)  # type: ignore[operator]
    assert mean_interval(np.full(3, 0.5), 0) == {"mean": 0.5, "low": 0.5, "high": 0.5, "units": 3}
    assert mean_interval(np.array([np.nan]), 0)["mean"] is None


def test_every_metric_says_what_it_is() -> None:
    assert all(metric.label and metric.better in (-1, 0, 1) for metric in measuring.METRICS.values())
