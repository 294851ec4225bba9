"""Networks as their authors published them: their geometry, their arithmetic, and files with their names."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor, nn

from deconv.errors import BadInput, UnknownName
from deconv.images.preprocessing import Preprocessing
from deconv.models import build, class_names
from deconv.models.presets import open_network
from deconv.projection import check_rules

MODELS = Path(__file__).parent.parent / "configs" / "model"
MAPS: dict[str, Any] = {"maps": [6, 8, 6, 4, 4], "widths": [8, 6], "classes": 5}
State = dict[str, Tensor]

TOWERS = {
    "3a": (192, 64, 96, 128, 16, 32, 32),
    "3b": (256, 128, 128, 192, 32, 96, 64),
    "4a": (480, 192, 96, 208, 16, 48, 64),
    "4b": (512, 160, 112, 224, 24, 64, 64),
    "4c": (512, 128, 128, 256, 24, 64, 64),
    "4d": (512, 112, 144, 288, 32, 64, 64),
    "4e": (528, 256, 160, 320, 32, 128, 128),
    "5a": (832, 256, 160, 320, 32, 128, 128),
    "5b": (832, 384, 192, 384, 48, 128, 128),
}
"""The paper's Table 1: maps below, #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj."""


def settings(name: str) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.load(MODELS / f"{name}.yaml"))  # type: ignore[return-value]


def drawn(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> State:
    """Random weights and biases in Caffe's names, at a scale at which values neither vanish nor grow."""
    generator, state = torch.Generator().manual_seed(seed), {}
    for name, shape in shapes.items():
        fan_in = torch.Size(shape[1:]).numel()
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
        state[f"{name}.bias"] = torch.randn(shape[0], generator=generator) * 0.1
    return state


def caffes_googlenet(classes: int = 1000) -> State:
    shapes: dict[str, tuple[int, ...]] = {
        "conv1/7x7_s2": (64, 3, 7, 7),
        "conv2/3x3_reduce": (64, 64, 1, 1),
        "conv2/3x3": (192, 64, 3, 3),
        "loss3/classifier": (classes, 1024),
    }
    for name, (below, one, reduce3, three, reduce5, five, pooled) in TOWERS.items():
        shapes |= {
            f"inception_{name}/1x1": (one, below, 1, 1),
            f"inception_{name}/3x3_reduce": (reduce3, below, 1, 1),
            f"inception_{name}/3x3": (three, reduce3, 3, 3),
            f"inception_{name}/5x5_reduce": (reduce5, below, 1, 1),
            f"inception_{name}/5x5": (five, reduce5, 5, 5),
            f"inception_{name}/pool_proj": (pooled, below, 1, 1),
        }
    return drawn(shapes)


def caffes_krizhevsky(classifier: bool = True) -> State:
    convolutions = {
        "conv1": (6, 3, 11, 11),
        "conv2": (8, 3, 5, 5),
        "conv3": (6, 8, 3, 3),
        "conv4": (4, 3, 3, 3),
        "conv5": (4, 2, 3, 3),
    }
    linear = {"fc6": (8, 4 * 6 * 6), "fc7": (6, 8), "fc8": (5, 6)} if classifier else {}
    return drawn({**convolutions, **linear})


def lrn(maps: Tensor) -> Tensor:
    """Caffe's, written out: each map over (1 + 1e-4 / 5 * the sum of squares of itself and two beside it) ** .75."""
    padded = F.pad(maps.square(), (0, 0, 0, 0, 2, 2))
    total = torch.stack([padded[:, n : n + maps.shape[1]] for n in range(5)]).sum(0)
    return maps / (1 + 1e-4 / 5 * total) ** 0.75


def pool(maps: Tensor) -> Tensor:
    return F.max_pool2d(maps, 3, 2, ceil_mode=True)


def googlenet_by_hand(state: State, images: Tensor) -> Tensor:
    def convolved(name: str, maps: Tensor, **how: Any) -> Tensor:
        return F.conv2d(maps, state[f"{name}.weight"], state[f"{name}.bias"], **how).relu()

    maps = lrn(pool(convolved("conv1/7x7_s2", images, stride=2, padding=3)))
    maps = pool(lrn(convolved("conv2/3x3", convolved("conv2/3x3_reduce", maps), padding=1)))
    for name in TOWERS:
        block = f"inception_{name}"
        maps = pool(maps) if name in ("4a", "5a") else maps
        views = [
            convolved(f"{block}/1x1", maps),
            convolved(f"{block}/3x3", convolved(f"{block}/3x3_reduce", maps), padding=1),
            convolved(f"{block}/5x5", convolved(f"{block}/5x5_reduce", maps), padding=2),
            convolved(f"{block}/pool_proj", F.max_pool2d(maps, 3, 1, 1)),
        ]
        maps = torch.cat(views, 1)
    return F.linear(maps.mean((2, 3)), state["loss3/classifier.weight"], state["loss3/classifier.bias"])


def krizhevsky_by_hand(state: State, images: Tensor) -> Tensor:
    """Its two halves apart, as on two GPUs: in layers 2, 4 and 5 each sees its own maps alone."""

    def halved(name: str, maps: Tensor, padding: int) -> Tensor:
        weights, biases = state[f"{name}.weight"].chunk(2), state[f"{name}.bias"].chunk(2)
        halves = zip(maps.chunk(2, 1), weights, biases, strict=True)
        return torch.cat([F.conv2d(half, weight, bias, padding=padding).relu() for half, weight, bias in halves], 1)

    maps = F.conv2d(images, state["conv1.weight"], state["conv1.bias"], stride=4).relu()
    maps = F.max_pool2d(lrn(maps), 3, 2)
    maps = F.max_pool2d(lrn(halved("conv2", maps, padding=2)), 3, 2)
    maps = F.conv2d(maps, state["conv3.weight"], state["conv3.bias"], padding=1).relu()
    maps = halved("conv5", halved("conv4", maps, padding=1), padding=1)
    values = F.max_pool2d(maps, 3, 2).flatten(1)
    for name in ("fc6", "fc7", "fc8"):
        values = F.linear(values, state[f"{name}.weight"], state[f"{name}.bias"])
        values = values if name == "fc8" else values.relu()
    return values


def written(path: Path, state: State) -> Path:
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return path


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def images_of(size: int) -> Tensor:
    return torch.randn((2, 3, size, size), generator=torch.Generator().manual_seed(1)) * 60


# --- GoogLeNet ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_googlenet_computes_what_its_paper_says(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "deconv")
    state, images = caffes_googlenet(classes=7), images_of(75)
    module = build("googlenet", written(tmp_path / "caffe.safetensors", state), classes=7)
    assert "caffe.safetensors are read as published names" in caplog.text and not module.training
    torch.testing.assert_close(module(images), googlenet_by_hand(state, images), rtol=1e-4, atol=1e-3)


def test_googlenets_own_names_load_too(tmp_path: Path) -> None:
    module = build("googlenet", "random", seed=2, classes=7)
    assert same(module, build("googlenet", written(tmp_path / "w.safetensors", module.state_dict()), classes=7))
    half = {f"module.{name}": value.half() for name, value in caffes_googlenet(classes=7).items()}
    loaded = build("googlenet", written(tmp_path / "half.safetensors", half), classes=7)
    assert torch.equal(loaded.get_parameter("classifier.bias"), half["module.loss3/classifier.bias"].float())


def test_files_that_are_no_googlenets_are_refused(tmp_path: Path) -> None:
    state = caffes_googlenet(classes=7)
    path = written(tmp_path / "w.safetensors", state)
    with pytest.raises(BadInput, match="classes: given 1000; expected 7, as many outputs as the weights in .* have"):
        build("googlenet", path)
    del state["inception_4c/5x5_reduce.bias"]
    with pytest.raises(BadInput, match=r"1 missing \(inception_4c\.conv5x5\.0\.0\.bias\)") as caught:
        build("googlenet", written(path, state), classes=7)
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match=r"are of another network: of the \d+ tensors of GoogLeNet it has"):
        build("googlenet", written(path, caffes_krizhevsky()))
    with pytest.raises(UnknownName, match="unknown weights 'caffe' for googlenet; expected random, or the path"):
        build("googlenet", "caffe")


def test_googlenets_layers_have_the_papers_shapes_and_fields() -> None:
    network = open_network(settings("googlenet"), seed=0)
    fields = {"conv1": 7, "conv2": 19, "3a": 59, "3b": 91, "4a": 171, "4b": 235, "4c": 299, "4d": 363, "4e": 427}
    fields |= {"5a": 587, "5b": 715}
    sides = {"conv1": 112, "conv2": 56, "3": 28, "4": 14, "5": 7}
    channels = {
        "conv1": 64,
        "conv2": 192,
        **{name: sum(maps[n] for n in (1, 3, 5, 6)) for name, maps in TOWERS.items()},
    }
    assert [*network.aliases] == [*(f"inception_{n}" if n in TOWERS else n for n in fields), "output"]
    for alias, field in zip(network.aliases, fields.values(), strict=False):
        name = alias.removeprefix("inception_")
        side = sides.get(name) or sides[name[0]]
        assert (network.channels(alias), network.map_size(alias)) == (channels[name], (side, side))
        assert network.receptive_field(alias).size == (field, field) and network.rectified(alias)
    assert (network.channels("output"), network.map_size("output")) == (1000, (1, 1))
    assert sum(parameter.numel() for parameter in network.module.parameters()) == 6_998_552
    check_rules(network, network.layers, ["deconvnet", "guided", "gradient"])


def test_googlenets_preprocessing_cuts_a_photograph_of_227_pixels_and_takes_off_caffes_mean() -> None:
    preprocessing = Preprocessing(*(settings("googlenet")[key] for key in ("size", "resize", "mean", "std")))
    photograph = torch.randint(0, 256, (227, 227, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    picture = preprocessing.input_image(photograph.numpy())
    cuts = [photograph[top : top + 224, top : top + 224].permute(2, 0, 1) for top in (1, 2)]
    assert any(torch.equal(picture, cut) for cut in cuts)
    expected = picture.float() - torch.tensor([123.0, 117.0, 104.0]).view(3, 1, 1)
    torch.testing.assert_close(preprocessing.normalize(picture[None])[0], expected, rtol=0, atol=1e-3)


def test_class_names_of_the_published_networks_are_imagenets() -> None:
    assert class_names("googlenet") == class_names("krizhevsky") == class_names("squeezenet")


# --- Krizhevsky et al.'s --------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_original_of_krizhevsky_computes_in_two_halves(tmp_path: Path) -> None:
    state, images = caffes_krizhevsky(), images_of(227)
    module = build("krizhevsky", written(tmp_path / "caffe.safetensors", state), original=True, **MAPS)
    torch.testing.assert_close(module(images), krizhevsky_by_hand(state, images), rtol=1e-4, atol=1e-3)
    assert same(
        module, build("krizhevsky", written(tmp_path / "w.safetensors", module.state_dict()), original=True, **MAPS)
    )


@torch.no_grad()
def test_a_trunk_loads_from_a_file_without_classifier_and_from_one_with_it(tmp_path: Path) -> None:
    options = {**MAPS, "original": True}
    alone = written(tmp_path / "trunk.safetensors", caffes_krizhevsky(classifier=False))
    trunk = build("krizhevsky", alone, trunk=True, **options)
    whole = build("krizhevsky", written(tmp_path / "whole.safetensors", caffes_krizhevsky()), trunk=True, **options)
    images = images_of(227)
    assert torch.equal(trunk(images), whole(images)) and trunk(images).shape == (2, 4, 6, 6)
    with pytest.raises(BadInput, match=r"6 missing \(classifier\.1\.weight, .*; expected finite"):
        build("krizhevsky", alone, **options)
    with pytest.raises(BadInput, match=r"read as published names, 3 of another shape \(features\.4\.weight"):
        build("krizhevsky", alone, trunk=True, **MAPS)
    with pytest.raises(BadInput, match="classes: given 9; expected 5"):
        build("krizhevsky", tmp_path / "whole.safetensors", trunk=True, **{**options, "classes": 9})


def test_a_trunks_own_names_load_for_the_other_networks_too(tmp_path: Path) -> None:
    small: dict[str, Any] = {"maps": [4, 4, 4], "widths": [4], "classes": 3}
    trunk = build("zfnet64", "random", seed=3, trunk=True, **small)
    path = written(tmp_path / "w.safetensors", trunk.state_dict())
    assert same(trunk, build("zfnet64", path, trunk=True, **small))
    written(path, {name: value for name, value in trunk.state_dict().items() if name != "features.0.bias"})
    with pytest.raises(BadInput, match=r"tensors 1 missing \(features\.0\.bias\); expected"):
        build("zfnet64", path, trunk=True, **small)


def test_the_file_of_the_original_opens_its_layers() -> None:
    config = settings("krizhevsky_original")
    network = open_network(config, seed=0, maps=[12, 8, 6, 4, 4], widths=[8, 8])
    assert [*network.aliases] == ["conv1", "conv2", "conv3", "conv4", "conv5"]
    sizes = [network.map_size(alias)[0] for alias in network.aliases]
    fields = [network.receptive_field(alias).size[0] for alias in network.aliases]
    assert (sizes, fields) == ([55, 27, 13, 13, 13], [11, 51, 99, 131, 163])
    assert all(network.rectified(alias) for alias in network.aliases)
    check_rules(network, network.layers, ["deconvnet", "guided", "gradient"])
    whole = open_network(config, seed=0, maps=[12, 8, 6, 4, 4], widths=[8, 8], trunk=False)
    assert [*whole.aliases][5:] == ["fc6", "fc7", "output"] and whole.channels("output") == 1000


def test_the_original_of_krizhevsky_is_a_choice_of_its_own() -> None:
    plain, original = settings("krizhevsky"), settings("krizhevsky_original")
    assert plain["original"] is False and original["original"] is True and plain["aliases"] == original["aliases"]
    assert not any(
        isinstance(layer, nn.Conv2d) and layer.groups != 1 for layer in build("krizhevsky", "random", **MAPS).modules()
    )
    with pytest.raises(BadInput, match="original: given True; expected none for zfnet: krizhevsky takes one"):
        build("zfnet", "random", original=True)
    with pytest.raises(BadInput, match="original: given 2; expected True or False"):
        build("krizhevsky", "random", original=2)
    with pytest.raises(BadInput, match=r"maps: given \[6, 7, 6, 4, 4\]; expected even numbers"):
        build("krizhevsky", "random", original=True, maps=[6, 7, 6, 4, 4])


def test_normalisation_of_torch_is_caffes() -> None:
    maps = torch.rand((1, 7, 3, 2), generator=torch.Generator().manual_seed(0)) * 300
    torch.testing.assert_close(nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)(maps), lrn(maps))
