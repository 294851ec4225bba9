"""The atlas's links between layers: which units a page names, that they are kept, and that they can be left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import deconv
from deconv.atlas import records
from deconv.errors import RecordMismatch
from tests import atlases
from tests.residual import Residual


def section(page: Path, name: str) -> list[tuple[str, int]]:
    """(page, per cent) of the units that a section of a unit's page leads to."""
    text = page.read_text(encoding="utf-8")
    (inner,) = re.findall(rf'<section aria-labelledby="{name}">(.*?)</section>', text, flags=re.DOTALL) or [""]
    return [
        (href, int(share))
        for href, share in re.findall(r'<a href="([^"]+)">.*?<span class="number">(?:below )?(-?\d+) %</span>', inner)
    ]


def test_a_page_leads_to_what_its_unit_is_made_of_and_back(tmp_path: Path) -> None:
    site = atlases.write(tmp_path).parent
    network, images = atlases.network(), deconv.folder(tmp_path / "images")
    peaks = deconv.mine(network, images, ["one", "two"])
    recon = deconv.project_peaks(network, images, "two", peaks["two"], list(range(6)), through=["one"])
    shares = [recon.of(recon.channel == unit).parts.of_whole("one") for unit in range(6)]
    for unit in range(6):
        strongest = shares[unit].sort(descending=True).indices[:8].tolist()
        expected = [(f"../01-one/unit-{low:04d}.html", round(100 * float(shares[unit][low]))) for low in strongest]
        made_of = section(site / f"02-two/unit-{unit:04d}.html", "made-of")
        assert [href for href, _ in made_of] == [href for href, _ in expected if href in dict(made_of)]
        assert all(abs(percent - dict(expected)[href]) <= 1 for href, percent in made_of) and made_of
        assert all((site / "02-two" / href).resolve().is_file() for href, _ in made_of)
        assert not section(site / f"02-two/unit-{unit:04d}.html", "part-of-2")
    for low in (0, 1, 39):
        above = sorted(range(6), key=lambda unit: -float(shares[unit][low]))
        positive = [f"../02-two/unit-{unit:04d}.html" for unit in above if shares[unit][low] > 0]
        assert [href for href, _ in section(site / f"01-one/unit-{low:04d}.html", "part-of-2")] == positive
        assert not section(site / f"01-one/unit-{low:04d}.html", "made-of")


def test_the_shares_are_kept_and_refused_if_they_are_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = atlases.write(tmp_path, records=tmp_path / "records").parent
    page = (first / "02-two/unit-0000.html").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(records, "project_peaks", None)
        assert (
            atlases.write(tmp_path, records=tmp_path / "records").parent / "02-two/unit-0000.html"
        ).read_bytes() == page
    (shares,) = (tmp_path / "records").glob("*.made_of.safetensors")
    other = atlases.write(tmp_path / "other", records=tmp_path / "other/records", channels=41)
    assert other.is_file()
    shares.write_bytes(next((tmp_path / "other/records").glob("*.made_of.safetensors")).read_bytes())
    with pytest.raises(RecordMismatch, match="was made with"):
        atlases.write(tmp_path, records=tmp_path / "records")


def test_a_unit_of_a_residual_block_is_made_of_the_block_before_and_a_path_around_a_layer_is_told(
    tmp_path: Path,
) -> None:
    preprocessing = deconv.Preprocessing((8, 8), None, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    network = deconv.Network(Residual(), (3, 8, 8), None, preprocessing)
    images = atlases.photographs(tmp_path / "images", (), 4)
    peaks = deconv.mine(network, images, ["relu", "inner_relu", "out"], k=2)
    site = deconv.write_atlas(network, peaks, images, tmp_path / "whole").parent
    page = site / "03-out/unit-0002.html"
    (first, share), *_ = section(page, "made-of")
    assert first == "../01-relu/unit-0002.html" and share > 90 and "Paths around" not in page.read_text()
    peaks = deconv.mine(network, images, ["inner_relu", "out"], k=2)
    site = deconv.write_atlas(network, peaks, images, tmp_path / "within").parent
    text = (site / "02-out/unit-0002.html").read_text()
    assert f"Paths around inner_<wbr>relu, as a skip connection is, carry {share} %." in text


def test_links_can_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records.UnitRecords, "made_of", None)
    site = atlases.write(tmp_path, circuits=False).parent
    text = (site / "02-two/unit-0000.html").read_text()
    assert "Made of" not in text and "Part of" not in (site / "01-one/unit-0000.html").read_text()
