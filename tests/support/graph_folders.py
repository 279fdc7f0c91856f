"""Exports that are folders of graphs, as others may have changed them."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

from nvae_tf.export.beside.graph_folder import DESCRIPTION

__all__ = ["change_description", "replace_file"]


def change_description(
    folder: pathlib.Path, change: Callable[[dict[str, Any]], object]
) -> None:
    """Changes what an export says of itself.

    Args:
      folder: the export.
      change: of the description, in place.
    """
    path = folder / DESCRIPTION
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def replace_file(folder: pathlib.Path, name: str, content: bytes) -> None:
    """Puts another file in the place of one, with its checksum."""
    (folder / name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    change_description(folder, lambda c: c["sha256"].update({name: digest}))
