"""Tar shards that are cut, damaged or made to do harm."""

from __future__ import annotations

import gzip
from pathlib import Path

import deconv
from tests.hostile.making import SPARSE, header, pax
from tests.hostile.rows import Rows, file, line
from tests.tars import png, shard, tar_of


def shard_keys(path: Path) -> tuple[str, ...]:
    return deconv.webdataset(str(path), copies=path.parent / "copies").keys


END = bytes(1024)
NO_TAR = line(
    r"the shard .*given/a\.tar is not a whole tar \(.+\); expected one, plain or gzipped: make or fetch it again"
)
SHARD_BYTES = {
    "no tar": b"<html>log in first</html>" * 99,
    "no bytes": b"",
    "cut in an image": shard()[:2500],
    "cut between members": shard()[:1024],
    "a damaged member": shard()[:1024] + b"x" * 512 + shard()[1536:],
    "a member of negative size": header("a.png", -512) + END,
    "a member that ends before it starts": header("a.png", 0) + header("b.png", -1024) + END,
    "a member of 10^23 bytes": pax(size="9" * 23) + header("a.png", 0) + END,
    "a sparse member without a map": SPARSE + END,
    "headers in headers": pax(path="a.png") * 2000 + header("a.png", 0) + END,
}
SHARDS: Rows = {
    **{f"a shard: {name}": (file("a.tar", content), shard_keys, NO_TAR) for name, content in SHARD_BYTES.items()},
    **{
        f"a gzipped shard: {name}": (file("a.tar", gzip.compress(content)), shard_keys, NO_TAR)
        for name, content in SHARD_BYTES.items()
    },
    "members of other folders": (
        file("a.tar", tar_of({"../../x.png": png(), "/etc/y.png": png()})),
        shard_keys,
        ("a/../../x", "a//etc/y"),
    ),
    "a member with a name of two lines": (file("a.tar", tar_of({"x\ny.png": png()})), shard_keys, (r"a/x\ny",)),
    "a class of many digits": (
        file("a.tar", tar_of({"a.png": png(), "a.cls": b"7" * 5000})),
        shard_keys,
        line(r"a\.cls holds '77777777777777777777'; expected the number of a class"),
    ),
}
