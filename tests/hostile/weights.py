"""Files of weights that do not fit, are damaged, or would run code or fill the memory."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch

from deconv.models import build
from tests.hostile import making
from tests.hostile.making import changed, pth, weights
from tests.hostile.rows import Rows, file, line, within


def load(path: Path) -> torch.nn.Module:
    return build("squeezenet", path)


def with_code(home: Path) -> Path:
    return file("w.pth", pth({"w": making.Payload(home / "trace")}))(home)


def part_of(suffix: str, share: float) -> bytes:
    content = weights(suffix, making.squeezenet())
    return content[: int(share * len(content))]


def unfit(suffix: str, change: dict[str, torch.Tensor | None]) -> bytes:
    return weights(suffix, changed(**change))


UNREADABLE = line(r"the weights file .*w\.\w+ cannot be read \(.+\); expected a whole .* copy or save it again")
FAULTS: dict[str, tuple[dict[str, torch.Tensor | None], str]] = {
    "a tensor is missing": ({"classifier__1__bias": None}, r"1 missing \(classifier\.1\.bias\)"),
    "one too many": ({"head__weight": torch.zeros(2)}, r"1 not in the network \(head\.weight\)"),
    "one of another shape": (
        {"features__0__weight": torch.zeros(64, 3, 7, 7)},
        r"features\.0\.weight \(64, 3, 7, 7\), not \(64, 3, 3, 3\)",
    ),
    "one of whole numbers": ({"features__0__bias": torch.zeros(64).int()}, "1 of another kind .*torch.int32"),
    "NaN": ({"features__0__bias": torch.full((64,), np.nan)}, r"NaN or infinite values \(features\.0\.bias\)"),
    "infinity": ({"features__0__bias": torch.full((64,), np.inf)}, r"NaN or infinite values \(features\.0\.bias\)"),
}
WEIGHTS: Rows = {
    **{
        f"weights in {suffix}: {fault}": (
            file(f"w.{suffix}", partial(unfit, suffix, change)),
            load,
            line(rf"the weights in .*w\.{suffix} do not fit SqueezeNet: tensors .*{said}.*give weights that"),
        )
        for suffix in ("safetensors", "pth")
        for fault, (change, said) in FAULTS.items()
    },
    **{
        f"weights in {suffix}, {kept} of them": (
            file(f"w.{suffix}", partial(part_of, suffix, kept)),
            load,
            UNREADABLE,
        )
        for suffix in ("safetensors", "pth")
        for kept in (0.0, 0.01, 0.5, 0.999)
    },
    "weights with code in them": (with_code, load, UNREADABLE),
    "weights packed a hundred times smaller": (
        file("w.pth", making.packed_pth),
        within(64, load),
        line(r"w\.pth would unpack to \d{9} bytes; expected no more than it has"),
    ),
    "a tensor of one number repeated 10^12 times": (
        file("w.pth", lambda: pth(changed(features__0__bias=torch.zeros(1).expand(10**12)))),
        within(64, load),
        line(r"features\.0\.bias \(1000000000000,\), not \(64,\)"),
    ),
    "a checkpoint that is no state dict": (
        file("w.pth", pth({"epoch": 3, "model": {}})),
        load,
        line(r"holds no named tensors; .*save it with torch\.save\(network\.state_dict"),
    ),
    "weights that are not there": (
        lambda home: home / "absent.pth",
        load,
        line("there is no weights file .*absent.pth"),
    ),
    "weights that are a folder": (lambda home: home, load, line("there is no weights file .*check the path")),
    "weights with a name too long": (lambda home: Path("x" * 5000 + ".pth"), load, line("there is no weights file x")),
}
