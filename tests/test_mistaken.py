"""What is no source of images is refused in one line, with what makes one of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset

import deconv
from deconv.errors import DeconvError
from deconv.images.cached import cached
from tests.annotations import jaxtyping_off
from tests.promises import REFUSED
from tests.samples import SIZE, images, network, with_preprocessing

FEW = images(3)
PICTURE = Image.new("RGB", (SIZE, SIZE))


class OfTensors(Dataset[torch.Tensor]):
    """A dataset of a user's, whose items are tensors."""

    def __len__(self) -> int:
        return len(FEW)

    def __getitem__(self, index: int) -> torch.Tensor:
        return FEW[index]


SOURCES: dict[str, tuple[Callable[[], Any], str]] = {
    "nothing": (lambda: None, r"given None; .*deconv\.folder\(path\)"),
    "a path": (lambda: "photos", r"given photos; .*deconv\.folder\('photos'\)"),
    "a Path": (lambda: Path("photos/of cats"), r"deconv\.folder\('photos/of cats'\)"),
    "a tar": (lambda: "train-000.tar", r"deconv\.webdataset\('train-000\.tar'\)"),
    "a list of paths": (lambda: ["photos/a.png", "photos/b.png"], r"a list of 2 str; .*deconv\.folder\('photos'\)"),
    "a tuple of Paths": (lambda: (Path("x/a.png"),), r"a tuple of 1 PosixPath; .*deconv\.folder\('x'\)"),
    "a number": (lambda: 3, "given 3"),
    "a mapping": (lambda: {"images": FEW}, r"given a dict; .*deconv\.folder\(path\)"),
    "a function": (lambda: deconv.folder, "given a function"),
    "an empty list": (list, "given a list of 0"),
}
TENSORS: dict[str, tuple[Callable[[], Any], str]] = {
    "a DataLoader": (lambda: DataLoader(OfTensors()), r"given a DataLoader; .*torch\.cat\(\[batch\[0\] for batch"),
    "a list of tensors": (lambda: list(FEW), r"a list of 3 Tensor; .*torch\.stack\(images\)"),
    "a tuple of batches": (lambda: (FEW, FEW), r"a tuple of 2 Tensor; .*torch\.cat\(images\)"),
    "a list of arrays": (lambda: list(FEW.numpy()), r"a list of 3 ndarray; .*np\.stack\(images\)"),
    "a list of PIL images": (lambda: [PICTURE], r"a list of 1 Image; .*deconv\.dataset\(images\)"),
    "a PIL image": (lambda: PICTURE, r"given a Image; .*deconv\.dataset\(\[images\]\)"),
    "an array": (lambda: FEW.numpy(), r"given ndarray of shape .*torch\.from_numpy\(images\)"),
    "an array of pictures": (
        lambda: np.zeros((2, SIZE, SIZE, 3), np.uint8),
        r"preprocessing\.normalize\(torch\.from_numpy\(images\)\.permute\(0, 3, 1, 2\)\)",
    ),
    "a generator": (lambda: iter(list(FEW)), r"given a list_iterator; .*torch\.stack\(list\(images\)\)"),
}
SHAPES: dict[str, tuple[Callable[[], Any], str]] = {
    "a tensor of bytes": (lambda: (FEW * 255).to(torch.uint8), r"torch\.uint8; .*preprocessing\.normalize\(images\)"),
    "a tensor of numbers": (lambda: FEW.long(), r"torch\.int64; .*preprocessing\.normalize\(images\)"),
    "a single image": (lambda: FEW[0], r"Tensor of shape \(3, 20, 20\) .*images\[None\]"),
    "images without channels": (lambda: FEW[:, 0].repeat(3, 1, 1)[:5], r"images\[:, None\]"),
    "channels last": (lambda: FEW.permute(0, 2, 3, 1), r"images\.permute\(0, 3, 1, 2\)"),
    "other channels": (lambda: torch.zeros(2, 4, SIZE, SIZE), r"a float tensor \(M, 3, H, W\)"),
    "a scalar": (lambda: torch.tensor(1.0), r"a float tensor \(M, 3, H, W\)"),
    "a matrix": (lambda: torch.zeros(3, 3), r"a float tensor \(M, 3, H, W\)"),
}


def mine(given: Any) -> object:
    return deconv.mine(network(), given, ["one"])


def project(given: Any) -> object:
    return deconv.project(network(), given, "one", [0], [0], [0], [0])


def project_peaks(given: Any) -> object:
    net = network()
    return deconv.project_peaks(net, given, "one", deconv.mine(net, FEW, ["one"], k=1)["one"], [0])


def patches_of(given: Any) -> object:
    net = with_preprocessing()
    return deconv.patches_of(net, given, deconv.project(net, FEW, "one", [0], [0], [0], [0]))


def atlas(given: Any) -> object:
    net = with_preprocessing()
    return deconv.write_atlas(net, deconv.mine(net, FEW, ["one"], k=1), given, "site")


def cache(given: Any) -> object:
    preprocessing = with_preprocessing().preprocessing
    assert preprocessing is not None
    return cached(given, preprocessing, "cache")


def refusal(call: Callable[[Any], object], given: Any) -> str:
    with jaxtyping_off(), pytest.raises(DeconvError) as caught:
        call(given)
    (line,) = str(caught.value).splitlines()
    return line


@REFUSED
@pytest.mark.parametrize("call", [mine, project, project_peaks])
@pytest.mark.parametrize("kind", [*SOURCES, *TENSORS, *SHAPES])
def test_what_is_neither_source_nor_tensor_is_one_line(call: Callable[[Any], object], kind: str) -> None:
    given, said = {**SOURCES, **TENSORS, **SHAPES}[kind]
    line = refusal(call, given())
    assert line.startswith("images: given ") and re.search(said, line), line


@REFUSED
@pytest.mark.parametrize("call", [patches_of, atlas, cache])
@pytest.mark.parametrize("kind", [*SOURCES, *TENSORS, *SHAPES])
def test_what_is_no_source_is_one_line(
    call: Callable[[Any], object], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = refusal(call, {**SOURCES, **TENSORS, **SHAPES}[kind][0]())
    assert re.search(r"^images: given .*(deconv\.(folder|webdataset|dataset)|cut_patches)\(", line), line
    assert not list(tmp_path.iterdir())


@REFUSED
@pytest.mark.parametrize("call", [mine, project, project_peaks, patches_of, atlas, cache])
@pytest.mark.parametrize("given", [OfTensors(), TensorDataset(FEW - 2)], ids=["a Dataset", "a TensorDataset"])
def test_a_dataset_of_floats_is_one_line(call: Callable[[Any], object], given: Any) -> None:
    line = refusal(call, given)
    assert re.search(
        r"^item 0 of the dataset is Tensor of shape \(3, 20, 20\) and torch.float32 from -\d.* to \d.*; expected a PIL "
        r"image, or uint8 of shape .*dataset\.transform = None.*torch\.stack\(",
        line,
    ), line


@pytest.mark.parametrize(
    "kind", ["a list of tensors", "a tuple of batches", "an array", "a generator", "a list of arrays"]
)
def test_the_mends_work(kind: str) -> None:
    given = TENSORS[kind][0]()
    line = refusal(mine, TENSORS[kind][0]())
    code = re.search(r"torch\.(\w+)\(.*?\)(?=$| where|, of| makes)", line)
    assert code
    made = eval(code[0], {"torch": torch, "np": np, "images": given})
    assert made.shape[1:] == FEW.shape[1:] and torch.equal(made[:3], FEW)
    mine(made)
