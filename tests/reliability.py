"""RELIABILITY.md, written from what the tests report: `make reliability` (one run of the tests that show a promise).

The tests say by marks and properties (tests/promises.py) what they show and what they did; nothing is typed in here but
what is not promised. If a test fails, the file is left as it is.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent

NOT_PROMISED = """\
- The last bits of numbers on another kind of processor, with another number of threads, another `batch_size` or other
  versions of torch: a run's records say what they were made with, and a run that differs is refused.
- That a flipped bit is noticed everywhere. The pages of peaks carry checksums, and what has a structure is checked; a
  pixel of a reconstruction or a weight that stays finite is not.
- That two processes fill one folder of cached input images or features together: the second is refused.
- Disks that lie: that what was forced to disk is there after a power cut, that renaming is atomic and that locks hold
  is up to the file system. Over NFS, start one run a folder.
- A bound on the memory of all photographs that are decoded at once, in up to eight threads: the tests bound that of one
  (50 megapixels within 700 MiB). More than 89 million pixels are refused, unless PIL.Image.MAX_IMAGE_PIXELS is raised.
- A bound on the disk that a gzipped shard takes once unpacked.
- Code that strangers give: with `source.run_commands=true` a `pipe:` in `source.urls` runs a command, and a module
  handed to `deconv.Network` runs as any other.
"""


@dataclass
class Report:
    """What the tests said: by promise the tests that show it, by test how often it was skipped, sums by property."""

    shown_by: dict[str, Counter[str]] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    sums: Counter[str] = field(default_factory=Counter)


def main() -> int:
    """Run the tests, read their report and write the file; returns the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        xml = Path(folder) / "report.xml"
        family = "junit_family=xunit1"  # that of today has no properties of a test
        command = [sys.executable, "-m", "pytest", "-m", "promise", "-o", family, f"--junitxml={xml}", *sys.argv[1:]]
        if (status := subprocess.run(command, cwd=ROOT).returncode) != 0:
            print("reliability: the tests do not pass; RELIABILITY.md is left as it is", file=sys.stderr)
            return status
        report = read(xml)
    (ROOT / "RELIABILITY.md").write_text(text(report), encoding="utf-8")
    return 0


def read(xml: Path) -> Report:
    """What a JUnit report of passed tests says."""
    report = Report()
    for case in ElementTree.parse(xml).getroot().iter("testcase"):
        name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name', '').partition('[')[0]}"
        skipped = case.find("skipped") is not None
        for given in case.iter("property"):
            key, value = given.get("name", ""), given.get("value", "")
            if key == "promise":
                report.shown_by.setdefault(value, Counter())[name] += not skipped
                report.skipped[name] += skipped
            elif not skipped:
                report.sums[key] += int(value)
    return report


def text(report: Report) -> str:
    """The file, in Markdown."""
    promises = "\n".join(_promise(report, promise) for promise in sorted(report.shown_by))
    return f"""# What deconv promises, and what was tried

Written by `make reliability` from what the tests report; every number is of that run, on one machine.

## Promises

{promises}

## Faults injected

{_table(report, "injected", "fault")}

Of the peaks that killed runs left at their end, {report.sums["compared: bytes"]:,} bytes were compared with those of a
run that nothing disturbed. Bytes lost: none; one would have failed the test, and there would be no such file.

## Inputs tried

{_table(report, "tried", "input")}

## Not promised

{NOT_PROMISED}"""


def _promise(report: Report, promise: str) -> str:
    tests = ", ".join(f"`{name}`{_times(report, name, count)}" for name, count in report.shown_by[promise].items())
    return f"- {promise}\n  {tests}"


def _times(report: Report, name: str, count: int) -> str:
    skipped = f", {report.skipped[name]} skipped on this machine" if report.skipped[name] else ""
    return f" ({count} cases{skipped})" if count != 1 or skipped else ""


def _table(report: Report, kind: str, what: str) -> str:
    sums = {
        key.partition(": ")[2]: number for key, number in sorted(report.sums.items()) if key.startswith(f"{kind}: ")
    }
    rows = [*sums.items(), ("**together**", sum(sums.values()))]
    return "\n".join([f"| {what} | times |", "|---|---:|", *(f"| {name} | {number:,} |" for name, number in rows)])


if __name__ == "__main__":
    sys.exit(main())
