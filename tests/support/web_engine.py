"""ONNX Runtime Web for tests: from a folder, or from npm's package."""

from __future__ import annotations

import os
import pathlib

import pytest

from nvae_tf.core.errors import ExportError
from nvae_tf.web import runtime

__all__ = ["fetch_engine", "write_stand_in"]

_VARIABLE = "ONNXRUNTIME_WEB"


def fetch_engine(folder: pathlib.Path) -> pathlib.Path:
    """Writes the files of `runtime.SHA256`; skips the test without them."""
    try:
        files = runtime.fetch(os.environ.get(_VARIABLE, ""), [*runtime.SHA256])
    except ExportError as error:
        pytest.skip(
            f"{error} For tests: {_VARIABLE}=PLACE, see nvae export web --help."
        )
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_stand_in(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> pathlib.Path:
    """Files that take the engine's place where it is not run.

    Args:
      folder: to write them into.
      monkeypatch: lets them pass for the engine.
    """
    import hashlib

    folder.mkdir(parents=True, exist_ok=True)
    digests = {}
    for name in runtime.SHA256:
        content = f"stands in for {name}".encode()
        (folder / name).write_bytes(content)
        digests[name] = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(runtime, "SHA256", digests)
    return folder
