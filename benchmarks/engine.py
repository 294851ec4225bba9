"""Ray beside one process, what a shard costs, and the driver's memory. As a program: COUNT tiny shards, the peak."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from benchmarks.memory import high_water
from benchmarks.rows import Row, details_of, skipped
from benchmarks.scene import LAYERS, K, Scene, subject
from benchmarks.timing import compare
from deconv.engines import Engine, open_engine
from deconv.engines.local import Local
from deconv.images import Source, folder
from deconv.images.preprocessing import Preprocessing
from deconv.mining import mine, mine_into
from deconv.network import Network

WORKERS = 2
ROOT = Path(__file__).resolve().parent.parent
SIDE = 16
"""Pixels of the images of simulated shards: so small that what is left is what a shard costs."""


def rows(scene: Scene) -> Iterator[Row]:
    """Efficiency, overhead, memory; of Ray only where it is installed."""
    yield overhead(scene, Local(shard_size=1), "local")
    try:
        import ray
    except ImportError:
        yield skipped("mining with Ray", "Ray is not installed")
        return
    with two_workers(ray):
        yield efficiency(scene)
        yield overhead(scene, open_engine("ray", shard_size=1), f"Ray, {WORKERS} workers")
    yield driver_memory(scene)


@contextmanager
def two_workers(ray) -> Iterator[None]:  # type: ignore[no-untyped-def]
    """Ray on this machine, with room for two tasks of one thread."""
    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()


def efficiency(scene: Scene) -> Row:
    """Two workers of one thread over one process of two threads, their networks loaded before."""
    count = 64 if scene.quick else 1200
    source, network = scene.source(count), subject("alexnet").network
    shard_size = count // 12

    def mined(engine: Engine) -> bytes:
        return mined_at(scene.scratch / "engine", network, source, list(LAYERS["alexnet"]), engine, 16)

    engine, threads = open_engine("ray", shard_size=shard_size), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        same = mined(engine) == mined(Local(shard_size))
        torch.set_num_threads(WORKERS)
        pair = compare(lambda: mined(engine), lambda: mined(Local(shard_size)), scene.repeats, count, count)
    finally:
        torch.set_num_threads(threads)
    assert same, "Ray and one process gave different bytes"
    reached = statistics.median(pair.ratios())
    ours, peer = (f"{1 / each:.4g} images/s" for each in (pair.ours_each(), pair.peer_each()))
    note = f"{count} JPEG files in 12 shards, AlexNet's five layers; the same bytes as one process of one thread"
    what = f"Ray, {WORKERS} workers of one thread, over one process of {WORKERS} threads"
    return Row(what, reached, "x", None, 0.9, None, ours, peer, note, details_of(pair))


def overhead(scene: Scene, engine: Engine, name: str) -> Row:
    """Milliseconds that a shard costs besides its images: many shards of one tiny image, and all images in one go."""
    count = 60 if scene.quick else 1000
    network, source = tiny(), specks(scene.scratch / f"specks-{count}", count)
    mined_at(scene.scratch / "warm", network, source, ["1"], engine, 1)
    begun = time.perf_counter()
    mined_at(scene.scratch / "engine", network, source, ["1"], engine, 1)
    between = time.perf_counter()
    mine(network, source, ["1"], k=K, batch_size=1)
    shards, whole = between - begun, time.perf_counter() - between
    note = f"{count} simulated shards of one image of {SIDE} pixels, 64 units; records written, synced, merged, removed"
    each = 1000 * (shards - whole) / count
    return Row(f"what a shard costs, {name}", each, "ms", ours=f"{shards:.1f} s", peer=f"{whole:.1f} s", note=note)


def driver_memory(scene: Scene) -> Row:
    """The driver's largest resident size with ten times the shards."""
    less, more = (20, 60) if scene.quick else (100, 1000)
    sizes = []
    for count in (less, more):
        files = specks(scene.scratch / f"specks-{count}", count).members[0].path.parent
        command = [sys.executable, "-m", "benchmarks.engine", str(files), str(scene.scratch / "driver")]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        sizes.append(float(done.stdout) / 1024)
    note = f"largest resident size of the process that gives {more} shards to Ray, against {less}"
    ours, peer = (f"{size:.0f} MiB" for size in reversed(sizes))
    return Row("the driver's memory", 100 * (sizes[1] / sizes[0] - 1), "% more", ours=ours, peer=peer, note=note)


def mined_at(home: Path, network: Network, source: Source, layers: list[str], engine: Engine, batch_size: int) -> bytes:
    """The file of peaks, mined from the beginning."""
    shutil.rmtree(home, ignore_errors=True)
    mine_into(home / "peaks.safetensors", network, source, layers, K, batch_size, engine=engine)
    return (home / "peaks.safetensors").read_bytes()


def tiny() -> Network:
    """64 units that cost next to nothing."""
    torch.manual_seed(0)
    preprocessing = Preprocessing((SIDE, SIDE), None, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    return Network(nn.Sequential(nn.Conv2d(3, 64, 3, 4), nn.ReLU()), (3, SIDE, SIDE), preprocessing=preprocessing)


def specks(home: Path, count: int) -> Source:
    """`count` PNG files of noise."""
    if not home.exists():
        home.mkdir(parents=True)
        noise = np.random.default_rng(0)
        for number in range(count):
            Image.fromarray(noise.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(home / f"{number:06}.png")
    return folder(home)


def main(files: str, home: str) -> None:
    """Mine by Ray and print the peak, in KiB."""
    import ray

    with two_workers(ray):
        mined_at(Path(home), tiny(), folder(files), ["1"], open_engine("ray", shard_size=1), 1)
    print(high_water())


if __name__ == "__main__":
    main(*sys.argv[1:])
