"""Features, cached input images, training, a site, its records: full disks, kills, two runs, folders to read only."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deconv import files
from deconv.errors import BadInput
from tests.disks import mounted
from tests.promises import GOES_ON, ON_THE_DISK, ONE_RUN, fault
from tests.writers import WRITERS, contents, prepare

ROOT = Path(__file__).resolve().parent.parent
AT_RANDOM = 2
each_writer = pytest.mark.parametrize("name", WRITERS)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    prepare(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(home: Path) -> dict[str, dict[str, tuple[int, str]]]:
    """By what writes, all that it leaves."""
    for name, work in WRITERS.items():
        work(home, home / "undisturbed" / name)
    return {name: contents(home / "undisturbed" / name) for name in WRITERS}


@GOES_ON
@each_writer
def test_killed_it_goes_on_and_ends_with_the_same_bytes(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Half of each file on disk when the signal comes, and at random; nothing half-written is left at the end."""
    command = [sys.executable, "-m", "tests.writers", name, str(tmp_path / "home"), str(tmp_path / "runs")]
    (tmp_path / "home").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(AT_RANDOM)], env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    expected = contents(tmp_path / "runs/undisturbed")
    assert expected and not any(Path(file).name.startswith(".") for file in expected)
    folders = [path for path in (tmp_path / "runs").iterdir() if not path.name.endswith("-site")]
    for folder in folders:
        assert contents(folder) == expected, folder.name
    record_property("injected: SIGKILL in the middle of writing a file", int(done.stdout) - AT_RANDOM)
    record_property("injected: SIGKILL at a random moment", AT_RANDOM)
    record_property("compared: bytes", (len(folders) - 1) * sum(size for size, _ in expected.values()))


@ON_THE_DISK
@fault("a disk that is full")
@pytest.mark.parametrize("is_reserved", [True, False], ids=["reserved", "unreserved"])
@each_writer
def test_a_disk_that_is_full(
    name: str,
    is_reserved: bool,
    tmp_path: Path,
    home: Path,
    undisturbed: dict[str, dict[str, tuple[int, str]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With room for half; with more it goes on. Some disks cannot reserve room beforehand."""
    if not is_reserved:
        monkeypatch.delattr(os, "posix_fallocate")
    disk, folder = tmp_path / "disk", tmp_path / "disk" / "run"
    pages = sum(-(-size // 4096) for size, _ in undisturbed[name].values())
    with mounted(disk, f"size={max(pages // 2, 1) * 4}k"):
        with pytest.raises(BadInput, match=r"cannot write .*: No space left on device") as caught:
            WRITERS[name](home, folder)
        assert len(str(caught.value).splitlines()) == 1
        assert contents(disk).keys() <= {f"run/{file}" for file in undisturbed[name]} | of_the_site(disk)
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        WRITERS[name](home, folder)
        assert contents(folder) == undisturbed[name]


def of_the_site(disk: Path) -> set[str]:
    """The site that is written beside records, but for what is half-written."""
    return {file for file in contents(disk) if file.startswith("run-site/") and not Path(file).name.startswith(".")}


@ON_THE_DISK
@fault("a disk or folder that may only be read")
@each_writer
def test_a_disk_that_may_only_be_read(name: str, tmp_path: Path, home: Path) -> None:
    with mounted(tmp_path / "disk", "ro"):
        with pytest.raises(BadInput, match=r"cannot write .*/disk/.*: Read-only file system"):
            WRITERS[name](home, tmp_path / "disk" / "run")
        assert contents(tmp_path / "disk") == {}


@ON_THE_DISK
@pytest.mark.parametrize("name", ["features", "cached input images"])
def test_what_is_there_is_read_from_a_disk_that_may_only_be_read(name: str, tmp_path: Path, home: Path) -> None:
    with mounted(tmp_path / "disk", "size=16m"):
        WRITERS[name](home, tmp_path / "disk" / "run")
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "disk")], check=True)
        WRITERS[name](home, tmp_path / "disk" / "run")


@ONE_RUN
@fault("a second run in a folder")
@each_writer
def test_the_second_of_two_runs_ends_at_once(
    name: str, tmp_path: Path, home: Path, undisturbed: dict[str, dict[str, tuple[int, str]]]
) -> None:
    folder = tmp_path / "run"
    with files.claimed(folder):
        with pytest.raises(BadInput, match=rf"another run works in {folder} \(process {os.getpid()} on "):
            WRITERS[name](home, folder)
        assert contents(folder).keys() == {".lock"}
    WRITERS[name](home, folder)
    assert contents(folder) == undisturbed[name]
