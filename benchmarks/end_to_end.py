"""JPEG files to every patch and reconstruction of AlexNet's five layers, saved."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.rows import Row
from benchmarks.scene import LAYERS, K, Scene, subject
from benchmarks.timing import clock
from deconv.images import Source
from deconv.mining import mine_into
from deconv.projection import project_peaks
from deconv.projection.patches import patches_of
from deconv.records import Patches, Peaks, Reconstructions

AT_MOST = 60


def rows(scene: Scene) -> Iterator[Row]:
    """Seconds from files to files, tracing included; what was saved is read again and checked first."""
    home, source = scene.scratch / "end-to-end", scene.source(scene.many)
    check_saved(home, scene.source(12))
    laps = []
    for _ in range(scene.repeats):
        shutil.rmtree(home, ignore_errors=True)
        laps.append(clock(lambda: make_all(home, source)))
    wall, cpu = (statistics.median(getattr(lap, kind) for lap in laps) for kind in ("wall", "cpu"))
    peaks = sum(int(layer.found.sum()) for layer in Peaks.load(home / "peaks.safetensors").values())
    size = sum(file.stat().st_size for file in home.iterdir()) / 2**30
    shutil.rmtree(home)
    what = f"end to end: {len(source)} JPEG files to all {peaks} patches and reconstructions"
    details = {"seconds": [lap.wall for lap in laps], "cpu_seconds": [lap.cpu for lap in laps], "gibibytes": size}
    at_most = None if scene.quick else AT_MOST
    yield Row(what, wall, "s", at_most, None, cpu, note=f"{size:.1f} GiB written and forced to disk", details=details)


def make_all(home: Path, source: Source) -> None:
    """Peaks, reconstructions and patches of all units, as files in `home`."""
    network = subject("alexnet").network
    peaks = mine_into(home / "peaks.safetensors", network, source, LAYERS["alexnet"], K)
    for layer in LAYERS["alexnet"]:
        recon = project_peaks(network, source, layer, peaks[layer], range(network.channels(layer)))
        recon.save(home / f"{layer}.reconstructions.safetensors")
        patches_of(network, source, recon).save(home / f"{layer}.patches.safetensors")


def check_saved(home: Path, source: Source) -> None:
    """Raise unless the files of a small run hold a patch and a reconstruction, equal to one made anew, of each peak."""
    make_all(home, source)
    network = subject("alexnet").network
    peaks = Peaks.load(home / "peaks.safetensors")
    for layer in LAYERS["alexnet"]:
        recon = Reconstructions.load(home / f"{layer}.reconstructions.safetensors")
        patches = Patches.load(home / f"{layer}.patches.safetensors")
        again = project_peaks(network, source, layer, peaks[layer], [0, network.channels(layer) - 1])
        ends = (recon.channel == 0) | (recon.channel == network.channels(layer) - 1)
        torch.testing.assert_close(recon.pixels[ends], again.pixels, rtol=1e-4, atol=1e-6)
        if not len(recon) == len(patches.pixels) == int(peaks[layer].found.sum()):
            raise AssertionError(f"{layer}: {len(recon)} reconstructions, {len(patches.pixels)} patches were saved.")
    shutil.rmtree(home)
