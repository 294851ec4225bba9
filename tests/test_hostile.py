"""Hostile and broken input, one row each: what is given, what is done with it, and the line or the result expected.

A refusal is one line and leaves nothing behind. What Pillow, tarfile or torch say of a damaged file is their own and
differs between versions; the rows look for what deconv says.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from deconv.errors import DeconvError
from tests.hostile.images import IMAGES
from tests.hostile.names import NAMES
from tests.hostile.records import RECORDS
from tests.hostile.rows import Rows
from tests.hostile.settings import SETTINGS
from tests.hostile.shards import SHARDS
from tests.hostile.texts import TEXTS
from tests.hostile.weights import WEIGHTS
from tests.promises import REFUSED

KINDS: dict[str, Rows] = {
    "image files": IMAGES,
    "names and folders": NAMES,
    "tar shards": SHARDS,
    "files of weights": WEIGHTS,
    "records and cached frames": RECORDS,
    "annotations and class names": TEXTS,
    "settings": SETTINGS,
}


def below(home: Path) -> set[str]:
    return {str(path.relative_to(home)) for path in home.rglob("*")}


@REFUSED
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, rows in KINDS.items() for name in rows])
def test_hostile_input(
    kind: str,
    name: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
) -> None:
    given, done, expected = KINDS[kind][name]
    (tmp_path / "given").mkdir()
    what = given(tmp_path / "given")
    before = below(tmp_path)
    if isinstance(expected, re.Pattern):
        with pytest.raises(DeconvError) as caught:
            done(what)
        assert expected.search(str(caught.value)), str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
    else:
        assert done(what) == expected
    assert below(tmp_path) - before <= {"given/copies"}  # of shards: empty
    assert capfd.readouterr().err == ""
    record_property(f"tried: hostile {kind}", 1)
