"""Class names: from lines or a table, for every class that the images have."""

from __future__ import annotations

from pathlib import Path

import pytest

from deconv.errors import BadInput
from deconv.images import folder, require_labels, webdataset
from deconv.images.class_names import SYNSETS, spoken
from deconv.models import class_names
from tests.tars import png, put, shard, tar_of


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.txt", "cat\n\ndog, the\nfish\n"),
        ("a.csv", 'class_index,synset,name\n2,n3,fish\n0,n1,cat\n1,n2,"dog, the"\n'),
        ("b.csv", 'name,index\ncat,0\n"dog, the",1\nfish,2\n'),
        ("c.csv", 'number,name\n7,cat\n7,"dog, the"\n7,fish\n'),
        ("d.csv", "class;name\n2;fish\n0;cat\n1;dog, the\n"),
        ("e.tsv", "name\tlabel\ndog, the\t1\ncat\t0\nfish\t2\n"),
    ],
)
def test_class_names_come_from_lines_or_a_table(tmp_path: Path, name: str, text: str) -> None:
    url = put(tmp_path / "a.tar", tar_of({"1.png": png(), "1.cls": b"2"}))
    source = webdataset(url, classes=put(tmp_path / name, text.encode()))
    assert source.class_names == ("cat", "dog, the", "fish") and source.labels == (2,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"cat\ndog\n", "2 classes are named; expected a name for class 2"),
        (b"index,name\n1,cat\n2,dog\n3,fish\n", "is not 0 to 2"),
        (b"index,name\n0,cat\n1,dog\n1,fish\n", "is not 0 to 2"),
        (b"index,name\n0,cat\n1\n2,fish\n", "no name for class 1"),
        (b"", "0 classes are named"),
        (b'{"0": "cat", "1": "dog", "2": "fish"}', "cannot be read .it is JSON"),
        (b"0;cat\n1;dog\n2;fish\n", "its lines begin with numbers, under no header"),
        (
            b"file;label\na.jpg;cat\nb.jpg;dog\n",
            "its lines are columns between semicolons, none of which",
        ),
    ],
)
def test_class_names_that_do_not_fit_are_refused(tmp_path: Path, text: bytes, message: str) -> None:
    url = put(tmp_path / "a.tar", tar_of({"1.png": png(), "1.cls": b"2"}))
    with pytest.raises(BadInput, match=message):
        webdataset(url, classes=put(tmp_path / "names.csv", text))


def test_class_names_without_classes_or_file_are_refused(tmp_path: Path) -> None:
    url = put(tmp_path / "a.tar", tar_of({"1.png": png()}))
    with pytest.raises(BadInput, match="the images have none"):
        webdataset(url, classes=put(tmp_path / "names.txt", b"cat"))
    with pytest.raises(BadInput, match="cannot be read"):
        webdataset(put(tmp_path / "b.tar", shard()), classes=str(tmp_path / "absent.csv"))
    with pytest.raises(BadInput, match=r"has no labels.*\.cls"):
        require_labels(webdataset(url))


def test_ids_of_imagenets_classes_are_spoken_in_words() -> None:
    ids = SYNSETS.read_text(encoding="utf-8").split()
    assert len(set(ids)) == 1000 and ids == sorted(ids)
    assert [spoken(name) for name in ids] == class_names("squeezenet")
    known = {"n01440764": "tench", "n02123597": "Siamese cat", "n03028079": "church", "n15075141": "toilet tissue"}
    assert {name: spoken(name) for name in known} == known
    for name in ("n00000000", "church", "N03028079", " n03028079", "n03028079_church", ""):
        assert spoken(name) == name


def test_tiny_imagenets_classes_are_spoken_as_the_shipped_network_names_them() -> None:
    assert set(class_names("zfnet64")) <= {spoken(name) for name in SYNSETS.read_text(encoding="utf-8").split()}


def test_a_source_keeps_the_ids_as_names_of_its_classes(tmp_path: Path) -> None:
    for name in ("n03028079", "n00000000", "church"):
        (tmp_path / name).mkdir()
        put(tmp_path / name / "1.png", png())
    source = folder(tmp_path)
    assert source.class_names == ("church", "n00000000", "n03028079") and source.labels == (0, 1, 2)
