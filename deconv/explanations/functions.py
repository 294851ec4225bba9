"""A function that explains peaks: asked a few at a time, what it returns checked, and what a record says of it."""

from __future__ import annotations

import hashlib
import inspect
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deconv.errors import BadInput, DeconvError, bad_value, counted, first_line
from deconv.files.importing import import_function
from deconv.network import Network
from deconv.progress import track
from deconv.records import recut, whole_boxes

Explain = Callable[..., Tensor]
"""explain(network, inputs (N, C, H, W), layer, channel (N,), row (N,), col (N,)) -> (N, C, H, W)."""
AT_ONCE = 16
"""Peaks that a function is asked about at a time."""
BUILT_IN_MODULES = "deconv.explanations."
log = logging.getLogger("deconv")


@dataclass(frozen=True)
class Explanation:
    """A function that explains peaks, by a name of its own.

    - name: what it is called in tables, charts and files.
    - function: explain(network, inputs, layer, channel, row, col), as `deconv.explanations` says.
    - target: where another process imports the function; "" for one that is handed over as it is.

    >>> import deconv, torch
    >>> def red(network, inputs, layer, channel, row, col):
    ...     return inputs * torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    >>> Explanation("red", red)
    Explanation('red')
    """

    name: str
    function: Explain = field(repr=False)
    target: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise bad_value("name", self.name, "what the explanation is called")
        if not callable(self.function):
            raise bad_value(f"explanation {self.name}", self.function, "a function")

    def __repr__(self) -> str:
        return f"Explanation({self.name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (load, (self.name, self.target)) if self.target else (Explanation, (self.name, self.function))

    def options(self) -> dict[str, Any]:
        """Return what a record says of it: the function, its arguments, and the SHA-256 of the file it stands in.

        The hash is None where no source can be read; what the file imports is not hashed.
        """
        function: Any = self.function
        arguments: dict[str, str] = {}
        while isinstance(function, partial):
            arguments = {**{str(n): _said(value) for n, value in enumerate(function.args)}, **arguments}
            arguments |= {name: _said(value) for name, value in function.keywords.items() if name not in arguments}
            function = function.func
        function = inspect.unwrap(function)
        source = function if hasattr(function, "__qualname__") else type(function)
        about = {"function": f"{source.__module__}:{source.__qualname__}", "arguments": arguments}
        # the version of deconv says which a built-in one is
        return about if source.__module__.startswith(BUILT_IN_MODULES) else about | {"sha256": _source_hash(source)}

    @property
    def is_built_in(self) -> bool:
        """Whether the function is one of deconv's own."""
        return "sha256" not in self.options()

    def explain(
        self,
        network: Network,
        layer: str,
        images: Float[Tensor, "M C H W"],
        index: Int[Tensor, " N"],
        channel: Int[Tensor, " N"],
        positions: Int[Tensor, "N 2"],
        box: Int[Tensor, "N 4"],
    ) -> Float[Tensor, "N C h w"]:
        """Return what the function gives for the units channel[n] on images[index[n]], cut at box[n]; on the CPU.

        Pixels of a box outside the image are zero. Raises BadInput, naming the explanation, if the function fails, or
        returns anything but finite numbers of its inputs' shape, type and device; errors of deconv's own pass.
        """
        height, width = images.shape[2:]
        pixels = (
            torch.zeros(len(index), images.shape[1], *(box[0, 2:] - box[0, :2]).tolist()) if len(box) else images[:0]
        )
        chunks = torch.arange(len(index)).split(AT_ONCE)
        for chunk in track(chunks, f"explaining by {self.name}", len(index), unit="peaks", size=len):
            inputs = network.check_images(images[index[chunk]]).clone(memory_format=torch.contiguous_format)
            unit, row, col = (tensor[chunk].to(inputs.device) for tensor in (channel, *positions.unbind(1)))
            whole = whole_boxes(len(chunk), (height, width))
            pixels[chunk] = recut(self._ask(network, inputs, layer, unit, row, col).float().cpu(), whole, box[chunk])
        if len(pixels) and not pixels.any():
            log.warning("%s is zero everywhere for all peaks of %s: nothing can be measured of it", self.name, layer)
        return pixels

    def _ask(self, network: Network, inputs: Tensor, layer: str, channel: Tensor, row: Tensor, col: Tensor) -> Tensor:
        given = inputs.clone()  # which the function may write on
        try:
            with torch.inference_mode(False), torch.enable_grad():
                picture = self.function(network, given, layer, channel, row, col)
        except DeconvError:
            raise
        except Exception as error:  # whatever the user's own function raises
            raise BadInput(
                f"explanation {self.name} fails on {layer} ({type(error).__name__}: {first_line(error)}); expected "
                "explain(network, inputs, layer, channel, row, col) -> (N, C, H, W): call it alone to see where"
            ) from error
        if not isinstance(picture, Tensor):
            picture_is = f"it returns {type(picture).__name__}"
        elif picture.shape != inputs.shape:
            picture_is = f"it returns shape {tuple(picture.shape)}"
        elif picture.dtype != inputs.dtype or picture.device != inputs.device:
            picture_is = f"it returns {picture.dtype} on {picture.device}"
        elif not bool(picture.isfinite().all()):
            picture_is = "it returns NaN or infinite values"
        else:
            return picture.detach()
        expected = f"a picture of finite numbers, {tuple(inputs.shape)} {inputs.dtype} on {inputs.device}"
        raise bad_value(f"explanation {self.name}", f"{layer}, {counted(len(inputs), 'input')}", expected, picture_is)


def load(name: str, target: str) -> Explanation:
    """Return the explanation that a function of "package.module:function" or "path/to/file.py:function" gives.

    Raises BadInput for what cannot be imported or called.

    >>> load("mine", "deconv.explanations.gradients:smoothgrad").options()["function"]
    'deconv.explanations.gradients:smoothgrad'
    """
    function = import_function(target, f"explanations.{name}")
    place, _, called = target.rpartition(":")
    if place.endswith(".py"):  # another process may have another working folder
        target = f"{Path(place).expanduser().resolve()}:{called}"
    return Explanation(name, function, target)


def _said(value: Any) -> str:
    """What a record says of an argument: the same in every process, so without where it lies in memory."""
    if hasattr(value, "__module__") and hasattr(value, "__qualname__"):
        return f"{value.__module__}:{value.__qualname__}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _source_hash(source: Any) -> str | None:
    """The SHA-256 of the file that a function stands in, or of its text where it stands in none."""
    try:
        path = Path(inspect.getsourcefile(source) or "")
        content = path.read_bytes() if path.is_file() else inspect.getsource(source).encode()
    except (OSError, TypeError):
        return None
    return hashlib.sha256(content).hexdigest()
