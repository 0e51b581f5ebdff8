"""The models against the small committed goldens (see small.py)."""

import json

import pytest

from .small import FILE, VARIANTS, measure


@pytest.mark.parametrize("variant", VARIANTS)
def test_small_goldens(variant):
    want, got = json.loads(FILE.read_text())[variant], measure(variant)
    for key, value in want["scalars"].items():
        assert got["scalars"][key] == pytest.approx(value, rel=1e-4, abs=1e-5), key
    for key, value in want["tensors"].items():
        assert got["tensors"][key] == pytest.approx(value, abs=5e-5), key
