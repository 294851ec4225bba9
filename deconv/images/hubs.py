"""Datasets that others publish, by their names: torchvision's, and those of the Hugging Face hub or in its formats."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

from deconv.errors import BadInput, UnknownName, bad_value, check_choice, check_count, first_line, unknown
from deconv.images.datasets import dataset as source_of
from deconv.images.source import Source

NOT_SAID = ("root", "download", "transform", "transforms", "target_transform", "loader", "is_valid_file")
"""Arguments of torchvision's classes that have an option of their own, or that no text can say."""
SAID_OTHERWISE = ("path", "name", "split", "streaming")
"""Arguments of datasets.load_dataset that have an option of their own."""
OFFLINE = "folder(root), webdataset(urls) and bundled() need no connection"


def torchvision(
    dataset: str,
    root: str | PathLike[str] | None = None,
    split: str | None = None,
    download: bool | None = False,
    args: Mapping[str, Any] | None = None,
) -> Source:
    """Return the images of a class of torchvision.datasets.

    - root: the folder that its files lie in, or are fetched into.
    - split: its argument `split`, or `image_set`, or train or test where it takes `train`; None for its own default.
    - download: whether to fetch what is not there yet.
    - args: further arguments of the class.

    Raises UnknownName for a class or an argument that does not exist, with the nearest; BadInput if the class refuses
    an argument, if its files are not there or cannot be fetched, saying what needs no connection, and as
    `deconv.dataset` does.
    """
    import torchvision.datasets as published  # here, so that other sources need not wait for it

    classes = [name for name in published.__all__ if inspect.isclass(getattr(published, name))]
    made = getattr(published, check_choice("dataset of torchvision", dataset, classes))
    takes = _arguments_of(made)
    known = [name for name in takes if name not in NOT_SAID]
    arguments = _checked_arguments(f"argument of torchvision's {dataset}", args, known)
    if split is not None:
        arguments |= _split_argument(dataset, split, known, arguments)
    for option, value in (("root", root), ("download", download or None)):
        if value is not None and option not in takes:
            raise bad_value(option, value, f"none: torchvision's {dataset} does not take it")
    if "root" in takes:
        if root is None:
            raise bad_value("root", None, f"the folder that torchvision's {dataset} lies in, or is fetched into")
        arguments["root"] = os.path.expanduser(root)
    if "download" in takes:
        arguments["download"] = bool(download)
    missing = [name for name, argument in takes.items() if argument.default is argument.empty and name not in arguments]
    if missing:
        raise BadInput(f"torchvision's {dataset} needs {', '.join(missing)}: give them among args, as {missing[0]}=...")
    return source_of(_made(f"torchvision's {dataset}", lambda: made(**arguments), _torchvision_remedy(root, download)))


def huggingface(
    path: str | PathLike[str],
    subset: str | None = None,
    split: str | None = None,
    image: str | None = None,
    label: str | None = None,
    streaming: bool | None = False,
    limit: int | None = None,
    args: Mapping[str, Any] | None = None,
) -> Source:
    """Return the images of a Hugging Face dataset, by its name on the hub or in a folder.

    - path: its name, or a folder: one of Dataset.save_to_disk, or of pictures, Parquet files or tar shards.
    - subset: its configuration, where it has several.
    - split: as it names them, with slices ("train[:500]") unless it was saved to disk; None if there is only one.
    - image, label: the columns; None for the first of pictures, and for label, labels or the like.
    - streaming: fetch no more than the first `limit` images, which must be given and are kept in memory, encoded.
    - limit: take the first so many images only; None for all.
    - args: further arguments of datasets.load_dataset, such as revision.

    Raises BadInput if the package datasets is not installed, if the dataset cannot be loaded, saying what needs no
    connection, for a split that is not there or not chosen, and as `deconv.dataset` does; UnknownName for an argument
    that does not exist, with the nearest.
    """
    try:
        import datasets as published  # here, so that other sources need not wait for it
    except ImportError as error:
        raise BadInput(
            f"the source huggingface needs the package datasets, which is not installed: pip install "
            f"'deconvnet[huggingface]'; {OFFLINE}"
        ) from error
    known = [name for name in _arguments_of(published.load_dataset) if name not in SAID_OTHERWISE]
    arguments = _checked_arguments("argument of datasets.load_dataset", args, known)
    if limit is not None:
        check_count("limit", limit)
    elif streaming:
        raise bad_value("limit", None, "how many images to take of the stream", "a stream has no length of its own")
    chosen = _split_of(_loaded(published, path, subset, split, bool(streaming), arguments), split)
    if streaming:
        chosen = _first_of_stream(published, chosen, limit or 0)
    elif limit is not None:
        chosen = chosen.select(range(min(limit, len(chosen))))
    return source_of(chosen, image, label)


def _arguments_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The arguments with names of a function or class; those that a class hands on by **kwargs are its parent's."""
    parameters = dict(inspect.signature(function).parameters)
    named = {name: each for name, each in parameters.items() if each.kind is not each.VAR_KEYWORD}
    if len(named) < len(parameters) and inspect.isclass(function):
        return {**_arguments_of(function.__mro__[1]), **named}
    return named


def _checked_arguments(kind: str, args: Mapping[str, Any] | None, known: list[str]) -> dict[str, Any]:
    for name in args or {}:
        if name not in known:
            raise unknown(kind, name, known)
    return dict(args or {})


def _split_argument(dataset: str, split: str, known: list[str], arguments: Mapping[str, Any]) -> dict[str, Any]:
    name = next((name for name in ("split", "image_set", "train") if name in known), None)
    if name is None:
        raise UnknownName(f"torchvision's {dataset} has no split; it takes {', '.join(known) or 'no arguments'}")
    if name in arguments:
        raise bad_value("split", split, f"none beside {name} among args")
    if name != "train":
        return {name: split}
    return {"train": check_choice(f"split of torchvision's {dataset}", split, ["train", "test"]) == "train"}


def _made(name: str, make: Callable[[], Any], remedy: str) -> Any:
    try:
        return make()
    except Exception as error:  # connections, archives, servers and each class's own checks
        raise BadInput(f"{name} cannot be opened ({first_line(error)}); expected {remedy}") from error


def _torchvision_remedy(root: str | PathLike[str] | None, download: bool | None) -> str:
    if download:
        return f"a connection and arguments that it takes, or its files in {root} already: {OFFLINE}"
    return f"its files in {root} and arguments that it takes: download=true fetches them where it can; {OFFLINE}"


def _loaded(
    published: ModuleType,
    path: str | PathLike[str],
    subset: str | None,
    split: str | None,
    streaming: bool,
    arguments: Mapping[str, Any],
) -> Any:
    folder = Path(os.path.expanduser(path))
    remedy = (
        "its name on the hub and a connection, or a folder of Dataset.save_to_disk, of pictures or of Parquet files: "
        f"{OFFLINE}"
    )
    if not any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        place = str(folder) if folder.exists() else os.fspath(path)
        said = {"name": subset, "split": split, "streaming": streaming, **arguments}
        return _made(f"the dataset {path}", lambda: published.load_dataset(place, **said), remedy)
    for option, value in (("subset", subset), ("streaming", streaming or None), ("args", arguments or None)):
        if value is not None:
            raise bad_value(option, value, f"none for {path}, which was saved to disk")
    saved = _made(f"the dataset {path}", lambda: published.load_from_disk(str(folder)), remedy)
    if split is not None and not isinstance(saved, Mapping) and str(saved.split) != split:
        raise bad_value("split", split, f"none for {path}, which was saved to disk as one split alone")
    return saved


def _split_of(loaded: Any, split: str | None) -> Any:
    """One split of what was loaded: the one that was asked for, or the only one."""
    if not isinstance(loaded, Mapping):
        return loaded
    if split is None and len(loaded) != 1:
        raise bad_value("split", None, f"one of {', '.join(loaded)}")
    return loaded[next(iter(loaded)) if split is None else check_choice("split", split, loaded)]


def _first_of_stream(published: ModuleType, stream: Any, limit: int) -> Any:
    """The first images of a stream as a Dataset in memory, encoded as they came."""
    for column, feature in (stream.features or {}).items():
        if isinstance(feature, published.Image):
            stream = stream.cast_column(column, published.Image(decode=False))
    rows = _made("the stream", lambda: list(stream.take(limit)), f"a connection: {OFFLINE}")
    if not rows:
        raise bad_value("limit", limit, "images in the stream, which has none")
    features = (
        None
        if stream.features is None
        else published.Features(
            {
                name: published.Image() if isinstance(each, published.Image) else each
                for name, each in stream.features.items()
            }
        )
    )
    return published.Dataset.from_list(rows, features=features)
