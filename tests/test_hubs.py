"""Published datasets by their names, in small fakes of their formats, and what is said where they cannot be had."""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torchvision
from PIL import Image

import deconv
from deconv.command.cli import main
from deconv.errors import BadInput, DeconvError
from deconv.images import open_source
from tests.commands import refusal, words
from tests.labelled import folder_of
from tests.small import MINED

NEEDS_NONE = r"folder\(root\), webdataset\(urls\) and bundled\(\) need no connection$"


def opened(**options: Any) -> deconv.Source:
    return open_source("torchvision", **options)


# --- torchvision ----------------------------------------------------------------------------------------------------


@pytest.fixture
def cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR10 of two batches to train on, of three images each, and one to test on."""
    folder, sums = tmp_path / "cifar-10-batches-py", {}
    folder.mkdir()
    contents: dict[str, Any] = {"batches.meta": {"label_names": ["airplane", "automobile", "bird"]}}
    for number, name in enumerate(("data_batch_1", "data_batch_2", "test_batch")):
        levels = np.arange(3, dtype=np.uint8)[:, None] + np.uint8(10 * number)
        contents[name] = {"data": np.repeat(levels, 3072, axis=1), "labels": [number, 0, 1]}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    cifar = torchvision.datasets.CIFAR10
    monkeypatch.setattr(cifar, "train_list", [[name, sums[name]] for name in ("data_batch_1", "data_batch_2")])
    monkeypatch.setattr(cifar, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(cifar, "meta", {**cifar.meta, "md5": sums["batches.meta"]})
    return tmp_path


@pytest.fixture
def imagenette(tmp_path: Path) -> Path:
    """Imagenette at 160 pixels: two of its classes."""
    for split in ("train", "val"):
        for number, wnid in enumerate(("n01440764", "n03028079")):
            folder = tmp_path / "imagenette2-160" / split / wnid
            folder.mkdir(parents=True)
            for n in range(4):
                generator = np.random.default_rng([number, n])
                pixels = generator.integers(0, 99 + 100 * number, (70, 80, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{split}_{n}.JPEG")
    return tmp_path


def test_cifar10_is_read_with_its_labels_and_names(cifar10: Path) -> None:
    train, test = (opened(dataset="CIFAR10", root=cifar10, split=split) for split in ("train", "test"))
    assert (train.labels, test.labels) == ((0, 0, 1, 1, 0, 1), (2, 0, 1)) and len(train) == 6
    assert train.class_names == ("airplane", "automobile", "bird")
    assert np.array_equal(train.image(4), np.full((32, 32, 3), 11)) and test.image(0)[0, 0].tolist() == [20, 20, 20]
    assert opened(dataset="CIFAR10", root=str(cifar10)).content_hash == train.content_hash
    assert opened(dataset="CIFAR10", root=cifar10, args={"train": False}).content_hash == test.content_hash


def test_imagenette_is_read_with_the_ids_of_its_classes(imagenette: Path) -> None:
    source = opened(dataset="Imagenette", root=imagenette, split="val", args={"size": "160px"})
    assert source.class_names == ("n01440764", "n03028079") and source.labels == (0,) * 4 + (1,) * 4
    assert source.keys[5] == "imagenette2-160/val/n03028079/val_1.JPEG" and source.image(5).shape == (70, 80, 3)


def test_a_class_without_files_needs_no_root() -> None:
    source = opened(dataset="FakeData", args={"size": 4, "image_size": [3, 9, 8], "num_classes": 3})
    assert len(source) == 4 and source.image(0).shape == (9, 8, 3) and source.labels is not None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dataset": "Imagenete"}, "unknown dataset of torchvision 'Imagenete'; .*did you mean 'Imagenette'"),
        ({"dataset": "wrap_dataset_for_transforms_v2"}, "unknown dataset of torchvision"),
        ({"dataset": None}, "dataset: given None; expected a text: the source torchvision needs one"),
        (
            {"dataset": "CIFAR10", "root": None},
            "root: given None; expected the folder that torchvision's CIFAR10 lies in",
        ),
        ({"dataset": "FakeData"}, "root: given .*; expected none: torchvision's FakeData does not take it"),
        ({"dataset": "CIFAR10", "split": "tset"}, "unknown split of torchvision's CIFAR10 'tset'; .*mean 'test'"),
        ({"dataset": "ImageFolder", "split": "train"}, "torchvision's ImageFolder has no split; it takes allow_empty"),
        (
            {"dataset": "ImageFolder", "download": True},
            "download: given True; expected none: torchvision's ImageFolder",
        ),
        ({"dataset": "CIFAR10", "download": "yes"}, "download: given yes; expected true or false, as the source torch"),
        ({"dataset": "CIFAR10", "args": "x"}, "args: given x; expected a mapping of names to values"),
        ({"dataset": "Imagenette", "args": {"siez": "160px"}}, "argument of torchvision's Imagenette 'siez'; .*'size'"),
        (
            {"dataset": "Imagenette", "args": {"transform": "x"}},
            "unknown argument of torchvision's Imagenette 'transform'",
        ),
        (
            {"dataset": "Imagenette", "args": {"size": "16px"}},
            "cannot be opened .Unknown value '16px' for argument size",
        ),
        (
            {"dataset": "CIFAR10", "split": "train", "args": {"train": True}},
            "split: given train; expected none beside train",
        ),
        ({"dataset": "EMNIST"}, "torchvision's EMNIST needs split: give them among args, as split=..."),
        (
            {"dataset": "Imagenette"},
            "torchvision's Imagenette cannot be opened .Dataset not found.* in .*: download=true fetches .*"
            + NEEDS_NONE,
        ),
    ],
)
def test_mistakes_about_torchvision_are_one_line(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(DeconvError, match=said) as raised:
        opened(**{"root": tmp_path, **options})
    assert "\n" not in str(raised.value)


def test_a_failed_download_names_what_needs_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.datasets.imagenette, "download_and_extract_archive", fail)
    said = "Imagenette cannot be opened .<urlopen error no route to host>.; expected a connection .*" + NEEDS_NONE
    with pytest.raises(BadInput, match=said):
        opened(dataset="Imagenette", root=tmp_path, download=True)


def test_a_download_is_asked_for(imagenette: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (imagenette / "imagenette2-160").rename(imagenette / "archive")

    def fetch(url: str, root: str, md5: str) -> None:
        (imagenette / "archive").rename(Path(root) / "imagenette2-160")

    monkeypatch.setattr(torchvision.datasets.imagenette, "download_and_extract_archive", fetch)
    assert len(opened(dataset="Imagenette", root=imagenette, download=True, args={"size": "160px"})) == 8


# --- Hugging Face ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hub() -> Iterator[Any]:
    """The package datasets, with no bars."""
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed (the extra `huggingface`)")
    datasets.disable_progress_bars()
    yield datasets
    datasets.enable_progress_bars()


def pictures(count: int = 5) -> list[Image.Image]:
    return [Image.new("RGB", (12, 10), (40 * n, 7, 7)) for n in range(count)]


def made(hub: Any, column: str = "img", label: str = "fine_label") -> Any:
    features = hub.Features(
        {"id": hub.Value("int64"), column: hub.Image(), label: hub.ClassLabel(names=["ant", "bee"])}
    )
    rows = {"id": list(range(5)), column: pictures(), label: [0, 1, 1, 0, 1]}
    return hub.Dataset.from_dict(rows, features=features)


def check(source: deconv.Source, count: int = 5) -> None:
    assert len(source) == count and source.labels == (0, 1, 1, 0, 1)[:count] and source.class_names == ("ant", "bee")
    expected = deconv.dataset([np.array(picture) for picture in pictures(count)])
    assert source.content_hash == expected.content_hash


@pytest.mark.parametrize("form", [None, "torch", "numpy"])
def test_a_dataset_of_hugging_face_is_one(hub: Any, form: str | None) -> None:
    images = made(hub).with_format(form) if form else made(hub)
    check(deconv.dataset(images))
    check(deconv.images.check_source(images))
    assert deconv.dataset(made(hub, "photo", "kind")).labels == (0, 1, 1, 0, 1)  # by their features
    assert deconv.dataset(images, label="id").labels == (0, 1, 2, 3, 4)


def test_streams_and_several_splits_of_it_are_one_line(hub: Any, unchecked: None) -> None:
    stream, several = made(hub).to_iterable_dataset(), hub.DatasetDict(train=made(hub), test=made(hub))
    with pytest.raises(BadInput, match="images: given a stream, IterableDataset"):
        deconv.dataset(stream)
    with pytest.raises(BadInput, match="images: given a mapping of train, test; .*give one of them"):
        deconv.dataset(several)
    with pytest.raises(BadInput, match=r"datasets\.Dataset\.from_list\(list\(images\.take\(500\)\)\) has its first"):
        deconv.images.check_source(stream)
    with pytest.raises(BadInput, match=r"images\['train'\] is one of its parts"):
        deconv.images.check_source(several)
    check(deconv.images.check_source(hub.Dataset.from_list(list(stream.take(3)), features=stream.features)), 3)


def test_what_was_saved_to_disk_is_read(hub: Any, tmp_path: Path) -> None:
    made(hub).save_to_disk(tmp_path / "one")
    hub.DatasetDict(train=made(hub).select([4]), test=made(hub)).save_to_disk(tmp_path / "two")
    check(open_source("huggingface", path=tmp_path / "one"))
    check(open_source("huggingface", path=str(tmp_path / "two"), split="test", limit=4), 4)
    refused: dict[str, dict[str, Any]] = {
        "split: given None; expected one of train, test": {"path": tmp_path / "two"},
        "unknown split 'tset'; expected one of train, test; did you mean 'test'": {
            "path": tmp_path / "two",
            "split": "tset",
        },
        "split: given test; expected none for .*one, .* as one split alone": {
            "path": tmp_path / "one",
            "split": "test",
        },
        "streaming: given True; expected none for": {"path": tmp_path / "one", "streaming": True, "limit": 2},
        "subset: given x; expected none for": {"path": tmp_path / "one", "subset": "x"},
        "args: given .*; expected none for": {"path": tmp_path / "one", "args": {"revision": "x"}},
    }
    for said, options in refused.items():
        with pytest.raises(DeconvError, match=said):
            open_source("huggingface", **options)


def test_folders_of_pictures_and_of_parquet_are_read_and_streamed(hub: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"args": {"cache_dir": str(tmp_path / "cache")}}
    (tmp_path / "rows").mkdir()
    made(hub).to_parquet(tmp_path / "rows" / "train-0.parquet")
    check(open_source("huggingface", path=tmp_path / "rows", **options))
    check(open_source("huggingface", path=tmp_path / "rows", split="train[:2]", **options), 2)
    check(open_source("huggingface", path=tmp_path / "rows", split="train", streaming=True, limit=3, **options), 3)
    check(open_source("huggingface", path=tmp_path / "rows", streaming=True, limit=99, **options), 5)
    root = folder_of(tmp_path / "photos", each=3)
    expected = deconv.folder(root)
    ways: list[dict[str, Any]] = [{}, {"streaming": True, "limit": 6}]
    for more in ways:
        source = open_source("huggingface", path=root, split="train", **more, **options)
        assert (source.labels, source.class_names) == (expected.labels, expected.class_names)
        assert all(np.array_equal(source.image(n), expected.image(n)) for n in range(6))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"streaming": True}, "limit: given None; expected how many images to take of the stream"),
        ({"limit": 0}, "limit: given 0; expected a whole number, 1 or more"),
        ({"limit": "5"}, "limit: given 5; expected a whole number, as the source huggingface takes it"),
        ({"args": {"revison": "x"}}, "unknown argument of datasets.load_dataset 'revison'; .*did you mean 'revision'"),
        ({"args": {"split": "x"}}, "unknown argument of datasets.load_dataset 'split'"),
        ({"path": None}, "path: given None; expected a text: the source huggingface needs one"),
    ],
)
def test_mistakes_about_hugging_face_are_one_line(hub: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(DeconvError, match=said):
        open_source("huggingface", **{"path": "someone/pictures", **options})


def test_a_hub_that_does_not_answer_names_what_needs_no_connection(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise ConnectionError("Couldn't reach 'someone/pictures' on the Hub\nmore")

    monkeypatch.setattr(hub, "load_dataset", fail)
    said = "the dataset someone/pictures cannot be opened .Couldn't reach 'someone/pictures' on the Hub.; expected"
    with pytest.raises(
        DeconvError, match=f"{said} its name on the hub and a connection, or a folder of .*{NEEDS_NONE}"
    ):
        open_source("huggingface", path="someone/pictures")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BadInput, match=r"not installed: pip install 'deconvnet\[huggingface\]'; .*" + NEEDS_NONE):
        open_source("huggingface", path="someone/pictures")


# --- from the shell -------------------------------------------------------------------------------------------------


def test_an_experiment_runs_over_imagenette(imagenette: Path, tmp_path: Path) -> None:
    said = ["source=torchvision", "source.dataset=Imagenette", f"source.root={imagenette}", "source.args.size=160px"]
    folder = tmp_path / "run"
    assert (
        main(words(MINED, said, ["experiment=fig2_features", "layers=[conv1]", "n_units=2", f"folder={folder}"])) == 0
    )
    peaks = deconv.Peaks.load(folder / "peaks.safetensors")
    assert peaks.provenance["source"]["images"] == 8
    assert peaks.image_keys[next(iter(peaks.image_keys))].startswith("imagenette2-160/train/n0")


def test_training_validates_on_another_split(imagenette: Path, tmp_path: Path) -> None:
    said = [
        "experiment=train", "model=torchvision", "model.arch=shufflenet_v2_x0_5", "model.size=[32,32]",
        "training.epochs=1", "training.batch_size=4", "source=torchvision", "source.dataset=Imagenette",
        f"source.root={imagenette}", "source.args.size=160px", "source.split=train", "validation=val",
        f"folder={tmp_path / 'run'}",
    ]  # fmt: skip
    assert main(said) == 0


def test_an_experiment_runs_over_a_saved_dataset(hub: Any, tmp_path: Path) -> None:
    made(hub).save_to_disk(tmp_path / "saved")
    said = ["source=huggingface", f"source.path={tmp_path / 'saved'}", "source.limit=4", "experiment=fig2_features"]
    assert main(words(MINED, said, ["layers=[conv1]", "n_units=2", f"folder={tmp_path / 'run'}"])) == 0
    assert deconv.Peaks.load(tmp_path / "run" / "peaks.safetensors").provenance["source"]["images"] == 4


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (["source=torchvision"], "source.dataset is not given: add source.dataset=..."),
        (["source=torchvision", "source.dataset=CIFAR10"], "source.root: given None; expected the folder that"),
        (
            ["source=torchvision", "source.datset=CIFAR10"],
            "unknown option 'source.datset'; did you mean 'source.dataset'",
        ),
        (
            ["source=torchvision", "source.dataset=FakeData", "source.args.sise=3"],
            "unknown argument of torchvision's FakeData 'sise'; expected one of size",
        ),
        (["source=torchvision", "source.dataset=CIFAR10", "source.download=3"], "source.download=3: expected true or"),
        (
            ["source=huggingface", "source.path=x", "source.streaming=true"],
            "source.limit: given None; expected how many",
        ),
        (["source=folder", "source.root=.", "source.args.size=3"], "the source folder has no option args; it has root"),
        (["source.dataset=CIFAR10"], "source.dataset belongs to source=torchvision: add that"),
    ],
)
def test_mistakes_in_the_shell_are_one_line(
    said: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refusal(words(MINED, ["experiment=fig2_features"], said), tmp_path, capsys)
