"""Blocks of units are made by any engine, in any process, with the same bytes; what is there is not made again."""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import deconv
from deconv.atlas.blocks import Block
from deconv.atlas.records import UnitRecords
from deconv.engines import Engine, open_engine
from deconv.engines.local import Local
from deconv.errors import BadInput, RecordMismatch
from deconv.files import claimed
from deconv.images import Source
from deconv.projection.rules import as_rule
from deconv.records import Patches, Reconstructions
from tests import atlases
from tests.killing import workers_killed

UNITS = [unit for unit in range(40) if unit != 3]  # which never fires


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return atlases.photographs(tmp_path_factory.mktemp("images"), count=40)


@pytest.fixture(scope="module")
def peaks(source: Source) -> deconv.Peaks:
    return deconv.mine(atlases.network(), source, ["one", "two"], k=4)


def records(folder: Path | None, source: Source, peaks: deconv.Peaks) -> UnitRecords:
    return UnitRecords(atlases.network(), source, peaks, folder)


def blocks_of(known: UnitRecords, size: int = 7) -> list[Block]:
    """Of both layers by two rules."""
    parts = [("one", UNITS[at : at + size]) for at in range(0, len(UNITS), size)] + [("two", [0, 4]), ("two", [5])]
    return [known.block(layer, as_rule(rule), units) for rule in ("deconvnet", "guided") for layer, units in parts]


def made(known: UnitRecords, blocks: Sequence[Block], engine: Engine | None = None) -> list[int]:
    """The places of the blocks in the order in which they came, none of them twice."""
    with closing(known.pictures(blocks, engine or Local())) as pictures:
        places = [place for place, recon, patches in pictures if len(recon) and torch.equal(recon.box, patches.box)]
    assert sorted(places) == list(range(len(blocks)))
    return places


def save(pictures: tuple[Reconstructions, Patches], files: tuple[Path, Path]) -> None:
    pictures[0].save(files[0])
    pictures[1].save(files[1])


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def by_one_process(source: Source, peaks: deconv.Peaks, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    known = records(tmp_path_factory.mktemp("one"), source, peaks)
    blocks = blocks_of(known)
    assert made(known, blocks) == list(range(len(blocks)))
    assert known.folder is not None
    found = bytes_in(known.folder)
    assert len(found) == 2 * len(blocks)
    return found


def test_a_block_sent_elsewhere_has_only_its_own_images(tmp_path: Path, source: Source, peaks: deconv.Peaks) -> None:
    """And gives the same records; also when it is sent on."""
    known = records(None, source, peaks)
    block = known.block("two", as_rule("guided"), [5, 2])
    used = sorted({int(image) for unit in (2, 5) for image in peaks["two"].image[unit]})
    sent = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(block))))
    assert sent.images.keys == tuple(source.keys[image] for image in used) and len(used) < len(source)
    for where, one in (("ours", block), ("theirs", sent)):
        save(
            one.make(known.network), (tmp_path / where / "recon.safetensors", tmp_path / where / "patches.safetensors")
        )
    assert bytes_in(tmp_path / "ours") == bytes_in(tmp_path / "theirs")


def test_only_what_is_missing_is_made(
    tmp_path: Path, source: Source, peaks: deconv.Peaks, by_one_process: dict[str, bytes]
) -> None:
    """Of a block with one file of two there, both; what a killed process left half-written goes."""
    known = records(tmp_path, source, peaks)
    blocks = blocks_of(known)
    made(known, blocks)
    blocks[3].files[0].unlink()
    blocks[5].files[1].unlink()
    (tmp_path / ".one.patches.safetensors.0.part").write_bytes(b"half")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert made(known, blocks)[-2:] == [3, 5]
    again = {path for path in tmp_path.iterdir() if before.get(path) != path.stat().st_mtime_ns}
    assert again == {*blocks[3].files, *blocks[5].files}
    assert bytes_in(tmp_path) == by_one_process


def test_records_of_something_else_are_found_before_anything_is_made(
    tmp_path: Path, source: Source, peaks: deconv.Peaks
) -> None:
    known = records(tmp_path, source, peaks)
    first, *_, last = blocks_of(known)
    other = known.block(last.layer, as_rule("deconvnet"), last.units)
    save(other.make(known.network), last.files)
    with pytest.raises(
        RecordMismatch, match=r"two\.0005-0005\.guided\..* made with rule deconvnet; this run has guided"
    ):
        made(known, [first, last])
    assert not any(path.exists() for path in first.files)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("weights", {"weights": "others"}),
        ("preprocessing.resize", {"preprocessing": {"resize": 99}}),
        ("source.content", {"source": {"content": "others"}}),
        ("which_peaks", {"which_peaks": "others"}),
        ("versions.torch", {"versions": {"torch": "9.9"}}),
        ("rule_options.relu", {"rule_options": {"relu": "other"}}),
    ],
)
def test_the_difference_of_a_record_is_named(
    tmp_path: Path, source: Source, peaks: deconv.Peaks, name: str, change: dict[str, Any]
) -> None:
    known = records(tmp_path, source, peaks)
    block = known.block("two", as_rule("deconvnet"), [5])
    recon, patches = block.make(known.network)
    other = {
        key: value | change[key] if isinstance(value, dict) and key in change else change.get(key, value)
        for key, value in block.provenance.items()
    }
    save((replace(recon, provenance=other), patches), block.files)
    with pytest.raises(RecordMismatch, match=rf"reconstructions\.safetensors was made with {name} "):
        made(known, [block])
    save((recon, replace(patches, provenance=other)), block.files)
    with pytest.raises(RecordMismatch, match=rf"patches\.safetensors was made with {name} "):
        made(known, [block])


def test_two_runs_into_one_folder(tmp_path: Path, source: Source, peaks: deconv.Peaks) -> None:
    known = records(tmp_path, source, peaks)
    with claimed(tmp_path), pytest.raises(BadInput, match=f"another run works in {tmp_path} .process {os.getpid()} "):
        made(known, blocks_of(known))
    assert list(tmp_path.iterdir()) == []


def test_records_in_half_the_bytes_and_none(tmp_path: Path, source: Source, peaks: deconv.Peaks) -> None:
    """The pictures are those of float32 within a grey level, but where a mask's border is a tie."""
    network = atlases.network()
    sizes, drawn = {}, {}
    for keep in ("float32", "float16", "none"):
        records, site = tmp_path / f"{keep}-records", tmp_path / keep
        deconv.write_atlas(network, peaks, source, site, records=records, keep=keep)
        sizes[keep] = sum(path.stat().st_size for path in records.glob("*.reconstructions.safetensors"))
        drawn[keep] = {path.relative_to(site): np.asarray(Image.open(path), int) for path in site.rglob("*.png")}
        assert bool(list(records.glob("*.patches.safetensors"))) == (keep != "none")
    assert sizes["none"] == 0 and sizes["float16"] < 0.6 * sizes["float32"] and len(drawn["none"]) > 40
    other = []
    for file, picture in drawn["float32"].items():
        assert (drawn["none"][file] == picture).all()
        other.append((np.abs(drawn["float16"][file] - picture) > 1).mean())
    assert np.count_nonzero(other) < 3 and np.mean(other) < 1e-3

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "none").rglob("*.png")}
    deconv.write_atlas(network, peaks, source, tmp_path / "none", records=tmp_path / "none-records", keep="none")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "none").rglob("*.png")}

    # what another run of the folder kept otherwise is made again, and drawn again
    deconv.write_atlas(network, peaks, source, tmp_path / "float16", records=tmp_path / "float16-records")
    assert bytes_in(tmp_path / "float16-records") == bytes_in(tmp_path / "float32-records")
    assert bytes_in(tmp_path / "float16") == bytes_in(tmp_path / "float32")
    with pytest.raises(BadInput, match="keep: given none; expected 'float32', as there is no folder of records"):
        deconv.write_atlas(network, peaks, source, tmp_path / "nowhere", keep="none")


# --- with Ray -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # Ray's own, of what it finds on the machine
def test_ray_gives_the_same_bytes(
    tmp_path: Path, source: Source, peaks: deconv.Peaks, by_one_process: dict[str, bytes], cluster: None
) -> None:
    for workers in (1, 2):
        known = records(tmp_path / str(workers), source, peaks)
        made(known, blocks_of(known), open_engine("ray", num_workers=workers))
        assert bytes_in(tmp_path / str(workers)) == by_one_process, workers


@pytest.mark.filterwarnings("ignore")
def test_a_worker_of_ray_is_killed(
    tmp_path: Path, source: Source, peaks: deconv.Peaks, by_one_process: dict[str, bytes], cluster: None
) -> None:
    known = records(tmp_path, source, peaks)
    blocks = blocks_of(known)

    def finished() -> int:
        return int(any(tmp_path.glob("[!.]*.patches.safetensors")))  # once, as soon as the first block is there

    with workers_killed(finished) as killed:
        made(known, blocks, open_engine("ray", num_workers=2, retries=99))
    assert killed and bytes_in(tmp_path) == by_one_process


@pytest.mark.filterwarnings("ignore")
def test_an_atlas_drawn_from_what_workers_leave(
    tmp_path: Path, source: Source, peaks: deconv.Peaks, cluster: None
) -> None:
    network, engine = atlases.network(), open_engine("ray", num_workers=2)
    deconv.write_atlas(network, peaks, source, tmp_path / "here", records=tmp_path / "a")
    deconv.write_atlas(network, peaks, source, tmp_path / "ray", records=tmp_path / "b", engine=engine)
    assert bytes_in(tmp_path / "here") == bytes_in(tmp_path / "ray")
    assert bytes_in(tmp_path / "a") == bytes_in(tmp_path / "b")
    with pytest.raises(BadInput, match="records: given None; expected the folder that an engine of other"):
        deconv.write_atlas(network, peaks, source, tmp_path / "none", engine=engine)
    assert not (tmp_path / "none").exists()
