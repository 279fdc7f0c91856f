"""`manifest.json`: what an exported page consists of.

The page reads it to know the model and what to load; `nvae verify` reads it to
find what was changed, lost or added.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any, BinaryIO

from nvae_tf.core.errors import ExportError
from nvae_tf.core.files import write_bytes
from nvae_tf.core.json_files import read_json
from nvae_tf.core.reading import open_regular, sha256, shown
from nvae_tf.runs.model_card import data_text
from nvae_tf.web import runtime

__all__ = [
    "FILE_NAME",
    "is_site",
    "model_facts",
    "open_file",
    "problems",
    "read",
    "write",
]

FILE_NAME = "manifest.json"
_KIND = "nvae_tf web export"
_FORMAT = 1
_AGAIN = "export it again"


def model_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the page needs of `nvae_tf.export.model_card.describe`'s facts."""
    config = facts["config"]
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
        **(
            {"num_classes": facts["num_classes"]}
            if facts.get("num_classes")
            else {}
        ),
        "alpha": config["data"]["alpha"],
        "data": data_text(config),
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
            "sha256": sha256(path),
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
        return read_json(path / FILE_NAME).get("kind") == _KIND
    except (OSError, ValueError):
        return False


def read(folder: pathlib.Path) -> dict[str, Any]:
    """The manifest of an exported page, whoever made it.

    Returns:
      What it holds, of the kinds that `write` writes: its "files" are named by
      what can only be in the folder.

    Raises:
      ExportError: if the folder is none, or one of another version.
    """
    if not is_site(folder):
        raise ExportError(
            f"{folder} has no {FILE_NAME} of a web export: name a folder that "
            "`nvae export web` wrote."
        )
    content = read_json(folder / FILE_NAME, ExportError, advice=_AGAIN)
    if content.get("format") != _FORMAT:
        raise ExportError(
            f"{folder} is a web export of another version of nvae_tf: export "
            "it again."
        )
    wrong = _wrong(content)
    if wrong:
        raise ExportError(
            f"{folder / FILE_NAME} has no {wrong!r} that nvae export web "
            f"writes: it is damaged; {_AGAIN}."
        )
    return content


def _wrong(content: Mapping[str, Any]) -> str | None:
    """The first part that is not as `write` writes it."""
    files = content.get("files")
    engine = content.get("runtime")
    graphs = content.get("graphs")
    sample = graphs.get("sample") if isinstance(graphs, dict) else None
    checks = {
        "files": isinstance(files, dict)
        and all(_is_inside(n) and _is_entry(e) for n, e in files.items()),
        "runtime": isinstance(engine, dict)
        and isinstance(engine.get("version"), str),
        "graphs": isinstance(sample, dict)
        and isinstance(files, dict)
        and isinstance(sample.get("path"), str)
        and sample["path"] in files,
        "origin": isinstance(content.get("origin"), dict),
    }
    return next(
        (name for name, is_right in checks.items() if not is_right), None
    )


def _is_inside(name: str) -> bool:
    """Whether a name can only be that of a file within the folder."""
    parts = name.split("/")
    return not ({"", ".", ".."} & {*parts} or {"\\", "\0"} & {*name})


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and type(entry.get("bytes")) is int
        and isinstance(entry.get("sha256"), str)
        and re.fullmatch("[0-9a-f]{64}", entry["sha256"]) is not None
    )


def open_file(folder: pathlib.Path, name: str) -> BinaryIO | None:
    """A page's file, opened; None if there is none.

    A link would lead out of the folder, to any file of whoever serves it.

    Args:
      folder: of the page.
      name: a key of the manifest's "files", or that of the manifest.
    """
    path = folder / name
    try:
        if path.resolve() != folder.resolve() / name:
            return None
        return open_regular(path, None)
    except OSError:
        return None


def problems(folder: pathlib.Path, content: Mapping[str, Any]) -> list[str]:
    """What is not as the manifest says, a sentence each.

    Files that were added are none of them: a host may need its own.

    Args:
      folder: of the page.
      content: what `read` returned.
    """
    found = []
    for name, expected in content["files"].items():
        digest = _digest_of(folder, name)
        if digest is None:
            found.append(f"{shown(name)} is missing, or no file of its own.")
        elif digest != expected["sha256"]:
            found.append(f"{shown(name)} was changed: its SHA-256 differs.")
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


def _digest_of(folder: pathlib.Path, name: str) -> str | None:
    file = open_file(folder, name)
    if file is None:
        return None
    with file:
        return hashlib.file_digest(file, "sha256").hexdigest()
