"""Records: saved and loaded bit for bit, the same bytes each time, and damaged ones refused."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import deconv
from deconv.engines import Local
from deconv.errors import BadInput, RecordMismatch, UnknownName
from deconv.mining import mine_into
from deconv.records import LayerPeaks, Patches, Peaks, Reconstructions, formats
from deconv.records.pictures import RECONSTRUCTION_AXES
from tests.annotations import jaxtyping_off
from tests.samples import images, network, photographs, with_preprocessing


def with_photographs(folder: Path) -> tuple[deconv.Network, deconv.Source, list[str], int]:
    return with_preprocessing(), photographs(folder / "photos"), ["two"], 3


def peaks() -> Peaks:
    return deconv.mine(network(), images(7), ["one", "two"], k=9)


def reconstructions() -> Reconstructions:
    return deconv.project_peaks(network(), images(7), "two", peaks()["two"], [0, 2])


def patches() -> Patches:
    recon = reconstructions()
    frames = torch.randint(0, 256, (7, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return deconv.cut_patches(frames, recon.image, recon.box, {"made": "for a test", "of": [1, 2]})


MADE: list[tuple[Any, Any, str]] = [
    (peaks, Peaks, "peaks.safetensors"),
    (peaks, Peaks, "peaks.parquet"),
    (patches, Patches, "patches.safetensors"),
    (reconstructions, Reconstructions, "reconstructions.safetensors"),
]
EVERY_RECORD = pytest.mark.parametrize(
    ("make", "kind", "name"), MADE, ids=["peaks", "table", "patches", "reconstructions"]
)


def same(a: Any, b: Any) -> bool:
    """Bit for bit, nan equal to nan."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, Peaks | Patches | Reconstructions | LayerPeaks):
        return type(a) is type(b) and all(same(getattr(a, of.name), getattr(b, of.name)) for of in fields(a))
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
    return {of.name: getattr(record, of.name) for of in fields(record) if of.name != "provenance"}


@EVERY_RECORD
def test_the_same_record_is_the_same_bytes(make: Any, kind: Any, name: str, tmp_path: Path) -> None:
    first, second = (make().save(tmp_path / folder / name).read_bytes() for folder in "ab")
    assert first == second


def test_halves_keep_eleven_bits_of_pictures_of_any_size(tmp_path: Path) -> None:
    """Where float16 alone would give zero or infinity; the worst error is that of a full computation."""
    network = deconv.Network(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()), (3, 8, 8))
    torch.manual_seed(0)
    recon = deconv.project(network, torch.rand(4, 3, 8, 8), "1", range(4), [0, 1, 2, 3], [1] * 4, [2] * 4, "gradient")
    recon = replace(recon, pixels=torch.randn(4, 3, 3, 3) * torch.tensor([1e-30, 1e9, 0, 1]).view(-1, 1, 1, 1))
    path = recon.save(tmp_path / "recon.safetensors", dtype="float16")
    loaded = Reconstructions.load(path)
    off = (loaded.pixels - recon.pixels).abs()
    assert bool((off <= recon.pixels.abs() / 2048).all()) and not bool(loaded.pixels[2].any())
    shares = off.amax(dim=(1, 2, 3)) / recon.pixels.abs().amax(dim=(1, 2, 3)).clamp_min(1e-35)
    assert loaded.rounding == pytest.approx(float(shares.max())) and 0 < loaded.rounding < 1 / 2048
    for dtype in ("float16", "float32"):  # what was lost stays lost, and said
        again = Reconstructions.load(loaded.save(tmp_path / "again.safetensors", dtype=dtype))
        assert torch.equal(again.pixels, loaded.pixels) and again.rounding == loaded.rounding
    with pytest.raises(UnknownName, match="unknown dtype 'half'; expected one of float32, float16"):
        recon.save(tmp_path / "half.safetensors", dtype="half")


def test_another_process_writes_the_same_bytes(tmp_path: Path) -> None:
    program = (
        "import sys; from tests.test_records import MADE\n"
        "for make, _, name in MADE: make().save(f'{sys.argv[1]}/{name}')"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    for make, _, name in MADE:  # string hashes differ from process to process
        assert make().save(tmp_path / "here" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_the_table_has_the_promised_columns(tmp_path: Path) -> None:
    table = pq.read_table(peaks().save(tmp_path / "peaks.parquet"))
    names = ["layer", "channel", "rank", "score", "image", "key", "row", "col", "y0", "x0", "y1", "x1"]
    assert table.column_names == names and len(table) == (6 + 5) * 9


def test_tables_of_peaks_have_a_row_for_each_and_the_names_of_what_project_takes() -> None:
    made = peaks()
    frame, table = made.to_pandas(), made.to_arrow()
    assert table.to_pandas().astype(frame.dtypes.to_dict()).equals(frame) and set(frame["layer"]) == {"one", "two"}
    of_two = frame[frame["layer"] == "two"]
    for name, values in zip(("image", "channel", "row", "col"), made["two"].of(range(5)), strict=True):
        assert of_two[name].tolist() == values.tolist()
    assert of_two["score"].tolist() == made["two"].scores_of(range(5)).tolist()
    assert of_two["key"].tolist() == [made.image_keys[image_id] for image_id in of_two["image"]]
    assert of_two[["y0", "x0", "y1", "x1"]].values.tolist() == made["two"].box[made["two"].found].tolist()


@pytest.mark.parametrize("name", ["pyarrow", "pandas"])
def test_a_library_that_is_not_there_is_named_with_its_extra(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, table = peaks(), peaks().save(tmp_path / "peaks.parquet")
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "deconv.records.parquet", raising=False)
    monkeypatch.delattr(deconv.records, "parquet", raising=False)
    if name == "pandas":
        with pytest.raises(
            BadInput, match=r"^a data frame of peaks needs pandas, .*: pip install 'deconvnet\[pandas\]'$"
        ):
            made.to_pandas()
        return
    new, source = tmp_path / "new.parquet", with_photographs(tmp_path)
    for ask in (made.to_arrow, lambda: Peaks.load(table), lambda: made.save(new), lambda: mine_into(new, *source)):
        with pytest.raises(BadInput, match=r"table .*needs pyarrow, .*: pip install 'deconvnet\[parquet\]'$"):
            ask()
    assert not (tmp_path / "shards").exists() and not new.exists()  # refused before anything was mined


def test_an_unknown_layer_of_peaks_is_named() -> None:
    with pytest.raises(UnknownName, match="unknown layer of these peaks 'three'; expected one of one, two"):
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


@pytest.mark.parametrize("channels", [1, 2, 4, 12])
def test_records_of_any_number_of_channels(tmp_path: Path, channels: int) -> None:
    torch.manual_seed(0)
    net = deconv.Network(nn.Sequential(nn.Conv2d(channels, 3, 3), nn.ReLU()), (channels, 9, 8))
    given = torch.randn(4, channels, 9, 8)
    recon = deconv.project_peaks(net, given, "1", deconv.mine(net, given, ["1"], k=2)["1"], [0, 1, 2])
    patches = deconv.cut_patches((given * 20 + 128).clamp(0, 255).to(torch.uint8), recon.image, recon.box)
    assert recon.pixels.shape[1] == patches.pixels.shape[1] == channels and len(recon)
    for record, kind in ((recon, Reconstructions), (patches, Patches)):
        assert same(without_about(kind.load(record.save(tmp_path / "record.safetensors"))), without_about(record))


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    made = patches()
    with (
        jaxtyping_off(),
        pytest.raises(BadInput, match=r"its box is torch.int64 \(1, 4\); expected torch.int64 \(N 4\)"),
    ):
        replace(made, box=made.box[:1]).save(tmp_path / "patches.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_records_of_format_1_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There `provenance` was called `made_of`, `input_size` was called `frame`, and no picture was cut to the image."""
    made, recon, columns = peaks(), reconstructions(), {"unit": np.arange(3)}
    monkeypatch.setattr(formats, "FORMAT", 1)
    save = formats.save_tensors
    older = {"layer": recon.layer, "rule": recon.rule, "frame": list(recon.input_size), "made_of": recon.provenance}
    axes = {name: axis for name, axis in RECONSTRUCTION_AXES.items() if name != "field"}  # it was the box
    save(tmp_path / "recon.safetensors", "reconstructions", {name: getattr(recon, name) for name in axes}, axes, older)
    provenance = {("frame" if name == "input_size" else name): value for name, value in made.provenance.items()}
    Peaks(made.layers, made.image_keys, provenance).save(tmp_path / "peaks.parquet")
    table = pa.table(columns).replace_schema_metadata({"deconv": json.dumps({"weights": "9f86d0"})})
    pq.write_table(table, tmp_path / "measures", write_page_checksum=True)
    monkeypatch.undo()
    assert same(without_about(Reconstructions.load(tmp_path / "recon.safetensors")), without_about(recon))
    assert sorted_about(Peaks.load(tmp_path / "peaks.parquet")) == sorted_about(made)
    found, about = formats.read_columns(tmp_path / "measures")
    assert about == {"weights": "9f86d0"} and found["unit"].tolist() == [0, 1, 2]


def test_measures_of_something_else_are_refused_by_name(tmp_path: Path) -> None:
    path = formats.save_columns(tmp_path / "a.safetensors", {"unit": np.arange(3)}, {"k": 9, "rule": {"relu": "both"}})
    assert formats.load_columns(tmp_path / "b.safetensors", {}) is None
    with pytest.raises(
        RecordMismatch, match=r"a\.safetensors was made with rule\.relu both; this run has none\. Choose"
    ):
        formats.load_columns(path, {"k": 9, "rule": {"relu": "none"}})


def test_representations_are_short(tmp_path: Path) -> None:
    for record in (peaks(), peaks()["one"], patches(), reconstructions()):
        assert repr(record).startswith(f"<{type(record).__name__}: ") and len(repr(record)) < 100
    net, source = with_preprocessing(), photographs(tmp_path, 300)
    frames = deconv.cached(source.part(range(3)), net.needed_preprocessing(), tmp_path / "frames")
    for public in (source, source.part([1, 2]), frames, net, net.graph, net.graph.nodes[1], net.receptive_field("two")):
        assert type(public).__name__ in repr(public) and len(repr(public)) < 100
    for setting in (net.preprocessing, deconv.Rule(relu="both", seed=3), Local()):
        assert len(repr(setting)) < 200


def test_peaks_of_many_layers_name_the_first() -> None:
    many = Peaks(dict.fromkeys([f"layer{n}" for n in range(60)], peaks()["one"]), {})
    assert repr(many).startswith("<Peaks: layer0 (6 units), layer1 (6 units), ")
    assert repr(many).endswith(", layer6 (6 units), ... 53 more layers, 9 peaks each>")


@pytest.mark.parametrize("units", [[500], [-1], 3, "3", [1.5], [True]])
def test_units_that_are_no_list_of_units_are_named(units: Any) -> None:
    own = peaks()["two"]
    with jaxtyping_off(), pytest.raises(BadInput, match="^units: given "):
        own.of(units)
    with jaxtyping_off(), pytest.raises(BadInput, match="^units: given "):
        own.scores_of(units)


@pytest.mark.parametrize("made", [peaks, patches, reconstructions])
def test_a_record_is_not_saved_under_the_name_of_another_kind_of_file(tmp_path: Path, made: Any) -> None:
    for name in ("record.csv", "record.parquets", "record"):
        with pytest.raises(BadInput, match=rf"path: given {name}; expected a file whose name ends in \.safetensors"):
            made().save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []
