"""A root with configs and experiments of the tests' own, for the command to run in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from deconv.command.shared import Mining, WithRule, WithUnits, option

ROOT = Path(__file__).resolve().parent.parent
FILES = {
    "configs/model/tiny.yaml": """# A small network.
name: tiny
size: [8, 8]
resize: null
aliases: {conv1: features.1}
""",
    "configs/model/torchvision.yaml": "# Any network of torchvision.\nname: ???\nweights: random\n",
    "configs/engine/local.yaml": "# One process.\nname: local\n",
    "configs/source/bundled.yaml": "# Photographs that come along.\nname: bundled\n",
    "configs/source/folder.yaml": "# A tree of pictures.\nname: folder\nroot: ???\n",
    "configs/experiment/echo.yaml": "# @package _global_\n# Says what it was given.\nk: 4\n",
    "experiments/echo.py": '''"""Says what it was given."""
import logging
from deconv.errors import BadInput, RecordMismatch
log = logging.getLogger("deconv")
def run(options, folder):
    log.info("k is %d", options.k)
    log.debug("in detail")
    if options.how == "mismatch":
        raise RecordMismatch("the record has k=9, this run k=4")
    if options.how == "part":
        (folder / "records").mkdir()
        raise RecordMismatch("the record has k=9, this run k=4")
    if options.how == "record":
        (folder / "record").write_text("finished")
        raise RecordMismatch("the record has k=9, this run k=4")
    if options.how == "bug":
        options.not_there
    if options.how == "interrupt":
        raise KeyboardInterrupt
    if options.how == "warn":
        import warnings; warnings.warn("a palette is odd")
    if options.how == "sleep":
        import time; print("asleep", flush=True); time.sleep(60)
    if options.how == "threads":
        import os; return os.environ["OMP_NUM_THREADS"]
    if options.how == "bar":
        import time; from deconv.progress import track
        for _ in track(range(2), "stirring", 2):
            time.sleep(0.2); log.info("in passing"); log.warning("look here")
    path = folder / "said.txt"
    path.write_text((path.read_text() if path.exists() else "") + f"{options.k} {options.model['name']}\\n")
    return path
''',
}


@dataclass
class Echo(Mining, WithUnits, WithRule):
    """The options of the experiment `echo`."""

    how: str = option("write", "how it ends")
    scale: float = option(1.0, "a number")


def build(root: Path) -> Path:
    """Make the root, with the project's config.yaml, launchers and rules, and return it."""
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    config = (ROOT / "configs/config.yaml").read_text()
    config = config.replace("model: squeezenet", "model: tiny").replace("fig2_features", "echo")
    (root / "configs/config.yaml").write_text(config)
    for group in ("hydra", "rule"):
        shutil.copytree(ROOT / "configs" / group, root / "configs" / group)
    return root


def start(workshop: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the command in a process of its own."""
    # Where the tests run in the background of a shell, Ctrl-C is ignored, and a child would inherit that.
    program = (
        "import signal, sys, pathlib; from deconv.files import shipped; from deconv.command import options;"
        "from deconv.command.cli import main;"
        "from tests.workshop import Echo; options.EXPERIMENTS['echo'] = Echo;"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        f"shipped.HOMES = (pathlib.Path({str(workshop)!r}),); sys.exit(main(sys.argv[1:]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
