"""`manifest.json`: what an exported page consists of.

The page reads it to know the model and what to load; `nvae verify` reads it to
find what was changed, lost or added.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from nvae_tf.core.errors import ExportError
from nvae_tf.core.files import write_bytes
from nvae_tf.web import runtime

__all__ = [
    "FILE_NAME",
    "is_site",
    "model_facts",
    "problems",
    "read",
    "write",
]

FILE_NAME = "manifest.json"
_KIND = "nvae_tf web export"
_FORMAT = 1


def model_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the page needs of `nvae_tf.export.model_card.describe`'s facts."""
    data = facts["config"]["data"]
    name = data["name"] or pathlib.PurePath(data["path"]).name
    return {
        **{
            key: facts[key]
            for key in (
                "name",
                "step",
                "nelbo",
                "bits_per_dim",
                "temperature",
                "image_shape",
                "num_bits",
                "likelihood",
                "latent_shapes",
            )
        },
        "alpha": data["alpha"],
        "data": f"{data['source']}{f' ({name})' if name else ''}",
    }


def write(
    folder: pathlib.Path,
    facts: Mapping[str, Any],
    graphs: Mapping[str, Mapping[str, Any]],
    engines: Mapping[str, Mapping[str, str]],
    origin: Mapping[str, Any],
) -> None:
    """Writes the manifest of all files that are in a folder.

    Args:
      folder: of the page.
      facts: see `model_facts`.
      graphs: name -> "path" and the "noise" that it takes.
      engines: name -> "script", "module" and "binary", paths.
      origin: what the page was made from, for whoever would make it again.
    """
    files = {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": _sha256(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    content = {
        "kind": _KIND,
        "format": _FORMAT,
        "model": model_facts(facts),
        "origin": dict(origin),
        "runtime": {
            "name": runtime.NAME,
            "version": runtime.VERSION,
            "engines": engines,
        },
        "graphs": graphs,
        "files": files,
    }
    text = json.dumps(content, indent=1) + "\n"
    write_bytes(folder / FILE_NAME, text.encode(), ExportError)


def is_site(path: pathlib.Path) -> bool:
    """Whether a folder is an exported page."""
    try:
        content = json.loads((path / FILE_NAME).read_bytes())
        return content["kind"] == _KIND
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read(folder: pathlib.Path) -> dict[str, Any]:
    """The manifest of an exported page.

    Raises:
      ExportError: if the folder is none, or one of another version.
    """
    if not is_site(folder):
        raise ExportError(
            f"{folder} has no {FILE_NAME} of a web export: name a folder that "
            "`nvae export web` wrote."
        )
    content = json.loads((folder / FILE_NAME).read_bytes())
    if content.get("format") != _FORMAT:
        raise ExportError(
            f"{folder} is a web export of another version of nvae_tf: export "
            "it again."
        )
    return content


def problems(folder: pathlib.Path, content: Mapping[str, Any]) -> list[str]:
    """What is not as the manifest says, a sentence each.

    Files that were added are none of them: a host may need its own.

    Args:
      folder: of the page.
      content: what `read` returned.
    """
    found = []
    for name, expected in content["files"].items():
        path = folder / name
        if not path.is_file():
            found.append(f"{name} is missing.")
        elif _sha256(path) != expected["sha256"]:
            found.append(f"{name} was changed: its SHA-256 differs.")
    if content["runtime"]["version"] != runtime.VERSION:
        return found
    for name, digest in runtime.SHA256.items():
        listed = content["files"].get(f"runtime/{name}")
        if listed is not None and listed["sha256"] != digest:
            found.append(
                f"runtime/{name} is not that of {runtime.NAME} "
                f"{runtime.VERSION}."
            )
    return found


def _sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
