"""deconv/models/directions.py: directions from files, deconv's own and those of others, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from deconv.command.settings import compose_jobs
from deconv.errors import BadInput, DeconvError, RecordMismatch, UnknownName
from deconv.models.directions import asked_name, load_directions, open_directions, own_name, save_directions
from deconv.network import Network
from tests.samples import images, network

CODER = torch.randn(9, 6, generator=torch.Generator().manual_seed(0))
BIAS = torch.linspace(-0.5, 0.5, 9)
CENTRE = torch.linspace(0, 0.3, 6)


def made_on(plain: Network, **other: Any) -> dict[str, Any]:
    """What a file of directions over layer one says that it was fitted on."""
    return {**plain.provenance(), "layer": "1", "method": "pca", "n": 9, **other}


def values(wide: Network, layer: str) -> Tensor:
    return wide.forward(images(2), [layer])[layer]


@pytest.fixture
def coder(tmp_path: Path) -> Path:
    tensors = {"W_enc": CODER.T.contiguous(), "W_dec": CODER, "b_enc": BIAS, "b_dec": CENTRE}
    save_file(tensors, tmp_path / "sae.safetensors")
    return tmp_path / "sae.safetensors"


def test_directions_come_back_as_they_were_saved(tmp_path: Path) -> None:
    plain = network()
    path = save_directions(tmp_path / "pca.safetensors", CODER, BIAS, made_on(plain))
    before = path.read_bytes()
    tensors, provenance = load_directions(path)
    assert torch.equal(tensors["weights"], CODER) and torch.equal(tensors["bias"], BIAS)
    assert provenance == made_on(plain)
    wide = open_directions(plain, {"one": None, "main": {"file": str(path)}})  # its layer is the one that it names
    assert wide.layers == ["1", "1@main", "3"] and plain.layers == ["1", "3"]
    by_hand = plain.with_units("one", CODER, BIAS, name="x")
    torch.testing.assert_close(values(wide, "one@main"), values(by_hand, "one@x"))
    assert save_directions(path, CODER, BIAS, made_on(plain)).read_bytes() == before


def test_a_sparse_autoencoders_coder_and_decoder_are_read(coder: Path) -> None:
    plain = network()
    settings = {"file": str(coder), "layer": "one"}
    reads = {"weights": "W_enc", "bias": "b_enc", "centre": "b_dec", "transpose": True}
    wide = open_directions(plain, {"sae": settings | reads, "out": settings | {"weights": "W_dec", "rectify": False}})
    maps = values(plain, "one")
    coded = torch.einsum("nchw,uc->nuhw", maps - CENTRE[:, None, None], CODER) + BIAS[:, None, None]
    torch.testing.assert_close(values(wide, "one@sae"), coded.relu(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(values(wide, "one@out"), torch.einsum("nchw,uc->nuhw", maps, CODER))


def test_a_checkpoint_of_torch_with_names_nested(tmp_path: Path) -> None:
    torch.save({"state_dict": {"encoder.weight": CODER}, "epoch": 3}, tmp_path / "sae.pth")
    settings = {"file": str(tmp_path / "sae.pth"), "layer": "one", "weights": "state_dict.encoder.weight"}
    assert open_directions(network(), {"sae": settings}).channels("one@sae") == 9


def test_directions_over_directions(tmp_path: Path, coder: Path) -> None:
    plain = network()
    below = {"file": str(coder), "layer": "one", "weights": "W_dec"}
    wide = open_directions(plain, {"low": below})
    provenance = made_on(wide, layer="1@low")
    path = save_directions(tmp_path / "high.safetensors", torch.rand(2, 9), torch.zeros(2), provenance)
    both = open_directions(plain, {"low": below, "high": {"file": str(path)}})
    assert both.channels("one@low@high") == 2


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"file": None}, BadInput, "directions.sae: it has no file; expected file=PATH"),
        ({"layer": None}, BadInput, "directions.sae: it has no layer, and "),
        ({"layer": "three"}, UnknownName, "directions.sae: unknown layer 'three'; expected one of one, two"),
        (
            {"weight": "W_dec"},
            UnknownName,
            "directions.sae: there is no setting 'weight'; expected layer, file, ",
        ),
        ({"weights": "W_out"}, UnknownName, "expected one of "),
        ({"weights": 3}, BadInput, "directions.sae: weights: given 3; expected a text"),
        ({"weights": "W_enc"}, BadInput, "channels; transpose=true would turn them"),
        ({"transpose": True}, BadInput, "channels; transpose=false would turn them"),
        ({"transpose": "yes"}, BadInput, "directions.sae: transpose: given yes; expected true or false"),
        (
            {"bias": "b_dec"},
            BadInput,
            "bias: given Tensor of shape (6,) and torch.float32; expected numbers of shape (",
        ),
        ({"centre": "b_enc"}, BadInput, "has (9,); expected (6,), one a channel"),
        (
            {"layer": "two"},
            BadInput,
            "weights: given Tensor of shape (9, 6) and torch.float32; expected numbers",
        ),
        ({"file": "/nowhere.safetensors"}, BadInput, "directions.sae: there is no weights file /nowhere.safetensors"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_in_one_line(
    settings: dict[str, Any], kind: type[DeconvError], message: str, coder: Path, unchecked: None
) -> None:
    usual = {"file": str(coder), "layer": "one", "weights": "W_dec"}
    with pytest.raises(kind) as caught:
        open_directions(network(), {"sae": usual | settings})
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_files_of_deconv_are_checked(tmp_path: Path) -> None:
    plain, path = network(), tmp_path / "x.safetensors"
    settings = {"x": {"file": str(path)}}
    save_directions(path, CODER, BIAS, made_on(network(seed=1)))
    with pytest.raises(RecordMismatch, match="^directions.x: .* was made with weights .*Fit them again, or"):
        open_directions(plain, settings)
    save_directions(path, CODER, BIAS, made_on(plain))
    with pytest.raises(RecordMismatch, match="was made with layer 1; this run has 3. Leave the layer out, or"):
        open_directions(plain, {"x": {"file": str(path), "layer": "two"}})
    save_directions(path, CODER, BIAS, made_on(plain, method="nmf"))
    with pytest.raises(BadInput, match="holds negative weights; expected none, as its method is nmf: fit it again"):
        open_directions(plain, settings)
    save_directions(path, CODER, BIAS, made_on(plain))
    damaged = bytearray(path.read_bytes())
    damaged[-3] ^= 8
    path.write_bytes(damaged)
    with pytest.raises(BadInput, match="its numbers are not those that were written"):
        open_directions(plain, settings)
    with pytest.raises(BadInput, match="does not exist"):
        load_directions(tmp_path / "none.safetensors")


@pytest.mark.parametrize("said", ["{", "[]", "null", json.dumps({"kind": "peaks"})])
def test_another_kind_of_metadata_is_no_sign(said: str, tmp_path: Path) -> None:
    save_file({"weights": CODER}, tmp_path / "other.safetensors", metadata={"deconv": said})
    settings = {"file": str(tmp_path / "other.safetensors"), "layer": "one"}
    assert open_directions(network(), {"x": settings}).channels("one@x") == 9


def test_settings_that_are_no_mapping() -> None:
    with pytest.raises(BadInput, match="^directions.x: given 3; expected its settings, as file=nmf.safetensors"):
        open_directions(network(), {"x": 3})


def test_names() -> None:
    assert own_name(network(), "one") == own_name(network(), "1") == "1" and asked_name("one", "x") == "one@x"


def test_the_command_takes_them() -> None:
    words = [
        "experiment=atlas",
        "layers=[fire7@nmf]",
        "directions.nmf.layer=fire7",
        "directions.nmf.file=a b.safetensors",
    ]
    (job,) = compose_jobs([*words, "directions.sae.transpose=true"], sweep=False)
    read = {"nmf": {"layer": "fire7", "file": "a b.safetensors"}, "sae": {"transpose": True}}
    assert job.options.directions == read  # type: ignore[attr-defined]
    with pytest.raises(UnknownName, match="experiment=train has no directions; it has "):
        compose_jobs(["experiment=train", "directions.nmf.file=x"], sweep=False)
