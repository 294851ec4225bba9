"""The options by which a rule goes beyond rectifiers, against autograd on modules whose own backward is replaced."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from copy import deepcopy
from functools import cache, partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

from deconv.compare.peak_set import PeakSet
from deconv.errors import UnknownName, UnsupportedOperation
from deconv.images.preprocessing import Preprocessing
from deconv.mining import mine
from deconv.network import Network
from deconv.network.roles import roles
from deconv.projection import check_rules, project, project_together
from deconv.projection.rules import RULES, Rule, as_rule
from deconv.records.provenance import first_difference
from tests import oracle
from tests.beyond_networks import FAMILIES, Holding, Spelled, SqueezeExcite
from tests.oracle import project_by_autograd, relative_error
from tests.peaks import project_at, random_positions, strategies_of

ALL: dict[str, Any] = {"activation": "rectify", "gate": "constant", "norm": "constant"}
OPTIONS: dict[str, dict[str, Any]] = {
    "deconvnet": ALL,
    "guided": {"relu": "both", **ALL},
    "unrectified": {"relu": "none", **ALL},
    "derivatives": {"activation": "derivative", "gate": "derivative", "norm": "derivative"},
    "rectified with derivatives": {"relu": "both", "activation": "rectify", "gate": "derivative", "norm": "derivative"},
    "gradient with constants": {"relu": "forward", **ALL},
}
SIZE = (3, 24, 24)
IMAGES = torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def made(name: str) -> nn.Module:
    """A family's network in float64, of seeded weights; the statistics of batch normalisations are random too."""
    torch.manual_seed(len(name))
    module = FAMILIES[name]()
    for state in [*module.parameters(), *module.buffers()]:
        if state.is_floating_point() and state.dim() == 1:
            state.data.uniform_(0.3, 1)
    return module.double().eval()


@cache
def traced(name: str) -> Network:
    """A family's network, made once for all rules: nothing that is asked of it changes it."""
    return Network(made(name), SIZE)


def held(module: nn.Module, rule: Rule) -> nn.Module:
    """The module with what the rule holds constant detached, and its spelled activations passed as the rule says."""
    module = deepcopy(module)
    for path, inner in module.named_modules():
        statistic = type(inner).__name__ in ("SpelledNorm", "ResponseNorm", "RootMeanSquare", "UnitLength")
        if isinstance(inner, Holding) and (rule.norm if statistic else rule.gate) == "constant":
            inner.hold = oracle.Detach()
        if isinstance(inner, Spelled):
            choice = rule.gate if path.endswith("squash") else rule.activation
            derives = rule.relu == "forward" or choice == "derivative"
            inner.run = oracle.run_plainly if derives else oracle.run_passing(rule.relu)
    return module


def up_to(module: nn.Module, layer: str) -> Callable[[Tensor], Tensor]:
    """The output of a submodule as a function of the images."""

    def run(images: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        handle = module.get_submodule(layer).register_forward_hook(lambda *call: outputs.append(call[2]))
        try:
            module(images)
        finally:
            handle.remove()
        return outputs[0]

    return run


def mode_of(name: str, rule: Rule) -> oracle.BeyondMode:
    return oracle.BeyondMode(rule.relu, rule.activation, rule.norm, squashes=name == "tanh_net")


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_agrees_with_autograd(name: str, options: dict[str, Any]) -> None:
    network, rule = traced(name), Rule(**options)
    replaced = held(network.module, rule)
    paths = {path for path, _ in network.module.named_modules()}
    layers = [layer for layer in network.layers if layer in paths]
    assert len(layers) >= 2
    for layer in (layers[0], layers[len(layers) // 2], layers[-1]):
        maps = network.forward(IMAGES, [layer])[layer]
        peaks = random_positions(maps, 8)
        score, expected = project_by_autograd(up_to(replaced, layer), IMAGES, peaks, mode_of(name, rule))
        for strategy in strategies_of(network, layer, SIZE[1:]):
            recon = project_at(network, IMAGES, layer, peaks, rule=rule, strategy=strategy)
            torch.testing.assert_close(recon.score, score.float())
            assert expected.abs().sum() > 0
            assert relative_error(recon.paste(), expected).max() < 1e-5, (layer, strategy)


FULL = Rule(**ALL)


def of_torchvision(name: str) -> nn.Module:
    torch.manual_seed(0)
    module = models.get_model(name, weights=None)
    for inner in module.modules():  # of random weights alone, signals fade; and a layer's scale would be all but zero
        if isinstance(inner, nn.BatchNorm2d):
            inner.get_buffer("running_var").fill_(0.1)
        if hasattr(inner, "layer_scale"):
            inner.layer_scale.data.fill_(0.5)
    return module.double().eval()


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("mobilenet_v3_small", ["features.1.block.0", "features.4.block.1"]),
        ("efficientnet_b0", ["features.0", "features.2.1.block.1"]),
        ("convnext_tiny", ["features.1.0.add", "features.1.2.add"]),
        ("regnet_y_400mf", ["trunk_output.block2.block2-0.activation"]),
    ],
)
def test_torchvisions_own_agree_with_autograd(name: str, layers: list[str]) -> None:
    module, images = of_torchvision(name), torch.randn(1, 3, 32, 32, dtype=torch.float64)
    network = Network(module, (3, 32, 32))
    for path, inner in module.named_modules():
        if path.endswith("scale_activation"):
            inner.register_forward_hook(lambda m, x, output: output.detach())
    for layer in layers:
        peaks = random_positions(network.forward(images, [layer])[layer], 5)
        rule = FULL
        mode = oracle.BeyondMode(rule.relu, rule.activation, rule.norm, squashes=False)
        run = up_to(module, layer.removesuffix(".add"))
        score, expected = project_by_autograd(run, images, peaks, mode)
        for strategy in strategies_of(network, layer, (32, 32)):
            recon = project_at(network, images, layer, peaks, rule=rule, strategy=strategy)
            torch.testing.assert_close(recon.score, score.float())
            assert expected.abs().sum() > 0
            assert relative_error(recon.paste(), expected).max() < 1e-5, (layer, strategy)


@pytest.mark.parametrize("name", ["spelled_activations", "mobilenet_v3", "gated_units", "convnext_spelled"])
def test_rules_that_share_a_forward_pass_give_what_each_gives(name: str) -> None:
    """Those that hold constants beside those that do not, each with its own reach."""
    network = traced(name)
    layer = network.layers[-1]
    image, channel, row, col = random_positions(network.forward(IMAGES, [layer])[layer], 6).unbind(1)
    rules = [RULES["gradient"], *(Rule(**options) for options in OPTIONS.values())]
    together = project_together(network, IMAGES, layer, image, row, col, [(rule, channel) for rule in rules])
    for rule, recon in zip(rules, together, strict=True):
        alone = project(network, IMAGES, layer, image, channel, row, col, rule=rule)
        assert alone.pixels.any() and torch.equal(recon.pixels, alone.pixels), rule.name


def test_a_spelled_rectifier_serves_guided_and_gradient_together() -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * (x > 0)

    module = nn.Sequential(nn.Conv2d(3, 4, 3), Masked(), nn.Conv2d(4, 5, 3), nn.ReLU()).double()
    network = Network(module, SIZE)
    peaks = random_positions(network.forward(IMAGES, ["3"])["3"], 6)
    image, channel, row, col = peaks.unbind(1)
    requests = [("guided", channel), ("gradient", channel)]
    _, recon = project_together(network, IMAGES, "3", image, row, col, requests)
    assert relative_error(recon.paste(), project_by_autograd(module, IMAGES, peaks, "gradient")[1]).max() < 1e-5


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


class Passing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x


class Applied(nn.Module):
    def __init__(self, function: Any):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def roles_of(*modules: nn.Module) -> dict[str, str]:
    """The options that decide the nodes of a small network, by name; of what a factor is made, nothing."""
    network = Network(nn.Sequential(*modules), SIZE)
    found = roles(network.graph).items()
    return {
        network.graph.nodes[index].name: role.option
        for index, role in found
        if role.carriers or role.source is not None or not role.told
    }


def test_roles_are_told_by_what_is_computed() -> None:
    below = nn.Conv2d(3, 4, 3)
    assert roles_of(below, Applied(Swish.apply)) == {"1.Swish": "activation"}
    assert roles_of(below, Applied(Passing.apply)) == {}
    assert roles_of(below, Applied(lambda x: (x * 2 + 1) / 3)) == {}
    assert roles_of(below, Applied(lambda x: x * x)) == {"1.mul": "activation"}
    assert roles_of(below, Applied(lambda x: x * torch.sigmoid(x) * 0.5)) == {
        "1.sigmoid": "activation",
        "1.mul": "activation",
    }, "half a SiLU is a SiLU and a scale"
    assert roles_of(below, Applied(lambda x: x * (1 + torch.erf(x / 2**0.5)) * 0.5))["1.mul_1"] == "activation"
    assert roles_of(below, Applied(lambda x: x * x.mean((2, 3), keepdim=True))) == {"1.mul": "gate"}
    assert roles_of(below, Applied(lambda x: x / x.mean((2, 3), keepdim=True))) == {"1.div": "norm"}
    assert roles_of(below, Applied(lambda x: x[:, :2] / (1 + torch.exp(-x[:, 2:]))))["1.div"] == "norm"
    assert roles_of(below, Applied(lambda x: x[:, :2] * (1 / (1 + torch.exp(-x[:, 2:])))))["1.mul"] == "gate"


def blocked(rule: Any, *modules: nn.Module) -> str:
    network = Network(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *modules, nn.Conv2d(4, 2, 1), nn.ReLU()), SIZE)
    with pytest.raises(UnsupportedOperation) as caught:
        check_rules(network, network.layers[-1:], [rule])
    return str(caught.value)


def test_a_refusal_says_which_options_would_carry_the_network() -> None:
    for rule in ("deconvnet", "guided"):
        message = blocked(rule, nn.SiLU())
        assert message.startswith(f"{rule!r} has no way back through 'silu' in 2: it is neither linear nor a ReLU;")
        assert " would carry it, in the shell rule.activation=rectify; rules that can serve: gradient, dec" in message
    squeezed = SqueezeExcite(4, nn.Sigmoid())
    assert "; rule={'gate': 'constant'} would carry it, in the shell rule.gate=constant; " in blocked(
        "deconvnet", squeezed
    )
    together = [nn.GELU(), squeezed, nn.GroupNorm(2, 4)]
    wanted = "; rule={'activation': 'rectify', 'gate': 'constant', 'norm': 'constant'} would carry it, in the shell "
    assert wanted in blocked("deconvnet", *together)
    message = blocked({"activation": "rectify", "gate": "constant"}, *together)
    assert wanted in message and ", in the shell rule.norm=constant; " in message
    (said,) = re.findall(r"; rule=({.*}) would carry it", blocked("guided", *together))
    blocked_by_none = Network(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *together), SIZE)
    check_rules(blocked_by_none, blocked_by_none.layers[-1:], [ast.literal_eval(said)])  # as Python takes it
    assert as_rule(ast.literal_eval(said)) == as_rule("guided_beyond")


def test_attention_forbids_no_layer_below_it() -> None:
    """Above it the refusal says why, and names a layer that can be looked at; what has no places is no layer."""
    torch.manual_seed(0)
    attention = nn.TransformerEncoderLayer(4, 2, 8, activation="gelu", batch_first=True).double().eval()
    attend = Applied(lambda x: attention(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape))
    below = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
    module = nn.Sequential(below, attend, nn.Conv2d(4, 5, 3), nn.ReLU()).double().eval()
    attend.inner = attention
    network = Network(module, SIZE)
    assert network.layers == ["0.1", "0.3", "3"]
    for rule in ("deconvnet", "guided", "gradient"):
        peaks = random_positions(network.forward(IMAGES, ["0.3"])["0.3"], 6)
        _, expected = project_by_autograd(below, IMAGES, peaks, rule)
        for strategy in ("window", "shared", "whole"):
            recon = project_at(network, IMAGES, "0.3", peaks, rule=rule, strategy=strategy)
            assert relative_error(recon.paste(), expected).max() < 1e-5
    check_rules(network, ["3"], ["gradient", "deconvnet_beyond", "guided_beyond"])
    with pytest.raises(UnsupportedOperation) as caught:
        check_rules(network, ["3"], ["deconvnet"])
    assert "has no way back through" in str(caught.value)
    assert str(caught.value).endswith("deconvnet_beyond, guided_beyond; or choose a layer before it, as '0.3'")
    (inside,) = (node for node in network.graph.nodes if node.kind == "gelu")
    with pytest.raises(
        UnsupportedOperation, match=r"gives \(81, 8\) for an image, .*; expected one of .*: 0.1, 0.3, 3$"
    ):
        network.node(inside.name)


def test_a_product_whose_gate_cannot_be_told_is_refused() -> None:
    both = Applied(lambda x: torch.cat([x[:, :2] * x[:, 2:], x[:, 2:]], 1))
    message = blocked("deconvnet_beyond", both)
    assert message.startswith("'deconvnet_beyond' has no way back through 'mul' in 2")
    assert (
        ": which of its factors is the gate cannot be told; rule={'activation': 'rectify', 'gate': 'derivative', "
        "'norm': 'constant'} would carry it, in the shell rule.gate=derivative; " in message
    )
    message = blocked("guided_beyond", both, nn.Softmax(1))
    assert "no option carries 'softmax' in 3; rules that can serve: gradient;" in message
    message = blocked(Rule(**{**ALL, "gate": "derivative"}), nn.Softmax(1))
    assert "no option carries 'softmax' in 2; " in message
    message = blocked("deconvnet", Applied(lambda x: x * x.flip(1)))
    assert "activation" not in message and "rule={'gate': 'derivative'} would carry it" in message


def test_a_bad_choice_is_one_line_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="rule's activation 'rectified'; expected one of refuse, rectify.*'rectify'"):
        as_rule({"activation": "rectified"})
    with pytest.raises(UnknownName, match="option of a rule 'gates'; expected one of .*; did you mean 'gate'"):
        as_rule({"gates": "constant"})
    with pytest.raises(UnknownName, match="did you mean 'deconvnet_beyond'"):
        as_rule("deconvnet_beyonds")


class ChannelsLast(nn.Module):
    """ConvNeXt's block as torchvision and timm write it: its activation gives (N, H, W, C)."""

    def __init__(self, act: nn.Module, normalised: bool = True):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.LayerNorm(4) if normalised else nn.Identity()
        self.widen, self.act, self.narrow = nn.Linear(4, 9), act, nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.act(self.widen(self.norm(self.conv(x).permute(0, 2, 3, 1))))
        return x + self.narrow(hidden.split([2, 7], -1)[1]).permute(0, 3, 1, 2)


def turned(run: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    return run(images).permute(0, 3, 1, 2)


@pytest.mark.parametrize(("act", "rule"), [(nn.GELU, FULL), (nn.ReLU, Rule()), (nn.ReLU, Rule(relu="both"))])
def test_an_activation_whose_channels_come_last_is_a_layer(act: type[nn.Module], rule: Rule) -> None:
    torch.manual_seed(0)
    blocks = [ChannelsLast(act(), normalised=rule is FULL) for _ in range(2)]
    module = nn.Sequential(nn.Conv2d(3, 4, 4, stride=2), *blocks, nn.Conv2d(4, 5, 3), act()).double().eval()
    network = Network(module, SIZE)
    assert network.layers == ["1.act", "2.act", "4"]
    assert network.rectified("2.act") is (act is nn.ReLU)
    for layer in network.layers[:2]:
        run = up_to(module, layer)
        maps = turned(run, IMAGES)
        torch.testing.assert_close(network.forward(IMAGES, [layer])[layer], maps)
        strongest = mine(network, IMAGES, [layer], k=1)[layer].score[:, 0].nan_to_num()
        torch.testing.assert_close(strongest, maps.amax((0, 2, 3)).float())
        peaks = random_positions(maps, 6)
        mode = oracle.BeyondMode(rule.relu, rule.activation, rule.norm, squashes=False)
        score, expected = project_by_autograd(partial(turned, run), IMAGES, peaks, mode)
        recon = project_at(network, IMAGES, layer, peaks, rule=rule)
        torch.testing.assert_close(recon.score, score.float())
        assert relative_error(recon.paste(), expected).max() < 1e-5
    fields = [network.receptive_field(layer) for layer in network.layers]
    assert [(field.size, field.stride, field.start) for field in fields] == [
        ((8, 8), (2, 2), (-2, -2)),
        ((12, 12), (2, 2), (-4, -4)),
        ((16, 16), (2, 2), (-4, -4)),
    ]


def test_a_norm_and_a_gate_are_held_wherever_the_images_lie() -> None:
    """In windows that count images too as in one window after the other."""
    norm = nn.GroupNorm(2, 4).double()
    apart = Applied(lambda x: torch.stack([F.glu(norm(half), 1) for half in x.reshape(-1, 2, 4, 11, 22).unbind(1)], 1))
    together = Applied(lambda x: F.glu(norm(x.reshape(-1, 4, 11, 22)), 1).view(-1, 2, 2, 11, 22))
    pictures = []
    for windows in (apart, together):
        torch.manual_seed(0)
        flat = Applied(lambda x: x.flatten(1))
        network = Network(nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), windows, flat, nn.Linear(968, 5)).double(), SIZE)
        peaks = random_positions(network.forward(IMAGES, ["4"])["4"], 5)
        pictures.append(project_at(network, IMAGES, "4", peaks, rule=FULL).pixels)
    assert pictures[0].any() and relative_error(*pictures).max() < 1e-5


def test_the_options_are_in_the_name_and_in_the_record() -> None:
    network = Network(made("efficientnet"), SIZE)
    options: dict[str, Any] = {"activation": "rectify", "gate": "derivative"}
    recon = project(network, IMAGES, network.layers[-1], [0], [1], [2], [2], rule=options)
    assert recon.rule == "activation=rectify,gate=derivative"
    assert recon.provenance["rule_options"] == Rule(**options).options()
    assert [FULL.name, Rule(relu="both", lrn="derivative", **ALL).name] == ["deconvnet_beyond", "guided_beyond"]
    assert not any(RULES[name].goes_beyond for name in ("deconvnet", "guided", "gradient"))


def test_a_record_from_before_there_were_options_is_taken_up() -> None:
    now = {"rule_options": RULES["guided"].options()}
    before = {"rule_options": {option: now["rule_options"][option] for option in ("relu", "lrn", "seed")}}
    assert first_difference(before, {"rule_options": {**before["rule_options"], "activation": "refuse"}}) is None
    assert first_difference({"rule_options": {}}, {"rule_options": {"gate": "constant"}}) == (
        "rule_options.gate",
        "refuse",
        "constant",
    )


def test_plain_rules_on_plain_networks_are_not_touched_by_the_options() -> None:
    """Where there is nothing to carry further, the options change no bit."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3))
    network = Network(module.extend([nn.ReLU6()]).double().eval(), SIZE)
    assert roles(network.graph) == {}
    peaks = random_positions(network.forward(IMAGES, ["5"])["5"], 9)
    for plain, further in (("deconvnet", "deconvnet_beyond"), ("guided", "guided_beyond")):
        pictures = [project_at(network, IMAGES, "5", peaks, rule=rule).pixels for rule in (plain, further)]
        assert pictures[0].any() and torch.equal(*pictures)


def test_controls_are_carried_as_far_as_the_tested_rule() -> None:
    preprocessing = Preprocessing((24, 24), None, (0.5,) * 3, (0.5,) * 3)
    network = Network(made("efficientnet").float(), SIZE, preprocessing=preprocessing)
    images = (torch.rand(4, *SIZE, generator=torch.Generator().manual_seed(2)) * 255).to(torch.uint8)
    layer = network.layers[-1]
    inputs = preprocessing.normalize(images)
    image, channel, row, col = random_positions(network.forward(inputs, [layer])[layer], 5).unbind(1)
    peaks = torch.stack([image, channel, row, col], 1)
    found = PeakSet(network, layer, images, torch.arange(4), peaks, network, 0, FULL)
    for control in ("other_switches", "random_switches", "other_unit", "random_weights"):
        assert found.reconstruct(control).any(), control
    with pytest.raises(UnsupportedOperation, match="in the shell rule.activation=rectify rule.gate=constant;"):
        PeakSet(network, layer, images, torch.arange(4), peaks).reconstruct("random_switches")


def test_any_node_that_gives_a_map_is_looked_at_by_its_name() -> None:
    """A convolution before its activation, what a gate is made of, and a sum: signed maps, ranked by their values."""
    module, rule = made("mobilenet_v3"), FULL
    network, replaced = Network(module, SIZE), held(module, FULL)
    conv, squash, total = "0", "3.body.3.squash", "3.add"
    assert not {conv, squash, total} & set(network.layers)
    peaks = mine(network, IMAGES.float().double(), [conv, total], k=3)
    for layer, path in ((conv, conv), (squash, squash), (total, "3")):
        maps = up_to(module, path)(IMAGES)
        torch.testing.assert_close(network.forward(IMAGES, [layer])[layer], maps)
        if layer != squash:
            torch.testing.assert_close(peaks[layer].score[:, 0], maps.amax((0, 2, 3)).float())
        chosen = random_positions(maps, 6)
        _, expected = project_by_autograd(up_to(replaced, path), IMAGES, chosen, mode_of("tanh_net", rule))
        for strategy in strategies_of(network, layer, SIZE[1:]):
            recon = project_at(network, IMAGES, layer, chosen, rule=rule, strategy=strategy)
            assert relative_error(recon.paste(), expected).max() < 1e-5, (layer, strategy)
    with pytest.raises(UnknownName, match="unknown layer '3.sum'"):
        network.node("3.sum")
