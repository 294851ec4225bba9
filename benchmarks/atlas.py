"""The atlas of AlexNet's five layers from saved records: seconds, the site's size, and a second call without work."""

from __future__ import annotations

import hashlib
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path

from benchmarks.rows import Row
from benchmarks.scene import LAYERS, K, Scene, subject
from benchmarks.timing import Lap, Work, clock
from deconv.atlas import write_atlas
from deconv.atlas.site import MANIFEST
from deconv.mining import mine

AT_MOST_SECONDS, AT_MOST_MEGABYTES = 30, 150


def rows(scene: Scene) -> Iterator[Row]:
    """Yield the times of writing the site from its records and of a call with nothing to write, and the site's size."""
    home = scene.scratch / "atlas"
    network, layers = subject("alexnet").network, LAYERS["alexnet"][: 2 if scene.quick else None]
    source = scene.source(scene.many)
    peaks = mine(network, source, layers, K)

    def write() -> Path:
        return write_atlas(network, peaks, source, home / "site", records=home / "records")

    write()
    expected = contents(home / "site")
    written = [written_anew(write, home / "site", expected) for _ in range(scene.repeats)]
    again = [left_alone(write, home / "site") for _ in range(scene.repeats)]
    units, megabytes = sum(len(layer.score) for layer in peaks.values()), size_of(home / "site") / 1e6
    shutil.rmtree(home)
    what = f"atlas: the site of {units} units over {len(source)} photographs, from saved records"
    yield timed(what, written, None if scene.quick else AT_MOST_SECONDS)
    yield timed("atlas: the same again, nothing to write", again, None)
    yield Row("atlas: the site", megabytes, "MB", None if scene.quick else AT_MOST_MEGABYTES)


def timed(what: str, laps: list[Lap], at_most: float | None) -> Row:
    """Return the row of the median lap, which keeps all of them."""
    wall, cpu = (statistics.median(getattr(lap, kind) for lap in laps) for kind in ("wall", "cpu"))
    details = {"seconds": [lap.wall for lap in laps], "cpu_seconds": [lap.cpu for lap in laps]}
    return Row(what, wall, "s", at_most, None, cpu, note=f"{cpu:.3g} s of processor time", details=details)


def written_anew(write: Work, site: Path, expected: dict[str, str]) -> Lap:
    """Time one call into an empty folder; raise unless it writes the expected bytes."""
    shutil.rmtree(site)
    lap = clock(write)
    if contents(site) != expected:
        raise AssertionError("the same records gave another site")
    return lap


def left_alone(write: Work, site: Path) -> Lap:
    """Time one call over a site that is there; raise if it writes a page or a picture."""
    before = times(site)
    lap = clock(write)
    if times(site) != before:
        raise AssertionError("a site was written again though nothing had changed")
    return lap


def contents(site: Path) -> dict[str, str]:
    """Return the hash of every file, by its name in the site."""
    return {str(path.relative_to(site)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files(site)}


def times(site: Path) -> dict[str, int]:
    """Return when every file but the manifest was written."""
    return {str(path): path.stat().st_mtime_ns for path in files(site) if path.name != MANIFEST}


def size_of(site: Path) -> int:
    """Return the bytes of all files."""
    return sum(path.stat().st_size for path in files(site))


def files(site: Path) -> list[Path]:
    """Return all files of the site."""
    return sorted(path for path in site.rglob("*") if path.is_file())
