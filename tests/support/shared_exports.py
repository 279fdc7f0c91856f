"""Exports that several test files look at, made once for all test processes."""

from __future__ import annotations

import fcntl
import os
import pathlib

import pytest

from nvae_tf.export.saved_model import export_saved_model
from tests.support.export_cases import source

__all__ = ["saved_model"]


def saved_model(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """The version's folder of a SavedModel without warm-up; only to be read.

    Args:
      name: what `export_cases.source` takes.
      tmp_path_factory: pytest's.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        # What this process has of it for itself.
        base = base.parent
    folder = base / "shared_exports"
    folder.mkdir(exist_ok=True)
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = folder / name / "nvae"
        if not path.exists():
            export_saved_model(source(name), path, warmup_batch_sizes=())
    return path / "1"
