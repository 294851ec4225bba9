"""Measures the architectures one after the other, each in a process of its own, and writes docs/COVERAGE.md.

The facts are kept as lines of JSON in outputs/coverage.jsonl: a run goes on where the last one stopped.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import timm  # noqa: F401  # before the processes are forked
import torch

from tests.coverage.architectures import Architecture, all_of_torchvision, one_of_each_timm_family
from tests.coverage.facts import Facts, as_crash, crashed, from_dict, measure
from tests.coverage.page import page

ROOT = Path(__file__).resolve().parent.parent.parent
LINES = ROOT / "outputs" / "coverage.jsonl"
PAGE = ROOT / "docs" / "COVERAGE.md"
MOST_SECONDS = 900
MOST_MEMORY = 6 * 2**30
"""Bytes that one process may take."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing and write the page; returns the exit status, 1 where something crashed."""
    parser = argparse.ArgumentParser(prog="python -m tests.coverage", description=__doc__)
    parser.add_argument("names", nargs="*", help="measure these architectures (again); default: all that are missing")
    chosen = parser.parse_args(arguments)
    everything = {f"{each.library}/{each.name}": each for each in (*one_of_each_timm_family(), *all_of_torchvision())}
    for name in chosen.names:
        if name not in everything:
            parser.error(f"unknown architecture {name!r}; expected as torchvision/resnet18, timm/resnet10t")
    known = read()
    for name, architecture in everything.items():
        if name in chosen.names or (not chosen.names and name not in known):
            known[name] = _in_a_process(architecture)
            write(known)
            print(f"{len(known)} of {len(everything)}: {name}, {known[name].seconds} s", file=sys.stderr, flush=True)
    if missing := [name for name in everything if name not in known]:
        print(f"coverage: {len(missing)} are still missing; docs/COVERAGE.md is left as it is", file=sys.stderr)
        return 1
    PAGE.write_text(page([known[name] for name in everything]), encoding="utf-8")
    return int(any(facts.crash for facts in known.values()))


def read() -> dict[str, Facts]:
    """The facts that are known, by library and name."""
    lines = LINES.read_text(encoding="utf-8").splitlines() if LINES.exists() else []
    known = [from_dict(json.loads(line)) for line in lines]
    return {f"{facts.library}/{facts.name}": facts for facts in known}


def write(known: dict[str, Facts]) -> None:
    """Keep the facts, all or none of them."""
    LINES.parent.mkdir(exist_ok=True)
    aside = LINES.with_suffix(".aside")
    aside.write_text("".join(f"{json.dumps(facts.as_dict())}\n" for facts in known.values()), encoding="utf-8")
    os.replace(aside, LINES)


def _in_a_process(architecture: Architecture) -> Facts:
    """The facts as a process of its own finds them; where it dies or takes too long, that."""
    context = multiprocessing.get_context("fork")  # which has imported what it needs
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, architecture))
    process.start()
    sender.close()
    try:
        if receiver.poll(MOST_SECONDS):
            return from_dict(receiver.recv())
        process.kill()
        return crashed(architecture, f"not done after {MOST_SECONDS} s")
    except EOFError:
        process.join()
        return crashed(architecture, f"its process ended with status {process.exitcode}")
    finally:
        process.join()


def _send(sender: Connection, architecture: Architecture) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
    torch.set_num_threads(1)
    sender.send(_measured(architecture).as_dict())


def _measured(architecture: Architecture) -> Facts:
    try:
        return measure(architecture)
    except Exception as error:  # whatever it is, it goes on the page
        return crashed(architecture, as_crash(error))
