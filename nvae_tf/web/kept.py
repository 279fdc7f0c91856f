"""A page that is kept, and made anew when its model is another."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import nvae_tf
from nvae_tf.core.errors import ExportError
from nvae_tf.runs.checkpointing import CheckpointStore
from nvae_tf.web import manifest, runtime

__all__ = ["kept_page", "saved_state"]

# Which packages decide what a page is: this one and all that it imports,
# through others too.
_PACKAGES = (
    "config",
    "core",
    "distribute",
    "distributions",
    "export",
    "model",
    "runs",
    "sampling",
    "web",
)


def kept_page(
    folder: pathlib.Path,
    weights: list | None,
    chosen: Mapping[str, Any],
    make: Callable[[pathlib.Path, dict[str, Any]], object],
) -> tuple[pathlib.Path, bool]:
    """The page of a model.

    Args:
      folder: where it is kept.
      weights: what tells the model's weights from others, ready for JSON,
        such as what `saved_state` returned.
      chosen: what else decides what the page shows, ready for JSON.
      make: writes the page into a folder, `origin` into its manifest, given
        both.

    Returns:
      Its folder, and whether it was there already.

    Raises:
      UserError: if it cannot be made.
    """
    origin = {**chosen, "saved": weights, "program": _program()}
    if manifest.is_site(folder):
        try:
            content = manifest.read(folder)
            is_same = content["origin"] == origin
            if is_same and not manifest.problems(folder, content):
                return folder, True
        except ExportError:
            # Of another version: it is made anew.
            pass
    make(folder, origin)
    return folder, False


def saved_state(workdir: pathlib.Path, which: str) -> list[int] | None:
    """Which state of a run a checkpoint is: its step, and when it was written.

    Args:
      workdir: of the run.
      which: latest, best or a step.
    """
    store = CheckpointStore(workdir / "checkpoints")
    steps = store.steps()
    step = {
        "latest": steps[-1] if steps else None,
        "best": store.best_step(),
    }.get(which, int(which) if which.isdecimal() else None)
    if step not in steps:
        # Whoever loads it says so.
        return None
    return [step, (store.directory / f"{step:08d}").stat().st_mtime_ns]


def _program() -> str:
    """A checksum of all that writes a page."""
    digest = hashlib.sha256(f"{nvae_tf.__version__} {runtime.VERSION}".encode())
    for package in _PACKAGES:
        folder = pathlib.Path(nvae_tf.__file__).parent / package
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                digest.update(path.read_bytes())
    return digest.hexdigest()
