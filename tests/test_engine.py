"""Mining in shards: the same bytes however the images are cut, whoever works on them and in whatever order."""

from __future__ import annotations

import itertools
import logging
import os
import random
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision.datasets import ImageFolder

import deconv
from deconv.command.cli import main
from deconv.engines import Engine, open_engine
from deconv.engines.local import Local
from deconv.engines.naming import named
from deconv.engines.sending import packed, unpacked
from deconv.errors import BadInput, UnknownName, counted
from deconv.images import Source, webdataset
from deconv.images.members import Member
from deconv.mining import bfloat16, mine_into
from deconv.mining.partials import Partial
from deconv.mining.shards import shards_of
from deconv.network.spatial import Convolution
from tests.engine_work import called, compare_networks, nested, where
from tests.killing import below, workers_killed
from tests.promises import GOES_ON, SAME_BYTES, fault
from tests.samples import photographs, with_preprocessing

BATCH, K, COUNT = 4, 4, 42


@pytest.fixture(scope="module", autouse=True)
def always_in_bfloat16() -> Iterator[None]:
    """However few images there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bfloat16, "MOST_AGAIN", 1.0)
        yield


def wide() -> deconv.Network:
    """Wide enough that the last bit of an activation depends on how many images are computed together; and a head."""
    torch.manual_seed(0)
    trunk = [nn.Conv2d(3, 96, 5, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(96, 128, 3, padding=1), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(), nn.Linear(512, 3)]
    preprocessing = deconv.Preprocessing((40, 40), None, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    return deconv.Network(nn.Sequential(*trunk, *head), (3, 40, 40), {"one": "1", "two": "4"}, preprocessing)


@dataclass(frozen=True)
class Shuffled(Local):
    """Shards in random order, their records added up in random pairs."""

    seed: int = 0

    def work(
        self,
        do: Callable[[Any, Any], Iterator[Any]],
        shared: Any,
        tasks: Iterable[Any],
        name: Callable[[Any], str] = str,
    ) -> Iterator[Any]:
        """As the real one, in another order."""
        listed = list(tasks)
        yield from super().work(do, shared, random.Random(self.seed).sample(listed, len(listed)), name)

    def merge(self, add: Callable[..., Any], parts: Sequence[Any]) -> Any:
        """In pairs, whichever come first."""
        order = list(parts)
        chance = random.Random(self.seed)
        while len(order) > 1:
            order.append(add(*(order.pop(chance.randrange(len(order))) for _ in range(2))))
        return add(*order)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Photographs, the tenth of them damaged."""
    folder = tmp_path_factory.mktemp("photos")
    photographs(folder, COUNT)
    (folder / "17.png").write_bytes(b"no picture")
    return deconv.folder(folder)


def mined(folder: Path, source: Source, engine: Engine | None = None, precision: str = "float32") -> bytes:
    """The bytes of the peaks; in float32 with the counts of how units fire."""
    path, firing = folder / "peaks.safetensors", precision == "float32"
    mine_into(path, wide(), source, ["two", "one"], K, BATCH, precision=precision, engine=engine, firing=firing)
    assert [found.name for found in folder.iterdir()] == ["peaks.safetensors"]
    return path.read_bytes()


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def in_one_go(source: Source, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return mined(tmp_path_factory.mktemp("whole"), source, precision=request.param)


@pytest.fixture(scope="module")
def in_float32(source: Source, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return mined(tmp_path_factory.mktemp("float32"), source)


@SAME_BYTES
@pytest.mark.parametrize("engine", [Local(1), Local(10), Shuffled(5, seed=1), Shuffled(8, seed=2)], ids=str)
def test_any_cut_and_any_order_give_the_same_bytes(
    tmp_path: Path, source: Source, in_one_go: bytes, engine: Local, request: pytest.FixtureRequest
) -> None:
    precision = request.node.callspec.params["in_one_go"]
    assert mined(tmp_path, source, engine, precision) == in_one_go


def test_an_unreadable_image_is_told_once(tmp_path: Path, source: Source) -> None:
    mined(tmp_path, source, Local(10), "bfloat16")
    unreadable = deconv.Peaks.load(tmp_path / "peaks.safetensors").provenance["unreadable"]
    assert [item[:2] for item in unreadable] == [[source.keys.index("17.png"), "17.png"]]


def test_cached_frames_and_tars_are_cut_too(tmp_path: Path, source: Source, in_float32: bytes) -> None:
    cached = deconv.cached(source, wide().needed_preprocessing(), tmp_path / "frames")
    assert mined(tmp_path / "cached", cached, Local(10)) == in_float32
    tars = webdataset(tars_of(source, tmp_path))
    assert mined(tmp_path / "tars", tars, Shuffled(16)) == mined(tmp_path / "whole", tars)


def tars_of(source: Source, folder: Path) -> str:
    """The images of a source in three tars, by their address."""
    for number, keys in enumerate((source.keys[:13], source.keys[13:30], source.keys[30:])):
        with tarfile.open(folder / f"{number}.tar", "w") as tar:
            for key in keys:
                tar.add(source.members[source.keys.index(key)].path, key)
    return str(folder / "*.tar")


@given(
    tars=st.lists(st.integers(1, 40), min_size=1, max_size=9),
    shard_size=st.integers(1, 50),
    batch_size=st.integers(1, 12),
)
def test_shards_are_whole_tars_cut_between_batches(tars: list[int], shard_size: int, batch_size: int) -> None:
    paths = [Path(f"{number}.tar") for number, count in enumerate(tars) for _ in range(count)]
    source = Source("tars", tuple(map(str, range(len(paths)))), tuple(Member(path, 512, 9) for path in paths))
    shards = shards_of(source, shard_size, batch_size)
    assert [image for shard in shards for image in shard] == list(range(len(paths)))
    assert all(shard and shard.start % batch_size == 0 for shard in shards)
    assert all(len(shard) < shard_size + 2 * batch_size for shard in shards)
    if batch_size == 1 and max(tars) <= shard_size:
        assert all(paths[shard.start] != paths[shard.start - 1] for shard in shards[1:])


def test_a_folder_is_cut_by_its_listing(source: Source) -> None:
    assert shards_of(source, 16, 4) == [range(16), range(16, 32), range(32, 42)]
    assert shards_of(source, 4096, 64) == [range(42)]


def test_one_shard_leaves_nothing_and_many_a_record_each(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    save = Partial.save

    def noting(partial: Partial, path: Path, *rest: Any) -> None:
        written.append(path.name)
        save(partial, path, *rest)

    monkeypatch.setattr(Partial, "save", noting)
    mined(tmp_path / "one", source, Local(COUNT))
    assert written == []
    mined(tmp_path / "three", source, Local(16))
    assert written == [f"float32-0000{number}.safetensors" for number in range(3)]


def test_images_of_several_sizes_are_named_across_shards(tmp_path: Path) -> None:
    source, net = photographs(tmp_path / "p", 6), with_preprocessing()
    net.preprocessing = replace(net.needed_preprocessing(), size=None)
    with pytest.raises(BadInput, match="images differ in size"):
        mine_into(tmp_path / "peaks.safetensors", net, source, ["two"], 3, 1, engine=Local(1))


def test_more_than_half_unreadable_is_counted_over_all_shards(tmp_path: Path) -> None:
    """Two whole shards of damaged images do not stop a run; the one after the half does."""
    photographs(tmp_path / "p", 12)
    for number in range(12):
        if number % 12 < 6:
            (tmp_path / "p" / f"{number}.png").write_bytes(b"no picture")
    source = deconv.folder(tmp_path / "p")
    mine_into(tmp_path / "a.safetensors", with_preprocessing(), source, ["two"], 3, 2, engine=Local(2))
    (tmp_path / "p" / "9.png").write_bytes(b"no picture")
    with pytest.raises(BadInput, match="7 of the 12 images of the source folder cannot be read"):
        mine_into(tmp_path / "b.safetensors", with_preprocessing(), source, ["two"], 3, 2, engine=Local(2))
    assert not (tmp_path / "b.safetensors").exists()


def test_a_long_run_says_how_far_it_is(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("deconv.progress.SHOW_AFTER", 0.0)
    monkeypatch.setattr("deconv.progress.LOG_EVERY", 0.0)
    caplog.set_level(logging.INFO, "deconv")
    mined(tmp_path, source, Local(10))
    lines = [line for line in caplog.messages if line.startswith("mining: ")]
    assert any(" of 42 images, " in line and " s left, 1 unreadable, 2 of 5 shards" in line for line in lines)
    assert lines[-1].startswith("mining: 42 images in ") and lines[-1].endswith("1 unreadable, 5 of 5 shards")


@pytest.mark.parametrize(
    ("name", "options", "error", "said"),
    [
        ("rya", {}, UnknownName, "unknown engine 'rya'; expected one of local, ray; did you mean 'ray'?"),
        ("local", {"shard_size": 0}, BadInput, "shard_size: given 0; expected a whole number, 1 or more"),
    ],
)
def test_mistakes(name: str, options: dict[str, int], error: type[Exception], said: str) -> None:
    with pytest.raises(error) as raised:
        open_engine(name, **options)
    assert said in str(raised.value)


def test_without_ray_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    arguments = ["experiment=fig2_features", "model=zfnet64", "model.weights=random", "engine=ray"]
    assert main([*arguments, "layers=[conv1]", f"folder={tmp_path / 'run'}"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "pip install 'deconvnet[ray]', or use the engine local" in said


# --- with Ray -------------------------------------------------------------------------------------------------------


@SAME_BYTES
@pytest.mark.filterwarnings("ignore")  # Ray's own, of what it finds on the machine
def test_ray_gives_the_same_bytes(tmp_path: Path, source: Source, in_float32: bytes, cluster: None) -> None:
    for workers in (1, 2):
        engine = open_engine("ray", shard_size=4, num_workers=workers)  # eleven shards: merged in two levels
        assert mined(tmp_path / str(workers), source, engine) == in_float32, workers
    streamed = webdataset(tars_of(source, tmp_path), streaming=True)
    assert mined(tmp_path / "streamed", streamed, engine) == mined(tmp_path / "whole", streamed)


def test_ray_is_given_few_names_however_many_tasks() -> None:
    """For it keeps every name."""
    tasks, own_names, rays_names = zip(*named(range(100_000), "shard {}".format), strict=True)
    assert tasks == tuple(range(100_000)) and own_names == tuple(map("shard {}".format, tasks))
    assert rays_names[:1000] == own_names[:1000] and len(set(rays_names)) == 1000 + 990
    assert rays_names[1000] == rays_names[1099] == "shard 1000, or one of the 99 after it" != rays_names[1100]


@pytest.mark.filterwarnings("ignore")
def test_ray_adds_up_in_order_in_three_levels_at_most(cluster: None) -> None:
    engine = open_engine("ray", num_workers=2)
    for count, levels in {1: 1, 8: 1, 9: 2, 65: 3, 730: 3}.items():
        names = list(map(str, range(count)))
        assert engine.merge(nested, [(name, 0) for name in names]) == (" ".join(names), levels)


@SAME_BYTES
@pytest.mark.filterwarnings("ignore")
def test_ray_gives_the_same_bytes_in_bfloat16(tmp_path: Path, source: Source, cluster: None) -> None:
    whole = mined(tmp_path / "whole", source, precision="bfloat16")
    assert mined(tmp_path / "ray", source, open_engine("ray", shard_size=16), "bfloat16") == whole


@GOES_ON
@pytest.mark.filterwarnings("ignore")
def test_workers_of_ray_are_killed_all_the_time(
    tmp_path: Path,
    source: Source,
    in_float32: bytes,
    cluster: None,
    record_property: Callable[[str, object], None],
) -> None:
    """Every process that works on a shard, as soon as the first is there, and again after every fourth one."""

    def finished() -> int:
        return len(list(tmp_path.rglob("[!.]*-0????.safetensors")))

    with workers_killed(finished) as killed:
        found = mined(tmp_path, source, open_engine("ray", shard_size=2, num_workers=2, retries=99))
    assert killed and found == in_float32  # how many are caught at work depends on the machine
    record_property("injected: SIGKILL of Ray's workers", len(killed))


@pytest.mark.filterwarnings("ignore")
def test_any_work_over_several_networks(cluster: None, caplog: pytest.LogCaptureFixture) -> None:
    """A network is the same one wherever it occurs; of a task the last comes back, and what it warned of."""
    first, second = (deconv.Network(nn.Conv2d(3, 4, 3), (3, 8, 8)) for _ in range(2))
    shared = {"first": first, "others": [second, first]}
    expected = [(task, [first.weights_hash, second.weights_hash], True) for task in range(3)]
    engine = open_engine("ray", num_workers=2)
    assert sorted(engine.work(compare_networks, shared, range(3))) == expected
    warnings = sorted(record.getMessage() for record in caplog.records if record.name == "deconv")
    assert warnings == [f"task {task} was here" for task in range(3)]
    assert [step for step in Local().work(compare_networks, shared, range(3)) if step[0] >= 0] == expected


def test_what_is_packed_holds_no_network_and_no_large_array() -> None:
    network = deconv.Network(nn.Conv2d(3, 512, 3), (3, 8, 8))
    large = np.arange(2**18)
    content, arrays, networks = packed({"a": [network], "b": (network, large, "rest")})
    assert networks == [network] and len(content) < 1000 and [array.nbytes for array in arrays] == [large.nbytes]
    again = unpacked(content, arrays, networks)
    assert again["a"] == [network] and again["b"][::2] == (network, "rest") and (again["b"][1] == large).all()
    assert np.shares_memory(again["b"][1], large)


def image_folder(folder: Path) -> ImageFolder:
    (folder / "photos").mkdir()
    photographs(folder / "photos" / "one", 10)
    return ImageFolder(folder / "photos")


@SAME_BYTES
@pytest.mark.filterwarnings("ignore")
def test_a_dataset_is_cut_and_sent_too(tmp_path: Path, cluster: None) -> None:
    images = image_folder(tmp_path)
    whole = mined(tmp_path / "whole", deconv.dataset(images))
    assert mined(tmp_path / "shards", deconv.dataset(images), Local(3)) == whole
    assert mined(tmp_path / "ray", deconv.dataset(images), open_engine("ray", shard_size=4)) == whole


@pytest.mark.filterwarnings("ignore")
def test_a_dataset_that_cannot_be_sent_is_one_line(tmp_path: Path, cluster: None) -> None:
    images = image_folder(tmp_path)
    images.lock = threading.Lock()
    said = "cannot be sent to Ray's workers .cannot pickle '_thread.lock' object.; expected .*or use the engine local$"
    with pytest.raises(BadInput, match=said):
        mined(tmp_path / "ray", deconv.dataset(images), open_engine("ray", shard_size=4))
    assert mined(tmp_path / "local", deconv.dataset(images), Local(4))


@pytest.mark.filterwarnings("ignore")
def test_mistakes_in_a_worker_come_as_they_are(tmp_path: Path, cluster: None) -> None:
    source, network = photographs(tmp_path / "p", 6), with_preprocessing()
    convolution = network.graph.nodes[1].operation
    assert isinstance(convolution, Convolution)
    convolution.weight.fill_(np.inf)
    with pytest.raises(BadInput, match="gives NaN or infinite activations at 'two'") as raised:
        mine_into(
            tmp_path / "peaks.safetensors", network, source, ["two"], 3, 2, engine=open_engine("ray", shard_size=2)
        )
    assert type(raised.value) is BadInput
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.filterwarnings("ignore")
def test_a_task_has_a_name_where_people_look_on(cluster: None, caplog: pytest.LogCaptureFixture) -> None:
    engine = open_engine("ray", num_workers=1)
    assert list(engine.work(called, None, [3, 4], "asking {}".format)) == ["ray::asking 3", "ray::asking 4"]
    caplog.set_level(logging.DEBUG, "deconv")
    assert len(list(Local().work(called, None, [3, 4], "asking {}".format))) == 2
    assert caplog.messages == ["asking 3", "asking 4"]


@GOES_ON
@fault("a machine that joins and is lost")
@pytest.mark.filterwarnings("ignore")
def test_a_machine_joins_and_is_lost(cluster: None) -> None:
    """It gets tasks as soon as it is there; those that it had when it went are done by the other."""
    ray = pytest.importorskip("ray")
    here, address = ray.get_runtime_context().get_node_id(), ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={address}", "--num-cpus=1", "--block"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as other:
        done: list[int] = []
        without_end = itertools.takewhile(lambda task: other.poll() is None, itertools.count())  # until it is lost
        for task, machine in open_engine("ray", retries=9).work(where, 0.1, without_end):
            done.append(task)
            if machine != here and other.poll() is None:
                for process in [other.pid, *below(other.pid)]:
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
                other.wait()
    assert other.returncode == -signal.SIGKILL and sorted(done) == list(range(len(done)))


@pytest.mark.parametrize(
    ("num_gpus", "machine", "tasks"),
    [
        (0, (3.0, 0.0), 3),
        (0.25, (8.0, 1.0), 4),
        (0.25, (2.0, 1.0), 2),
        (0.4, (8.0, 2.0), 4),
        (1, (8.0, 2.0), 2),
        (2, (8.0, 5.0), 2),
        (0.5, (8.0, 0.0), 0),
    ],
    ids=str,
)
def test_a_part_of_a_gpu_is_of_one(num_gpus: float, machine: tuple[float, float], tasks: int) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (the extra `ray`)")
    assert open_engine("ray", num_gpus=num_gpus)._tasks_on(*machine) == tasks  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees the GPU")
def test_a_gpu_that_only_ray_sees_is_named(cluster: None) -> None:
    with pytest.raises(BadInput, match="num_gpus: torch sees none of the GPUs that Ray has on .*, or give num_gpus=0$"):
        list(open_engine("ray", num_gpus=0.25).work(called, None, [1]))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_gpus": 2}, "num_gpus: given 2; expected at most 1, the GPUs that Ray sees here: give num_gpus=0, or"),
        ({"num_cpus_per_worker": 3}, "num_cpus_per_worker: given 3; expected at most 2, the cores of this machine: "),
    ],
    ids=str,
)
def test_what_this_machine_is_too_small_for(
    options: dict[str, Any], said: str, cluster: None, caplog: pytest.LogCaptureFixture
) -> None:
    """In a cluster, which may grow, it is waited for."""
    with pytest.raises(BadInput) as raised:
        list(open_engine("ray", **options).work(called, None, [1]))
    assert str(raised.value).startswith(said)
    assert list(open_engine("ray", address="auto", **options).work(called, None, [])) == []
    cores, gpus = options.get("num_cpus_per_worker", 1), " and 2 GPU" if "num_gpus" in options else ""
    message = f"no machine of the cluster at auto has {counted(cores, 'core')}{gpus} for a task: waiting for one"
    assert [record.getMessage() for record in caplog.records] == [message]


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("num_cpus_per_worker", 0, "a whole number, 1 or more"),
        ("num_workers", 0, "a whole number, 1 or more"),
        ("retries", -1, "a whole number, 0 or more"),
        *(("num_gpus", value, "a number, 0 or more") for value in (-1, float("nan"), float("inf"), True)),
        *(("num_gpus", value, "a whole number, or a part of one GPU, 0.0001 or more") for value in (1.5, 1e-5)),
    ],
)
def test_numbers_that_ray_cannot_use(option: str, value: float, expected: str, unchecked: None) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (the extra `ray`)")
    with pytest.raises(BadInput, match=f"^{option}: given {value}; expected {expected}$"):
        open_engine("ray", **{option: value})
