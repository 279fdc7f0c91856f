"""Layers and a model on several replicas; see `replicas_check.py`."""

import os
import pathlib
import subprocess
import sys

import pytest

_TESTS = pathlib.Path(__file__).parent


@pytest.mark.parametrize("count", [2, 4])
def test_replicas_together_compute_what_one_would(count):
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(_TESTS.parent), str(_TESTS)])
    }
    result = subprocess.run(
        [sys.executable, _TESTS / "replicas_check.py", str(count)],
        capture_output=True,
        env=environment,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    expected = {
        "batch normalisation, image",
        "batch normalisation, one pixel of one image",
        "initialization",
    } | ({"model"} if count == 2 else set())
    assert set(result.stdout.splitlines()) == expected
