"""The site's folder: files written only where they change, and nothing outside it read, written or removed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

from deconv.errors import BadInput
from deconv.files import write_json, write_whole

MANIFEST = "atlas.json"
FORMAT = 1
THREADS = 8
"""More than processors: forcing a small file to disk takes milliseconds of waiting."""


class Site:
    """A folder that holds an atlas, or will.

    It keeps a list of its files, to remove those that belong to it no more, and for each group of pictures what they
    were made of, so that they need not be made again. Raises BadInput for a folder with other things in it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        about = _read_manifest(folder)
        self._before = set(about["files"])
        self._made_of: dict[str, str] = about["provenance"]
        self._used: dict[str, str] = {}
        self._coming: dict[str, str] = {}
        self._files: set[str] = set()
        self._pool = ThreadPoolExecutor(THREADS)
        self._waiting: list[Future[None]] = []

    def __enter__(self) -> Site:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def put(self, name: str, content: bytes | Callable[[], bytes]) -> None:
        """Have the file hold `content`, or what it returns in a thread; a file that holds it already is left alone."""
        self._files.add(name)
        self._waiting.append(self._pool.submit(_write, self.folder / name, content))

    def has(self, group: str, provenance: str, files: Iterable[str]) -> bool:
        """Whether these files are all there and were made of this; if so, they stay."""
        names = set(files)
        if self._made_of.get(group) != provenance or not all((self.folder / name).is_file() for name in names):
            return False
        self._files |= names
        self._used[group] = provenance
        return True

    def done(self, group: str, provenance: str) -> None:
        """Remember what a group of files was made of, once `wait` has seen to it that they are written."""
        self._coming[group] = provenance

    def wait(self) -> None:
        """Wait for what was put; raise what went wrong."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            future.result()
        if self._coming:
            self._used |= self._coming
            self._coming = {}
            self._save(self._before | self._files, {**self._made_of, **self._used})

    def finish(self) -> None:
        """Remove what belongs to the site no more."""
        self.wait()
        for name in sorted(self._before - self._files):
            (self.folder / name).unlink(missing_ok=True)
        for folder in sorted({(self.folder / name).parent for name in self._before - self._files}, reverse=True):
            if folder != self.folder and folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        self._save(self._files, self._used)

    def _save(self, files: set[str], provenance: dict[str, str]) -> None:
        content = {"format": FORMAT, "files": sorted(files), "provenance": provenance}
        write_json(self.folder / MANIFEST, content)


def _write(path: Path, content: bytes | Callable[[], bytes]) -> None:
    wanted = content if isinstance(content, bytes) else content()
    if not (path.is_file() and path.read_bytes() == wanted):
        write_whole(path, wanted)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise BadInput(f"{folder} is there and holds no atlas; give an empty folder, or one that an atlas is in.")
        return {"files": [], "provenance": {}}
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        known = about["format"] == FORMAT and all(_stays_inside(name) for name in about["files"])
        known = known and isinstance(about["provenance"], dict)
    except (ValueError, TypeError, KeyError) as error:
        raise BadInput(f"{path} cannot be read ({error}); delete {folder} to write the atlas again.") from error
    if not known:
        raise BadInput(f"{path} is of another version or damaged; delete {folder} to write the atlas again.")
    return about


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and ":" not in name
