"""Explanations: whatever gives a signed picture of the input's size for a peak, be it a rule or a function.

A function is called as `explain(network, inputs, layer, channel, row, col)`, with N preprocessed images (N, C, H, W)
and unit channel[n], at (row[n], col[n]) of the layer's map, to be explained on each; it returns (N, C, H, W).
Those built in are such functions too:

- `activation`: the unit's own map, and Grad-CAM;
- `gradients`: gradient times input, SmoothGrad, integrated gradients;
- `occlusion`: what a square takes away.

`from_captum` and `from_zennit` make explanations of the methods of these libraries.

`functions` says what is made of a user's own; `fields` has the receptive fields alone, on which a unit can be asked
with less work than on the image.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, overload

import torch

from deconv.errors import UnreadableImage, bad_value, check_list, unknown
from deconv.explanations.activation import activation_map, grad_cam
from deconv.explanations.captum import from_captum as from_captum
from deconv.explanations.functions import Explain, Explanation
from deconv.explanations.gradients import gradient_times_input, integrated_gradients, smoothgrad
from deconv.explanations.occlusion import occlusion
from deconv.explanations.zennit import from_zennit as from_zennit
from deconv.images import Source, StreamedSource
from deconv.network import Network
from deconv.network.receptive_field import field_at
from deconv.projection import (
    AnyRule,
    Images,
    Indices,
    check_peaks,
    check_rules,
    check_scores,
    load_inputs,
    project,
    project_peaks,
)
from deconv.projection.rules import NAMED, Rule, as_rule
from deconv.records import LayerPeaks, Reconstructions, whole_boxes
from deconv.records.provenance import build

BUILT_IN: dict[str, Explain] = {
    "activation_map": activation_map,
    "grad_cam": grad_cam,
    "gradient_times_input": gradient_times_input,
    "smoothgrad": smoothgrad,
    "integrated_gradients": integrated_gradients,
    "occlusion": occlusion,
}
"""The functions that are known by name, as rules are."""


AnyExplanation = AnyRule | Explanation | Explain


def as_explanation(explanation: AnyExplanation, name: str | None = None) -> Rule | Explanation:
    """Return a rule, as `as_rule` does, or an explanation, given by its name or as a function.

    name: what a function is called; None takes the function's own name.
    Raises UnknownName for a name that is neither a rule's nor that of a function built in, BadInput for anything else.

    >>> as_explanation("guided").name, as_explanation("smoothgrad")
    ('guided', Explanation('smoothgrad'))
    """
    if isinstance(explanation, str) and explanation in BUILT_IN:
        return Explanation(explanation, BUILT_IN[explanation])
    if isinstance(explanation, str) and explanation not in NAMED:
        raise unknown("rule or explanation", explanation, [*NAMED, *BUILT_IN])
    if isinstance(explanation, str | Rule | Mapping):
        return as_rule(explanation)
    if isinstance(explanation, Explanation):
        return explanation
    if not callable(explanation):
        expected = f"one of {', '.join([*NAMED, *BUILT_IN])}, a Rule, a mapping of its options, or a function"
        raise bad_value("explanation", explanation, expected)
    return Explanation(
        getattr(explanation, "__name__", type(explanation).__name__) if name is None else name, explanation
    )


Explanations = Mapping[str, AnyExplanation] | Sequence[AnyExplanation]


@overload
def by_name(explanations: Explanations) -> dict[str, Rule | Explanation]: ...
@overload
def by_name(explanations: Explanations, others: Collection[str]) -> dict[str, Rule | Explanation | str]: ...
def by_name(explanations: Explanations, others: Collection[str] = ()) -> Mapping[str, Rule | Explanation | str]:
    """Return explanations by their names, in order; a sequence's are their own.

    others: more that may be asked for by name, and stay strings.
    Raises UnknownName and BadInput as `as_explanation`, and for a name that is known for something else.

    >>> by_name(["deconvnet", "occlusion"])
    {'deconvnet': Rule(...), 'occlusion': Explanation('occlusion')}
    """
    if not isinstance(explanations, Mapping):
        asked = check_list("explanations", explanations, "explanations")
        explanations = {each if isinstance(each, str) else as_explanation(each).name: each for each in asked}
    known = list(dict.fromkeys([*NAMED, *BUILT_IN, *others]))
    named: dict[str, Rule | Explanation | str] = {}
    for name, each in explanations.items():
        if isinstance(each, str) and each not in known:
            raise unknown("explanation", each, known)
        named[name] = each if isinstance(each, str) and each in others else as_explanation(each, name)
        if name in known and named[name] != (name if name in others else as_explanation(name)):
            raise bad_value(
                f"explanation called {name}", each, f"another name for it, as {name} is one of the names known"
            )
    return named


def check_explanations(network: Network, layers: Sequence[str], explanations: Sequence[Rule | Explanation]) -> None:
    """Raise as `check_rules` unless all of them that are rules can send every layer back; functions are not asked."""
    check_rules(network, layers, [each for each in explanations if isinstance(each, Rule)])


def try_functions(network: Network, images: Source, layers: Iterable[str], explanations: Iterable[Any]) -> None:
    """Ask each function of a user's own once for each layer, for the strongest unit on the first image of the source.

    Rules, names and functions that are built in are not asked, and none where the image cannot be read. Raises
    BadInput, naming the explanation, where one gives no picture, so that this is known before anything is mined.
    """
    asked = [each for each in explanations if isinstance(each, Explanation) and not each.is_built_in]
    if not asked:
        return
    preprocessing = network.needed_preprocessing()
    listed = images.shards.sample() if isinstance(images, StreamedSource) else images
    try:
        input_image = listed.input_image(listed.ids[0], preprocessing)
    except UnreadableImage:
        return  # whoever mines the source says so
    inputs = network.check_images(preprocessing.normalize(input_image[None]))
    for layer in layers:
        maps = network.forward(inputs, [layer])[layer]
        place = torch.stack(torch.unravel_index(maps.flatten().argmax().cpu(), maps.shape))
        box = whole_boxes(1, (inputs.shape[2], inputs.shape[3]))
        for explanation in asked:
            explanation.explain(network, layer, inputs, place[:1], place[1:2], place[None, 2:], box)


def explain(
    network: Network,
    images: Images,
    layer: str,
    image: Indices,
    channel: Indices,
    row: Indices,
    col: Indices,
    explanation: AnyExplanation = "deconvnet",
) -> Reconstructions:
    """Return what an explanation gives for N activations, that of unit channel[n] at (row[n], col[n]) on image[n].

    A rule's is what `deconv.project` gives. A function's is a picture of the whole image, of which that of the
    receptive field is kept: other pixels have no part in the activation. All arguments are those of `project`, and what
    is returned and raised too; BadInput also, naming the explanation, where a function gives no picture.

    >>> import deconv, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    >>> network, images = deconv.Network(net, (3, 16, 16)), torch.rand(5, 3, 16, 16)
    >>> explain(network, images, "1", [0, 4], [2, 3], [0, 5], [7, 7], "occlusion")
    <Reconstructions: 1 by occlusion, 2 of 3 x 3 x 3 pixels>
    """
    opened = as_explanation(explanation)
    if isinstance(opened, Rule):
        return project(network, images, layer, image, channel, row, col, opened)
    images, image_ids, rows, cols, (channels,), size = check_peaks(network, images, layer, image, row, col, [channel])
    positions = torch.stack([rows, cols], dim=1)
    field = field_at(network.graph_at(size), network.node(layer, size), positions)
    shown = field.cut_to(size)
    box = shown.boxes(positions)
    pixels, score = torch.zeros(len(rows), network.input_shape[0], *shown.size), torch.zeros(len(rows))
    used = image_ids.unique()
    for batch, inputs in load_inputs(network, images, used):
        peaks = torch.isin(image_ids, used[batch]).nonzero().flatten()
        index = torch.searchsorted(used[batch].contiguous(), image_ids[peaks].contiguous())
        maps = network.forward(inputs, [layer])[layer].float().cpu()
        score[peaks] = maps[index, channels[peaks], rows[peaks], cols[peaks]]
        pixels[peaks] = opened.explain(network, layer, inputs, index, channels[peaks], positions[peaks], box[peaks])
    return Reconstructions(
        layer=layer,
        rule=opened.name,
        pixels=pixels,
        score=score,
        box=box,
        field=field.boxes(positions),
        image=image_ids,
        channel=channels,
        row=rows,
        col=cols,
        input_size=size,
        provenance=build(network.provenance(), layer=layer, rule=opened.name, rule_options=opened.options()),
    )


def explain_peaks(
    network: Network,
    images: Images,
    layer: str,
    peaks: LayerPeaks,
    units: Sequence[int],
    explanation: AnyExplanation = "deconvnet",
) -> Reconstructions:
    """Return what an explanation gives for all mined peaks of some units of a layer, unit by unit, strongest first.

    As `deconv.project_peaks`, which is what it does for a rule; raises what that and `explain` do.
    """
    opened = as_explanation(explanation)
    if isinstance(opened, Rule):
        return project_peaks(network, images, layer, peaks, units, opened)
    recon = explain(network, images, layer, *peaks.of(list(units)), explanation=opened)
    check_scores(recon.score, peaks.scores_of(list(units)), layer, peaks.score, network.rounding)
    return recon
