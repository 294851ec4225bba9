"""Folders that go in circles or may not be read, and names that are hard to write down."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import deconv
from tests.hostile import making
from tests.hostile.images import small
from tests.hostile.rows import Given, Rows, file, line
from tests.samples import SIZE
from tests.tars import png


def keys(home: Path) -> tuple[str, ...]:
    return deconv.folder(home).keys


def looping(home: Path) -> Path:
    file("a.png", png())(home)
    (home / "sub").mkdir()
    (home / "sub" / "loop").symlink_to(home)
    (home / "self.png").symlink_to(home / "self.png")
    return home


def link_to_itself(home: Path) -> Path:
    (home / "loop").symlink_to(home / "loop")
    return home / "loop"


def named(name: bytes, content: bytes) -> Given:
    def make(home: Path) -> Path:
        (home / name.decode(errors="surrogateescape")).write_bytes(content)
        return home

    return make


def unreadable(home: Path) -> Path:
    for name in ("a.png", "b.png", "c.png"):
        file(name, png())(home)
    (home / "b.png").chmod(0)
    home.chmod(0o755)
    return home


def unlisted(home: Path) -> Path:
    (home / "locked").mkdir(mode=0)
    home.chmod(0o755)
    return home


def as_nobody(done: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def deprived(home: Path) -> Any:
        with making.as_nobody(home):
            return done(Path())

    return deprived


NAMES: Rows = {
    "links in a circle": (looping, keys, ("a.png", "self.png")),
    "an image that is a link to itself": (
        looping,
        lambda home: deconv.folder(home).image(1),
        line("self.png cannot be"),
    ),
    "a folder that is a link to itself": (
        link_to_itself,
        keys,
        line("there is no folder .*loop; expected a folder of im"),
    ),
    "a folder with a name too long": (
        lambda home: home / ("x" * 5000),
        keys,
        line("there is no folder .*xxx; expected"),
    ),
    "a folder of nobody's": (
        lambda home: Path("~nosuchuser/x"),
        keys,
        line("there is no folder ~nosuchuser/x; expected"),
    ),
    "a folder named with a null byte": (lambda home: Path("a\0b"), keys, line(r"there is no folder a\\x00b; expected")),
    "a name of two lines": (named(b"two\nlines.png", png()), keys, (r"two\nlines.png",)),
    "a damaged image with a name of two lines": (
        named(b"a.\n.png", b"damaged"),
        lambda home: deconv.folder(home).image(0),
        line(r"given/a\.\\n\.png cannot be read"),
    ),
    "a name that is no UTF-8": (named(b"caf\xe9.png", png()), keys, (r"caf\xe9.png",)),
    "an image with a name that is no UTF-8": (
        named(b"caf\xe9.png", png()),
        lambda home: deconv.folder(home).image(0).shape,
        (SIZE, SIZE, 3),
    ),
    "a damaged image with a name that is no UTF-8": (
        named(b"caf\xe9.png", b"damaged"),
        lambda home: deconv.folder(home).image(0),
        line(r"given/caf\\udce9\.png cannot be read"),
    ),
    "an image that may not be read": (
        unreadable,
        as_nobody(lambda home: deconv.mine(small(), deconv.folder(home), ["two"]).provenance["unreadable"][0][:2]),
        [1, "b.png"],
    ),
    "a folder that may not be read": (
        unlisted,
        as_nobody(keys),
        line("the folder locked cannot be listed: Permission"),
    ),
}
