"""Mining that is killed, runs out of disk, or finds its images changed: nothing half-written, nothing lost or mixed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import deconv
from deconv import files
from deconv.engines.local import Local
from deconv.errors import BadInput, RecordMismatch
from deconv.mining import mine_into, partials
from deconv.records import Peaks, provenance
from tests.disks import mounted
from tests.killing import BATCH, SHARD, below, mine_small, state_of
from tests.promises import GOES_ON, INTERRUPTED, NEVER_MIXED, ON_THE_DISK, ONE_RUN, UNCHANGED, fault
from tests.samples import SIZE, photographs, with_preprocessing

ROOT = Path(__file__).resolve().parent.parent
COUNT = 30
KILLS = 20


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    photographs(tmp_path / "photos", COUNT)
    return tmp_path / "photos"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    home = tmp_path_factory.mktemp("undisturbed")
    photographs(home / "photos", COUNT)
    mine_small(home / "photos", home)
    return (home / "peaks.safetensors").read_bytes()


def names_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def in_a_process(before: str, pictures: Path, folder: Path) -> subprocess.Popen[str]:
    """Mine small, after some lines of Python, as the command ends: 2 and a line after a mistake, 130 after Ctrl-C."""
    program = f"""
import os, resource, signal, sys
from pathlib import Path
from deconv import files
from deconv.errors import DeconvError
from tests.killing import mine_small
from tests.samples import with_preprocessing
signal.signal(signal.SIGINT, signal.default_int_handler)
network, engine = with_preprocessing(), None
{before}
try:
    mine_small(Path({str(pictures)!r}), Path({str(folder)!r}), network, engine)
except DeconvError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
except KeyboardInterrupt:
    sys.exit(130)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, env=environment)


def line_of(process: subprocess.Popen[str], status: int) -> str:
    """What it says, one line at most, having ended with this status."""
    _, said = process.communicate(timeout=120)
    assert process.returncode == status, said
    assert said.count("\n") <= 1, said
    return said


@GOES_ON
def test_killed_at_random_moments_it_ends_with_the_same_bytes(
    tmp_path: Path, pictures: Path, undisturbed: bytes, record_property: Callable[[str, object], None]
) -> None:
    """A finished shard is always whole and never mined again; nothing else is left at the end."""
    command = [sys.executable, "-m", "tests.killing", str(KILLS), "0", str(pictures), str(tmp_path / "runs")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["kills"] >= KILLS and counts["kept_shards"] > 0
    for folder in (tmp_path / "runs").iterdir():
        assert names_in(folder) == ["peaks.safetensors"]
        peaks = (folder / "peaks.safetensors").read_bytes()
        assert peaks == undisturbed
        record_property("compared: bytes", len(peaks))
    record_property("injected: SIGKILL at a random moment", counts["kills"])


@GOES_ON
@fault("SIGKILL in the middle of writing a file")
@pytest.mark.parametrize("write", [2, 6])
def test_killed_in_the_middle_of_writing(tmp_path: Path, pictures: Path, undisturbed: bytes, write: int) -> None:
    """The second shard, and the peaks themselves: half is on disk when the signal comes."""
    before = f"""
count, fill = 0, files._fill
def half(file, content):
    global count
    count += 1
    fill(file, content)
    if count == {write}:
        file.flush()
        os.truncate(file.name, file.tell() // 2)
        os.kill(os.getpid(), signal.SIGKILL)
files._fill = half
"""
    folder = tmp_path / "run"
    line_of(in_a_process(before, pictures, folder), -signal.SIGKILL)
    assert len(list(folder.rglob(".*.part"))) == 1
    assert len(list(folder.rglob("[!.]*.safetensors"))) == write - 1 and not (folder / "peaks.safetensors").exists()
    mine_small(pictures, folder)
    assert (folder / "peaks.safetensors").read_bytes() == undisturbed and names_in(folder) == ["peaks.safetensors"]


@pytest.fixture(scope="module")
def orphans() -> Iterator[dict[int, str]]:
    """{process: its name} of what killed drivers had started; by the end of the module all of them have ended.

    Ray's agents look only now and then whether they are still needed, so they are waited for here, after other tests.
    """
    processes: dict[int, str] = {}
    yield processes
    patience = time.monotonic() + 60
    while any(map(is_running, processes)):
        assert time.monotonic() < patience, [name for process, name in processes.items() if is_running(process)]
        time.sleep(0.1)


@GOES_ON
@fault("SIGKILL of Ray's driver")
def test_the_driver_of_ray_is_killed(
    tmp_path: Path, pictures: Path, undisturbed: bytes, orphans: dict[int, str]
) -> None:
    """With two shards of ten done or more; started again at once, it mines the others. What Ray had started ends."""
    pytest.importorskip("ray", reason="Ray is not installed (the extra `ray`)")
    folder = tmp_path / "run"
    before = f"""
import logging
from deconv.engines import open_engine
logging.basicConfig(level=logging.INFO, format="%(message)s")
engine = open_engine("ray", shard_size={BATCH}, num_workers=2)
"""
    with in_a_process(before, pictures, folder) as first:
        while len(list(folder.rglob("[!.]*.safetensors"))) < 2:
            assert first.poll() is None, first.communicate()
            time.sleep(0.001)
        started = below(first.pid)
        first.kill()
    done = len(list(folder.rglob("[!.]*.safetensors")))
    assert first.returncode == -signal.SIGKILL and not (folder / "peaks.safetensors").exists()
    again = in_a_process(before, pictures, folder)
    said = again.communicate(timeout=500)[1]
    assert again.returncode == 0, said
    found = re.search(r"float32: (\d+) of 10 shards are there, and checked first", said)
    assert found is not None and int(found[1]) >= done, said
    assert names_in(folder) == ["peaks.safetensors"] and (folder / "peaks.safetensors").read_bytes() == undisturbed
    assert any("raylet" in name for name in started.values())
    orphans |= started


def is_running(process: int) -> bool:
    """Whether a process is there and not only waiting to be counted as ended."""
    try:
        return state_of(Path("/proc") / str(process))[0] != "Z"
    except OSError:
        return False


@ON_THE_DISK
@fault("a disk that is full")
def test_a_disk_that_is_full(tmp_path: Path, pictures: Path, undisturbed: bytes) -> None:
    folder = tmp_path / "run"
    before = "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))"
    said = line_of(in_a_process(before, pictures, folder), 2)
    assert f"cannot write {folder}/shards/peaks/float32-00000.safetensors: File too large" in said
    assert names_in(folder) == []
    mine_small(pictures, folder)
    assert (folder / "peaks.safetensors").read_bytes() == undisturbed


@ON_THE_DISK
@fault("a disk that is full")
def test_a_disk_with_room_for_a_few_shards(tmp_path: Path, pictures: Path, undisturbed: bytes) -> None:
    folder = tmp_path / "run"
    with mounted(folder, "size=40k"):
        with pytest.raises(
            BadInput, match=r"float32-0000[1-4]\.safetensors: No space left on device; nothing is left half"
        ):
            mine_small(pictures, folder)
        assert names_in(folder) and all(name.endswith(".safetensors") for name in names_in(folder))
        subprocess.run(["mount", "-o", "remount,size=4m", str(folder)], check=True)
        mine_small(pictures, folder)
        assert (folder / "peaks.safetensors").read_bytes() == undisturbed and names_in(folder) == ["peaks.safetensors"]


@ON_THE_DISK
@fault("a disk or folder that may only be read")
def test_a_disk_that_may_only_be_read(tmp_path: Path, pictures: Path) -> None:
    with mounted(tmp_path / "run", "ro"):
        with pytest.raises(BadInput, match=r"cannot write .*/run/\.lock: Read-only file system"):
            mine_small(pictures, tmp_path / "run")
        assert names_in(tmp_path / "run") == []


@ON_THE_DISK
@fault("a disk or folder that may only be read")
@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o555)
    with pytest.raises(BadInput, match=r"cannot write .*/run/\.lock: Permission denied"):
        mine_small(pictures, tmp_path / "run")
    assert names_in(tmp_path / "run") == []


@UNCHANGED
@fault("an image changed or deleted while it is mined")
@pytest.mark.parametrize("shard_size", [SHARD, 4096])
@pytest.mark.parametrize("how", ["changed", "deleted"])
def test_an_image_that_does_not_stay_as_it_is(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, how: str, shard_size: int
) -> None:
    """At the end of the first batch, image 20 of 30."""
    network = with_preprocessing()
    original = network.forward_with_maxima

    def meanwhile(*given: object) -> object:
        victim = pictures / "20.png"
        victim.unlink(missing_ok=True)
        if how == "changed":
            Image.new("RGB", (SIZE, SIZE), "red").save(victim)
        return original(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(network, "forward_with_maxima", meanwhile)
    path, engine = tmp_path / "run" / "peaks.safetensors", Local(shard_size=shard_size)
    with pytest.raises(BadInput, match=rf"the image '20\.png' was {how} while it was mined \(1 file in all\)"):
        mine_into(path, network, deconv.folder(pictures), ["two"], 4, BATCH, engine=engine)
    assert not path.exists()


@NEVER_MIXED
@fault("an image changed between two starts of a run")
def test_a_shard_of_an_image_that_has_changed_is_not_gone_on_with(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: bytes
) -> None:
    folder = tmp_path / "run"
    mine_a_part(monkeypatch, pictures, folder, 3)
    before = (pictures / "10.png").read_bytes()
    Image.new("RGB", (SIZE, SIZE), "red").save(pictures / "10.png")
    shards = {path: path.stat().st_mtime_ns for path in (folder / "shards").rglob("*.safetensors")}
    with pytest.raises(RecordMismatch, match=r"float32-00000\.safetensors was made when '10\.png' was another image"):
        mine_small(pictures, folder)
    assert {path: path.stat().st_mtime_ns for path in (folder / "shards").rglob("*.safetensors")} == shards
    (pictures / "10.png").write_bytes(before)
    mine_small(pictures, folder)
    assert (folder / "peaks.safetensors").read_bytes() == undisturbed


def mine_a_part(monkeypatch: pytest.MonkeyPatch, pictures: Path, folder: Path, shards: int) -> None:
    """Mine until Ctrl-C, which comes as soon as so many shards are on disk."""
    save, count = partials.Partial.save, [0]

    def counting(*given: object) -> None:
        save(*given)  # type: ignore[arg-type]
        count[0] += 1
        if count[0] == shards:
            raise KeyboardInterrupt

    monkeypatch.setattr(partials.Partial, "save", counting)
    with pytest.raises(KeyboardInterrupt):
        mine_small(pictures, folder)
    monkeypatch.undo()


@NEVER_MIXED
def test_a_run_is_not_gone_on_with_as_another(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: bytes
) -> None:
    """Each difference is named, before anything is done; then the first run ends as if nothing had been tried."""
    folder = tmp_path / "run"
    mine_a_part(monkeypatch, pictures, folder, 2)
    kept = names_in(folder)
    other = with_preprocessing()
    other.preprocessing = deconv.Preprocessing((SIZE, SIZE), None, (0.4, 0.5, 0.5), (0.2, 0.2, 0.2))
    heavier = with_preprocessing()
    heavier._weights = {name: 2 * weight for name, weight in heavier._weights.items()}
    fewer = tmp_path / "fewer"
    photographs(fewer, COUNT - 1)
    same: dict[str, Any] = {
        "network": with_preprocessing(),
        "images": deconv.folder(pictures),
        "layers": ["one", "two"],
        "k": 4,
    }
    same |= {"batch_size": BATCH, "engine": Local(shard_size=SHARD)}
    differences: dict[str, dict[str, Any]] = {
        "weights": {"network": heavier},
        "preprocessing.mean": {"network": other},
        "layers": {"layers": ["two"]},
        "k": {"k": 5},
        "per_image": {"per_image": 2},
        "batch_size": {"batch_size": 2},
        "shard_size": {"engine": Local(shard_size=9)},
        "source.images": {"images": deconv.folder(fewer)},
    }
    for name, difference in differences.items():
        with pytest.raises(RecordMismatch, match=rf"float32-00000\.safetensors was made with {name} "):
            mine_into(folder / "peaks.safetensors", **{**same, **difference})
        assert names_in(folder) == kept
    mine_small(pictures, folder)
    assert (folder / "peaks.safetensors").read_bytes() == undisturbed


@NEVER_MIXED
@pytest.mark.parametrize("name", ["versions.torch", "computed.threads", "listing"])
def test_differences_that_cannot_be_made_here(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / "run"
    mine_a_part(monkeypatch, pictures, folder, 1)
    if name == "versions.torch":
        others = {**provenance.versions(), "torch": "9.9"}
        monkeypatch.setattr("deconv.records.provenance.versions", lambda: others)
    elif name == "computed.threads":
        monkeypatch.setattr(Local, "computes_on", lambda self, network: {"device": "cpu", "threads": 64})
    else:
        (pictures / "0.png").rename(pictures / "00.png")
    with pytest.raises(RecordMismatch, match=f"was made with {name} "):
        mine_small(pictures, folder)


@ONE_RUN
@fault("a second run in a folder")
def test_two_runs_into_one_folder(tmp_path: Path, pictures: Path, undisturbed: bytes) -> None:
    folder = tmp_path / "run"
    with files.claimed(folder):
        said = line_of(in_a_process("", pictures, folder), 2)
        assert f"another run works in {folder} (process {os.getpid()} on " in said
    assert names_in(folder) == []
    mine_small(pictures, folder)
    assert (folder / "peaks.safetensors").read_bytes() == undisturbed


@ONE_RUN
def test_a_claim_has_one_holder_whoever_comes_and_goes(tmp_path: Path) -> None:
    """Eight threads, each with files of its own, as processes would have."""
    inside, most, won = [0], [0], [0]

    def work() -> None:
        for _ in range(200):
            try:
                with files.claimed(tmp_path):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    time.sleep(0.0001)
                    inside[0] -= 1
                    won[0] += 1
            except BadInput:
                pass  # another holds it

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] and won[0] > 0 and names_in(tmp_path) == []


@INTERRUPTED
@fault("Ctrl-C")
def test_ctrl_c(tmp_path: Path, pictures: Path, undisturbed: bytes) -> None:
    folder = tmp_path / "run"
    before = """
fill, count = files._fill, 0
def slow(file, content):
    global count
    count += 1
    fill(file, content)
    if count == 3:
        os.kill(os.getpid(), signal.SIGINT)
files._fill = slow
"""
    assert line_of(in_a_process(before, pictures, folder), 130) == ""
    assert names_in(folder) == [f"shards/peaks/float32-0000{number}.safetensors" for number in range(2)]
    mine_small(pictures, folder)
    assert (folder / "peaks.safetensors").read_bytes() == undisturbed


def test_what_lies_in_the_folder_of_shards_besides_stays(tmp_path: Path, pictures: Path) -> None:
    mine = tmp_path / "shards" / "peaks" / "mine.safetensors"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"of somebody else")
    mine_small(pictures, tmp_path)
    assert names_in(tmp_path / "shards") == ["peaks/mine.safetensors"]
    assert list(Peaks.load(tmp_path / "peaks.safetensors")) == ["one", "two"]
