"""deconv/explanations: each beside captum, or beside the same computed slowly; and what is said of a user's own."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam, NeuronIntegratedGradients, Occlusion
from torch import Tensor, nn

import deconv
from deconv.errors import BadInput, DeconvError, UnknownName
from deconv.explanations import BUILT_IN, as_explanation, by_name, explain, explain_peaks
from deconv.explanations.activation import activation_map, grad_cam
from deconv.explanations.functions import Explanation, load
from deconv.explanations.gradients import gradient_times_input, integrated_gradients, smoothgrad
from deconv.explanations.occlusion import occlusion
from deconv.network import Network

SIZE = 30
LAYERS = ["1", "4", "7", "12"]
OWN = """
import torch

def red(network, inputs, layer, channel, row, col, factor=1.0):
    return factor * inputs * torch.tensor([1.0, 0.0, 0.0])[:, None, None]

NUMBER = 3
"""


def module() -> nn.Sequential:
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, 6, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU()]
    layers += [nn.MaxPool2d(2), nn.Conv2d(8, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(125, 9), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(9, 4), nn.Identity()).eval()


NETWORK = Network(module(), (3, SIZE, SIZE))
IMAGES = torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
OUTPUT = NETWORK.layers[-1]


Unit = tuple[Tensor, Tensor, Tensor]


def peaks_of(layer: str) -> tuple[Tensor, Unit]:
    """image, (channel, row, col) of the strongest position of three units, and of one in a corner."""
    maps = NETWORK.forward(IMAGES, [layer])[layer]
    image, channel = torch.tensor([0, 1, 2, 1]), torch.tensor([3, 1, 2, 0])
    best = maps[image, channel].flatten(1).argmax(1)
    row, col = best // maps.shape[3], best % maps.shape[3]
    row[3], col[3] = maps.shape[2] - 1, 0
    return image, (channel, row, col)


PEAKS = (peaks_of("4")[0], *peaks_of("4")[1])


def answers_of(layer: str, channel: Tensor, row: Tensor, col: Tensor) -> Callable[[Tensor], Tensor]:
    """What N units answer to N images, by the module itself."""
    upto = NETWORK.module if layer == OUTPUT else NETWORK.module[: int(layer) + 1]  # type: ignore[index]

    def answers(images: Tensor) -> Tensor:
        value = upto(images)
        maps = value[:, :, None, None] if value.dim() == 2 else value
        return maps[torch.arange(len(images)), channel, row, col]

    return answers


def derivative(answers: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    points = images.clone().requires_grad_()
    return torch.autograd.grad(answers(points).sum(), points)[0]


@pytest.mark.parametrize("layer", ["1", "4", "7", OUTPUT])
def test_gradients_of_windows_are_those_of_the_module(layer: str) -> None:
    image, unit = peaks_of(layer)
    inputs, answers = IMAGES[image], answers_of(layer, *unit)
    expected = derivative(answers, inputs)
    torch.testing.assert_close(gradient_times_input(NETWORK, inputs, layer, *unit), expected * inputs)
    generator, total = torch.Generator().manual_seed(7), torch.zeros_like(inputs)
    field = NETWORK.receptive_field(layer)
    for _ in range(3):  # noise is drawn for the field, whose corner lies at the box's
        noise = torch.randn(3, *field.size, generator=generator)
        noisy = inputs.clone()
        for n, box in enumerate(field.boxes(torch.stack(unit[1:], 1)).tolist()):
            spread = 0.5 * (inputs[n].max() - inputs[n].min()) * noise
            whole = F.pad(spread, (box[1], SIZE - box[3], box[0], SIZE - box[2]))  # negative padding cuts
            noisy[n] += whole
        total += derivative(answers, noisy) / 3
    found = smoothgrad(NETWORK, inputs, layer, *unit, samples=3, noise=0.5, seed=7)
    torch.testing.assert_close(found, total)


@pytest.mark.parametrize("layer", ["4", OUTPUT])
def test_integrated_gradients_are_captums(layer: str) -> None:
    image, unit = peaks_of(layer)
    found = integrated_gradients(NETWORK, IMAGES[image], layer, *unit, steps=12)
    position = -1 if layer == OUTPUT else int(layer)
    theirs = NeuronIntegratedGradients(NETWORK.module, NETWORK.module[position])  # type: ignore[index]
    for n, (m, channel, row, col) in enumerate(zip(image, *unit, strict=True)):
        neuron = (int(channel),) if layer == OUTPUT else (int(channel), int(row), int(col))
        expected = theirs.attribute(IMAGES[m : m + 1], neuron, n_steps=12)
        torch.testing.assert_close(found[n : n + 1], expected.float(), rtol=1e-4, atol=1e-6)


def test_integrated_gradients_add_up_to_what_the_input_adds_to_grey() -> None:
    image, unit = peaks_of("4")
    answers = answers_of("4", *unit)
    found = integrated_gradients(NETWORK, IMAGES[image], "4", *unit, steps=200).sum(dim=(1, 2, 3))
    expected = (answers(IMAGES[image]) - answers(torch.zeros_like(IMAGES[image]))).detach()
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.005)


@pytest.mark.parametrize("layer", ["7", OUTPUT])
def test_occlusion_is_captums_where_the_squares_are_the_same(layer: str) -> None:
    image, (channel, row, col) = peaks_of(layer)
    whole = NETWORK.receptive_field(layer).box(0, 0) == (0, 0, SIZE, SIZE)
    found = occlusion(NETWORK, IMAGES[image], layer, channel, row, col, side=6, stride=3)
    for n in range(3):
        answers = answers_of(layer, channel[n : n + 1], row[n : n + 1], col[n : n + 1])
        if whole:
            expected = Occlusion(answers).attribute(IMAGES[image[n : n + 1]], (3, 6, 6), strides=(3, 3, 3))
            torch.testing.assert_close(found[n : n + 1], expected.float(), rtol=1e-4, atol=1e-5)
            continue
        y0, x0, y1, x1 = NETWORK.receptive_field(layer).box(int(row[n]), int(col[n]))
        total, count = torch.zeros(SIZE, SIZE), torch.zeros(SIZE, SIZE)
        starts = [sorted({*range(low, high - 5, 3), high - 6}) for low, high in ((y0, y1), (x0, x1))]
        for top in starts[0]:
            for left in starts[1]:
                square = (slice(max(top, 0), max(top + 6, 0)), slice(max(left, 0), max(left + 6, 0)))
                occluded = IMAGES[image[n : n + 1]].clone()
                occluded[:, :, square[0], square[1]] = 0
                total[square] += (answers(IMAGES[image[n : n + 1]]) - answers(occluded)).item()
                count[square] += 1
        torch.testing.assert_close(found[n, 0], total / count.clamp(min=1), rtol=1e-4, atol=1e-5)


def test_grad_cam_is_captums_and_of_a_map_the_units_own() -> None:
    image, unit = peaks_of(OUTPUT)
    found = grad_cam(NETWORK, IMAGES[image], OUTPUT, *unit)
    below = LayerGradCam(NETWORK.module, NETWORK.module[7])  # type: ignore[index]
    field = NETWORK.receptive_field("7")
    centres = [int(field.box(n, 0)[0] + (field.size[0] - 1) / 2) for n in range(NETWORK.map_size("7")[0])]
    inside = [n for n, centre in enumerate(centres) if 0 <= centre < SIZE]
    assert inside
    for n, (m, channel) in enumerate(zip(image, unit[0], strict=True)):
        expected = below.attribute(IMAGES[m : m + 1], int(channel), relu_attributions=True)[0, 0]
        at_centres = found[n, 0][[centres[i] for i in inside]][:, [centres[i] for i in inside]]
        torch.testing.assert_close(at_centres, expected[inside][:, inside].detach(), rtol=1e-4, atol=1e-6)
    image, unit = peaks_of("4")
    own, cam = activation_map(NETWORK, IMAGES[image], "4", *unit), grad_cam(NETWORK, IMAGES[image], "4", *unit)
    torch.testing.assert_close(cam * NETWORK.map_size("4")[0] ** 2, own)
    dense = Network(nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU()), (3, 2, 2))
    with pytest.raises(DeconvError, match="grad_cam: 2 has no layer of maps below it"):
        explain(dense, torch.rand(1, 3, 2, 2), "2", [0], [0], [0], [0], "grad_cam")


def test_an_activation_map_has_its_values_at_the_centres_of_the_fields() -> None:
    """With a stride of 4 and no padding, position (r, c) sees the square about (4 r + 2, 4 c + 2)."""
    network = Network(nn.Sequential(nn.Conv2d(3, 2, 5, stride=4), nn.ReLU()), (3, 25, 29))
    inputs = torch.randn(2, 3, 25, 29)
    maps = network.forward(inputs, ["1"])["1"]
    unit = (torch.tensor([1, 0]), torch.tensor([0, 0]), torch.tensor([0, 0]))
    large = activation_map(network, inputs, "1", *unit)
    torch.testing.assert_close(large[:, 2, 2::4, 2::4][:, :6, :7], maps[[0, 1], [1, 0]])
    torch.testing.assert_close(large[0, 0, 4, 2], (maps[0, 1, 0, 0] + maps[0, 1, 1, 0]) / 2)
    assert torch.equal(large[:, :, 0, 0], large[:, :, 2, 2])  # beyond the outermost centres it goes on


@pytest.mark.parametrize("name", BUILT_IN)
def test_what_is_explained_does_not_depend_on_what_is_beside_it(name: str) -> None:
    image, unit = peaks_of("4")
    peaks = (image, *unit)
    together = explain(NETWORK, IMAGES, "4", *peaks, explanation=name)
    assert together.pixels.shape == (4, 3, *NETWORK.receptive_field("4").size) and together.rule == name
    for n in range(4):
        one = slice(n, n + 1)
        alone = explain(NETWORK, IMAGES, "4", image[one], unit[0][one], unit[1][one], unit[2][one], explanation=name)
        torch.testing.assert_close(alone.pixels[0], together.pixels[n], rtol=1e-4, atol=1e-6)
    projected = deconv.project(NETWORK, IMAGES, "4", *peaks)
    assert torch.equal(projected.box, together.box) and torch.equal(projected.field, together.field)
    torch.testing.assert_close(projected.score, together.score)
    assert torch.equal(explain(NETWORK, IMAGES, "4", *peaks, explanation="deconvnet").pixels, projected.pixels)


def test_mined_peaks_are_explained_and_their_scores_checked() -> None:
    source = deconv.bundled().part([0, 3])
    preprocessing = deconv.Preprocessing((SIZE, SIZE), None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    network = Network(module(), (3, SIZE, SIZE), preprocessing=preprocessing)
    peaks = deconv.mine(network, source, ["4"], k=2)["4"]
    recon = explain_peaks(network, source, "4", peaks, [2, 0], "activation_map")
    torch.testing.assert_close(recon.score, peaks.scores_of([2, 0]))
    with pytest.raises(DeconvError, match="was mined with score"):
        explain_peaks(
            network,
            deconv.bundled().part([4, 0, 3]),
            "4",
            peaks.__class__(**{**vars(peaks), "score": peaks.score + 9}),
            [2],
            "grad_cam",
        )


def fault(kind: str) -> Callable[..., Any]:
    def explanation(network: Network, inputs: Tensor, layer: str, *unit: Tensor) -> Any:
        if kind == "fails":
            raise KeyError("conv9")
        changed: dict[str, Any] = {
            "shape": inputs[:, :1], "nan": inputs / 0, "type": inputs.double(), "array": inputs.numpy(),
            "device": inputs.to("meta"),
        }  # fmt: skip
        return changed[kind]

    return explanation


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("shape", r"explanation mine: given 4, 4 inputs; expected .* it returns shape \(4, 1, 30, 30\)"),
        ("nan", "explanation mine: .* it returns NaN or infinite values"),
        ("type", "explanation mine: .* torch.float32 on cpu: it returns torch.float64 on cpu"),
        ("device", "explanation mine: .* it returns torch.float32 on meta"),
        ("array", "explanation mine: .* it returns ndarray"),
        ("fails", r"explanation mine fails on 4 \(KeyError: 'conv9'\); expected explain\(network, inputs, layer"),
    ],
)
def test_a_fault_is_one_line_that_names_the_explanation(kind: str, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        explain(NETWORK, IMAGES, "4", *PEAKS, explanation=Explanation("mine", fault(kind)))
    assert "\n" not in str(caught.value)


def test_a_function_may_write_on_what_it_is_given() -> None:
    def greedy(network: Network, inputs: Tensor, *unit: Any) -> Tensor:
        return inputs.zero_()

    before = IMAGES.clone()
    assert not explain(NETWORK, IMAGES, "4", *PEAKS, explanation=greedy).pixels.any()
    assert torch.equal(IMAGES, before)


def test_a_function_of_a_file_is_known_by_the_files_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    for target in ("mine.py:red", "mine:red"):
        red = load("red", target)
        options = red.options()
        assert options == {"function": "mine:red", "arguments": {}, "sha256": sha256(OWN.encode()).hexdigest()}
        assert pickle.loads(pickle.dumps(red)).options() == options
    twice = Explanation("twice", partial(red.function, factor=2.0))
    assert twice.options()["arguments"] == {"factor": "2.0"}
    pixels = [explain(NETWORK, IMAGES, "4", *PEAKS, explanation=each).pixels for each in (red, twice)]
    assert torch.equal(2 * pixels[0], pixels[1]) and not pixels[0][:, 1:].any()
    recon = explain(NETWORK, IMAGES, "4", *PEAKS, explanation=red)
    assert recon.provenance["rule_options"] == options and recon.provenance["rule"] == "red"
    with pytest.raises(BadInput, match=r"explanations.red: given mine:rad; .* it has no rad; did you mean 'red'"):
        load("red", "mine:rad")


def test_what_can_be_asked_for_by_name() -> None:
    assert list(by_name(["guided", "smoothgrad", "centre"], others=["centre"])) == ["guided", "smoothgrad", "centre"]
    named = by_name({"mine": fault("nan"), "odd": {"relu": "both"}})
    assert isinstance(named["mine"], Explanation) and named["mine"].name == "mine"
    with pytest.raises(UnknownName, match="unknown explanation 'guidd'; expected one of deconvnet"):
        by_name(["guidd"])
    with pytest.raises(UnknownName, match="unknown rule or explanation 'guidd'"):
        as_explanation("guidd")
    for taken in ({"guided": fault("nan")}, {"guided": "gradient"}, {"occlusion": fault("nan")}):
        with pytest.raises(BadInput, match="expected another name for it"):
            by_name(taken)


def test_an_explanation_of_zeros_is_told(caplog: pytest.LogCaptureFixture) -> None:
    network = Network(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), (3, 8, 8))
    nothing = as_explanation(lambda network, inputs, *peak: torch.zeros_like(inputs), "nothing")
    explain(network, torch.rand(2, 3, 8, 8), "1", [0, 1], [3, 3], [0, 5], [2, 2], nothing)
    assert "nothing is zero everywhere for all peaks of 1: nothing can be measured of it" in caplog.text
