"""docs/KUBERNETES.md and docs/SLURM.md: what is to be copied from them is what KubeRay, bash and deconv take."""

from __future__ import annotations

import copy
import re
import shlex
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from deconv.command.settings import compose_jobs
from deconv.engines import open_engine
from tests import written
from tests.written import ROOT

KUBERNETES, SLURM = ((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8") for page in ("KUBERNETES", "SLURM"))


@pytest.fixture
def job() -> dict[str, Any]:
    (block,) = written.blocks(KUBERNETES, "yaml")
    loaded: dict[str, Any] = yaml.safe_load(block)
    return loaded


@pytest.fixture
def script() -> str:
    (block,) = written.blocks(SLURM, "bash")
    return block


def mistakes(job: dict[str, Any]) -> list[str]:
    """What the schema says is wrong with a RayJob."""
    jsonschema = pytest.importorskip("jsonschema")
    schema = yaml.safe_load((ROOT / "tests/kuberay.schema.yaml").read_text(encoding="utf-8"))
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(job)]


def pods(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group["template"]["spec"]


def test_the_rayjob_is_one(job: dict[str, Any]) -> None:
    assert mistakes(job) == []
    for pod in pods(job):
        mounts = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pod["volumes"]}
    versions = re.findall(r"rayproject/ray:([\d.]+)-py", KUBERNETES)
    assert versions and set(versions) == {job["spec"]["rayClusterSpec"]["rayVersion"]}


def test_what_is_no_rayjob_is_noticed(job: dict[str, Any]) -> None:
    """A key that does not exist, one that is missing, and a number where a text must be."""
    wrong = copy.deepcopy(job)
    wrong["spec"]["rayClusterSpec"]["enableAutoscaling"] = True
    del wrong["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplicas"]
    wrong["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0
    said = " ".join(mistakes(wrong))
    assert "'enableAutoscaling' was unexpected" in said and "'maxReplicas' is a required property" in said
    assert "0 is not of type 'string'" in said


def test_the_batch_script_is_bash(script: str) -> None:
    assert script.startswith("#!/bin/bash\n#SBATCH ") and "#SBATCH" not in script.partition("set -euo")[2]
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_their_commands_are_taken_and_go_on_in_one_folder(job: dict[str, Any], script: str) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (the extra `ray`)")
    (in_script,) = re.findall(r"^    (deconv .*)$", script.replace("\\\n", " "), flags=re.MULTILINE)
    for command, address in ((job["spec"]["entrypoint"], "auto"), (in_script, "$address")):
        (planned,) = compose_jobs(shlex.split(command)[1:], sweep=False)
        assert "folder=/data/runs/squeezenet" in shlex.split(command)
        assert planned.config.source.urls == "/data/photos/*.tar" and planned.config.engine.address == address
        assert open_engine(**planned.config.engine).shard_size == 8192
