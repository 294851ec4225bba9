"""Networks as people write them: against autograd with replaced rectifiers, by all rules and strategies; or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deconv.errors import UnsupportedOperation
from deconv.mining import mine
from deconv.network import Network
from deconv.projection import project_peaks
from deconv.projection.rules import RULES
from tests.oracle import project_by_autograd, relative_error
from tests.peaks import project_at, random_positions, strategies_of
from tests.random_networks import SAME_WARNS
from tests.user_networks import CARRIED, Forward, conv, stack

SIZE = (22, 21)


def randomised(module: nn.Module) -> nn.Module:
    """Double precision, weights and running statistics at random."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.double().parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.5
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean = torch.randn(norm.num_features, generator=generator, dtype=torch.float64)
            norm.running_var = torch.rand(norm.num_features, generator=generator, dtype=torch.float64) + 0.3
    return module.eval()


def pictures(channels: int, size: tuple[int, int] = SIZE, count: int = 3) -> Tensor:
    return torch.randn((count, channels, *size), generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def compare(network: Network, module: nn.Module, images: Tensor) -> None:
    """The network's output, projected by every rule and strategy, against autograd on the module."""
    size, layer = (images.shape[2], images.shape[3]), network.layers[-1]
    maps = module(images).detach()
    peaks = random_positions(maps, 10)
    torch.testing.assert_close(network.forward(images, [layer])[layer].view_as(maps), maps)
    for rule in RULES:
        score, expected = project_by_autograd(module, images, peaks, rule)
        for strategy in strategies_of(network, layer, size):
            recon = project_at(network, images, layer, peaks, rule=rule, strategy=strategy)
            torch.testing.assert_close(recon.score, score.float())
            assert expected.abs().sum() > 0
            assert relative_error(recon.paste(), expected).max() < 1e-6, (rule, strategy)


@pytest.mark.filterwarnings(SAME_WARNS)
@pytest.mark.parametrize("name", CARRIED)
def test_networks_as_people_write_them(name: str) -> None:
    module = randomised(CARRIED[name]())
    channels = 1 if name == "one_channel_in" else 3
    compare(Network(module, (channels, *SIZE)), module, pictures(channels))


@pytest.mark.parametrize("size", [(23, 26), (19, 20), (40, 31)])
def test_sizes_other_than_the_traced_one_follow_the_branches_of_the_forward(size: tuple[int, int]) -> None:
    module = randomised(CARRIED["a_forward_that_branches_on_shape"]())
    compare(Network(module, (3, *SIZE)), module, pictures(3, size))


def test_a_size_that_the_network_cannot_take_is_refused() -> None:
    network = Network(randomised(CARRIED["flattened_after_an_in_place_rectifier"]()), (3, *SIZE))
    with pytest.raises(UnsupportedOperation, match=r"cannot be traced for an input of \(3, 40, 40\)"):
        network.forward(pictures(3, (40, 40)), network.layers)


def test_a_map_without_channels_on_the_way_does_not_hide_the_receptive_field() -> None:
    network = Network(CARRIED["channels_scaled_one_by_one"](), (3, *SIZE))
    field = network.receptive_field("relu_1")
    assert (field.size, field.stride, field.start) == ((3, 3), (1, 1), (-1, -1))


def test_a_functional_rectifier_is_a_layer_with_its_own_value() -> None:
    module = randomised(CARRIED["residual_sum_on_a_shared_tensor"]())
    network = Network(module, (3, *SIZE))
    assert network.layers == ["relu", "last"]
    images = pictures(3)
    hidden = F.relu(module.get_submodule("one")(images))
    torch.testing.assert_close(network.forward(images, ["relu"])["relu"], hidden.detach())


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.relu(x + y)


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "two inputs": (TwoInputs(), "TwoInputs cannot be traced .*'y'"),
    "no tensor out": (Forward(lambda m, x: str(x.shape)), "gives no map or vector for each image"),
    "data dependent": (Forward(lambda m, x: x.relu() if x.sum() > 0 else x), "does not depend on pixel values"),
    "batch in channels": (Forward(lambda m, x: x.view(1, -1, *x.shape[2:]).relu()), "'view'.* batch"),
    "channels in batch": (Forward(lambda m, x: x.view(-1, 1, *x.shape[2:]).relu()), "'view'.* batch"),
    "batch halved": (
        Forward(lambda m, x: x.reshape(x.size(0) * 3, 1, *x.shape[2:]).relu()),
        "'(view|reshape)'.* batch",
    ),
    "all flattened": (Forward(lambda m, x: x.flatten().relu()), "'(view|flatten|reshape)'.* batch"),
    "batch permuted": (Forward(lambda m, x: x.permute(1, 0, 2, 3).relu()), "'permute'.* batch"),
    "batch transposed": (Forward(lambda m, x: x.transpose(0, 1).relu()), "'transpose'.* batch"),
    "batch mean": (Forward(lambda m, x: (x - x.mean(0, keepdim=True)).relu()), "'mean'.* batch"),
    "first image": (Forward(lambda m, x: (x - x[0]).relu()), "'select'.* batch"),
    "first images": (Forward(lambda m, x: x[:1].relu()), "'slice'.* batch"),
    "batch doubled": (Forward(lambda m, x: torch.cat([x, x]).relu()), "'cat'.* batch"),
    "batch statistics": (
        nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.ReLU()),
        "'batch_norm' in 0 .* batch",
    ),
    "always dropping": (Forward(lambda m, x: F.dropout(x, 0.5).relu()), "'dropout' in the network drops"),
}


@pytest.mark.parametrize(("module", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_carried_is_refused_in_one_line(module: nn.Module, message: str) -> None:
    with pytest.raises(UnsupportedOperation, match=message) as refusal:
        Network(module, (3, 12, 12)).layers  # noqa: B018
    assert "\n" not in str(refusal.value)


SMOOTH: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "silu": (lambda: nn.Sequential(conv(3), nn.SiLU(), conv(), nn.ReLU()), "'silu' in 1"),
    "sigmoid gate": (lambda: Forward(lambda m, x: m.two(m.one(x) * m.one(x).sigmoid()).relu(), one=conv(3), two=conv()),
                     "'sigmoid' in the network"),
    "leaky": (lambda: nn.Sequential(conv(3), nn.LeakyReLU(0.1), conv(), nn.ReLU()), "'leaky_relu' in 1"),
    "gelu": (lambda: nn.Sequential(conv(3), nn.GELU(), conv(), nn.ReLU()), "'gelu' in 1"),
    "group norm": (lambda: nn.Sequential(conv(3), nn.GroupNorm(2, 4), conv(), nn.ReLU()), "'group_norm' in 1"),
    "squared": (lambda: Forward(lambda m, x: m.one(x).square().relu(), one=conv(3)), "'(pow|square)' in the network"),
    "hard tanh": (lambda: nn.Sequential(conv(3), nn.Hardtanh(), conv(), nn.ReLU()), "'hardtanh' in 1"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "message"), SMOOTH.values(), ids=SMOOTH)
def test_smooth_operations_serve_mining_and_gradient_and_are_refused_by_name(
    make: Callable[[], nn.Module], message: str
) -> None:
    module = randomised(make())
    network, images = Network(module, (3, *SIZE)), pictures(3)
    layer = network.layers[-1]
    maps = module(images).detach()
    peaks = mine(network, images, [layer], k=2)[layer]
    torch.testing.assert_close(peaks.score[:, 0].nan_to_num(), maps.amax((0, 2, 3)).float())
    chosen = random_positions(maps, 10)
    score, expected = project_by_autograd(module, images, chosen, "gradient")
    for strategy in strategies_of(network, layer, SIZE):
        recon = project_at(network, images, layer, chosen, rule="gradient", strategy=strategy)
        assert relative_error(recon.paste(), expected).max() < 1e-6
    for rule in ("deconvnet", "guided"):
        with pytest.raises(UnsupportedOperation, match=f"{rule}' has no way back through {message}.*serve: gradient"):
            project_at(network, images, layer, chosen, rule=rule)


class Hooked(nn.Module):
    """A network in the middle of its training: modes mixed, some weights frozen, hooks and gradients about."""

    def __init__(self) -> None:
        super().__init__()
        self.body = stack(nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.calls = 0
        self.train()
        self.body[2].eval()
        self.body[0].weight.requires_grad_(False)
        self.body[0].register_forward_hook(self._count)
        self.body[-2].register_full_backward_hook(lambda module, grads, outputs: None)
        for parameter in self.body[-2].parameters():
            parameter.grad = torch.ones_like(parameter)

    def _count(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.calls += 1

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.body(x), Tensor)
        return self.body(x)


def state_of(module: nn.Module) -> dict[str, Any]:
    """Everything of a module that tracing might touch; the identity of each tensor and hook included."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {
        "ids": {
            name: (id(value), value.data_ptr(), value.requires_grad, value._version) for name, value in tensors.items()
        },
        "bytes": {name: value.detach().numpy().tobytes() for name, value in tensors.items()},
        "strides": {name: value.stride() for name, value in tensors.items()},
        "grads": {
            name: None if value.grad is None else value.grad.tolist() for name, value in module.named_parameters()
        },
        "modes": {name: submodule.training for name, submodule in module.named_modules()},
        "hooks": {
            name: [list(getattr(submodule, kind).values()) for kind in vars(submodule) if kind.endswith("_hooks")]
            for name, submodule in module.named_modules()
        },
        "attributes": {name: sorted(vars(submodule)) for name, submodule in module.named_modules()},
    }


def test_the_users_module_is_left_exactly_as_it_was() -> None:
    torch.manual_seed(0)
    module, images = Hooked(), torch.randn(3, 3, *SIZE)
    before = state_of(module)
    network = Network(module, (3, *SIZE))
    layer = network.layers[-1]
    peaks = mine(network, images, network.layers, k=2)[layer]
    project_peaks(network, images, layer, peaks, [0, 1, 2, 3])
    network.forward(torch.randn(2, 3, 30, 30), [layer])
    assert state_of(module) == before
    assert torch.is_grad_enabled() and images.grad is None


def test_training_the_module_later_does_not_change_the_network() -> None:
    module, images = randomised(stack(nn.BatchNorm2d(4))), pictures(3)
    network = Network(module, (3, *SIZE))
    layer, expected = network.layers[-1], module(images).detach()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    torch.testing.assert_close(network.forward(images, [layer])[layer], expected)
    larger = pictures(3, (30, 33))
    assert not torch.allclose(network.forward(larger, [layer])[layer], module(larger))


def test_the_answer_does_not_depend_on_the_size_of_the_batch() -> None:
    module, images = randomised(CARRIED["channel_shuffle"]()), pictures(3, count=5)
    network = Network(module, (3, *SIZE))
    layer = network.layers[-1]
    together = network.forward(images, [layer])[layer]
    for n in range(5):
        torch.testing.assert_close(network.forward(images[n : n + 1], [layer])[layer], together[n : n + 1])
