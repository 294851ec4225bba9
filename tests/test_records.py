"""Records: saved and loaded bit for bit, the same bytes each time, and damaged ones refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

import deconv
from deconv.errors import UnknownName
from deconv.records import LayerPeaks, Patches, Peaks, Reconstructions
from tests.samples import images, network


def peaks() -> Peaks:
    return deconv.mine(network(), images(7), ["one", "two"], k=9)


def reconstructions() -> Reconstructions:
    return deconv.project_peaks(network(), images(7), "two", peaks()["two"], [0, 2])


def patches() -> Patches:
    recon = reconstructions()
    frames = torch.randint(0, 256, (7, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return deconv.cut_patches(frames, recon.image, recon.box, {"made": "for a test", "of": [1, 2]})


MADE: list[tuple[Any, Any, str]] = [
    (peaks, Peaks, "peaks.parquet"),
    (patches, Patches, "patches.safetensors"),
    (reconstructions, Reconstructions, "reconstructions.safetensors"),
]
EVERY_RECORD = pytest.mark.parametrize(("make", "kind", "name"), MADE, ids=["peaks", "patches", "reconstructions"])


def same(a: Any, b: Any) -> bool:
    """Bit for bit, nan equal to nan."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, Peaks | Patches | Reconstructions | LayerPeaks):
        return vars(a).keys() == vars(b).keys() and all(same(value, vars(b)[name]) for name, value in vars(a).items())
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(value, b[name]) for name, value in a.items())
    return bool(a == b)


@EVERY_RECORD
def test_records_survive_bit_for_bit(make: Any, kind: Any, name: str, tmp_path: Path) -> None:
    record = make()
    loaded = kind.load(record.save(tmp_path / name))
    assert sorted_about(loaded) == sorted_about(record)
    assert same(without_about(loaded), without_about(record))


def sorted_about(record: Any) -> str:
    return json.dumps(record.provenance, sort_keys=True)


def without_about(record: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name != "provenance"}


@EVERY_RECORD
def test_the_same_record_is_the_same_bytes(make: Any, kind: Any, name: str, tmp_path: Path) -> None:
    first, second = (make().save(tmp_path / folder / name).read_bytes() for folder in "ab")
    assert first == second


def test_another_process_writes_the_same_bytes(tmp_path: Path) -> None:
    program = (
        "import sys; from tests.test_records import MADE\n"
        "for make, _, name in MADE: make().save(f'{sys.argv[1]}/{name}')"
    )
    for folder in "ab":  # string hashes differ from process to process
        subprocess.run([sys.executable, "-c", program, str(tmp_path / folder)], check=True)
    for _, _, name in MADE:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_table_has_the_promised_columns(tmp_path: Path) -> None:
    table = pq.read_table(peaks().save(tmp_path / "peaks.parquet"))
    names = ["layer", "channel", "rank", "score", "image", "key", "row", "col", "y0", "x0", "y1", "x1"]
    assert table.column_names == names and len(table) == (6 + 5) * 9


def test_an_unknown_layer_of_peaks_is_named() -> None:
    with pytest.raises(UnknownName, match="no layer 'three'; they have one, two"):
        peaks()["three"]


def test_peaks_of_units_come_strongest_first_and_leave_out_what_is_missing() -> None:
    own = peaks()["two"]
    image, channel, row, _ = own.of([4, 1])
    scores = own.scores_of([4, 1])
    assert len(image) == len(scores) == int(own.found[[4, 1]].sum()) and (image >= 0).all()
    assert channel.tolist() == [4] * int(own.found[4].sum()) + [1] * int(own.found[1].sum())
    assert (scores[channel == 4].diff() <= 0).all() and len(row) == len(image)


def test_paste_puts_the_pixels_into_the_frame() -> None:
    recon = reconstructions()
    frames = recon.paste()
    assert frames.shape == (len(recon), 3, 20, 20)
    for frame, pixels, (y0, x0, _, _) in zip(frames, recon.pixels, recon.box.tolist(), strict=True):
        for y in range(20):
            for x in range(20):
                inside = 0 <= y - y0 < pixels.shape[1] and 0 <= x - x0 < pixels.shape[2]
                expected = pixels[:, y - y0, x - x0] if inside else torch.zeros(3)
                assert torch.equal(frame[:, y, x], expected)
        assert torch.isclose(frame.sum(), pixels.sum(), atol=1e-4)
