"""What is measured of one architecture: whether it traces, what of it is right, and which rules carry it.

Everything is held against the module itself and autograd (tests/oracle.py), which know nothing of deconv's graph.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from deconv.errors import DeconvError, UnsupportedOperation
from deconv.network import Network, as_map
from deconv.network.graph import Graph
from deconv.network.operations import Detached, Input
from deconv.projection import check_rules, project_together
from deconv.projection.rules import RULES, Rule
from deconv.projection.ways import way_back
from tests.coverage.architectures import Architecture, enlivened, first_tensor, made, sizes
from tests.oracle import HoldingMode, project_by_autograd, relative_error

Run = Callable[[Tensor], Tensor]
AGREES = 1e-5
"""Relative error of a projection that counts as agreement."""
FAINT = 1e-12
"""Of the strongest derivative: what counts as none."""
MOST_BYTES = 5 * 2**30
"""Of weights and their copies; an architecture that has more is traced without values."""
COPIES = 3
"""Of the weights: the module's, the network's, and those that have normalisations folded into them."""
ROUNDING = 2.0**-52
"""Relative, of a float64."""
COMPARED_LAYERS = 3
SPELLED = ("QuickGELU", "Swish", "Mish", "HardMish")
"""timm's own activations that are several operations, none of them a layer."""
LARGE = 40_000_000
"""Parameters of an architecture of which one layer fewer is compared."""
BATCH_NORM = nn.modules.batchnorm._BatchNorm


@dataclass
class OfRule:
    """What one rule does: the layers that it carries, its words where one is refused, its error against the oracle.

    error: the largest relative error of a picture; None where no layer that is carried was compared.
    """

    carried: int = 0
    full: bool = False
    refusal: str = ""
    error: float | None = None


@dataclass
class Facts:
    """All that is measured of one architecture; a line of JSON.

    size: height and width of the images.  output_error: largest difference between the network's output and the
    module's, as a share of the largest output; None where it was not compared.  rounding: how far the module's own
    output moves, as such a share, when the images are moved by what rounding is.  traced: whether there is a Network;
    whole: whether it reaches the module's output; if not, `refusal` or `stopped` says why.  valueless: weights that do
    not fit were left out, so that nothing was compared.
    fields: (layer, position) pairs compared, of which `fields_wrong` saw a pixel outside their box, or whose layer had
    a box that is too large.  fields_tight: the layers and axes on which the size itself was compared.
    """

    library: str
    family: str
    name: str
    kind: str
    size: int = 0
    parameters: int = 0
    traced: bool = False
    whole: bool = False
    refusal: str = ""
    crash: str = ""
    stopped: str = ""
    valueless: bool = False
    layers: int = 0
    output_error: float | None = None
    rounding: float | None = None
    fields: int = 0
    fields_tight: int = 0
    fields_wrong: list[str] = field(default_factory=list)
    compared: list[str] = field(default_factory=list)
    rules: dict[str, OfRule] = field(default_factory=dict)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """In plain types."""
        return asdict(self)


def from_dict(line: dict[str, Any]) -> Facts:
    """The facts of a line of JSON."""
    return Facts(**{**line, "rules": {name: OfRule(**of_rule) for name, of_rule in line["rules"].items()}})


def measure(architecture: Architecture, layers: int = COMPARED_LAYERS) -> Facts:
    """All facts of an architecture with seeded random weights.

    layers: how many layers are compared with autograd, the output among them.
    """
    started = time.perf_counter()
    facts = Facts(architecture.library, architecture.family, architecture.name, architecture.kind)
    module = made(architecture, "meta")
    facts.parameters = sum(parameter.numel() for parameter in module.parameters())
    facts.valueless = facts.parameters * 8 * COPIES > MOST_BYTES
    if facts.valueless:
        facts.size = sizes(architecture)[-1]
    else:
        module, facts.size = enlivened(architecture)
    try:
        network = Network(module, (3, facts.size, facts.size))
    except UnsupportedOperation as refusal:
        facts.refusal = str(refusal)
    else:
        facts.traced, facts.layers = True, len(network.layers)
        zeros = torch.zeros((2, 3, facts.size, facts.size), dtype=network.precision, device=network.device)
        with torch.no_grad():
            outputs = first_tensor(module(zeros))
        last = network.graph.nodes[network.node(network.layers[-1])]
        facts.whole = tuple(outputs.shape[1:]) == last.shape
        if not facts.whole:
            facts.stopped = next(iter(network.graph.refusals.values()), "its output is no map and no vector")
        carried = {name: carried_names(network, rule) for name, rule in RULES.items()}
        facts.rules = {name: _of_rule(network, name, able, facts.whole) for name, able in carried.items()}
        if not facts.valueless:
            _compare(network, module, facts, carried, layers - (facts.parameters > LARGE))
    facts.seconds = round(time.perf_counter() - started, 1)
    return facts


def carried_names(network: Network, rule: Rule) -> set[str]:
    """The layers, and other nodes by name, that a rule carries: no signal from them meets a node without a way back."""
    graph = network.graph
    carried: list[bool] = []
    for index in range(len(graph.nodes)):
        sources = _sources(graph, index, rule)
        carried.append(sources is not None and all(carried[source] for source in sources))
    return {name for name, index in (graph.values | graph.layers).items() if carried[index]}


def _sources(graph: Graph, index: int, rule: Rule) -> Sequence[int] | None:
    if isinstance(graph.nodes[index].operation, Input | Detached):
        return ()
    try:
        return way_back(graph, index, rule).sources
    except UnsupportedOperation:
        return None


def _of_rule(network: Network, name: str, able: set[str], whole: bool) -> OfRule:
    """Full where a whole network's layers are carried, all but the output; the words are of the last that is not."""
    refused = [layer for layer in network.layers if layer not in able]
    served = [layer for layer in network.layers if layer in able]
    of_rule = OfRule(len(served), whole and bool(served) and refused in ([], network.layers[-1:]))
    check_rules(network, served, [name])
    if refused:
        try:
            check_rules(network, refused[-1:], [name])
        except UnsupportedOperation as refusal:
            of_rule.refusal = str(refusal)
        else:
            raise AssertionError(f"{name} carries {refused[-1]} after all")
    return of_rule


# -- against the module and autograd


def _compare(network: Network, module: nn.Module, facts: Facts, carried: dict[str, set[str]], count: int) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn((2, *network.input_shape), generator=generator, dtype=torch.float64)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    output = network.layers[-1]
    whole = first_tensor(module(images))
    value = network.forward(images, [output])[output]
    if facts.whole:
        facts.output_error = float((value.view_as(whole) - whole).abs().max() / whole.abs().max())
        moved = images * (1 + ROUNDING * torch.randn(images.shape, generator=generator, dtype=images.dtype))
        facts.rounding = float((first_tensor(module(moved)) - whole).abs().max() / whole.abs().max())
    runs = runs_of(network, module, network.layers)
    if len(runs) < count and not any(isinstance(inner, BATCH_NORM) for inner in module.modules()):
        runs = runs_of(network, module, network.graph.values)  # no node has a normalisation folded into it
    if facts.whole:
        runs[output] = lambda x: first_tensor(module(x)).view(len(x), *value.shape[1:])
    facts.compared = spread(list(runs), count)
    for layer in facts.compared:
        _compare_field(network, runs[layer], layer, images, facts)
        able = [name for name in RULES if layer in carried[name]]
        for name, error in errors(network, module, runs[layer], layer, images, able).items():
            facts.rules[name].error = max(error, facts.rules[name].error or 0.0)


def spread(names: list[str], count: int) -> list[str]:
    """The first, the last, and others evenly between them, in order."""
    if len(names) <= count:
        return names
    return [names[round(n * (len(names) - 1) / (count - 1))] for n in range(count)]


def runs_of(network: Network, module: nn.Module, names: Iterable[str]) -> dict[str, Run]:
    """For each of the names that is the output of a submodule's call: the module run up to it.

    What lies within an activation of several operations is left out, for the oracle runs these as one.
    """
    spelled = tuple(f"{path}." for path, inner in module.named_modules() if type(inner).__name__ in SPELLED)
    paths = {path for path, _ in module.named_modules() if path and not path.startswith(spelled)}
    ends: dict[str, str] = {}  # the last node of each submodule
    for node in network.graph.nodes:
        steps = node.path.split(".")
        ends |= {".".join(steps[: depth + 1]): node.name for depth in range(len(steps))}
    runs: dict[str, Run] = {}
    for layer in names:
        later = re.fullmatch(r"(.+)_(\d+)", layer)
        path = network.graph.nodes[network.node(layer)].path
        shape = (network.channels(layer), *network.map_size(layer))
        if layer in paths:
            runs[layer] = up_to(module, layer, 0, shape)
        elif later is not None and later[1] in paths:
            runs[layer] = up_to(module, later[1], int(later[2]), shape)
        elif path in paths and ends[path] == layer:
            runs[layer] = up_to(module, path, 0, shape)
    return runs


class _Reached(Exception):
    """Ends a forward pass whose rest is not needed."""


def up_to(module: nn.Module, path: str, call: int, shape: tuple[int, int, int]) -> Run:
    """The output of a submodule's call as a function of the images; nothing after it runs.

    shape: channels, height and width of the layer; an output whose channels come last is turned to it.
    """

    def run(images: Tensor) -> Tensor:
        outputs: list[Tensor] = []

        def hook(_: nn.Module, given: Any, output: Tensor) -> None:
            outputs.append(output)
            if len(outputs) > call:
                raise _Reached

        handle = module.get_submodule(path).register_forward_hook(hook)
        try:
            module(images)
        except _Reached:
            pass
        finally:
            handle.remove()
        maps = as_map(outputs[call])
        channels_last = maps.shape[1:] != shape and maps.shape[1:] == (*shape[1:], shape[0])
        return maps.permute(0, 3, 1, 2) if channels_last else maps

    return run


def errors(
    network: Network, module: nn.Module, run: Run, layer: str, images: Tensor, rules: list[str]
) -> dict[str, float]:
    """{rule: largest relative error} of the projections of the strongest peak and of two corners."""
    maps = network.forward(images, [layer])[layer]
    peaks = _peaks(maps)
    image, channel, row, col = peaks.unbind(1)
    recons = project_together(network, images, layer, image, row, col, [(rule, channel) for rule in rules])
    spelled = [inner for inner in module.modules() if type(inner).__name__ in SPELLED]
    worst = {}
    for rule, recon in zip(rules, recons, strict=True):
        mode = HoldingMode(RULES[rule].relu, spelled) if RULES[rule].goes_beyond else rule
        score, expected = project_by_autograd(run, images, peaks, mode, rectified=False)
        torch.testing.assert_close(recon.score, score.float(), rtol=1e-4, atol=1e-6)
        worst[rule] = float(relative_error(recon.paste(), expected).max())
    return worst


def _peaks(maps: Tensor) -> Tensor:
    """(3, 4): the strongest of all positions and of two opposite corners, at the ceiling of no ReLU6."""
    maps = maps.where(maps != 6, 0)
    peaks = [(maps == maps.max()).nonzero()[0].tolist()]
    for row, col in ((0, 0), (maps.shape[2] - 1, maps.shape[3] - 1)):
        corner = maps[:, :, row, col]
        peaks.append([*(corner == corner.max()).nonzero()[0].tolist(), row, col])
    return torch.tensor(peaks)


def _compare_field(network: Network, run: Run, layer: str, images: Tensor, facts: Facts) -> None:
    """The box of corners, of the middle and of a place beside it, against the pixels with a derivative."""
    field, size = network.receptive_field(layer), network.input_shape[1:]
    height, width = network.map_size(layer)
    positions = {(0, 0), (height - 1, width - 1), (height // 2, width // 2), (height // 3, width // 2), (0, width - 1)}
    pixels = images.clone().requires_grad_()
    with torch.enable_grad():
        maps = run(pixels * 1)
    weights = torch.randn(maps.shape[1], generator=torch.Generator().manual_seed(2), dtype=maps.dtype)
    seen, inside = [0, 0], [False, False]
    for row, col in sorted(positions):
        score = torch.einsum("nc,c->", maps[:, :, row, col], weights)
        (derived,) = torch.autograd.grad(score, pixels, retain_graph=True, materialize_grads=True)
        strength = derived.abs().amax((0, 1))
        lit = (strength > FAINT * strength.max()).nonzero()
        y0, x0, y1, x1 = field.box(row, col)
        facts.fields += 1
        if not len(lit) or not field.holds(torch.tensor([[row, col]])):
            continue
        for axis, (low, high) in enumerate([(y0, y1), (x0, x1)]):
            first, last = int(lit[:, axis].min()), int(lit[:, axis].max())
            if first < low or last >= high:
                facts.fields_wrong.append(f"{layer} at ({row}, {col}) sees {first} to {last}, not {low} to {high - 1}")
            if low >= 0 and high <= size[axis]:
                inside[axis], seen[axis] = True, max(seen[axis], last + 1 - first)
    for axis in (0, 1):
        facts.fields_tight += inside[axis]
        least = field.size[axis] if field.stride[axis] else size[axis] // 2  # "the whole image" may leave a rest
        if inside[axis] and not least <= seen[axis] <= field.size[axis]:
            facts.fields_wrong.append(f"{layer} sees {seen[axis]} pixels along axis {axis}, not {field.size[axis]}")


def crashed(architecture: Architecture, why: str) -> Facts:
    """The facts of an architecture whose process ended otherwise."""
    return Facts(architecture.library, architecture.family, architecture.name, architecture.kind, crash=why)


def as_crash(error: BaseException) -> str:
    """One line of an error that is no refusal."""
    told = str(error) if isinstance(error, DeconvError) else f"{type(error).__name__}: {error}"
    return " ".join(told.split())[:300]
