"""Every experiment's smallest run: the photographs that it needs, and what it is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save_file

from deconv import models
from tests.labelled import folder_of
from tests.samples import noise

SQUEEZENET = ["model=squeezenet", "model.weights=random", "model.size=[67,67]"]
ZFNET = ["model=zfnet64", "model.weights=random", "model.maps=[8,8,8,8,8]", "model.widths=[8,8]", "model.classes=4"]
"""As many maps as need be: torchvision's smallest network with five layers has 61 million weights to make and copy."""
MINED = [*ZFNET, "layers=[conv1,conv2]", "k=2"]
BOXES = "file,part,y0,x0,y1,x1\n" + "".join(
    f"{n}.png,eye,20,{30 + n},36,{46 + n}\n{n}.png,mouth,44,40,56,60\n{n}.png,head,8,20,68,80\n" for n in range(2)
)
TINY = ["training.epochs=1", "training.batch_size=8", "training.bfloat16=false", "training.snapshots=[]"]


def said(name: str, home: Path) -> list[str]:
    """What makes the experiment's run small; what it needs is written to the folder `home`."""
    labelled = name in ("train", "table3_ablation", "table4_transfer", "table7_layers")
    photographs = folder_of(home / "photos", each=8, side=64) if labelled else noise(home / "photos", 3, (72, 96), 5)
    return [f"experiment={name}", "source=folder", f"source.root={photographs}", *SMALL[name](home)]


def snapshots(home: Path) -> list[str]:
    """Two epochs of a network that was not trained at all."""
    for epoch in (1, 2):
        state = models.build("zfnet64", "random", seed=epoch, classes=2, maps=[4, 4, 4, 4, 4]).state_dict()
        (home / "trained/snapshots").mkdir(parents=True, exist_ok=True)
        save_file(state, home / "trained/snapshots" / f"epoch-{epoch:03d}.safetensors")
    network = [f"trained={home / 'trained'}", "model.classes=2", "model.maps=[4,4,4,4,4]"]
    return [*network, "layers=[conv1,conv2]", "n_units=2"]


def boxes(home: Path) -> list[str]:
    (home / "boxes.csv").write_text(BOXES)
    return [*SQUEEZENET, f"annotations={home / 'boxes.csv'}", "region=head", "draws=2"]


def networks(home: Path) -> list[str]:
    small = [f"+networks.{name}.maps=[8,8,4,4,4]" for name in ("krizhevsky64", "zfnet64")]
    weights = ["networks.krizhevsky64.weights=random", "networks.zfnet64.weights=random"]
    return [*weights, *small, "networks.unlimited=null", "n_units=2"]


def checkpoints(home: Path) -> list[str]:
    """Two sets of weights of a network that was not trained at all."""
    state = models.build("zfnet64", "random", seed=1, maps=[4, 6, 4, 4, 4], trunk=True).state_dict()
    save_file(state, home / "other.safetensors")
    network = ["model=zfnet64", "model.weights=random", "model.maps=[4,6,4,4,4]", "model.trunk=true"]
    return [*network, f"other.weights={home / 'other.safetensors'}", "layers=[conv1,conv2]", "k=2", "n_pairs=2"]


SMALL: dict[str, Callable[[Path], list[str]]] = {
    "atlas": lambda home: [*MINED, "layers=[conv1]", "beyond=true"],
    "circuit": lambda home: [*ZFNET, "k=2", "n_units=2", "layer=conv3", "branches=[2,1]"],
    "compare_rules": lambda home: [*MINED, "layers=[conv2]", "n_units=2", "against=[gradient,centre]"],
    "directions": lambda home: [
        *ZFNET, "layer=conv2", "methods=[nmf,random]", "n=4", "samples=200", "k=2", "n_units=2"
    ],
    "fig2_features": lambda home: [*MINED, "n_units=2", "beyond=true"],
    "fig4_evolution": snapshots,
    "fig5_invariance": lambda home: [*SQUEEZENET, "translation=[-8,8,8]", "scale=[1,1.2,0.2]", "rotation=[0,90,90]"],
    "fig6_filters": networks,
    "fig7_occlusion": lambda home: [*SQUEEZENET, "images=[0]", "square=24", "stride=20", "controls=2"],
    "path_check": lambda home: [*ZFNET, "layers=[conv1,conv2]", "n_units=2", "against=[centre]"],
    "photograph": lambda home: [*MINED, f"image={home / 'photos' / '1.png'}", "n_units=2"],
    "predict": lambda home: [
        *ZFNET, "layers=[conv2]", "n_units=2", "against=[centre]", "references=1", "queries=2", "stride=16"
    ],
    "match_networks": checkpoints,
    "sanity_checks": lambda home: [*ZFNET, "layers=[conv1]", "n_units=2", "rules=[deconvnet]"],
    "table1_correspondence": boxes,
    "table3_ablation": lambda home: [
        *TINY, "only=[zfnet]", "held_out=0.25", "+variants.zfnet.maps=[4,4,4,4,4]", "+variants.zfnet.widths=[8,8]"
    ],
    "table4_transfer": lambda home: [
        *TINY, *SQUEEZENET, "regimes=[frozen,scratch]", "splits=1", "train_per_class=4", "test_per_class=3", "grid=1"
    ],
    "table7_layers": lambda home: [
        *SQUEEZENET, "layers=[conv1,flatten]", "splits=1", "train_per_class=4", "test_per_class=3", "grid=1"
    ],
    "tour": lambda home: [
        *ZFNET, "k=2", "n_units=2", "chapters.conv1.units={3: bars}", *(f"chapters.conv{n}=null" for n in (3, 4, 5))
    ],
    "train": lambda home: [*TINY, "model=zfnet64", "model.maps=[4,4,4,4,4]", "model.widths=[8]", "held_out=0.25"],
    "virtual_units": lambda home: [*ZFNET, "layer=conv2", "k=3", "n_units=2", "lower=2"],
    "which_image": lambda home: [*ZFNET, "layers=[conv2]", "n_units=2", "against=[centre]", "references=1"],
}  # fmt: skip
