"""Any network of timm, by name, with the preprocessing and the class names that timm has for it; timm is an extra."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from types import ModuleType
from typing import Any

from torch import nn

from deconv.errors import BadInput, DeconvError, UnknownName, bad_value, first_line, nearest
from deconv.images.preprocessing import Preprocessing
from deconv.models.loading import OFFLINE_CHOICES, check_outputs, is_file_name, load_file, randomly, unknown_weights


def build(
    arch: str,
    weights: str | PathLike[str],
    seed: int = 0,
    classes: int | None = None,
    args: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return timm's network `arch` in eval mode; its name may hold the tag of a set of weights, as resnet50.a1_in1k.

    weights: "DEFAULT", those of the tag or the ones that timm prefers, by a download from Hugging Face's hub; "random",
    which `seed` decides; or the path of a file.
    classes: the number of outputs, where the weights are random or from a file; None for timm's own.
    args: what else timm.create_model takes for it, as {"stem_width": 32}.
    Raises UnknownName, BadInput or DeconvError as `deconv.models.build` does, DeconvError without timm.

    >>> build("resnet18", "random", classes=7).fc
    Linear(in_features=512, out_features=7, bias=True)
    """
    timm, options = _timm(), dict(args or {})
    _check_arch(timm, arch)
    if classes is not None:
        options["num_classes"] = classes
    if weights == "DEFAULT":
        return _downloaded(timm, arch, classes, options)
    if weights != "random" and not is_file_name(weights):
        raise unknown_weights(arch, weights, ["DEFAULT", "random"])
    module = randomly(lambda: _created(timm, arch, options), seed)
    if weights != "random":
        load_file(module, weights, takes_classes=True)
    return module


def preprocessing(arch: str) -> Preprocessing:
    """Return the preprocessing of timm's data config for a network: input size, crop, mean, std, interpolation.

    Raises as `build`.

    >>> preprocessing("resnet50.a1_in1k").resize
    235
    """
    timm = _timm()
    _check_arch(timm, arch)
    config = timm.get_pretrained_cfg(arch).to_dict()
    return Preprocessing.of(timm.data.resolve_data_config(args={}, pretrained_cfg=config))


def class_names(arch: str) -> list[str]:
    """Return what the outputs of timm's weights for a network stand for, in order; none where timm does not say.

    Raises as `build`.
    """
    timm = _timm()
    _check_arch(timm, arch)
    config = timm.get_pretrained_cfg(arch)
    if config.label_names is not None:
        return [str(name) for name in config.label_names]
    subset = timm.data.infer_imagenet_subset(config.to_dict())
    if subset is None:
        return []
    info = timm.data.ImageNetInfo(subset)
    return [str(info.index_to_description(number)) for number in range(info.num_classes())]


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise DeconvError(
            f"model timm needs timm ({first_line(error)}): pip install 'deconvnet[timm]', or choose another model"
        ) from error
    module: ModuleType = timm
    return module


def _check_arch(timm: ModuleType, arch: str) -> None:
    """Raise UnknownName for a network or a tag that timm does not have."""
    name, _, tag = arch.partition(".")
    if not timm.is_model(name):
        raise UnknownName(
            f"unknown timm network {name!r}; expected one of its {len(timm.list_models())}: see timm.list_models()"
            f"{nearest(name, timm.list_models())}"
        )
    if not tag:
        return
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{name}.*")]
    if tag not in tags:
        listed = ", ".join(tags) or "none"
        raise UnknownName(f"timm has no weights {tag!r} of {name}; expected one of {listed}{nearest(tag, tags)}")


def _created(timm: ModuleType, arch: str, options: Mapping[str, Any], pretrained: bool = False) -> nn.Module:
    try:
        module: nn.Module = timm.create_model(arch, pretrained=pretrained, **options)
    except (TypeError, ValueError, AssertionError) as error:
        if not options:
            raise
        raise bad_value("args", dict(options), f"what timm.create_model takes for {arch}", first_line(error)) from error
    return module


def _downloaded(timm: ModuleType, arch: str, classes: int | None, options: Mapping[str, Any]) -> nn.Module:
    """Return a network with the weights that timm fetches, or finds in the hub's cache."""
    config = timm.get_pretrained_cfg(arch, allow_unregistered=True)
    if config is None or not (config.url or config.hf_hub_id or config.file):
        raise BadInput(
            f'timm has no weights of {arch}; expected weights "random" or a file, or a network that '
            "timm.list_pretrained() lists"
        )
    check_outputs(arch, "timm's weights", classes, config.num_classes)
    try:
        return _created(timm, arch, options, pretrained=True).eval()
    except DeconvError:
        raise
    except Exception as error:  # the hub's own errors, and those of what it sends requests by, have no common base
        raise DeconvError(
            f"timm's weights of {arch} could not be had from {config.hf_hub_id or config.url} ({first_line(error)}); "
            f"expected a network connection: without one choose {OFFLINE_CHOICES}"
        ) from error
