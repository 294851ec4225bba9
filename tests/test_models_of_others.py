"""Networks of timm, of transformers and of one's own files; preprocessing beside their own transforms."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import transformers
from PIL import Image
from torch import nn
from torchvision import transforms as v1
from torchvision.models import get_model_weights
from torchvision.transforms import InterpolationMode, v2

import deconv
from deconv.errors import BadInput, DeconvError, UnknownName
from deconv.images import conventions
from deconv.models import build, class_names, presets
from tests.commands import refusal

END = (v1.ToTensor(), v1.Normalize([0.5, 0.4, 0.3], [0.2, 0.25, 0.3]))
OWN_FILE = """
import torch
from torch import nn


def network(width=4, depth=1):
    layers = [nn.Conv2d(3, width, 3), nn.ReLU()]
    for _ in range(depth):
        layers += [nn.Conv2d(width, width, 3), nn.ReLU()]
    return nn.Sequential(*layers)


class Grey(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 3)

    def forward(self, x):
        return self.convolution(x).relu()


def trained():
    torch.manual_seed(3)
    return network()


def broken():
    raise RuntimeError("no such checkpoint")


CLASSES = ["cat", "dog"]


def number():
    return 3
"""


def pixels_of(preprocessing: deconv.Preprocessing, photograph: Image.Image) -> torch.Tensor:
    return preprocessing.normalize(preprocessing.input_image(np.asarray(photograph))[None])[0]


@pytest.fixture
def photograph() -> Image.Image:
    return Image.fromarray(deconv.bundled().image(0))


@pytest.fixture
def own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file of networks, in which the program runs."""
    (tmp_path / "nets.py").write_text(OWN_FILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "nets.py"


# --- preprocessing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "efficientnet_b0", "inception_v3", "mobilenet_v3_small"])
def test_the_transforms_of_torchvisions_weights(arch: str, photograph: Image.Image) -> None:
    theirs = get_model_weights(arch).DEFAULT.transforms()
    difference = pixels_of(deconv.Preprocessing.of(theirs), photograph) - theirs(photograph)
    assert difference.abs().mean() < 0.01  # Pillow and torch round apart


@pytest.mark.parametrize(
    "steps",
    [
        (v1.Resize(80), v1.CenterCrop(64), *END),
        (v1.Resize(80, InterpolationMode.BICUBIC), v1.CenterCrop((64, 48)), *END),
        (v1.Resize((64, 64)), *END),
        (v1.Resize(70), *END),
        END,
    ],
)
def test_a_chain_of_torchvisions_transforms(steps: tuple[Any, ...], photograph: Image.Image) -> None:
    theirs = v1.Compose(list(steps))
    ours = pixels_of(deconv.Preprocessing.of(theirs), photograph)
    assert (ours - theirs(photograph)).abs().mean() < 0.03


def test_a_chain_of_the_second_version_of_transforms(photograph: Image.Image) -> None:
    scaled = v2.ToDtype(torch.float32, scale=True)
    theirs = v2.Compose([v2.ToImage(), v2.Resize(80), v2.CenterCrop(64), scaled, v2.Normalize([0.5] * 3, [0.2] * 3)])
    assert (pixels_of(deconv.Preprocessing.of(theirs), photograph) - theirs(photograph)).abs().max() < 0.01


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            (v1.RandomResizedCrop(64), *END),
            "step 0 of the transforms is RandomResizedCrop; expected Resize",
        ),
        ((v1.CenterCrop(64), v1.Resize(80), *END), "step 1 of the transforms is Resize; .* in this order"),
        ((v1.Resize(80), v1.ToTensor()), "no Normalize"),
        ((v1.Resize(80, InterpolationMode.NEAREST), *END), "interpolation 'nearest'; expected bilinear or bicubic"),
        ((v1.Resize(80, antialias=False), *END), "without antialiasing; expected antialias=True"),
        ((v2.ToImage(), v2.ToDtype(torch.float32), END[1]), "standard deviations off .* expected a resize"),
    ],
)
def test_a_chain_that_a_preprocessing_cannot_be(steps: tuple[Any, ...], message: str) -> None:
    with pytest.raises(DeconvError, match=message):
        deconv.Preprocessing.of(v2.Compose(list(steps)))


@pytest.mark.parametrize("arch", ["resnet18.a1_in1k", "convnext_atto.d2_in1k", "inception_v3.tv_in1k"])
def test_timms_data_config(arch: str, photograph: Image.Image) -> None:
    pretrained = timm.get_pretrained_cfg(arch)
    assert pretrained is not None
    config = timm.data.resolve_data_config(args={}, pretrained_cfg=pretrained.to_dict())
    theirs = timm.data.create_transform(**config)
    for described in (config, theirs):
        difference = pixels_of(deconv.Preprocessing.of(described), photograph) - theirs(photograph)
        assert difference.abs().mean() < 0.01
    assert deconv.load("timm", arch=arch.partition(".")[0], weights="random").preprocessing == deconv.Preprocessing.of(
        config
    )


def test_timms_squashed_pictures() -> None:
    config = {"input_size": (3, 64, 64), "crop_pct": 1.0, "crop_mode": "squash", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    assert deconv.Preprocessing.of(config).squash
    with pytest.raises(BadInput, match="crop_mode=border .* expected center"):
        deconv.Preprocessing.of({**config, "crop_mode": "border"})


PROCESSORS: dict[str, Callable[[], Any]] = {
    "squashed": lambda: transformers.ViTImageProcessor(size={"height": 64, "width": 64}),
    "cropped": lambda: transformers.MobileNetV2ImageProcessor(),
    "a share": lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 224}, crop_pct=0.9),
    "large": lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 384}),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_an_image_processor_of_transformers(name: str, photograph: Image.Image) -> None:
    processor = PROCESSORS[name]()
    theirs = processor(images=photograph, return_tensors="pt")["pixel_values"][0]
    assert (pixels_of(deconv.Preprocessing.of(processor), photograph) - theirs).abs().mean() < 0.03


def test_an_image_processor_that_does_more_than_it_says_is_refused() -> None:
    with pytest.raises(BadInput, match="EfficientNetImageProcessor .* standard deviations off .*: give deconv.Prep"):
        deconv.Preprocessing.of(transformers.EfficientNetImageProcessor())
    with pytest.raises(BadInput, match="do_flip_channel_order=True"):
        deconv.Preprocessing.of(transformers.MobileViTImageProcessor())


def test_what_is_no_preprocessing_is_refused() -> None:
    with pytest.raises(BadInput, match="other: given 3; expected the transforms"):
        deconv.Preprocessing.of(3)
    with pytest.raises(BadInput, match="squash: given True; expected a size to resize to, and no resize"):
        deconv.Preprocessing((64, 64), 70, (0.5,), (0.5,), squash=True)
    with pytest.raises(UnknownName, match="unknown interpolation 'bicubical'.*did you mean 'bicubic'"):
        deconv.Preprocessing((64, 64), None, (0.5,), (0.5,), interpolation="bicubical")


def test_the_provenance_says_how_photographs_were_resized() -> None:
    plain = deconv.Preprocessing((8, 8), None, (0.5,), (0.5,)).as_dict()
    other = deconv.Preprocessing((8, 8), None, (0.5,), (0.5,), interpolation="bicubic", squash=True).as_dict()
    assert other == {**plain, "interpolation": "bicubic, antialiased", "squash": True}
    assert conventions.probe().shape == (431, 523, 3)


# --- deconv.load ----------------------------------------------------------------------------------------------------


def test_a_network_by_the_name_of_its_file() -> None:
    network = deconv.load("zfnet64", weights="random", trunk=True, size=(96, 96), seed=5)
    assert network.input_shape == (3, 96, 96) and list(network.aliases) == ["conv1", "conv2", "conv3", "conv4", "conv5"]
    expected = build("zfnet64", "random", seed=5, trunk=True).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in network.module.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "squeezenett"}, "squeezenett: there are alexnet, .*; did you mean 'squeezenet'"),
        ({"name": "resnet18"}, "resnet18: there are .*; it is torchvision's: model torchvision with arch=resnet18"),
        ({"name": "squeezenet", "wieghts": "random"}, "wieghts: model squeezenet has no such option; .*mean 'weights'"),
        ({"name": "torchvision", "arch": "resnet19"}, "unknown torchvision network 'resnet19'.*did you mean"),
        ({"name": "timm", "arch": "resnet19"}, "unknown timm network 'resnet19'.*did you mean"),
        (
            {"name": "timm", "arch": "resnet18.a9_in1k"},
            "timm has no weights 'a9_in1k' of resnet18; expected one of ",
        ),
        ({"name": "timm", "weights": "IMAGENET"}, "unknown weights 'IMAGENET' for resnet18.a1_in1k; expected DEFAULT"),
        (
            {"name": "timm", "weights": "random", "args": {"stem_wide": 3}},
            "args: given .*stem_wide.*create_model",
        ),
        ({"name": "timm", "arch": "vgg11_bn", "classes": 7}, "classes=7 with timm's weights, which have 1000 outputs"),
        ({"name": "python"}, "target: given .* expected package.module:function"),
    ],
)
def test_a_mistake_in_a_name_is_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((UnknownName, BadInput), match=message):
        deconv.load(**arguments)


def test_torchvisions_own_preprocessing_is_the_default() -> None:
    settings = presets.settings_of("torchvision", "")
    whole = presets.preprocessing_of(settings | {"arch": "inception_v3", "weights": "random"})
    assert (whole.size, whole.resize) == ((299, 299), 342)
    sized = presets.preprocessing_of(settings | {"size": [96, 96]})
    assert (sized.size, sized.resize, sized.mean) == ((96, 96), None, (0.485, 0.456, 0.406))


# --- timm -----------------------------------------------------------------------------------------------------------


def test_a_network_of_timm_with_arguments_of_its_own() -> None:
    network = deconv.load("timm", arch="resnet10t", weights="random", args={"stem_width": 8}, classes=7, size=(64, 64))
    torch.manual_seed(0)
    expected = timm.create_model("resnet10t", num_classes=7, stem_width=8).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network.module(images), expected(images))


def test_the_class_names_of_timms_weights() -> None:
    assert class_names("timm", "resnet18")[285] == "Egyptian cat" and len(class_names("timm", "resnet18")) == 1000
    assert len(class_names("timm", "convnext_nano.in12k")) == 11821


def test_timms_weights_from_the_hub_and_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = timm.create_model("test_resnet").eval()
    safetensors.torch.save_file(original.state_dict(), tmp_path / "model.safetensors")
    asked = []

    def hub(repo_id: str, filename: str, **_: Any) -> str:
        asked.append(repo_id)
        return str(tmp_path / filename)

    monkeypatch.setattr(timm.models._hub, "hf_hub_download", hub)
    module = build("timm", "DEFAULT", arch="test_resnet.r160_in1k")
    assert asked == ["timm/test_resnet.r160_in1k"] and not module.training
    assert all(torch.equal(value, original.state_dict()[name]) for name, value in module.state_dict().items())

    def refuse(*_: Any, **__: Any) -> str:
        raise OSError("no route")

    monkeypatch.setattr(timm.models._hub, "hf_hub_download", refuse)
    with pytest.raises(DeconvError, match=r'no route.*expected a network connection: without one .*weights="random"'):
        build("timm", "DEFAULT", arch="test_resnet.r160_in1k")
    with pytest.raises(BadInput, match="timm has no weights of seresnet18; .*list_pretrained"):
        build("timm", "DEFAULT", arch="seresnet18")


# --- transformers ---------------------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {"hidden_sizes": [16, 24], "depths": [1, 1]}
HANDED_OVER: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "resnet": (
        lambda: transformers.ResNetForImageClassification(
            transformers.ResNetConfig(embedding_size=16, layer_type="basic", **SMALL)
        ),
        "deconvnet",
    ),
    "regnet": (
        lambda: transformers.RegNetForImageClassification(
            transformers.RegNetConfig(embedding_size=16, groups_width=8, **SMALL)
        ),
        "deconvnet_beyond",
    ),
    "convnext": (
        lambda: transformers.ConvNextForImageClassification(transformers.ConvNextConfig(num_stages=2, **SMALL)),
        "deconvnet_beyond",
    ),
}


@pytest.mark.parametrize("name", HANDED_OVER)
def test_a_network_of_transformers_is_handed_over(name: str) -> None:
    make, rule = HANDED_OVER[name]
    torch.manual_seed(0)
    module = make().eval()
    network = deconv.Network(module, (3, 64, 64))
    images = torch.rand(2, 3, 64, 64)
    top = network.layers[-1]
    with torch.no_grad():
        scores = module(images).logits
        assert torch.allclose(network.forward(images, [top])[top].flatten(1), scores, atol=1e-5)
    pixels = deconv.project(network, images, top, [1], [0], [0], [0], rule=rule).pixels
    assert all(torch.isfinite(picture).all() and picture.abs().max() > 0 for picture in pixels)


# --- of one's own ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["nets:network", "nets.py:network"])
def test_a_network_of_ones_own_file(own_file: Path, target: str) -> None:
    network = deconv.load("python", target=target, args={"width": 6}, size=(16, 16), seed=2)
    assert network.layers == ["1", "3"] and network.channels("1") == 6
    again = build("python", "random", seed=2, target=target, args={"width": 6})
    assert all(torch.equal(value, network.module.state_dict()[name]) for name, value in again.state_dict().items())
    safetensors.torch.save_file(again.state_dict(), "kept.safetensors")
    loaded = build("python", "kept.safetensors", seed=9, target=target, args={"width": 6})
    assert torch.equal(loaded.state_dict()["0.weight"], again.state_dict()["0.weight"])


def test_a_network_of_ones_own_that_takes_grey(own_file: Path) -> None:
    network = deconv.load("python", target="nets:Grey", size=(16, 16), mean=[0.5], std=[0.25])
    assert network.input_shape == (1, 16, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "nets"}, "target: given nets; expected package.module:function, or path"),
        (
            {"target": "nets:networks"},
            "expected a function, or a class of modules, of nets: it has no networks",
        ),
        ({"target": "nets:CLASSES"}, "expected a function, or a class of modules"),
        (
            {"target": "nowhere:network"},
            "expected what can be imported: ModuleNotFoundError: No module",
        ),
        ({"target": "nowhere.py:network"}, "expected what can be imported: FileNotFoundError"),
        (
            {"target": "nets:network", "args": {"widht": 6}},
            "expected the arguments of nets:network, width, depth",
        ),
        (
            {"target": "nets:network", "args": {"width": -1}},
            r"nets:network makes no network of args=\{'width': -1\}",
        ),
        ({"target": "nets:broken"}, r"nets:broken makes no network of args=\{\} \(RuntimeError: no such checkpoint\)"),
        ({"target": "nets:number"}, "expected a function that returns a torch.nn.Module: it returns int"),
        ({"target": "nets:network", "weights": "mine"}, "unknown weights 'mine' for model python, nets:network; .*own"),
        ({"target": "nets:trained", "weights": "random"}, "nets:trained gives 0.weight the same values for every seed"),
    ],
)
def test_a_mistake_in_ones_own_network_is_one_line(own_file: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises((UnknownName, BadInput), match=message):
        deconv.load("python", **options)


def test_a_file_that_cannot_be_imported_leaves_no_module(own_file: Path) -> None:
    for target in ("nowhere.py:network", "nowhere:network"):
        with pytest.raises(BadInput, match="what can be imported"):
            build("python", "own", target=target)


def test_ones_own_network_from_the_shell(own_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = ["experiment=fig2_features", "model=python", "layers=['1']"]
    assert "model.target is not given: add model.target=..." in refusal(said, tmp_path, capsys)
    said += ["model.target=nets:network", "model.args.widht=6"]
    assert "model.args: given {'widht': 6}" in refusal(said, tmp_path, capsys)
    said[-1:] = ["model=squeezenet", "model.args.width=6"]
    assert "args: given {'width': 6}; expected none for squeezenet" in refusal(said[:1] + said[4:], tmp_path, capsys)


def test_a_file_that_is_named_twice_is_one_module(tmp_path: Path) -> None:
    """So that pickle finds the classes of both networks; a file that changed is read again."""
    code = (
        "from torch import nn\nclass Net(nn.Sequential):\n"
        "    def __init__(self): super().__init__(nn.Conv2d(3, {}, 3))\n"
    )
    file = tmp_path / "twice.py"
    file.write_text(code.format(2))
    first, second = (build("python", "random", target=f"{file}:Net") for _ in range(2))
    assert type(first) is type(second) and type(pickle.loads(pickle.dumps(first))) is type(first)
    file.write_text(code.format(10))
    assert build("python", "random", target=f"{file}:Net")[0].out_channels == 10  # type: ignore[index]
