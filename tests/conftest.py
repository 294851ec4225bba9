"""Every function of deconv is checked against its annotations while the tests run, so that they cannot rot."""

from __future__ import annotations

from jaxtyping import install_import_hook

install_import_hook("deconv", "beartype.beartype")
