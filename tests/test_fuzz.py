"""Damaged and foreign bytes in every kind of file that is read: one line that says so, or something that can be used.

What longer runs of this found is in the rows of tests/hostile.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import deconv
from deconv.analyses.correspondence import read_annotations
from deconv.errors import DeconvError
from deconv.images.class_names import read_class_names
from deconv.images.decoding import decode
from deconv.images.members import Member
from deconv.models.loading import load_file
from deconv.records import Patches, Peaks, Reconstructions
from tests.hostile import making
from tests.promises import ANY_BYTES
from tests.tars import png, shard

EXAMPLES = 100
MOST_MIB = 200
"""By how much the process may grow."""

Edit = tuple[float, str, bytes]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()


def use_peaks(path: Path) -> None:
    for own in Peaks.load(path).values():
        units = list(range(len(own.score)))
        assert len(own.of(units)[0]) == len(own.scores_of(units))


def use_weights(path: Path) -> None:
    module = net()
    load_file(module, path)
    assert all(bool(torch.isfinite(value).all()) for value in module.state_dict().values())


def use_patches(path: Path) -> None:
    patches = Patches.load(path)
    assert len(patches.pixels) == len(patches.inside) == len(patches.box) == len(patches.image)


def use_shard(path: Path) -> None:
    source = deconv.webdataset(str(path), copies=path.parent / "copies")
    for index in range(len(source)):
        with suppress(DeconvError):
            source.image(index)


READERS: dict[str, tuple[str, Callable[[Path], bytes], Callable[[Path], object]]] = {
    "peaks": ("a.safetensors", lambda path: making.peaks().save(path).read_bytes(), use_peaks),
    "tables of peaks": ("a.parquet", lambda path: making.peaks().save(path).read_bytes(), use_peaks),
    "reconstructions": (
        "a.safetensors",
        lambda path: making.reconstructions().save(path).read_bytes(),
        lambda path: Reconstructions.load(path).paste(),
    ),
    "patches": ("a.safetensors", lambda path: making.patches().save(path).read_bytes(), use_patches),
    "weights in safetensors": (
        "w.safetensors",
        lambda _: making.weights("safetensors", net().state_dict()),
        use_weights,
    ),
    "weights of torch.save": ("w.pth", lambda _: making.weights("pth", net().state_dict()), use_weights),
    "annotations": (
        "a.csv",
        lambda _: b"file,part,y0,x0,y1,x1\na.png,eye,1,2,5,8\nb.png,eye,1,1,9,9\n",
        read_annotations,
    ),
    "class names": ("a.csv", lambda _: b'index,name\n0,cat\n1,"dog, the"\n', read_class_names),
    "tar shards": ("a.tar", lambda _: shard(0, 2), use_shard),
    "images": ("a.png", lambda _: png(0), lambda path: decode(Member(path))),
}

TELLING = [b"\0", b"\xff", b"\n", b"\r", b'"', b",", b"{", b"9999999999", b"\x7f\xff\xff\xff", b"\x80\0\0\0"]
EDITS = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.sampled_from(["flip", "set", "cut", "insert", "drop"]),
        st.sampled_from(TELLING) | st.binary(min_size=1, max_size=9),
    ),
    min_size=1,
    max_size=4,
)


def edited(content: bytes, edits: list[Edit]) -> bytes:
    """The bytes with a bit flipped, some overwritten, put in or left out, or cut off, at a share of their length."""
    for where, how, other in edits:
        at = int(where * len(content))
        before, after = content[:at], content[at:]
        parts = {
            "flip": (bytes(byte ^ (1 << other[0] % 8) for byte in after[:1]), after[1:]),
            "set": (other, after[len(other) :]),
            "cut": (b"", b""),
            "insert": (other, after),
            "drop": (b"", after[len(other) :]),
        }
        content = before + b"".join(parts[how])
    return content


@ANY_BYTES
@pytest.mark.parametrize("kind", READERS)
def test_damaged_files_are_refused_in_one_line_or_can_be_used(
    kind: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    name, make, use = READERS[kind]
    path, tried = tmp_path / name, 0
    valid = make(path)
    path.write_bytes(valid)
    use(path)

    @settings(max_examples=EXAMPLES)
    @given(st.binary(max_size=200) | EDITS)
    def check(damage: bytes | list[Edit]) -> None:
        nonlocal tried
        tried += 1
        path.write_bytes(damage if isinstance(damage, bytes) else edited(valid, damage))
        try:
            use(path)
        except DeconvError as error:
            assert len(str(error).splitlines()) == 1

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    check()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MIB * 1024
    record_property(f"tried: {kind} of random or damaged bytes", tried)
