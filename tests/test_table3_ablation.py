"""experiment=table3_ablation run small: what it leaves, that it goes on variant by variant, mistakes as one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from deconv.command.cli import main
from deconv.models import build
from tests.commands import refusal, words
from tests.drawn import assert_drawn
from tests.labelled import folder_of

ROOT = Path(__file__).resolve().parent.parent
SMALL = [
    "experiment=table3_ablation", "source=folder", "held_out=0.25", "train_sample=6", "training.epochs=1",
    "training.batch_size=8", "training.whole_epochs=0", "training.bfloat16=false", "only=[zfnet,without_3_4_6_7]",
    "+variants.zfnet.maps=[4,4,4,4,4]", "+variants.zfnet.widths=[8,8]", "variants.without_3_4_6_7.maps=[4,4,4]",
]  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory.mktemp("photos"), each=16, side=64)


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    assert main([*SMALL, f"source.root={photos}", f"folder={folder}"]) == 0
    return folder


def test_every_variant_is_trained_and_told_of(finished: Path) -> None:
    told = json.loads((finished / "summary.json").read_text())
    assert list(told["variants"]) == ["without_3_4_6_7", "zfnet"]  # JSON sorts them
    for name, numbers in told["variants"].items():
        assert (finished / "trained" / name / "weights.safetensors").is_file()
        assert all(0 <= error <= 1 for error in numbers["errors"].values())
    assert told["variants"]["zfnet"]["paper"] == [38.4, 16.5]
    module = build("zfnet64", "random", maps=[4] * 5, widths=[8, 8], classes=2)
    assert told["variants"]["zfnet"]["parameters"] == sum(p.numel() for p in module.parameters())
    assert_drawn(finished, "table3")


def test_variants_trained_apart_make_the_same_table(finished: Path, photos: Path, tmp_path: Path) -> None:
    together = [*SMALL, f"source.root={photos}", f"trained={tmp_path / 'trained'}"]
    apart = ["only=[without_3_4_6_7],[zfnet]" if word.startswith("only=") else word for word in together]
    assert main(["-m", *apart, f"folder={tmp_path / 'apart'}"]) == 0
    states = [tmp_path / "trained" / name / "state.pt" for name in ("zfnet", "without_3_4_6_7")]
    before = [state.stat().st_mtime_ns for state in states]
    assert main([*together, f"folder={tmp_path / 'table'}"]) == 0
    assert [state.stat().st_mtime_ns for state in states] == before  # none is trained again
    for name in ("summary.json", "table3.png"):
        assert (tmp_path / "table" / name).read_bytes() == (finished / name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["only=[zfnett]"], "unknown variant 'zfnett'; expected one of krizhevsky, "),
        (["variants.zfnet.model=zfnet65"], "variants.zfnet.model=zfnet65: there are "),
        (
            ["+variants.zfnet.width=[8]"],
            "variants.zfnet.width: model zfnet64 has no such setting; did you mean 'widths'",
        ),
        (["+variants.zfnet.size=[48,48]"], "variants zfnet and without_3_4_6_7 see images of different size"),
        (["training.lr=-0.5"], "training.lr: given -0.5; expected a number above 0"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(
    arguments: list[str], expected: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = words(SMALL, [f"source.root={photos}"], arguments)
    assert expected in refusal(said, tmp_path / "run", capsys)


def test_the_shipped_variants_can_be_built() -> None:
    config = OmegaConf.load(ROOT / "configs/experiment/table3_ablation.yaml")
    sizes = {}
    for name, variant in config.variants.items():
        options = {key: variant[key] for key in ("maps", "widths") if key in variant}
        sizes[name] = sum(p.numel() for p in build(variant.model, "random", **options).parameters())
    assert len(sizes) == 10 and min(sizes, key=lambda name: sizes[name]) == "without_3_4_6_7"
    assert sizes["half_6_7"] < sizes["zfnet"] < sizes["double_6_7"] and sizes["wide_3_4_5"] < sizes["wide_3_to_7"]
