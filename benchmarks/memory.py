"""Peak memory of mining files, against the number of files. As a program: mines COUNT files and prints the peak."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import torch

from benchmarks.rows import Row
from benchmarks.scene import K, Scene, subject
from deconv.images import Source, folder
from deconv.mining import mine

BATCH = 16
"""Small, so that the batches that wait decoded are far fewer than the images of the smaller run."""
TIMES = 10
ROOT = Path(__file__).resolve().parent.parent


def rows(scene: Scene) -> Iterator[Row]:
    """The median peak of separate processes, with some images and with ten times as many."""
    count, repeats = (80, 1) if scene.quick else (160, scene.repeats)
    files = scene.source(count).members[0].path.parent
    pairs = [(peak_mebibytes(files, count), peak_mebibytes(files, TIMES * count)) for _ in range(repeats)]
    growth = statistics.median(100 * (more / less - 1) for less, more in pairs)
    less, more = (statistics.median(side) for side in zip(*pairs, strict=True))
    what = f"peak memory of mining {TIMES * count} files, over {count}"
    ours, peer = f"{more:.0f} MiB", f"{less:.0f} MiB"
    note = f"maximum resident size of a process, AlexNet, {BATCH} images a batch"
    yield Row(what, growth, "% more", at_most=5, ours=ours, peer=peer, note=note, details={"mebibytes": pairs})


def peak_mebibytes(files: Path, count: int) -> float:
    """The largest resident size of a process that mines `count` files, each of the folder as often as it takes."""
    command = [sys.executable, "-m", "benchmarks.memory", str(files), str(count), str(torch.get_num_threads())]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return float(done.stdout) / 1024


def repeated(files: Source, count: int) -> Source:
    """`count` files: those of a source over and over, each time under another key."""
    members = tuple(islice(cycle(files.members), count))
    return Source("repeated", tuple(f"{n}/{member.path.name}" for n, member in enumerate(members)), members)


def main(files: str, count: str, threads: str) -> None:
    """Mine and print."""
    torch.set_num_threads(int(threads))
    alexnet = subject("alexnet")
    mine(alexnet.network, repeated(folder(files), int(count)), alexnet.layers, k=K, batch_size=BATCH)
    print(high_water())


def high_water() -> int:
    """The largest resident size of this process so far, in KiB.

    Not getrusage's ru_maxrss: Linux keeps that across exec, so a small child of a large parent reports the parent.
    """
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
