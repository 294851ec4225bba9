"""Small mining runs in processes of their own, to be killed. Forked from one that has imported everything."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import deconv
from deconv.engines import Engine
from deconv.engines.local import Local
from deconv.errors import DeconvError
from deconv.mining import mine_into
from deconv.mining.partials import Partial
from tests.samples import with_preprocessing

SHARD, BATCH = 6, 3


def mine_small(
    photographs: Path, folder: Path, network: deconv.Network | None = None, engine: Engine | None = None
) -> None:
    """Peaks of the photographs, in shards of SHARD unless an engine is given."""
    source, path = deconv.folder(photographs), folder / "peaks.safetensors"
    engine = engine or Local(shard_size=SHARD)
    mine_into(path, network or with_preprocessing(), source, ["one", "two"], 4, BATCH, engine=engine)


def forked(work: Callable[[], object]) -> int:
    """The id of a process that does `work` and ends with 0, or with 2 after a DeconvError, which it prints."""
    if child := os.fork():
        return child
    status = 1
    try:
        work()
        status = 0
    except DeconvError as error:
        print(error, file=sys.stderr)
        status = 2
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def ended(child: int) -> int:
    """Its exit status; -9 after SIGKILL."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_after(child: int, cpu_seconds: float) -> bool:
    """Whether SIGKILL came before its end. Raises if it ended otherwise than well.

    By its own processor time, so that the moments are as random on a busy machine.
    """
    clock = (~child << 3) | 2  # as clock_getcpuclockid(3) makes it on Linux
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.clock_gettime(clock) >= cpu_seconds:
            os.kill(child, signal.SIGKILL)
            break
        time.sleep(0.0002)
    status = ended(child)
    assert status in (0, -signal.SIGKILL), status
    return status != 0


def whole_shards(folder: Path) -> dict[str, int]:
    """When each shard's record was written; all of them can be read."""
    shards = sorted((folder / "shards").rglob("[!.]*.safetensors"))
    assert ended(forked(lambda: [Partial.load(path) for path in shards])) == 0
    return {path.name: path.stat().st_mtime_ns for path in shards}


def kill_until(kills: int, seed: int, photographs: Path, home: Path) -> dict[str, int]:
    """Run after run, each killed at random moments and started again until it ends; the counts of what happened."""
    network, moments = with_preprocessing(), random.Random(seed)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ended(forked(lambda: mine_small(photographs, home / "undisturbed", network))) == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    whole = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    counts = {"kills": 0, "runs": 0, "kept_shards": 0, "half_written": 0}
    while counts["kills"] < kills:
        again_and_again(lambda folder: mine_small(photographs, folder, network), home, moments, whole, counts)
    return counts


def again_and_again(
    work: Callable[[Path], None], home: Path, moments: random.Random, cpu_seconds: float, counts: dict[str, int]
) -> None:
    """One run to its end. What a killed one has finished is neither lost nor made again."""
    folder = home / str(counts["runs"])
    kept: dict[str, int] = {}
    while killed_after(forked(lambda: work(folder)), moments.uniform(0, 0.8 * cpu_seconds)):
        counts["kills"] += 1
        counts["half_written"] += len(list(folder.rglob(".*.part")))
        there = whole_shards(folder)
        if not (folder / "peaks.safetensors").exists():
            assert {name: there.get(name) for name in kept} == kept
            kept = there
            counts["kept_shards"] += len(kept)
    counts["runs"] += 1


@contextmanager
def workers_killed(finished: Callable[[], int]) -> Iterator[list[int]]:
    """Kill Ray's workers in the middle of a task again and again while the block runs: all that have one whenever four
    more pieces are finished, of which `finished()` gives the number. Gives their ids."""
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        count = 1
        while not over.wait(0.001):
            if finished() >= count:
                count = finished() + 4
                for worker in at_work():
                    with suppress(ProcessLookupError):  # it has ended meanwhile
                        os.kill(worker, signal.SIGKILL)
                        killed.append(worker)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield killed
    finally:
        over.set()
        killer.join()


def at_work() -> list[int]:
    """The processes of this one's Ray that have a task at this moment: they bear its name, as no others do."""
    return [process for process, name in below(os.getpid()).items() if re.match("ray::[a-z]", name)]


def below(process: int) -> dict[int, str]:
    """The processes that one has started, and those that they have: {id: what it calls itself}."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if process in above(path):
                found[int(path.name)] = (path / "cmdline").read_text()
        except OSError:
            continue  # it has ended
    return found


def above(process: Path) -> list[int]:
    """The ids of the processes above one, given as its folder in /proc."""
    parent = int(state_of(process)[1])
    return [parent, *above(process.with_name(str(parent)))] if parent else []


def state_of(process: Path) -> list[str]:
    """What /proc says of a process after its name: its state, its parent and more. Raises OSError when it is gone."""
    return (process / "stat").read_text().rpartition(")")[2].split()


if __name__ == "__main__":
    print(json.dumps(kill_until(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))))
