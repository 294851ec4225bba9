"""The site's folder: files written only where they change, and nothing outside it read, written or removed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

from deconv.errors import BadInput
from deconv.files import claimed, holds_nothing, remove_leftovers, write_json, write_whole

ASSETS = ("atlas.css", "atlas.js", "icon.svg")
MANIFEST = "atlas.json"
FORMAT = 1
THREADS = 8
"""More than processors: forcing a small file to disk takes milliseconds of waiting."""


class Site:
    """A folder that holds an atlas, or will.

    Its manifest lists its files, so that those that belong to it no more can be removed, and holds for each group of
    pictures the hash of what they were made of, so that they need not be made again. `open_site` makes one.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        manifest = _read_manifest(folder)
        self._files_before = set(manifest["files"])
        self._provenance_before: dict[str, str] = manifest["provenance"]
        self._files: set[str] = set()
        self._provenance: dict[str, str] = {}
        self._unfinished: dict[str, str] = {}
        """The groups whose files may not be written yet."""
        self._pool = ThreadPoolExecutor(THREADS)
        self._writing: list[Future[None]] = []

    def close(self) -> None:
        """End the threads; what they have not begun is not written."""
        self._pool.shutdown(cancel_futures=True)

    def expect(self, names: Iterable[str]) -> None:
        """List files in the manifest before they are written, so that those of a killed run belong to the site."""
        if not self._files_before.issuperset(expected := set(names)):
            self._files_before |= expected
            self._save(self._files_before, self._provenance_before)

    def put(self, name: str, content: bytes | Callable[[], bytes]) -> None:
        """Write `content`, or what it returns, into a file, in a thread; a file that holds it already is left alone."""
        self._files.add(name)
        self._writing.append(self._pool.submit(_write, self.folder / name, content))

    def has(self, group: str, provenance: str, files: Iterable[str]) -> bool:
        """Return whether a group's files are all there and were made of this; if so, they belong to the site."""
        names = set(files)
        if self._provenance_before.get(group) != provenance or not all(
            (self.folder / name).is_file() for name in names
        ):
            return False
        self._files |= names
        self._provenance[group] = provenance
        return True

    def done(self, group: str, provenance: str) -> None:
        """Remember what a group of files, all of them put, was made of; `wait` notes it when they are written."""
        self._unfinished[group] = provenance

    def wait(self) -> None:
        """Wait until all that was put is written; raise what went wrong."""
        writing, self._writing = self._writing, []
        for future in writing:
            future.result()
        if self._unfinished:
            self._provenance |= self._unfinished
            self._unfinished = {}
            self._save(self._files_before | self._files, self._provenance_before | self._provenance)

    def finish(self) -> None:
        """Wait for all files; remove those that belong to the site no more, and the folders that they leave empty."""
        self.wait()
        leftovers = self._files_before - self._files
        for name in sorted(leftovers):
            (self.folder / name).unlink(missing_ok=True)
        for folder in sorted({(self.folder / name).parent for name in leftovers}, reverse=True):
            if folder != self.folder and folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        self._save(self._files, self._provenance)

    def _save(self, files: set[str], provenance: dict[str, str]) -> None:
        content = {"format": FORMAT, "files": sorted(files), "provenance": provenance}
        write_json(self.folder / MANIFEST, content)


@contextmanager
def open_site(folder: Path) -> Iterator[Site]:
    """Give the site in a folder, which this process alone holds meanwhile.

    Raises BadInput for a folder with other things in it, and if another process holds it.
    """
    _read_manifest(folder)  # a folder with other things in it is refused as it is
    remove_leftovers(folder)
    with claimed(folder):
        site = Site(folder)
        try:
            yield site
        finally:
            site.close()


def _write(path: Path, content: bytes | Callable[[], bytes]) -> None:
    data = content if isinstance(content, bytes) else content()
    if not (path.is_file() and path.read_bytes() == data):
        write_whole(path, data)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        if not holds_nothing(folder):
            raise BadInput(f"{folder} is there and holds no atlas: give an empty folder, or one that an atlas is in")
        return {"files": [], "provenance": {}}
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known = manifest["format"] == FORMAT and all(_stays_inside(name) for name in manifest["files"])
        known = known and isinstance(manifest["provenance"], dict)
    except (ValueError, TypeError, KeyError) as error:
        raise BadInput(f"{path} cannot be read ({error}): delete {folder} to write the atlas again") from error
    if not known:
        raise BadInput(f"{path} is of another version or damaged: delete {folder} to write the atlas again")
    return manifest


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and ":" not in name


def asset(name: str) -> bytes:
    """Return the bytes of the style sheet, the script or the icon: one of ASSETS."""
    return (resources.files("deconv.atlas") / "assets" / name).read_bytes()
