"""tests/coverage: a dozen architectures as `make coverage` measures them, and how its page is written and goes on."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from deconv.network import Network
from deconv.projection.rules import RULES
from tests.coverage import facts as measuring
from tests.coverage import runner
from tests.coverage.architectures import (
    OTHERS,
    Architecture,
    all_of_torchvision,
    one_of_each_timm_family,
    transformers_of_torchvision,
)
from tests.coverage.facts import AGREES, Facts, OfRule, measure
from tests.coverage.page import BEYOND, COUNTED, ORDER, PLAIN, output_equal, page, reason, worst_error

EVERYTHING = {each.name: each for each in (*one_of_each_timm_family(), *all_of_torchvision())}
FULLY = dict.fromkeys(ORDER, True)
BEYOND_ONLY = {**FULLY, **dict.fromkeys(PLAIN, False)}
QUICK = {
    "squeezenet1_1": FULLY,
    "shufflenet_v2_x0_5": FULLY,
    "mobilenet_v3_small": BEYOND_ONLY,
    "regnet_y_400mf": BEYOND_ONLY,
    "mnasnet_small": BEYOND_ONLY,
    "dla46x_c": FULLY,
    "starnet_s050": BEYOND_ONLY,
    "mobilenetv3_small_050": BEYOND_ONLY,
    "repghostnet_050": BEYOND_ONLY,
    "ese_vovnet19b_slim_dw": BEYOND_ONLY,
    "resnest14d": BEYOND_ONLY,
    "cspnext_tiny": BEYOND_ONLY,
}


@pytest.mark.parametrize("name", QUICK)
def test_a_dozen_are_carried_and_agree_with_autograd(name: str) -> None:
    facts = measure(EVERYTHING[name], layers=2)
    assert facts.whole and output_equal(facts), facts.refusal or facts.stopped
    assert facts.fields and facts.fields_tight and facts.fields_wrong == []
    assert {rule: of_rule.full for rule, of_rule in facts.rules.items()} == QUICK[name]
    error = worst_error(facts)
    assert error is not None and error < AGREES
    for rule, of_rule in facts.rules.items():
        assert of_rule.full == (of_rule.refusal == ""), rule
        assert of_rule.full <= (of_rule.error is not None), rule


def test_all_convnets_of_torchvision_and_every_family_of_timm_have_a_place() -> None:
    names = {each.name for each in all_of_torchvision()}
    assert len(names) == 68 and len(names | set(transformers_of_torchvision())) == 80
    ours = one_of_each_timm_family()
    assert {each.name for each in ours} <= set(timm.list_models())
    assert all(each.name in timm.list_models(module=each.family) for each in ours)
    families = Counter([each.family for each in ours] + [family for kind in OTHERS.values() for family in kind])
    assert max(families.values()) == 1 and set(families) <= set(timm.list_modules())
    assert timm.__version__ != "1.0.31" or set(families) == set(timm.list_modules())


class Wrong(nn.Module):
    """Two convolutions of which the second sees more than a network says that is made of the first alone."""

    def __init__(self, kernel: int):
        super().__init__()
        self.below, self.above = nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(4, 4, kernel), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.above(self.below(x))


@pytest.mark.parametrize(("kernel", "words"), [(3, ""), (5, "not 10 to 14"), (1, "sees 3 pixels along axis 0, not 5")])
def test_a_wrong_field_is_noticed(kernel: int, words: str) -> None:
    torch.manual_seed(0)
    network = Network(Wrong(3).double(), (3, 24, 24))
    facts = Facts("torchvision", "none", "wrong", "ConvNet")
    images = torch.randn(2, 3, 24, 24, dtype=torch.float64)
    padded = nn.Sequential(Wrong(kernel), nn.ZeroPad2d((3 - kernel) // -2 if kernel > 3 else 0)).double()
    run = measuring.up_to(padded, "1", 0, (network.channels("above.1"), *network.map_size("above.1")))
    measuring._compare_field(network, run, "above.1", images, facts)
    assert (words in "; ".join(facts.fields_wrong)) if words else facts.fields_wrong == []


def some_facts() -> list[Facts]:
    """Of one that is carried by all, one by rules beyond, one refused, one crashed."""
    rules = {rule: OfRule(5, True, error=3e-8) for rule in ORDER}
    words = "'{}' has no way back through 'silu' in stem.{}: it is neither linear nor a ReLU; use another"
    beyond = {**rules, **{rule: OfRule(refusal=words.format(rule, "act")) for rule in PLAIN}}
    other = {**beyond, "deconvnet": OfRule(refusal=words.format("deconvnet", "bn.act"))}
    common: dict[str, Any] = {"traced": True, "whole": True, "layers": 5, "output_error": 1e-14, "fields": 11}
    apart = "'permute' in blocks.1 makes (3, N, 4) of a batch of N images; expected them to stay apart"
    return [
        Facts("torchvision", "vgg", "plain", "ConvNet", rules=rules, **common),
        Facts("torchvision", "efficientnet", "smooth", "ConvNet", rules=beyond, **common),
        Facts("torchvision", "efficientnet", "smoother", "ConvNet", rules=other, **common),
        Facts("timm", "edgenext", "mixed", "hybrid", refusal=apart),
        Facts("timm", "vgg", "broken", "ConvNet", crash="KeyError: 'x'"),
    ]


def test_the_page_counts_rows_and_groups_refusals() -> None:
    text = page(some_facts())
    counts = {
        cells[0]: cells[1:]
        for line in text.splitlines()
        if line.startswith("|") and len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 4
    }
    assert counts["architectures"] == ["3", "1", "1"]
    assert counts["traces to its output"] == ["3", "0", "0"]
    assert counts["`deconvnet` and `guided` in full"] == ["1", "0", "0"]
    assert counts["`deconvnet_beyond` and `guided_beyond` in full"] == ["3", "0", "0"]
    assert counts["crashed"] == ["0", "1", "0"] and counts["refused altogether, by name"] == ["0", "0", "1"]
    assert set(COUNTED) <= set(counts)
    assert "| smooth | yes | 5 | equal | equal | none | none | full | full | full | 3e-08 |" in text
    assert "- no way back through 'silu': it is neither linear nor a ReLU (2): smooth, smoother. In full, of" in text
    assert "- 'permute' makes (...) of a batch of N images (1): mixed." in text
    assert set(ORDER) == set(RULES) == {*PLAIN, *BEYOND, "gradient"}


def test_a_reason_is_what_several_refusals_have_in_common() -> None:
    words = "'guided' has no way back through 'sigmoid' in features.4.block.1.scale_activation: it is neither; or"
    assert reason(words) == "no way back through 'sigmoid': it is neither"
    assert reason("'x' in the network makes (3N, 2) of it; no") == "'x' makes (...) of it"


def test_a_run_goes_on_where_it_stopped_and_measures_again_what_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    three = [Architecture("torchvision", "vgg", name, "ConvNet") for name in ("plain", "smooth", "third")]
    done: list[str] = []

    def in_a_process(architecture: Architecture) -> Facts:
        done.append(architecture.name)
        if done == ["plain", "smooth", "third"]:
            raise KeyboardInterrupt
        return Facts(architecture.library, architecture.family, architecture.name, architecture.kind, refusal="no")

    monkeypatch.setattr(runner, "all_of_torchvision", lambda: three)
    monkeypatch.setattr(runner, "one_of_each_timm_family", list)
    monkeypatch.setattr(runner, "LINES", tmp_path / "lines.jsonl")
    monkeypatch.setattr(runner, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(runner, "_in_a_process", in_a_process)
    with pytest.raises(KeyboardInterrupt):
        runner.main([])
    assert len((tmp_path / "lines.jsonl").read_text().splitlines()) == 2 and not (tmp_path / "page.md").exists()
    assert runner.main([]) == 0
    assert done == ["plain", "smooth", "third", "third"]
    assert (tmp_path / "page.md").read_text().count("| no | 0 |") == 3
    assert runner.main(["torchvision/smooth"]) == 0
    assert done[-1] == "smooth" and len(done) == 5
    assert json.loads((tmp_path / "lines.jsonl").read_text().splitlines()[1])["name"] == "smooth"
    with pytest.raises(SystemExit):
        runner.main(["torchvision/smoothest"])
    assert "unknown architecture 'torchvision/smoothest'" in capsys.readouterr().err


def test_a_process_that_dies_is_a_crash_on_the_page_and_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    vgg = Architecture("timm", "vgg", "vgg11", "ConvNet")
    monkeypatch.setattr(runner, "measure", lambda architecture: vars(architecture)["x"])
    assert runner._in_a_process(vgg).crash == "KeyError: 'x'"
    monkeypatch.setattr(runner, "measure", lambda architecture: os._exit(3))
    assert runner._in_a_process(vgg).crash == "its process ended with status 3"
    monkeypatch.setattr(runner, "MOST_SECONDS", 0.1)
    monkeypatch.setattr(runner, "measure", lambda architecture: time.sleep(60))
    assert runner._in_a_process(vgg).crash == "not done after 0.1 s"
