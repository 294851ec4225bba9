"""Shards however they are named, wrapped and reached: the same images; and no copy of what is not whole."""

from __future__ import annotations

import gzip
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import fsspec
import numpy as np
import pytest
from omegaconf import OmegaConf

from deconv import progress
from deconv.command.settings import compose_jobs
from deconv.errors import BadInput
from deconv.images import downloads, open_source, webdataset
from deconv.images.addresses import short_names
from deconv.images.downloads import default_copies
from tests.serving import Answers, serving
from tests.tars import pixels, put, shard


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(downloads, "WAITS", (0.0,))


def copies() -> list[Path]:
    return sorted(default_copies().iterdir()) if default_copies().exists() else []


# --- addresses --------------------------------------------------------------------------------------------------------


def test_wrapping_and_way_of_naming_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = [put(tmp_path / f"plain/s-{number}.tar", shard(number)) for number in range(3)]
    for number in range(3):
        put(tmp_path / f"gz/s-{number}.tar.gz", gzip.compress(shard(number)))
        put(tmp_path / f"tgz/s-{number}.tgz", gzip.compress(shard(number)[:5000]) + gzip.compress(shard(number)[5000:]))
    expected = webdataset(plain)
    monkeypatch.setenv("HOME", str(tmp_path))
    for urls in (
        f"{tmp_path}/plain/s-{{0..2}}.tar",
        f"{tmp_path}/plain/s-?.tar",
        f"{plain[0]}::{plain[1]}::{plain[2]}",
        [plain[0], f"{tmp_path}/gz/s-{{1,2}}.tar.gz"],
        OmegaConf.create([f"{tmp_path}/gz/*.tar.gz"]),
        f"file://{tmp_path}/tgz/s-{{0..2}}.tgz",
        "~/tgz/s-{0..2}.tgz",
    ):
        source = webdataset(urls)
        assert source.keys == expected.keys and source.labels == expected.labels
        assert source.content_hash == expected.content_hash
        assert np.array_equal(source.image(4), expected.image(4))


def test_shards_of_one_name_are_told_apart_by_their_folders() -> None:
    assert short_names(["/d/a/0.tar", "/d/b/0.tar.gz"]) == ["a/0.tar", "b/0.tar.gz"]
    assert short_names(["/d/a.tar", "/d/a.tgz"]) == ["a.tar", "a.tgz"]
    assert short_names(["http://h/d/a.tar?key=1/2", "/d/b.tar.gz"]) == ["a", "b"]


@pytest.mark.parametrize(
    ("urls", "message"),
    [
        ("{tmp}/absent-{{0..1}}.tar", r"there is no shard .*absent-0\.tar"),
        ("{tmp}/*.tgz", "no file matches"),
        ("{tmp}", r"is a folder; .*folder\(root\)"),
        ("{tmp}/{{a,", "cannot expand"),
        ("{tmp}/${{NOT_SET}}.tar", "cannot expand .*NOT_SET"),
        ("{tmp}/a.tar::{tmp}/../{name}/a.tar", "listed twice"),
        ("", "expected the path or URL"),
    ],
)
def test_addresses_that_lead_nowhere_are_refused(tmp_path: Path, urls: str, message: str) -> None:
    put(tmp_path / "a.tar", shard())
    with pytest.raises(BadInput, match=message):
        webdataset(urls.format(tmp=tmp_path, name=tmp_path.name))


@pytest.mark.parametrize("urls", [[], [""]])
def test_lists_of_nothing_are_refused(urls: Sequence[str]) -> None:
    with pytest.raises(BadInput, match="expected the path or URL"):
        webdataset(urls)


@pytest.mark.parametrize("said", ['"{}/s-{{0..1}}.tar"', "{}/s-*.tar", "[{0}/s-0.tar,{0}/s-1.tar]"])
def test_the_command_line_can_name_several(tmp_path: Path, said: str) -> None:
    for number in range(2):
        put(tmp_path / f"s-{number}.tar", shard(number, 1))
    (job,) = compose_jobs(["source=webdataset", f"source.urls={said.format(tmp_path)}"], sweep=False)
    assert open_source(**job.config.source).keys == ("s-0/0", "s-1/1")


# --- copies -----------------------------------------------------------------------------------------------------------


def test_a_gzipped_shard_is_copied_once_and_again_when_it_changes(tmp_path: Path) -> None:
    url = put(tmp_path / "a.tar.gz", gzip.compress(shard(0)))
    assert webdataset(url).members[0].path.parent == default_copies() == tmp_path / "xdg/deconv/shards"
    (copy,) = copies()
    stamp = copy.stat().st_mtime_ns
    assert copy.read_bytes() == shard(0) and webdataset(url).labels == (10, 11, 12)
    assert copies() == [copy] and copy.stat().st_mtime_ns == stamp
    put(Path(url), gzip.compress(shard(5)))
    assert webdataset(url).labels == (15, 16, 17) and len(copies()) == 2
    assert webdataset(url, copies=tmp_path / "mine").members[0].path.parent == tmp_path / "mine"


@pytest.mark.parametrize("damage", ["cut", "flipped", "cut tar"])
def test_a_damaged_gzip_leaves_no_copy(tmp_path: Path, damage: str) -> None:
    packed = gzip.compress(shard(0))
    flipped = packed[:2000] + bytes([packed[2000] ^ 255]) + packed[2001:]
    content = {"cut": packed[:2000], "flipped": flipped, "cut tar": gzip.compress(shard(0)[:2500])}[damage]
    with pytest.raises(BadInput, match=r"the shard .*a\.tar\.gz (cannot be copied|is not a whole tar)"):
        webdataset(put(tmp_path / "a.tar.gz", content))
    assert copies() == []


def test_nothing_is_copied_before_all_is_found_to_be_there(tmp_path: Path) -> None:
    url = put(tmp_path / "a.tar.gz", gzip.compress(shard(0)))
    with pytest.raises(BadInput, match="there is no shard"):
        webdataset([url, str(tmp_path / "absent.tar")])
    with pytest.raises(BadInput, match=r"absent\.csv cannot be read"):
        webdataset(url, classes=tmp_path / "absent.csv")
    assert copies() == []


def test_copying_and_indexing_say_how_far_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "SHOW_AFTER", -1)
    urls = [put(tmp_path / f"{name}.tar.gz", gzip.compress(shard(0))) for name in "ab"]
    with caplog.at_level(logging.INFO, "deconv"):
        webdataset(urls)
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith(f"copying {urls[0]}: 1 MiB in") and said[-1].startswith("indexing shards: 2 shards in")


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    url = put(tmp_path / "a.tar.gz", gzip.compress(shard(0)))
    with pytest.raises(BadInput, match="cannot write .*README"):
        webdataset(url, copies=put(tmp_path / "README", b"a file"))


@pytest.fixture
def server() -> Iterator[tuple[str, type[Answers]]]:
    with serving() as running:
        yield running


def test_urls_are_fetched_once(server: tuple[str, type[Answers]], tmp_path: Path) -> None:
    host, answers = server
    answers.files |= {"/a-0.tar": shard(0), "/a-1.tar": gzip.compress(shard(3))}
    for _ in range(2):
        source = webdataset(host + "/a-{0..1}.tar")
        assert source.keys == ("a-0/0", "a-0/1", "a-0/2", "a-1/3", "a-1/4", "a-1/5")
        assert source.labels == (10, 11, 12, 13, 14, 15) and np.array_equal(source.image(4), pixels(4))
    assert answers.asked == ["/a-0.tar", "/a-1.tar"] and len(copies()) == 2


def test_a_command_may_write_the_shard(tmp_path: Path) -> None:
    url = put(tmp_path / "a.tar.gz", gzip.compress(shard(0)))
    assert webdataset(f"pipe:cat {url}", run_commands=True).labels == (10, 11, 12)
    with pytest.raises(BadInput, match="the shard pipe:false cannot be copied"):
        webdataset("pipe:false", run_commands=True)


def test_a_command_runs_only_if_it_is_allowed_to(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="urls: given pipe:touch .*; expected no command: run_commands=true lets it run"):
        webdataset(f"pipe:touch {tmp_path / 'ran'}")
    assert not (tmp_path / "ran").exists()


def test_what_may_pass_is_asked_for_again(
    server: tuple[str, type[Answers]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    host, answers = server
    monkeypatch.setattr(downloads, "WAITS", (0.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr(downloads, "SECONDS_TO_ANSWER", 0.3)
    answers.files |= {"/a-0.tar": shard(0)}
    answers.troubles += ["busy", "cut", "silent"]
    assert webdataset(f"{host}/a-0.tar").labels == (10, 11, 12)
    assert answers.asked == ["/a-0.tar"] * 4 and caplog.text.count("asking again in 0 s") == 3
    answers.asked.clear()
    answers.troubles += ["busy"] * 9
    with pytest.raises(BadInput, match="HTTP Error 503"):
        webdataset(f"{host}/a-1.tar")
    assert answers.asked == ["/a-1.tar"] * 5
    answers.asked.clear()
    answers.troubles.clear()
    with pytest.raises(BadInput, match="HTTP Error 404"):
        webdataset(f"{host}/absent.tar")
    assert answers.asked == ["/absent.tar"]


def test_a_broken_shard_is_left_out_if_it_may_be_and_named_in_the_record(
    server: tuple[str, type[Answers]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    host, answers = server
    answers.files |= {"/a-0.tar": shard(0), "/a-1.tar": b"<html>" * 200, "/a-3.tar": shard(3)}
    urls = host + "/a-{0..3}.tar"
    with pytest.raises(BadInput, match=r"a-1\.tar is not a whole tar"):
        webdataset(urls)
    source = webdataset(urls, skip_broken=True)
    broken = (f"{host}/a-1.tar", f"{host}/a-2.tar")
    assert source.labels == (10, 11, 12, 13, 14, 15) and source.left_out == broken
    assert "2 shards left out" in repr(source) and "shards left out: 2 of 4" in caplog.text
    assert source.provenance()["source"]["left_out"] == list(broken)
    assert source.part([0]).left_out == broken
    with pytest.raises(BadInput, match="no image in"):
        webdataset(host + "/a-1.tar", skip_broken=True)
    twice = put(tmp_path / "b.tar", shard(0))
    with pytest.raises(BadInput, match="listed twice"):  # a mistake is none that may be left out
        webdataset([twice, twice], skip_broken=True)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/absent.tar", r"absent\.tar cannot be copied .*HTTP Error 404.*shards on this machine"),
        ("/cut.tar", "1000 bytes too early|IncompleteRead"),
        ("/page.tar", "is not a whole tar"),
    ],
)
def test_failed_fetching_says_so_and_leaves_no_copy(server: tuple[str, type[Answers]], path: str, message: str) -> None:
    host, answers = server
    answers.files |= {"/cut.tar": shard(), "/page.tar": b"<html>" * 200}
    with pytest.raises(BadInput, match=message):
        webdataset(host + path)
    assert copies() == []


def test_without_a_connection_the_way_out_is_named() -> None:
    with pytest.raises(BadInput, match=r"check the address and the connection; shards on this machine, .*need none"):
        webdataset("http://127.0.0.1:1/a.tar")
    with pytest.raises(BadInput, match=r"the shard xyz://bucket/a\.tar cannot be copied .*Protocol not known: xyz"):
        webdataset("xyz://bucket/a.tar")


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_without_its_package_an_address_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, scheme: str, package: str
) -> None:
    """Also where broken shards may be left out: this one is not broken."""
    monkeypatch.setitem(sys.modules, package, None)
    said = rf"the shard {scheme}://bucket/a\.tar needs a package .*{package}.*pip install 'deconvnet\[remote\]'"
    with pytest.raises(BadInput, match=said):
        webdataset(f"{scheme}://bucket/a.tar", skip_broken=True)
    with pytest.raises(BadInput, match=said):
        len(webdataset(f"{scheme}://bucket/a.tar", skip_broken=True, streaming=True))


def test_other_file_systems_are_fetched_too(tmp_path: Path) -> None:
    """memory:// stands for s3://, gs:// and their like, which need packages of their own."""
    with fsspec.open("memory://bucket/a.tar.gz", "wb") as file:
        file.write(gzip.compress(shard(0)))
    assert webdataset("memory://bucket/a.tar.gz").labels == (10, 11, 12) and len(copies()) == 1
    with pytest.raises(BadInput, match=r"absent\.tar cannot be copied .*shards on this machine"):
        webdataset("memory://bucket/absent.tar")
