"""Layers and a model on several replicas; see `replicas_check.py`."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("count", [2, 4])
def test_replicas_together_compute_what_one_would(count):
    result = subprocess.run(
        [sys.executable, "-m", "tests.distribute.replicas_check", str(count)],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    expected = {
        "batch normalisation, image",
        "batch normalisation, one pixel of one image",
        "initialization",
    } | ({"model"} if count == 2 else set())
    assert set(result.stdout.splitlines()) == expected
