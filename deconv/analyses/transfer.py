"""A trained network put to other classes: a new last layer, and how right it is on them (paper, section 5.2)."""

from __future__ import annotations

import copy

import torch
from torch import nn

from deconv.errors import BadInput, check_count, needed
from deconv.training.data import Labelled

with needed("the accuracy over classes", "scikit-learn", extra="probing"):
    from sklearn.metrics import balanced_accuracy_score

IMAGES_AT_ONCE = 100
PAPER = {"ImageNet-pretrained": (83.8, 0.5), "not pretrained": (22.8, 1.5)}
"""Table 4 of the paper: Caltech-101, 15 training images a class, percent."""


def with_new_head(model: nn.Module, classes: int, seed: int = 0) -> nn.Module:
    """A copy of a classifier whose last linear or convolutional layer gives `classes` outputs and starts at random.

    The last is the last that the module registers, which in torchvision's classifiers is the one that gives the
    scores. `seed` decides the new weights, by torch's default for the layer; torch's own generators are left alone.
    Raises BadInput for a module without such a layer, and for fewer than two classes.
    """
    check_count("classes", classes, 2)
    copied = copy.deepcopy(model)
    weighted = [name for name, module in copied.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    if not weighted:
        raise BadInput("this model has no linear or convolutional layer to replace; expected a classifier")
    parent, _, name = weighted[-1].rpartition(".")
    if not name:
        raise BadInput("this model is a single layer; expected a classifier with features before its last layer")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed those of GPUs too
        setattr(copied.get_submodule(parent), name, _resized(copied.get_submodule(weighted[-1]), classes))
    return copied


def _resized(layer: nn.Module, outputs: int) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, outputs, layer.bias is not None).to(layer.weight)
    assert isinstance(layer, nn.Conv2d)
    geometry = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    resized = nn.Conv2d(layer.in_channels, outputs, layer.kernel_size, bias=layer.bias is not None, **geometry)  # type: ignore[arg-type]
    return resized.to(layer.weight)


@torch.no_grad()
def class_accuracy(model: nn.Module, data: Labelled) -> float:
    """Return the mean over the classes of the share of their images that the model names right.

    It leaves the model in eval mode.
    """
    model.eval()
    device = next(model.parameters()).device
    named = [
        model(data.preprocessing.normalize(images.permute(0, 3, 1, 2)).to(device)).argmax(dim=1).cpu()
        for images in data.images.split(IMAGES_AT_ONCE)
    ]
    return float(balanced_accuracy_score(data.labels.numpy(), torch.cat(named).numpy()))
