"""deconv/network/tracing: the graph is the module, for any number of images; the user's module is left alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune
from torchvision.transforms import Normalize

from deconv.engines.sending import network_from_bytes, network_to_bytes
from deconv.errors import UnsupportedOperation
from deconv.mining import mine
from deconv.network import Network, as_map
from deconv.projection import project_peaks
from tests.kinds import Round
from tests.oracle import project_by_autograd, relative_error
from tests.peaks import project_at, random_positions
from tests.user_networks import Forward, conv

Make = Callable[[], nn.Module]
SHAPE = (3, 16, 16)
IMAGES = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(1))


def check(module: nn.Module, shape: tuple[int, int, int] = SHAPE) -> Network:
    """Every image's output, whatever the batch, mined and projected with a last batch of one."""
    with torch.no_grad():
        expected = copied_output(module, IMAGES[:, : shape[0]])
    network = Network(module, shape)
    layer = network.layers[-1]
    images = IMAGES[:, : shape[0]]
    rtol, atol = 4 * network.rounding, 16 * network.rounding
    for batch in (slice(0, 5), slice(4, 5), slice(0, 3)):
        values = network.forward(images[batch], [layer])[layer]
        torch.testing.assert_close(values.double(), as_map(expected[batch]).double(), rtol=rtol, atol=atol)
    peaks = mine(network, images, network.layers, k=2, batch_size=2)[layer]
    units = list(range(min(3, network.channels(layer))))
    assert len(project_peaks(network, images, layer, peaks, units, rule="gradient")) > 0
    return network


def copied_output(module: nn.Module, images: Tensor) -> Tensor:
    """The module's own output in eval mode, for images of its own type."""
    floats = [p.dtype for p in module.parameters()] or [torch.float32]
    modes = {submodule: submodule.training for submodule in module.modules()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # autocast for a card says that there is none
        output = module.eval()(images.to(floats[0]))
    for submodule, mode in modes.items():
        submodule.training = mode
    return output if isinstance(output, Tensor) else next(iter(output.values()))


def headed(head: Callable[[Any, Tensor], Tensor]) -> Make:
    def make() -> nn.Module:
        torch.manual_seed(0)
        attend, late = nn.MultiheadAttention(4, 2, batch_first=True), nn.MultiheadAttention(4, 2)
        encode, norm = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, norm_first=True), nn.GroupNorm(2, 4)
        parts = {"attend": attend, "late": late, "encode": encode, "norm": norm, "linear": nn.Linear(4, 5)}
        return Forward(lambda m, x: head(m, m.a(x).relu()), a=conv(3), **parts).eval()

    return make


SQUEEZED: dict[str, Make] = {
    "squeeze": headed(lambda m, x: m.linear(F.adaptive_avg_pool2d(x, 1).squeeze())),
    "squeeze, then softmax along axis 1": headed(lambda m, x: m.linear(x.mean((2, 3)).squeeze()).log_softmax(1)),
    "squeeze and flatten": headed(lambda m, x: m.linear(x.amax((2, 3), keepdim=True).squeeze().flatten(-1))),
    "squeeze_": headed(lambda m, x: m.linear(x.mean((2, 3), keepdim=True).squeeze_())),
    "a view of as many images": headed(lambda m, x: m.linear(x.mean((2, 3)).view(x.shape[0], -1))),
    "a list of images": headed(lambda m, x: m.linear(x.mean((2, 3)).reshape(-1, 4))),
    "constants for each image": headed(lambda m, x: m.linear(x.mean((2, 3)) + torch.ones(x.shape[0], 4))),
}


@pytest.mark.parametrize("make", SQUEEZED.values(), ids=SQUEEZED)
def test_the_axis_of_the_images_is_never_mistaken(make: Make) -> None:
    check(make())


def sequence(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


ELSEWHERE: dict[str, Make] = {
    "queries beside keys": headed(
        lambda m, x: m.linear((sequence(x).reshape(len(x), -1, 2, 2, 2).permute(2, 0, 3, 1, 4)[1]).mean(2).flatten(1))
    ),
    "windows": headed(lambda m, x: F.gelu(m.linear(sequence(x).reshape(-1, 7, 4))).view(len(x), -1, 5).amax(1)),
    "positions first": headed(lambda m, x: m.linear(sequence(x).transpose(0, 1)).softmax(-1).mean(0)),
    "heads before images": headed(
        lambda m, x: m.linear(x.transpose(0, 1).reshape(-1, 14, 14).mean(1)[:, :4]).unflatten(0, (4, -1)).sum(0)
    ),
    "a product of batches": headed(lambda m, x: torch.bmm(x.flatten(0, 1), x.flatten(0, 1)).view(x.shape).mean((2, 3))),
    "attention of torch": headed(lambda m, x: m.attend(*[sequence(x)[:, :20]] * 3, need_weights=False)[0].mean(1)),
    "attention that comes after positions": headed(lambda m, x: m.late(*[sequence(x).transpose(0, 1)] * 3)[0].sum(0)),
    "an encoder of torch": headed(lambda m, x: m.encode(sequence(x)[:, :20]).mean(1)),
    "lists of positions": headed(lambda m, x: m.linear(sequence(x)[:, :9].reshape(-1, 4)).view(len(x), -1)),
    "the output itself": headed(lambda m, x: m.linear(sequence(x).transpose(0, 1)).mean(0, keepdim=True).squeeze(0)),
    "a split of windows": headed(lambda m, x: sum(x.reshape(-1, 7, 14).split(3, 1)[:2]).view(len(x), 4, -1).sum(2)),
    "a normalisation of windows": headed(
        lambda m, x: F.glu(m.norm(x.reshape(-1, 4, 7, 14)), 1).view(len(x), -1)[:, ::50]
    ),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_images_may_lie_along_any_axis(name: str) -> None:
    """Each image's own output and derivative, as autograd has it, whatever the batch."""
    module = ELSEWHERE[name]().double()
    network = check(module)
    layer, images = network.layers[-1], IMAGES.double()
    peaks = random_positions(network.forward(images, [layer])[layer], 5)
    recon = project_at(network, images, layer, peaks, rule="gradient")
    assert relative_error(recon.paste(), project_by_autograd(module, images, peaks, "gradient")[1]).max() < 1e-5


def test_what_fuses_attention_is_as_it_was_after_tracing() -> None:
    for enabled in (False, True):
        torch.backends.mha.set_fastpath_enabled(enabled)
        Network(ELSEWHERE["attention of torch"](), SHAPE)
        assert torch.backends.mha.get_fastpath_enabled() is enabled


MIXED: dict[str, Make] = {
    "softmax over the batch": headed(lambda m, x: x.softmax(0).relu()),
    "flipped along the batch": headed(lambda m, x: x.flip(0).relu()),
    "rolled along the batch": headed(lambda m, x: x.roll(1, 0).relu()),
    "rolled flat": headed(lambda m, x: x.roll(1).relu()),
    "sorted along the batch": headed(lambda m, x: x.sort(0).values),
    "divided by the number of images": headed(lambda m, x: x / x.shape[0]),
    "divided by the sum of the batch": headed(lambda m, x: x / (x.sum(0, keepdim=True) + 1)),
    "another path for one image": headed(lambda m, x: m.linear(x.mean((2, 3))) * (2 if len(x) == 1 else 1)),
    "the batch flattened": headed(lambda m, x: m.linear(x.mean((2, 3)).flatten(0)[: 4 * len(x)].view(4, -1).T)),
    "windows of two images": headed(lambda m, x: x.transpose(0, 1).reshape(-1, 4, 14, 14).softmax(1).relu()),
    "images beside images": headed(lambda m, x: (x.flatten(1) @ x.flatten(1).T).relu()),
    "images by index": headed(lambda m, x: x[torch.arange(len(x) - 1, -1, -1)].relu()),
    "at random": headed(lambda m, x: (x + torch.randn_like(x)).relu()),
    "by numpy": headed(lambda m, x: (x + torch.from_numpy(x.numpy() * 2)).relu()),
}


@pytest.mark.parametrize("name", MIXED)
def test_images_that_mix_are_refused_or_their_layers_left_out(name: str) -> None:
    """The layers before remain; the output is none of them."""
    module = MIXED[name]()
    try:
        network = Network(module, SHAPE)
    except UnsupportedOperation as refusal:
        assert "\n" not in str(refusal)
        return
    assert network.layers == ["relu"] and network.graph.refusals
    torch.testing.assert_close(network.forward(IMAGES, ["relu"])["relu"], module.get_submodule("a")(IMAGES).relu())


class Standardised(nn.Conv2d):
    """Filters that its forward makes of its weight."""

    def __init__(self, how: Callable[[Tensor], Tensor]):
        torch.manual_seed(0)
        super().__init__(3, 8, 3)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.how(self.weight), self.bias)


def by_batch_norm(w: Tensor) -> Tensor:
    return F.batch_norm(w.reshape(1, 8, -1), None, None, training=True, momentum=0.0).reshape_as(w)


def by_std_mean(w: Tensor) -> Tensor:
    std, mean = torch.std_mean(w, dim=(1, 2, 3), keepdim=True)
    return (w - mean) / std


def by_var_mean(w: Tensor) -> Tensor:
    var, mean = torch.var_mean(w, dim=(1, 2, 3), keepdim=True)
    return (w - mean) * torch.rsqrt(var + 1e-5)


def by_svd(w: Tensor) -> Tensor:
    u, s, v = torch.linalg.svd(w.flatten(1), full_matrices=False)
    return (u * s.clamp(max=1) @ v).view_as(w)


def by_a_branch(w: Tensor) -> Tensor:
    return w / w.abs().max() if w.abs().max() > 0.01 and float(w.sum()) != 0 else w


MADE: dict[str, Callable[[Tensor], Tensor]] = {
    "batch_norm": by_batch_norm,
    "std_mean": by_std_mean,
    "var_mean": by_var_mean,
    "svd": by_svd,
    "a branch on values": by_a_branch,
    "chunk": lambda w: torch.cat(w.chunk(2, 0)[::-1]),
    "split": lambda w: torch.cat([part * 2 for part in w.split([3, 5])]),
    "unbind": lambda w: torch.stack(w.unbind(0)[::-1]),
    "einsum": lambda w: torch.einsum("oihw,ij->ojhw", w, w[0, :, :, 0]),
    "sorting": lambda w: w.sort(dim=0).values,
    "writing": lambda w: w.clone().mul_(2).fill_diagonal_(0.5) if w.dim() == 2 else w.clone().clamp_(-0.1, 0.1),
}


@pytest.mark.parametrize("how", MADE.values(), ids=MADE)
def test_filters_made_of_parameters_are_constants(how: Callable[[Tensor], Tensor]) -> None:
    module = nn.Sequential(Standardised(how), nn.ReLU()).eval()
    network = check(module)
    assert [node.kind for node in network.graph.nodes] == ["x", "conv2d", "relu"]


def base(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 6, 3), nn.ReLU()]
    return nn.Sequential(*layers).to(dtype).eval()


class Autocast(nn.Module):
    """Half precision inside, around a part or all."""

    def __init__(self, device: str, dtype: torch.dtype, whole: bool):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.norm = conv(3), conv(), nn.BatchNorm2d(4)
        self.settings, self.whole = (device, dtype), whole

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(*self.settings):
            x = torch.relu(self.norm(self.one(x)))
            if self.whole:
                return torch.relu(self.two(x)).mean((2, 3))
        return torch.relu(self.two(x.float()))


class Anything(nn.Module):
    """forward(self, *args, **kwargs), an output in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.one = conv(3)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {"out": self.one(*args, **kwargs).relu(), "loss": None}


def scripted(module: nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and in use
        return torch.jit.script(module)


def of_default_type_float64() -> nn.Module:
    torch.set_default_dtype(torch.float64)
    try:
        return nn.Sequential(base(torch.float64), nn.Conv2d(6, 2, 1)).eval()
    finally:
        torch.set_default_dtype(torch.float32)


def compiled() -> Any:
    return torch.compile(base())


def of_shared_parameters() -> nn.Module:
    one, two = conv(3, 3), conv(3, 3)
    two.weight = one.weight
    return nn.Sequential(one, nn.ReLU(), two, nn.ReLU(), one, nn.ReLU())


def with_older_norms() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(nn.utils.weight_norm(conv(3)), nn.ReLU(), nn.utils.spectral_norm(conv()), nn.ReLU())


def pruned() -> nn.Module:
    module = base()
    prune.l1_unstructured(module[0], "weight", 0.5)
    return module


class ReluAttention(nn.Module):
    """Linear attention as EfficientViT's: grouped projections, a pad of ones, a quotient."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.project = nn.Conv2d(3, 24, 1), nn.Conv2d(16, 8, 1)
        self.wide = nn.Sequential(nn.Conv2d(24, 24, 5, padding=2, groups=24), nn.Conv2d(24, 24, 1, groups=6))

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        scales = [self.qkv(x)]
        scales.append(self.wide(scales[0]))
        heads = torch.cat(scales, 1).reshape(batch, -1, 12, height * width).transpose(-1, -2)
        q, k, v = heads[..., :4].relu(), heads[..., 4:8].relu(), F.pad(heads[..., 8:], (0, 1), value=1.0)
        out = q @ (k.transpose(-1, -2) @ v)
        out = (out[..., :-1] / (out[..., -1:] + 1e-5)).transpose(-1, -2).reshape(batch, -1, height, width)
        return self.project(out[:, :16]).relu()


BROUGHT: dict[str, Make] = {
    "bfloat16": lambda: base(torch.bfloat16),
    "float16": lambda: base(torch.float16),
    "default float64": of_default_type_float64,
    "autocast, a part": lambda: Autocast("cpu", torch.bfloat16, False).eval(),
    "autocast, all": lambda: Autocast("cpu", torch.bfloat16, True).eval(),
    "autocast to float16": lambda: Autocast("cpu", torch.float16, False).eval(),
    "autocast for a card": lambda: Autocast("cuda", torch.float16, True).eval(),
    "casts": lambda: Forward(lambda m, x: m.one(x).half().float().double().to(torch.float32).relu(), one=conv(3)),
    "a part in bfloat16": lambda: Forward(
        lambda m, x: m.two(m.one(x).bfloat16()).float().relu(), one=conv(3), two=conv().bfloat16()
    ),
    "any arguments": Anything,
    "DataParallel": lambda: nn.DataParallel(base()),
    "compiled": compiled,
    "Normalize": lambda: nn.Sequential(Normalize((0.4, 0.4, 0.4), (0.2, 0.2, 0.2)), base()).eval(),
    "scripted": lambda: scripted(base()),
    "a scripted part": lambda: nn.Sequential(scripted(nn.Sequential(conv(3), nn.ReLU())), conv(), nn.ReLU()),
    "shared parameters": of_shared_parameters,
    "in training": lambda: base().train(),
    "weight and spectral norm": with_older_norms,
    "pruned": pruned,
    "traced by fx": lambda: torch.fx.symbolic_trace(base()),
    "linear attention": lambda: ReluAttention().eval(),
    "a checkpoint": lambda: Forward(
        lambda m, x: torch.utils.checkpoint.checkpoint(m.one, x, use_reentrant=False).relu(), one=conv(3)
    ),
}


@pytest.mark.parametrize("name", BROUGHT)
def test_networks_as_they_are_brought(name: str) -> None:
    if name == "compiled":  # to run it would compile it
        assert Network(BROUGHT[name](), SHAPE).layers == ["2", "5"]
        return
    with torch.autocast("cpu", enabled=False):
        network = check(BROUGHT[name]())
    assert network.layers


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_windows_in_half_precision_stay_finite_at_the_border(dtype: torch.dtype) -> None:
    """What lies outside a max-pooling's map is the least number of the type, not of float32."""
    torch.manual_seed(0)
    trunk = nn.Sequential(conv(3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), conv(padding=1), nn.ReLU())
    exact, rough = Network(trunk.double(), SHAPE), Network(trunk.to(dtype), SHAPE)
    peaks = random_positions(exact.forward(IMAGES, ["4"])["4"], 10)
    expected = project_at(exact, IMAGES, "4", peaks).paste()
    for strategy in ("window", "shared", "whole"):
        pixels = project_at(rough, IMAGES, "4", peaks, strategy=strategy).paste()
        assert torch.isfinite(pixels).all() and relative_error(pixels, expected)[0] < 0.1


def test_autocast_around_deconv_does_not_reach_the_graph() -> None:
    module = base()
    with torch.autocast("cpu"):
        network = Network(module, SHAPE)
    assert network.rounding == torch.finfo(torch.float32).eps
    check(module)


class Spelled(nn.Module):
    """A rectifier, a written channel and a Function, to send to another process."""

    def __init__(self) -> None:
        super().__init__()
        self.one = conv(3)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.one(x)
        maps = maps * (maps > 0)
        maps[:, 0] = maps[:, 1] * 2
        return Round.apply(maps)


def test_a_network_is_sent_whole() -> None:
    network = Network(Spelled(), SHAPE)
    there = network_from_bytes(network_to_bytes(network), "cpu")
    assert there.layers == network.layers
    for layer in network.layers:
        assert torch.equal(there.forward(IMAGES, [layer])[layer], network.forward(IMAGES, [layer])[layer])
