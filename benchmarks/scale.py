"""Memory of mining images that are made up as they are asked for, as many as one likes, in shards that are streamed.

As a program: mines SHARDS shards of EACH images into FOLDER, is killed after KILLED_AFTER records if that is not 0, and
prints its largest resident size in KiB. With "listed" as fifth argument the same images are listed one by one, with
"firing" it is counted how units fire, with "ray" two workers of Ray mine the shards.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from os import getpid, kill
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.engine import two_workers
from benchmarks.memory import high_water
from benchmarks.rows import Row
from benchmarks.scene import Scene
from deconv.engines import open_engine
from deconv.engines.engine import Shared, Step, Task
from deconv.engines.local import Local
from deconv.images import Opened, Shards, Source, StreamedSource
from deconv.images.members import Member
from deconv.images.preprocessing import Preprocessing
from deconv.images.streams import first_id
from deconv.mining import mine, mine_into
from deconv.network import Network

SIDE = 8
DIFFERENT = 251
"""Pictures there are."""
BATCH = 512
BILLION = 10**9
EACH = 10_000
"""Images in a shard, of which a billion images have 10^5."""
EACH_COUNTED = 1_000
"""Images in a shard where it is counted how units fire."""
MOST = 1024
MOST_COUNTED = 32
ROOT = Path(__file__).resolve().parent.parent
PICTURES = torch.randint(
    0, 256, (DIFFERENT, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


@dataclass(frozen=True, repr=False)
class Made(Source):
    """Images that need no file and no decoding."""

    def input_image(self, image_id: int, preprocessing: Preprocessing) -> Tensor:
        """Return one of the PICTURES."""
        return PICTURES[image_id % DIFFERENT]


def made(count: int, first: int, name: str) -> Made:
    """`count` images with the ids `first` and on."""
    nowhere = Member(Path("made"))
    keys = tuple(f"{name}/{number:09}" for number in range(count))
    return Made("made", keys, (nowhere,) * count, ids=range(first, first + count))


class MadeShards(Shards):
    """Shards of such images; the address of each says how many it has."""

    def state(self, number: int) -> str:
        """Return what tells that a shard became another one: nothing."""
        return "made"

    def _read(self, number: int) -> Opened:
        count = int(self.address(number).rpartition("#")[2])
        self._memory.counts[number] = count
        return Opened(made(count, first_id(number), self.names[number - self.first]), "made")


def streamed(shards: int, each: int) -> StreamedSource:
    """As many shards, with addresses as long as they often are."""
    names = [f"train-{number:06}" for number in range(shards)]
    return StreamedSource(
        MadeShards([f"https://storage.example.org/bucket/{name}.tar#{each}" for name in names], names)
    )


def tiny() -> Network:
    """64 units that cost next to nothing."""
    torch.manual_seed(0)
    preprocessing = Preprocessing((SIDE, SIDE), None, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    return Network(nn.Sequential(nn.Conv2d(3, 64, 3, 4), nn.ReLU()), (3, SIDE, SIDE), preprocessing=preprocessing)


@dataclass(frozen=True)
class Killed(Local):
    """This process, which is killed when it has done `after` shards; never, if that is 0."""

    after: int = 0

    def work(
        self,
        do: Callable[[Shared, Task], Iterator[Step]],
        shared: Shared,
        tasks: Iterable[Task],
        name: Callable[[Task], str] = str,
    ) -> Iterator[Step]:
        """Do the tasks in order, until it is killed."""
        for number, task in enumerate(tasks):
            if self.after and number == self.after:
                kill(getpid(), signal.SIGKILL)
            yield from do(shared, task)


def rows(scene: Scene) -> Iterator[Row]:
    """What a billion images take, by what images and what shards add; and after a kill, with the same bytes."""
    few, shards = (2, 30) if scene.quick else (10, 300)
    images = [mebibytes(scene.scratch / "images", count, EACH) for count in (few, 10 * few)]
    tasks = [mebibytes(scene.scratch / "tasks", count, 10) for count in (shards, 10 * shards)]
    an_image, a_shard = (images[1] - images[0]) / (9 * few * EACH), (tasks[1] - tasks[0]) / (9 * shards)
    billion = images[1] + max(0.0, a_shard) * BILLION / EACH
    listed = [mebibytes(scene.scratch / "listed", count, EACH, how="listed") for count in (few, 10 * few)]
    before = (listed[1] - listed[0]) / (9 * few * EACH)
    home = scene.scratch / "killed"
    mebibytes(home, 10 * shards, 10, killed_after=5 * shards)
    kept = len(list(home.rglob("float32-*")))
    resumed = mebibytes(home, 10 * shards, 10, remove=False)
    same = (home / "peaks.safetensors").read_bytes() == (scene.scratch / "tasks/peaks.safetensors").read_bytes()
    assert same and 5 * shards <= kept < 10 * shards, f"killed with {kept} shards, the same bytes: {same}"
    yield Row(
        "memory of mining a billion images, extrapolated",
        billion,
        "MiB",
        at_most=MOST,
        ours=f"{images[0]:.0f}, {images[1]:.0f} MiB; after a kill {resumed:.0f}",
        peer=f"listed {listed[0]:.0f}, {listed[1]:.0f} MiB",
        note=f"driver and worker in one process, {few * EACH} and {10 * few * EACH} images in shards of {EACH}; an "
        f"image adds {an_image * 2**20:.1f} bytes, listed {before * 2**20:.0f}; a shard {a_shard * 1024:.2f} KiB "
        f"({shards} and {10 * shards} shards); killed with {kept} of {10 * shards} done, and the same bytes",
        details={"images": images, "tasks": tasks, "listed": listed, "resumed": resumed},
    )
    counts = (few, 10 * few)
    plain, counted = (
        [mebibytes(scene.scratch / f"firing {how}", count, EACH_COUNTED, how=how) for count in counts]
        for how in ("", "firing")
    )
    yield Row(
        "memory of counting how 64 units fire, beside mining alone",
        counted[1] - plain[1],
        "MiB",
        at_most=MOST_COUNTED,
        ours=f"{counted[0]:.0f}, {counted[1]:.0f} MiB",
        peer=f"not counted {plain[0]:.0f}, {plain[1]:.0f} MiB",
        note=f"{few * EACH_COUNTED} and {10 * few * EACH_COUNTED} images in shards of {EACH_COUNTED}",
        details={"counted": counted, "plain": plain},
    )


def mebibytes(home: Path, shards: int, each: int, killed_after: int = 0, how: str = "", remove: bool = True) -> float:
    """The largest resident size of a process that mines."""
    if remove:
        for path in home.rglob("peaks.safetensors"):
            path.unlink()
    command = [sys.executable, "-m", "benchmarks.scale", *map(str, (home, shards, each, killed_after))]
    done = subprocess.run([*command, how], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == (-signal.SIGKILL if killed_after else 0), done.stderr
    return float(done.stdout or 0) / 1024


def main(home: str, shards: str, each: str, killed_after: str = "0", how: str = "") -> None:
    """Mine and print."""
    torch.set_num_threads(1)
    path, firing = Path(home) / "peaks.safetensors", how == "firing"
    if how == "listed":
        mine(tiny(), made(int(shards) * int(each), 0, "listed"), ["1"], batch_size=BATCH)
    elif how == "ray":
        import ray

        with two_workers(ray):
            images, workers = streamed(int(shards), int(each)), open_engine("ray", shard_size=int(each))
            mine_into(path, tiny(), images, ["1"], 9, BATCH, engine=workers)
    else:  # one shard a record, as a run over a billion images has
        images, engine = streamed(int(shards), int(each)), Killed(int(each), int(killed_after))
        mine_into(path, tiny(), images, ["1"], 9, BATCH, engine=engine, firing=firing)
    print(high_water())


if __name__ == "__main__":
    main(*sys.argv[1:])
