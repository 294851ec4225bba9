"""deconv/compare/sufficiency.py: insertion and deletion curves."""

from __future__ import annotations

import numpy as np
import pytest

from deconv.compare import sufficiency
from deconv.compare.sufficiency import area, curves, filled, measure_baselines, order
from deconv.errors import BadInput

INSIDE = np.ones((1, 10, 10), dtype=bool)
SHARES = (0.04, 0.25)


def summed(windows: np.ndarray) -> np.ndarray:
    """A unit that adds up the first colour of rows 0 and 1."""
    total: np.ndarray = windows[:, 0, :2].sum(axis=(1, 2))
    return total


def window() -> np.ndarray:
    seen = np.zeros((1, 3, 10, 10), dtype=np.float32)
    seen[0, 0, :2, :5] = 2  # ten of a hundred pixels, all that counts
    return seen


def test_curves_of_a_unit_that_adds() -> None:
    """The mean of the window is 0.2, so a blank gives 20 * 0.2 = 4 of 20."""
    baselines = measure_baselines(window(), INSIDE, summed)
    found = curves(baselines, window(), summed, SHARES)
    inserted, deleted = found["insertion", "mean"][0], found["deletion", "mean"][0]
    np.testing.assert_allclose(inserted, [4 / 20, (4 + 4 * 1.8) / 20, (4 + 10 * 1.8 - 10 * 0.2) / 20, 1], rtol=1e-5)
    np.testing.assert_allclose(deleted, [1, (20 - 4 * 1.8) / 20, (20 - 10 * 1.8 + 10 * 0.2) / 20, 4 / 20], rtol=1e-5)
    assert found["insertion", "blur"][0, -1] == found["deletion", "blur"][0, 0] == 1


def test_what_matters_first_keeps_more_and_leaves_less() -> None:
    baselines = measure_baselines(window(), INSIDE, summed)
    right, wrong = (curves(baselines, picture, summed) for picture in (window(), 2 - window()))
    for fill in sufficiency.FILLS:
        assert area(right["insertion", fill]) > area(wrong["insertion", fill])
        assert area(right["deletion", fill]) < area(wrong["deletion", fill])


def test_a_silent_unit_has_no_curve() -> None:
    baselines = measure_baselines(window(), INSIDE, lambda windows: -summed(windows))
    assert all(np.isnan(c).all() for c in curves(baselines, window(), lambda windows: -summed(windows)).values())


def test_the_area_of_a_curve_that_stays() -> None:
    assert area(np.ones((2, 4)), SHARES).tolist() == [1, 1]
    assert area(np.array([[0.0, 0.04, 0.25, 1]]), SHARES)[0] == pytest.approx(0.5)


def test_pixels_are_ordered_by_energy_within_the_image_alone() -> None:
    energies = np.array([[5.0, 1, 3], [0, 9, 2]])
    inside = np.array([[True, True, True], [True, False, True]])
    assert order(energies, inside).tolist() == [[0, 0.6, 0.2], [0.8, np.inf, 0.4]]


def test_fills_neither_read_nor_write_outside_the_image() -> None:
    generator = np.random.default_rng(0)
    seen, inside = generator.normal(size=(3, 8, 8)), np.zeros((8, 8), dtype=bool)
    inside[3:] = True
    changed = np.where(inside, seen, 100.0)
    for fill in sufficiency.FILLS:
        np.testing.assert_allclose(filled(changed, inside, fill), filled(seen, inside, fill), atol=1e-9)
        assert not filled(seen, inside, fill)[:, ~inside].any()
    np.testing.assert_allclose(filled(np.ones((3, 8, 8)), inside, "blur")[:, inside], 1)


@pytest.mark.parametrize("shares", [(0.5, 0.2), (0.0, 0.5), (0.5, 1.0), (0.2, 0.2)])
def test_shares_that_do_not_rise_are_refused(shares: tuple[float, ...]) -> None:
    baselines = measure_baselines(window(), INSIDE, summed)
    with pytest.raises(BadInput, match="expected increasing numbers between 0 and 1"):
        curves(baselines, window(), summed, shares)


def test_windows_that_are_not_finite_are_refused() -> None:
    with pytest.raises(BadInput, match="windows holds NaN"):
        measure_baselines(window() * np.nan, INSIDE, summed)
