"""The architectures that are measured, and each with seeded random weights under which its layers fire."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.regnet import BlockParams

SMALL = (64, 96, 128)
"""Heights and widths that are tried before the one that an architecture was made for."""
SEED = 0
STATISTICS_OF = 16
"""Images whose statistics batch normalisations get; of four, deep EfficientNets multiply rounding by a million."""
MOST_AMPLIFIED = 1e4
"""How many times rounding may be multiplied before larger images are taken, whose statistics are of more positions."""

# Of each timm family the smallest architecture of version 1.0.31 that was not made for timm's own tests.
CONVNETS = """
byobnet mobileone_s1|convmixer convmixer_768_32|convnext convnext_zepto_rms|cspnet cs3darknet_focus_s
cspnext cspnext_tiny|densenet densenet121|dla dla46x_c|dpn dpn48b|efficientnet mnasnet_small|fasternet fasternet_t0
fastvit fastvit_t8|focalnet focalnet_tiny_srf|ghostnet ghostnet_050|hardcorenas hardcorenas_b|hgnet hgnetv2_b0
hrnet hrnet_w18_small|inception_next inception_next_atto|inception_resnet_v2 inception_resnet_v2
inception_v3 inception_v3|inception_v4 inception_v4|lcnetv2 lcnetv2_small|mambaout mambaout_femto
metaformer poolformerv2_s12|mobilenetv3 mobilenetv3_small_050|nasnet nasnetalarge|nfnet nf_regnet_b0
pnasnet pnasnet5large|rdnet rdnet_tiny|regnet regnetx_002|repghost repghostnet_050|repvit repvit_m1|res2net res2next50
resnest resnest14d|resnet resnet10t|resnetv2 resnetv2_18|rexnet rexnet_100|selecsls selecsls42|senet legacy_seresnet18
sknet skresnet18|starnet starnet_s050|tresnet tresnet_m|vgg vgg11|vovnet ese_vovnet19b_slim_dw|xception legacy_xception
xception_aligned xception41p
"""
HYBRIDS = """
byoanet halonet_h1|coat coat_tiny|cpubone cpubone_nano|csatv2 csatv2|edgenext edgenext_xx_small
efficientformer efficientformer_l1|efficientformer_v2 efficientformerv2_s0|efficientvim efficientvim_m1
efficientvit_mit efficientvit_b0|efficientvit_msra efficientvit_m0|gcvit gcvit_xxtiny|iformer iformer_t|levit levit_128s
lowformer lowformer_b0|maxxvit maxvit_pico_rw_256|mobilenetv5 mobilenetv5_base|mobilevit mobilevit_xxs
nextvit nextvit_small|pvt_v2 pvt_v2_b0|shvit shvit_s1|swiftformer swiftformer_xs|tiny_vit tiny_vit_5m_224
visformer visformer_tiny|vision_transformer_hybrid vit_tiny_r_s16_p8_224
vitamin vitamin_small_224
"""
OTHERS = {
    "attention between patches, whose only convolutions cut or merge these": (
        "beit cait convit crossvit davit deepseek_vit deit eva gemma4_vit hiera hieradet_sam2 mvitv2 naflexvit nest "
        "pit qwen3_vit swin_transformer swin_transformer_v2 swin_transformer_v2_cr tnt twins vision_transformer "
        "vision_transformer_relpos vision_transformer_sam volo xcit"
    ).split(),
    "fully connected layers over patches": ["mlp_mixer"],
    "recurrent layers over patches": ["sequencer"],
}
"""Families of timm that are no ConvNets, nor hybrids of one, by the reason."""
TRANSFORMERS = ("vit", "swin", "maxvit")
"""How the names of torchvision's transformers begin."""


@dataclass(frozen=True)
class Architecture:
    """One to be measured.  library: "torchvision" or "timm".  kind: "ConvNet", or "hybrid" with attention."""

    library: str
    family: str
    name: str
    kind: str


def all_of_torchvision() -> list[Architecture]:
    """Every classification network of torchvision that is no transformer."""
    names = [name for name in models.list_models(module=models) if not name.startswith(TRANSFORMERS)]
    return [Architecture("torchvision", _family_of(name), name, "ConvNet") for name in names]


def transformers_of_torchvision() -> list[str]:
    """The others."""
    return [name for name in models.list_models(module=models) if name.startswith(TRANSFORMERS)]


def _family_of(name: str) -> str:
    return models.get_model_builder(name).__module__.rpartition(".")[2]


def one_of_each_timm_family() -> list[Architecture]:
    """One architecture of each timm family of ConvNets and of hybrids."""
    rows = [(row, kind) for text, kind in ((CONVNETS, "ConvNet"), (HYBRIDS, "hybrid")) for row in text.split("|")]
    pairs = [(*line.split(), kind) for rows_of, kind in rows for line in rows_of.strip().splitlines()]
    return [Architecture("timm", family, name, kind) for family, name, kind in pairs]


def made(architecture: Architecture, device: str = "cpu") -> nn.Module:
    """The module in eval mode; on "meta" without values."""
    torch.manual_seed(SEED)
    with warnings.catch_warnings(), mock.patch.object(BlockParams, "from_init_params", _on_cpu), torch.device(device):
        warnings.simplefilter("ignore")
        if architecture.library == "timm":
            import timm

            return timm.create_model(architecture.name, pretrained=False).eval()
        quick = {"init_weights": False} if architecture.family in ("googlenet", "inception") else {}
        return models.get_model(architecture.name, weights=None, **quick).eval()


_plain_parameters = BlockParams.from_init_params


def _on_cpu(*args: float, **kwargs: float) -> BlockParams:
    with torch.device("cpu"):  # RegNet computes its widths with tensors
        return _plain_parameters(*args, **kwargs)


def sizes(architecture: Architecture) -> tuple[int, ...]:
    """Heights and widths to try, the one that the architecture was made for last; it alone where no other will do."""
    if architecture.library == "timm":
        import timm

        config = timm.get_pretrained_cfg(architecture.name)
        assert config is not None, architecture.name
        full = int(config.input_size[1])
        return (full,) if config.fixed_input_size else (*SMALL, full)
    return (*SMALL, 299 if architecture.family == "inception" else 224)


def enlivened(architecture: Architecture) -> tuple[nn.Module, int]:
    """The module in float64 and the size of its images: the smallest it takes.

    Its random weights keep the strength of what passes, and the statistics of its batch normalisations are those of
    random images: as made, signals fade, and gates and the scales of layers are all but zero.
    """
    module = made(architecture).double()
    generator = torch.Generator().manual_seed(SEED)
    for path, parameter in module.named_parameters():
        parameter.data.normal_(generator=generator)
        if parameter.dim() > 1:
            parameter.data *= (2 / max(parameter[0].numel(), 2)) ** 0.5
        else:
            parameter.data = parameter.data * 0.2 + path.endswith("weight")
    possible = sizes(architecture)
    for size in possible:
        try:
            images = torch.randn((STATISTICS_OF, 3, size, size), generator=generator, dtype=torch.float64)
            _set_statistics(module, images)
        except (RuntimeError, ValueError, AssertionError):  # its maps became smaller than a kernel
            if size == possible[-1]:
                raise
        else:
            others = torch.randn((4, 3, size, size), generator=generator, dtype=torch.float64)
            if _amplification(module, others) < MOST_AMPLIFIED:
                break
    return module.eval(), size


def _amplification(module: nn.Module, images: Tensor) -> float:
    """How much larger a relative difference of the images is in the output."""
    with torch.no_grad():
        plain, moved = (first_tensor(module.eval()(images * (1 + move))) for move in (0, 1e-12))
    return float((moved - plain).abs().max() / plain.abs().max()) / 1e-12


def first_tensor(output: Any) -> Tensor:
    """The output itself, or the first of several."""
    while not isinstance(output, Tensor):
        output = next(iter(output.values() if isinstance(output, dict) else output))
    return output


def _set_statistics(module: nn.Module, images: Tensor) -> None:
    norms = [inner for inner in module.modules() if isinstance(inner, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        module(images)
    for norm in norms:
        norm.eval()
