"""Streamed shards: the images and the peaks of the listed ones, though nothing is listed, and nothing is on disk."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch

import deconv
from deconv.command.cli import main
from deconv.engines import Engine
from deconv.engines.local import Local
from deconv.errors import BadInput, RecordMismatch
from deconv.images import Source, StreamedSource, downloads, open_source, streams, webdataset
from deconv.images.downloads import default_copies
from deconv.mining import mine, mine_into
from deconv.mining import scan as scanning
from deconv.mining.looking import StreamedShard
from deconv.records import Peaks
from tests.promises import GOES_ON, NEVER_MIXED, SAME_BYTES, UNCHANGED, fault
from tests.samples import with_preprocessing
from tests.serving import serving
from tests.tars import pixels, png, put, shard, tar_of

COUNTS = (3, 1, 5, 2, 4)
"""Images in each shard."""
TOTAL = sum(COUNTS)
FIRST = 2**32


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(downloads, "WAITS", (0.0,))


@pytest.fixture
def urls(tmp_path: Path) -> list[str]:
    """Plain and gzipped shards, of 0.png to 14.png."""
    starts = [sum(COUNTS[:number]) for number in range(len(COUNTS))]
    contents = [shard(start, count) for start, count in zip(starts, COUNTS, strict=True)]
    names = [f"{number}.tar{'.gz' * (number % 2)}" for number in range(len(COUNTS))]
    return [
        put(tmp_path / "tars" / name, gzip.compress(content) if name.endswith("gz") else content)
        for name, content in zip(names, contents, strict=True)
    ]


def streamed(urls: Any, **options: Any) -> StreamedSource:
    source = webdataset(urls, streaming=True, **options)
    assert isinstance(source, StreamedSource)
    return source


def mined(folder: Path, source: Source, engine: Engine | None = None) -> Peaks:
    """Peaks with counts of how units fire: what is said here of reading shards is said of both."""
    path, net = folder / "peaks.safetensors", with_preprocessing()
    return mine_into(path, net, source, ["two", "one"], 4, 2, engine=engine, firing=True)


def check_firing(peaks: Peaks, of_listed: Peaks, place: dict[int, int]) -> None:
    """Check that units fire as over the listed images.  place: of each image id among these."""
    assert peaks.firing is not None and of_listed.firing is not None
    for layer, listed in of_listed.firing.items():
        firing = peaks.firing[layer]
        assert firing.images == listed.images == TOTAL and int(listed.counts.sum())
        for name in ("counts", "octave", "alike"):
            assert torch.equal(getattr(firing, name), getattr(listed, name))
        assert [place[image] for image in firing.drawn.flatten().tolist()] == listed.drawn.flatten().tolist()
        torch.testing.assert_close(firing.correlation, listed.correlation, equal_nan=True, rtol=0, atol=2e-4)
        by_class, expected = firing.by_class, listed.by_class
        assert by_class is not None and expected is not None
        assert by_class.classes.number == expected.classes.number == tuple(range(10, 10 + TOTAL))
        assert by_class.classes.names == expected.classes.names and torch.equal(by_class.images, expected.images)
        torch.testing.assert_close(by_class.mean, expected.mean, rtol=1e-6, atol=0)
        torch.testing.assert_close(by_class.chance, expected.chance, equal_nan=True, rtol=0, atol=2e-4)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the shards that were read, in order."""
    wait_for_readers()  # of the test before
    names: list[str] = []
    in_memory = streams.in_memory

    def counted(address: str) -> Any:
        names.append(Path(address).name.partition(".")[0])
        return in_memory(address)

    monkeypatch.setattr(streams, "in_memory", counted)
    return names


def test_the_images_are_those_of_the_listed_source(tmp_path: Path, urls: list[str], read: list[str]) -> None:
    images, listed = streamed(urls), webdataset(urls, copies=tmp_path / "copies")
    assert read == [] and repr(images) == "<StreamedSource webdataset: 5 shards>"
    assert len(images) == TOTAL and (images.keys, images.labels) == (listed.keys, listed.labels)
    ids = [FIRST, FIRST + 1, FIRST + 2, 2 * FIRST, *(3 * FIRST + n for n in range(5))]
    assert list(images.ids[:9]) == ids and sorted(images.ids) == list(images.ids)
    assert [images.index_of(image_id) for image_id in images.ids] == list(range(TOTAL))
    for place, image_id in enumerate(images.ids):
        assert images.key(image_id) == listed.keys[place]
        assert np.array_equal(images.image(image_id), pixels(place))
    assert images.digests() == listed.digests() and not default_copies().exists()
    part = pickle.loads(pickle.dumps(images.part([5 * FIRST + 1, 2 * FIRST])))  # the second lies in a gzipped shard
    assert part.ids == (5 * FIRST + 1, 2 * FIRST) and part.keys == ("4/12", "1/3") and part.labels == (22, 13)
    assert np.array_equal(part.image(2 * FIRST), pixels(3)) and len(pickle.dumps(part)) < 5000
    assert [member.read().tolist() for member in images.members] == [
        member.read().tolist() for member in listed.members
    ]


def test_ids_of_the_listed_source_are_understood(tmp_path: Path, urls: list[str]) -> None:
    """So that records of old runs are read."""
    images, listed, net = streamed(urls), webdataset(urls), with_preprocessing()
    assert [images.key(number) for number in range(TOTAL)] == list(listed.keys)
    old = mine(net, listed, ["two"], k=3)["two"]
    expected = deconv.project_peaks(net, listed, "two", old, [0, 3])
    recon = deconv.project_peaks(net, images, "two", old, [0, 3])
    assert np.array_equal(recon.pixels, expected.pixels) and recon.image.tolist() == expected.image.tolist()
    assert images.part([14]).ids == (14,) and images.part([14]).keys == ("4/14",)


@pytest.mark.parametrize("image_id", [-1, TOTAL, FIRST + 3, 6 * FIRST])
def test_ids_that_are_not_there_are_refused(urls: list[str], image_id: int) -> None:
    with pytest.raises(
        BadInput, match=f"image {image_id} was asked for; the source webdataset has images 4294967296 to "
    ):
        streamed(urls).image(image_id)


def test_peaks_of_shards_that_are_not_there_are_refused(urls: list[str]) -> None:
    net = with_preprocessing()
    peaks = mine(net, streamed(urls), ["two"], k=3)
    with pytest.raises(RecordMismatch, match=r"lie in image \d+ among others, and the images have none of that number"):
        deconv.project_peaks(net, streamed(urls[:1]), "two", peaks["two"], [0])
    with pytest.raises(RecordMismatch, match=r"lie in image \d+ among others, and the 15 images have none"):
        deconv.project_peaks(net, webdataset(urls), "two", peaks["two"], [0])


@SAME_BYTES
@pytest.mark.parametrize("engine", [Local(1), Local(6), Local(100)], ids=str)
def test_the_peaks_are_those_of_the_listed_source_however_they_are_cut(
    tmp_path: Path, urls: list[str], engine: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is how units fire, though nobody knows beforehand how many images there are, and of which classes."""
    monkeypatch.setattr("deconv.mining.CORRELATED", 6)  # of fifteen images
    images = streamed(urls)
    peaks, listed = mined(tmp_path, images, engine), mined(tmp_path / "listed", webdataset(urls))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    place = {image_id: number for number, image_id in enumerate(images.ids)} | {-1: -1}
    for layer in listed:
        assert [[place[image] for image in row] for row in peaks[layer].image.tolist()] == listed[layer].image.tolist()
        assert torch.equal(peaks[layer].row, listed[layer].row) and torch.equal(peaks[layer].box, listed[layer].box)
        torch.testing.assert_close(peaks[layer].score, listed[layer].score, equal_nan=True, rtol=1e-6, atol=0)
    assert {place[image_id]: key for image_id, key in peaks.image_keys.items()} == listed.image_keys
    assert peaks.provenance["source"]["images"] == TOTAL and "left_out" not in peaks.provenance["source"]
    check_firing(peaks, listed, place)
    in_one_go = mine(with_preprocessing(), streamed(urls), ["two", "one"], 4, 2, firing=True)
    in_one_go.save(tmp_path / "one.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "peaks.safetensors").read_bytes()


def test_a_record_that_is_there_says_how_many_images_there_are(
    tmp_path: Path, urls: list[str], read: list[str]
) -> None:
    mined(tmp_path, streamed(urls))
    assert read == ["0", "1", "2", "3", "4"]  # each once
    images = streamed(urls)
    assert len(mined(tmp_path, images)) == 2 and len(images) == TOTAL and len(read) == 5
    with pytest.raises(RecordMismatch, match=r"was made with source\.content"):
        mined(tmp_path, streamed(urls[1:]))


@dataclass(frozen=True)
class Ended(Local):
    """Ended after some shards, as by a kill between two of them."""

    after: int = 0

    def work(
        self, do: Callable[[Any, Any], Iterator[Any]], shared: Any, tasks: Any, name: Callable[[Any], str] = str
    ) -> Iterator[Any]:
        """As the real one, until it ends."""
        for number, task in enumerate(tasks):
            if number == self.after:
                raise KeyboardInterrupt
            yield from do(shared, task)


@GOES_ON
@fault("a run over streamed shards ended between two of them")
def test_a_run_that_ended_reads_only_what_is_missing(tmp_path: Path, urls: list[str], read: list[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        mined(tmp_path, streamed(urls), Ended(1, 3))
    wait_for_readers()
    read.clear()
    mined(tmp_path, streamed(urls), Local(1))
    assert [name for name in read if name != "0"] == ["3", "4"]  # the first says how many shards make a record
    mined(tmp_path / "whole", streamed(urls))
    assert (tmp_path / "peaks.safetensors").read_bytes() == (tmp_path / "whole/peaks.safetensors").read_bytes()


@NEVER_MIXED
@pytest.mark.parametrize("change", ["content", "name"])
def test_a_run_that_ended_does_not_go_on_with_other_shards(tmp_path: Path, urls: list[str], change: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        mined(tmp_path, streamed(urls), Ended(1, 3))
    wait_for_readers()
    if change == "content":
        put(Path(urls[2]), shard(40, 5))  # of the same size
        said = r"float32-00002\.safetensors was made when '.*2\.tar' was another shard\. Choose another folder"
    else:
        urls[2] = str(Path(urls[2]).rename(Path(urls[2]).with_name("x.tar")))
        said = r"float32-00002\.safetensors was made with listing"
    with pytest.raises(RecordMismatch, match=said):
        mined(tmp_path, streamed(urls), Local(1))


def wait_for_readers() -> None:
    """Until no thread reads ahead any more."""
    for thread in threading.enumerate():
        if "_open_ahead" in thread.name:
            thread.join()


@UNCHANGED
@fault("a shard changed while it is mined")
def test_a_shard_that_changes_while_it_is_read_is_named(urls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    look = scanning.Scan.run

    def changing(*arguments: Any) -> Iterator[int]:
        yield from look(*arguments)
        os.utime(urls[1], ns=(1, 1))

    monkeypatch.setattr(scanning.Scan, "run", lambda *arguments, **named: changing(*arguments, *named.values()))
    with pytest.raises(BadInput, match=r"the shard .*1\.tar\.gz was changed or deleted while it was read"):
        mine(with_preprocessing(), streamed(urls), ["two"], k=2)


def test_the_next_shard_is_read_ahead_and_no_more(urls: list[str], read: list[str]) -> None:
    shards = streamed(urls).shards
    pieces = shards.pieces(shards.numbers)
    for number in range(len(COUNTS)):
        assert next(pieces).images.keys[0] == f"{number}/{sum(COUNTS[:number])}"
        wait_for_readers()
        assert read == [str(each) for each in range(min(number + 2, len(COUNTS)))]
        assert len(shards._memory.opened) <= 2


def test_a_task_carries_the_addresses_of_its_own_shards_only(tmp_path: Path, urls: list[str]) -> None:
    shards = streamed(urls * 1 + [put(tmp_path / f"more/{number}.tar", b"") for number in range(500)]).shards
    task = StreamedShard(1, shards, range(1, 3), tmp_path / "record", {}, following=3)
    sent = pickle.loads(pickle.dumps(task))
    assert len(pickle.dumps(task)) < 2000 and sent.names() == urls[1:3] and sent.digests() == task.digests()
    assert sent.shards.open(2).images.ids == range(3 * FIRST, 3 * FIRST + 5)


# --- from elsewhere ---------------------------------------------------------------------------------------------------


def test_shards_of_a_server_are_read_without_a_copy(urls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    contents = [Path(url).read_bytes() for url in urls]
    expected = mine(with_preprocessing(), streamed(urls), ["two"], k=3)["two"]
    with serving() as (host, answers):
        answers.files |= {f"/no-head/{number}.tar": content for number, content in enumerate(contents)}
        answers.troubles += ["", "busy", "cut"]  # the first is what the shard is, asked by GET
        images = streamed(host + "/no-head/{0..4}.tar")
        peaks = mine(with_preprocessing(), images, ["two"], k=3)["two"]
        assert torch.equal(peaks.image, expected.image) and torch.equal(peaks.score, expected.score)
        answers.files |= {f"/{number}.tar": content for number, content in enumerate(contents)}
        answers.asked.clear()
        before = streamed(host + "/{0..4}.tar")
        counted = mine(with_preprocessing(), before, ["two"], k=3, firing=True)
        assert counted.provenance["source"]["images"] == TOTAL and counted.firing is not None
        assert sorted(answers.asked) == [f"/{number}.tar" for number in range(5)]  # each once
        answers.files["/3.tar"] = shard(9, 3)
        assert before.content_hash != streamed(host + "/{0..3}.tar").content_hash
    assert not default_copies().exists()


def test_shards_of_other_file_systems_are_read_without_a_copy() -> None:
    for number in range(2):
        with fsspec.open(f"memory://streamed/{number}.tar", "wb") as file:
            file.write(shard(number))
    images = streamed("memory://streamed/{0..1}.tar")
    assert np.array_equal(images.image(2 * FIRST + 1), pixels(2)) and not default_copies().exists()
    before = images.content_hash
    with fsspec.open("memory://streamed/1.tar", "wb") as file:
        file.write(shard(5))
    assert images.content_hash != before


def test_what_a_command_writes_is_streamed(urls: list[str]) -> None:
    images = streamed(f"pipe:cat {urls[1]}", run_commands=True)
    assert np.array_equal(images.image(FIRST), pixels(3))


# --- what is broken ---------------------------------------------------------------------------------------------------


def test_broken_shards_are_left_out_if_they_may_be_and_named(
    tmp_path: Path, urls: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with serving() as (host, answers):
        answers.files |= {"/1.tar": b"<html>" * 200}
        broken = [f"{host}/1.tar", f"{host}/absent.tar"]
        mixed = [urls[0], *broken, urls[2]]
        with pytest.raises(BadInput, match=r"/1\.tar is not a whole tar"):
            mined(tmp_path / "whole", streamed(mixed))
        for engine in (Local(), Local(1)):
            images = streamed(mixed, skip_broken=True)
            peaks = mined(tmp_path / str(engine.shard_size), images, engine)
            assert peaks.provenance["source"]["left_out"] == broken == list(images.left_out)
            assert peaks.provenance["source"]["images"] == len(images) == 8 and "2 left out" in repr(images)
            again = streamed(mixed, skip_broken=True)
            assert len(mined(tmp_path / str(engine.shard_size), again)) == 2 and again.left_out == tuple(broken)
    assert caplog.text.count("left out, as skip_broken allows: the shard") >= 2
    two = {image_id // FIRST for image_id in peaks.image_keys}
    assert two == {1, 4}  # shards keep their numbers


def test_more_than_half_unreadable_is_counted_over_all_shards(tmp_path: Path) -> None:
    bad = tar_of({f"{number}.png": b"no picture" for number in range(3)})
    tars = [put(tmp_path / f"{number}.tar", content) for number, content in enumerate([bad, shard(0, 3)])]
    for engine in (Local(), Local(1)):
        peaks = mined(tmp_path / str(engine.shard_size), streamed(tars), engine)
        assert [image_id for image_id, _, _ in peaks.provenance["unreadable"]] == [FIRST, FIRST + 1, FIRST + 2]
        put(tmp_path / "2.tar", tar_of({"x.png": b"no picture"}))
        with pytest.raises(BadInput, match="4 of the 7 images of the source webdataset cannot be read"):
            mined(tmp_path / f"{engine.shard_size} more", streamed([*tars, str(tmp_path / "2.tar")]), engine)


def test_what_cannot_be_streamed_is_refused(tmp_path: Path, urls: list[str]) -> None:
    net = with_preprocessing()
    with pytest.raises(BadInput, match="precision: given bfloat16; expected float32 for streamed images"):
        mine(net, streamed(urls), ["two"], precision="bfloat16")
    with pytest.raises(BadInput, match="copies: given .*; expected none with streaming"):
        open_source("webdataset", urls=urls, copies=str(tmp_path), streaming=True)
    empty = streamed(put(tmp_path / "empty.tar", tar_of({"a.txt": b""})))
    with pytest.raises(BadInput, match="images: given none that can be read"):
        mine(net, empty, ["two"])
    mixed = streamed([urls[0], put(tmp_path / "mixed.tar", tar_of({"a.png": png(), "b.txt": b""}))])
    with pytest.raises(BadInput, match="1 of 4 images have no class, the first being mixed/a"):
        mixed.labels  # noqa: B018


def test_classes_that_only_some_images_have_are_said_and_left_out(
    tmp_path: Path, urls: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed, net = streamed([urls[0], put(tmp_path / "mixed.tar", tar_of({"a.png": png()}))]), with_preprocessing()
    firing = mine(net, mixed, ["two"], 3, firing=True).firing
    assert firing is not None and firing["two"].by_class is None and firing["two"].images == 4
    assert "not told by class: 1 of 4 images have no class; expected a .cls member beside each image" in caplog.text
    units = net.channels("one") + net.channels("two")
    monkeypatch.setattr("deconv.mining.by_class.MOST_SUMS", 3 * units)
    for number, engine in ((5, Local()), (4, Local(1))):  # five of one shard; three of one and another of the next
        with pytest.raises(
            BadInput, match=f"firing: .* at most 3 classes for {units} units, .* not {number}: take few"
        ):
            mined(tmp_path / str(number), streamed(urls[2] if number == 5 else urls[:2]), engine)


def test_an_atlas_reads_each_shard_once_to_mine_and_once_for_what_it_shows(
    tmp_path: Path, urls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And none when it is written again; pages and records of units are those of the listed source."""
    monkeypatch.chdir(tmp_path)
    names = put(tmp_path / "classes.txt", "\n".join(f"class no {n}" for n in range(10 + TOTAL)).encode())
    network = ["model=zfnet64", "model.weights=random", "model.classes=2", "model.maps=[6,4,4,4,4]", "layers=[conv1]"]
    model = [*network, "k=2", "cues=true", "beyond=true", "engine.shard_size=4"]
    travels = Peaks({}, {}, {"source": {"images": TOTAL, "content": ""}})  # with the weights, of other images
    monkeypatch.setattr("deconv.command.setup.reference_peaks", lambda *_: travels)
    with serving() as (host, answers):
        answers.files |= {f"/{number}.tar": Path(url).read_bytes() for number, url in enumerate(urls)}
        source = ["source=webdataset", f"source.urls='{host}/{{0..4}}.tar'", f"source.classes={names}"]
        asked = ["experiment=atlas", *source, *model]
        assert main([*asked, "source.streaming=true", "folder=streamed"]) == 0
        every = [f"/{number}.tar" for number in range(5)]
        assert sorted(answers.asked[:5]) == every
        shown = answers.asked[5:]
        assert 2 <= len(shown) == len(set(shown))
        before = {path: path.read_bytes() for path in (tmp_path / "streamed" / "site").rglob("*.html")}
        photograph = next((tmp_path / "streamed" / "site" / "images").iterdir())
        photograph.unlink()
        assert main([*asked, "source.streaming=true", "folder=streamed", "keep=none"]) == 0
        assert photograph.is_file() and not list((tmp_path / "streamed" / "records").glob("photographs.*"))
        assert len(answers.asked) == 5 + len(shown) and all(
            path.read_bytes() == content for path, content in before.items()
        )
        assert main([*asked, "folder=listed"]) == 0
    sites = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("streamed", "listed")]
    of_streamed, of_listed = (site["layers"]["conv1"] for site in sites)
    assert of_streamed["preferred_class"] == of_listed["preferred_class"] and "class no 1" in str(of_listed)
    units = [sorted((tmp_path / name / "site").glob("*/unit-*.html")) for name in ("streamed", "listed")]
    assert [path.name for path in units[0]] == [path.name for path in units[1]] and len(units[0]) > 3
    pages = [[re.findall(r"class no \d+", path.read_text()) for path in of_site] for of_site in units]
    assert pages[0] == pages[1] and all(pages[0])


def test_it_is_planned_and_shown_without_being_listed(
    tmp_path: Path,
    urls: list[str],
    read: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    network = ["model=zfnet64", "model.weights=random", "model.classes=2", "model.maps=[6,4,4,4,4]", "layers=[conv1]"]
    source = ["source=webdataset", f"source.urls=[{','.join(urls)}]", "source.streaming=true"]
    assert main(["--dry-run", "experiment=fig2_features", *source, *network]) == 0
    assert "5 shards of the source webdataset, streamed, the first of 3 images" in capsys.readouterr().out
    assert {*read} == {"0"} and urls[4] in streamed(urls)._repr_html_()
