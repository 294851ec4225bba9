"""Every function of deconv is checked against its annotations while the tests run, so that they cannot rot."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: the tests themselves run one process a core

from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook("deconv", "beartype.beartype")
# A busy machine is no failure, and a failure must come back: the examples are the same each time.
settings.register_profile("deconv", deadline=None, derandomize=True)
settings.load_profile("deconv")
