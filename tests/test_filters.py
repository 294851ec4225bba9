"""Numbers of filters and projections against pictures whose spectrum is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from deconv.analyses import filters
from deconv.errors import BadInput
from deconv.figures.filters import FILTER_SIDE, Curve, Panel, filter_panel, filters_figure, projection_panel
from deconv.records import LayerPeaks

SIDE = 27


def sine(period: float, side: int = SIDE, phase: float = 0.4) -> Tensor:
    """(1, 3, side, side): waves that run down the picture."""
    wave = torch.sin(2 * math.pi * torch.arange(side) / period + phase)
    return wave[:, None].expand(1, 3, side, side).clone()


def noise(count: int, side: int = SIDE) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def smooth(side: int = SIDE) -> Tensor:
    """(1, 3, side, side): a ramp, and a blob of the size of a thing."""
    along = torch.arange(side) - side / 2
    blob = torch.exp(-(along[:, None].square() + along.square()) / 40)
    return (blob + along / side).expand(1, 3, side, side).clone()


def peaks_of(image: Tensor) -> LayerPeaks:
    nothing = torch.zeros_like(image)
    return LayerPeaks(nothing.float(), image, nothing, nothing, nothing[..., None].expand(-1, -1, 4))


def test_the_energy_of_a_sine_lies_in_the_bin_of_its_frequency() -> None:
    for period in (2.2, 3, 4, 8):
        energy = filters.spectra(sine(period, side=60))[0]
        bin_of = int(1 / period / filters.BIN)
        assert energy[bin_of - 1 : bin_of + 2].sum() / energy.sum() > 0.9
        assert (filters.fine_share(sine(period, side=60)) > 0.5) == (1 / period > filters.FINE)


def test_noise_has_the_spectrum_of_white_noise_whatever_the_filters_size() -> None:
    expected = filters.white_spectrum()
    assert filters.share_above(expected) == pytest.approx(1 - math.pi * 0.3**2, abs=0.005)
    for side in (7, 11):
        energy = filters.spectra(noise(400, side)).sum(0)
        assert torch.allclose(energy / energy.sum(), expected, atol=0.01)


def test_the_mean_of_a_filter_does_not_count() -> None:
    wave = sine(3, side=7)
    assert torch.allclose(filters.spectra(wave), filters.spectra(wave + 5), rtol=1e-3)
    flat = filters.spectra(torch.full((2, 3, 7, 7), 0.25))
    assert flat.sum() < 1e-9 and filters.fine_share(torch.zeros(2, 3, 7, 7)) == 0


def test_the_spectrum_holds_all_energy_of_a_filter_without_mean() -> None:
    given = noise(5, 7)
    given -= given.mean(dim=(2, 3), keepdim=True)
    parseval = given.square().sum(dim=(1, 2, 3)) * filters.PADDED**2
    assert torch.allclose(filters.spectra(given).sum(1), parseval, rtol=1e-4)


def test_weak_filters_are_told_by_the_median_even_if_one_dwarfs_all() -> None:
    given = noise(9, 7)
    given[2] *= 0.05
    given[5] *= 1000
    assert filters.weak(given).nonzero().flatten().tolist() == [2]
    assert filters.rms(2 * torch.ones(1, 3, 4, 4)).tolist() == [2.0]


def test_silent_filters_are_those_without_a_peak() -> None:
    assert filters.dead(peaks_of(torch.tensor([[4, -1], [-1, -1], [0, 2]]))).tolist() == [False, True, False]


@pytest.mark.parametrize("stride", [2, 3, 4])
def test_waves_of_the_strides_period_are_aliasing_on_either_axis(stride: int) -> None:
    wave = sine(stride)
    for picture in (wave, wave.mT, wave * wave.mT, 7 + 0.01 * wave):
        assert float(filters.aliasing(picture, stride)) == pytest.approx(1, abs=0.02)


def test_a_lattice_is_aliasing_and_other_periods_are_not() -> None:
    lattice = torch.zeros(1, 3, SIDE, SIDE)
    lattice[:, :, ::4, ::4] = 1
    assert float(filters.aliasing(lattice, 4)) > 0.95
    assert float(filters.aliasing(sine(8), 4)) < 0.05
    assert float(filters.aliasing(sine(4), 2)) < 0.05


@pytest.mark.parametrize("stride", [2, 4])
def test_chance_is_zero_for_noise_smooth_and_constant_pictures(stride: int) -> None:
    assert float(filters.aliasing(noise(300), stride).mean()) == pytest.approx(0, abs=0.04)
    assert float(filters.aliasing(smooth(), stride)) == pytest.approx(0, abs=0.01)
    flat = torch.full((1, 3, SIDE, SIDE), 3.7)
    assert filters.aliasing(torch.cat([flat, 0 * flat]), stride).tolist() == [0, 0]


def test_half_of_the_energy_in_a_lattice_is_half_the_value() -> None:
    both = noise(200) + math.sqrt(2) * sine(4)
    assert float(filters.aliasing(both, 4).mean()) == pytest.approx(0.5, abs=0.05)


def test_aliasing_does_not_depend_on_scale_or_on_the_other_pictures() -> None:
    given = noise(4)
    assert torch.allclose(filters.aliasing(1e-6 * given, 4)[:2], filters.aliasing(given[:2], 4), atol=1e-6)


def test_what_cannot_be_measured_is_refused() -> None:
    for stride, side in ((1, SIDE), (0, SIDE), (5, SIDE), (4, 23)):
        with pytest.raises(BadInput, match="six strides wide"):
            filters.aliasing(noise(1, side), stride)
    with pytest.raises(BadInput, match="expected \\(filters, channels, height, width\\)"):
        filters.spectra(torch.zeros(3, 7, 7))


def numbers_of(kernels: Tensor) -> dict[str, object]:
    size = filters.rms(kernels)
    return {
        "filters": len(kernels), "filter_size": list(kernels.shape[2:]), "stride": 2, "dead_units": 3, "weak": 1,
        "largest_rms": float(size.max()), "median_rms": float(size.median()), "fine_share": 0.25,
    }  # fmt: skip


def test_a_panel_shows_all_filters_on_one_scale() -> None:
    kernels = torch.zeros(3, 3, 7, 7)
    kernels[0], kernels[1], kernels[2, 0, 0, 0] = 0.1, -0.05, 1.0
    panel = filter_panel("mine", kernels, numbers_of(kernels))
    side = FILTER_SIDE // 7 * 7
    assert panel.tiles.shape == (3, side, side, 3) and "3 never fire" in panel.note and "stride 2" in panel.note
    largest = float(filters.rms(kernels).max())  # of the third: full colour is twice that
    for n, value in ((0, 0.1), (1, -0.05)):
        assert (panel.tiles[n] == round(255 * min(0.5 + value / (4 * largest), 1))).all()
    assert panel.tiles[2, 0, 0].tolist() == [255, 128, 128] and panel.tiles[2, -1, -1].tolist() == [128] * 3


def test_the_figure_has_its_panels_and_a_line_for_each_network() -> None:
    shades = [np.full((4, 40, 40, 3), grey, np.uint8) for grey in (10, 20, 30)]
    upper = [Panel("a: layer 1", "note", shades[0]), Panel("b: layer 1", "note", shades[1])]
    lower = [Panel("a: layer 2", "note", shades[2])]
    shares, white = [0.2] * 3, [0.1, 0.4, 0.5]
    figure = filters_figure(upper, lower, [Curve("a", shares)], white, 0.05)
    texts = [text.get_text() for text in figure.texts]
    assert {"(a) a: layer 1", "(b) b: layer 1", "(c) a: layer 2"} <= set(texts)
    (page,) = (axes for axes in figure.axes if axes.get_label() == "page")
    pixels = np.asarray(page.get_images()[0].get_array())
    rows = {grey: np.argwhere((pixels == grey).all(axis=2)) for grey in (10, 20, 30)}
    assert all(len(places) == 4 * 40 * 40 for places in rows.values())
    assert rows[10][0][0] == rows[20][0][0] < rows[30][0][0] and rows[10][0][1] == rows[30][0][1] < rows[20][0][1]
    (chart,) = (axes for axes in figure.axes if axes is not page)
    network, noise_line = chart.lines
    assert (network.get_label(), noise_line.get_label()) == ("a", "white noise")
    assert np.asarray(network.get_ydata()).tolist() == shares and np.asarray(noise_line.get_ydata()).tolist() == white
    assert np.asarray(network.get_xdata()).tolist() == pytest.approx([0.025, 0.075, 0.125])


def test_a_panel_of_projections_says_how_many_fire_and_the_aliasing() -> None:
    panel = projection_panel("mine", torch.randn(2, 3, 27, 27), 40, {2: 0.015, 4: 0.25})
    assert panel.tiles.shape == (2, 54, 54, 3) and panel.title == "mine: layer 2, 2 of the 40 units that fire"
    assert panel.note.endswith("1.5% at stride 2, 25.0% at stride 4")
