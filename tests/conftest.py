"""Every function of deconv is checked against its annotations while the tests run, so that they cannot rot."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: the tests themselves run one process a core

import jaxtyping
import pytest
from hypothesis import settings

from tests.annotations import check_quickly

check_quickly()
jaxtyping.install_import_hook("deconv", "beartype.beartype")
# A busy machine is no failure, and a failure must come back: the examples are the same each time.
settings.register_profile("deconv", deadline=None, derandomize=True)
settings.load_profile("deconv")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """What `tests.promises` marks goes into the report of a test, which `tests.reliability` reads."""
    item.user_properties += [("promise", mark.args[0]) for mark in item.iter_markers("promise")]
    item.user_properties += [(f"injected: {mark.args[0]}", 1) for mark in item.iter_markers("fault")]


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Leave annotations unchecked, as they are for users, so that a test sees what the library says of a mistake."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a root with configs and experiments of its own, and go into the empty folder `cwd` beside it."""
    from deconv.command import options  # after the hook
    from deconv.files import shipped
    from tests.workshop import Echo, build

    root = build(tmp_path / "root")
    monkeypatch.setattr(shipped, "HOMES", (root,))
    monkeypatch.setitem(options.EXPERIMENTS, "echo", Echo)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return root


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """Ray on this machine, for all tests that work by it: starting it and its workers takes most of their time.

    It is told of one GPU, whether there is one or not. Its files are in a folder of its own, for a machine that joins
    would note there that whoever looks for a cluster finds this one.
    """
    ray = pytest.importorskip("ray", reason="Ray is not installed (the extra `ray`)")
    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    with TemporaryDirectory(
        prefix="ray-", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:  # names of sockets are short
        # "local", since it would join whatever it finds here
        ray.init("local", num_cpus=2, num_gpus=1, _temp_dir=folder, **options)
        yield
        ray.shutdown()
