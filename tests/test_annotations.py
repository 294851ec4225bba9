"""tests/annotations: what the tests check of each call, with shapes and without."""

from __future__ import annotations

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import TypeCheckError

from deconv.errors import counted
from deconv.figures.pictures import patch_tiles
from tests.annotations import jaxtyping_off


def test_a_type_that_is_not_the_annotations_is_noticed() -> None:
    with pytest.raises(BeartypeCallHintViolation, match="count"):
        counted("3", "layer")  # type: ignore[arg-type]
    with jaxtyping_off():
        assert counted("3", "layer") == "3 layers"  # type: ignore[arg-type]
    assert counted(3, "layer") == "3 layers"


def test_shapes_that_do_not_go_together_are_noticed() -> None:
    """The letters of a function's shapes stand for the same sizes."""
    pixels, inside = torch.zeros(2, 3, 4, 5, dtype=torch.uint8), torch.ones(2, 4, 6, dtype=torch.bool)
    with pytest.raises(TypeCheckError, match="inside"):
        patch_tiles(pixels, inside, 8)
    assert patch_tiles(pixels, inside[..., :5], 8).shape == (2, 8, 8, 3)
