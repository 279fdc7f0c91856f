"""A model to hand on: a folder with its configuration, weights and card.

::

    config.json         the whole configuration, but for where the data lay
    model.safetensors   weights and statistics, and the facts about them
    README.md           the model card, as Hugging Face's hub reads it

The arrays have the names of checkpoints.  Weights may be stored in half
precision; the moving statistics of batch normalisation, a thousandth of the
numbers, never are.  In memory all are float32.

Folders may come from anyone.  No more is read than a model can have, nothing
is built before its weights are there, and what does not fit is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import re
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from nvae_tf.config import Config, config_from_dict
from nvae_tf.core.errors import CheckpointError, ConfigError
from nvae_tf.core.files import new_folder, require_replaceable
from nvae_tf.core.json_files import parse_json, read_json
from nvae_tf.core.reading import open_regular, read_bytes, shown
from nvae_tf.runs import model_card

__all__ = [
    "AGAIN",
    "CONFIG",
    "DTYPES",
    "WEIGHTS",
    "Stored",
    "describe",
    "is_folder",
    "read",
    "weights_state",
    "write",
]

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CARD = "README.md"
# How weights may be stored.
DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
_READ = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_FACTS = "nvae_facts"
# Of batch normalisation: few, and any magnitude.
_STATISTICS = ("/mean", "/variance")
# Several times what the largest model of the paper takes in float32.
_MOST_BYTES = 2**33
_MOST_HEADER = 2**26
_NO_FOLDER = (
    "name a folder that save_pretrained or nvae export pretrained wrote"
)
# The way out for what is damaged.
AGAIN = "get it again"


class Stored(NamedTuple):
    """What can be known of a folder without reading the weights.

    Attributes:
      path: of the folder.
      config: of the run.
      facts: see `nvae_tf.runs.model_card`.
      parameters: weights and statistics.
      num_bytes: of the folder.
    """

    path: pathlib.Path
    config: Config
    facts: dict[str, Any]
    parameters: int
    num_bytes: int


def is_folder(path: str | os.PathLike) -> bool:
    """Whether a path looks like such a folder; nothing is checked."""
    return os.path.isfile(os.path.join(path, WEIGHTS))


def write(
    folder: str | os.PathLike,
    config: Config,
    tensors: Mapping[str, np.ndarray],
    info: Mapping[str, Any],
    *,
    dtype: str = "float32",
    overwrite: bool = False,
) -> pathlib.Path:
    """Writes a folder, whole or not at all.

    Args:
      folder: to make.
      config: of the run.
      tensors: float32, by the names of checkpoints.
      info: what is known of the weights, see `model_card.describe`.
      dtype: in which all but statistics are stored, one of `DTYPES`.
      overwrite: take the place of such a folder; never of another.

    Returns:
      The folder.

    Raises:
      CheckpointError: if it cannot be written, or a value is not finite or
        not in the range of `dtype`.
    """
    folder = pathlib.Path(folder)
    if dtype not in DTYPES:
        raise CheckpointError(
            f"Weights cannot be stored as {shown(dtype)}; choose one of "
            f"{', '.join(DTYPES)}."
        )
    require_replaceable(
        folder,
        is_folder,
        "the folder of a pretrained model",
        overwrite=overwrite,
        error=CheckpointError,
    )
    stored = {
        name: _stored(name, value, dtype) for name, value in tensors.items()
    }
    config = model_card.without_places(config)
    facts = model_card.describe(config, info, precision=dtype)
    facts["parameters"] = sum(value.size for value in stored.values())
    facts["sha256"] = _digest(stored)
    text = json.dumps(config.to_dict(), indent=2) + "\n"
    card = model_card.card(facts, config, _usage(folder.name))
    with new_folder(
        folder, overwrite=overwrite, error=CheckpointError
    ) as aside:
        (aside / CONFIG).write_text(text)
        (aside / CARD).write_text(card, encoding="utf-8")
        weights = aside / WEIGHTS
        metadata = {"format": "nvae_tf", _FACTS: json.dumps(facts)}
        try:
            safetensors.numpy.save_file(stored, weights, metadata)
        except safetensors.SafetensorError as error:
            raise CheckpointError(f"Cannot write {folder}: {error}.") from error
        # safetensors makes files for their owner's eyes only.
        weights.chmod((aside / CONFIG).stat().st_mode)
    return folder


def describe(folder: str | os.PathLike) -> Stored:
    """What a folder holds, from its configuration and the weights' header.

    Raises:
      CheckpointError: see `read`.
    """
    folder = pathlib.Path(folder)
    config = _read_config(folder)
    path = folder / WEIGHTS
    with open_regular(path, CheckpointError, _NO_FOLDER) as file:
        size = os.fstat(file.fileno()).st_size
        header = _header(path, file.read(8), file)
    shapes = [v["shape"] for k, v in header.items() if k != "__metadata__"]
    return Stored(
        folder,
        config,
        _facts(path, header),
        sum(int(np.prod(shape, dtype=object)) for shape in shapes),
        size + (folder / CONFIG).stat().st_size,
    )


def read(
    folder: str | os.PathLike,
) -> tuple[Config, dict[str, np.ndarray], dict[str, Any]]:
    """The content of a folder.

    Args:
      folder: that `write` wrote.

    Returns:
      The configuration of the run, the arrays as they are stored, and the
      facts about them, "sha256" of the arrays always among them; none has
      another kind than `model_card.describe` gives it.

    Raises:
      CheckpointError: if it is no such folder, or is damaged.
      ConfigError: if its configuration is none.
    """
    folder = pathlib.Path(folder)
    config = _read_config(folder)
    path = folder / WEIGHTS
    content = read_bytes(path, _MOST_BYTES, CheckpointError, _NO_FOLDER)
    stored, facts = _parse(path, content)
    digest = _digest(stored)
    if facts.setdefault("sha256", digest) != digest:
        raise CheckpointError(
            f"{path} is damaged: its checksum is wrong; {AGAIN}."
        )
    return config, stored, facts


def weights_state(folder: pathlib.Path) -> list:
    """What tells the weights in a folder from others, ready for JSON."""
    status = (folder / WEIGHTS).stat()
    return [WEIGHTS, status.st_size, status.st_mtime_ns]


def _stored(name: str, value: np.ndarray, dtype: str) -> np.ndarray:
    """A value as it is to be stored.

    Raises:
      CheckpointError: if it is not finite, or leaves the range.
    """
    kind = "float32" if name.endswith(_STATISTICS) else dtype
    with np.errstate(over="ignore"):
        kept = np.asarray(value, order="C").astype(DTYPES[kind])
    if not np.all(np.isfinite(kept)):
        reason = (
            f"too large for {dtype}: store it as bfloat16 or float32"
            if np.all(np.isfinite(value))
            else "not finite: the run had diverged"
        )
        raise CheckpointError(f"A value under {name!r} is {reason}.")
    return kept


def _digest(tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of all names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype.name} {value.shape} ".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def _read_config(folder: pathlib.Path) -> Config:
    path = folder / CONFIG
    if not folder.is_dir():
        raise CheckpointError(f"There is no folder {folder}; {_NO_FOLDER}.")
    if not (folder / WEIGHTS).exists() and (folder / "checkpoints").is_dir():
        raise CheckpointError(
            f"{folder} is the workdir of a run: use --workdir={folder}, or "
            "nvae_tf.load in Python."
        )
    values = read_json(path, CheckpointError, advice=_NO_FOLDER)
    try:
        return config_from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _parse(
    path: pathlib.Path, content: bytes
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays as they are stored, and the facts."""
    try:
        entries = safetensors.deserialize(content)
    except safetensors.SafetensorError as error:
        raise _damaged(path, error) from error
    stored = {}
    for name, entry in entries:
        kind = _READ.get(entry["dtype"])
        if kind is None:
            raise CheckpointError(
                f"{path} holds {shown(entry['dtype'])} values under "
                f"{shown(name)!r}; a model has {', '.join(DTYPES)}."
            )
        values = np.frombuffer(entry["data"], DTYPES[kind])
        stored[name] = values.reshape(entry["shape"])
    return stored, _facts(path, _header(path, content[:8], content[8:]))


def _header(path: pathlib.Path, length: bytes, rest) -> dict[str, Any]:
    """The header of a safetensors file.

    Args:
      path: of the file, for messages.
      length: its first 8 bytes.
      rest: what follows them: bytes, or a file to read from.
    """
    size = struct.unpack("<Q", length)[0] if len(length) == 8 else 0
    if not 0 < size <= _MOST_HEADER:
        raise _damaged(path, "its header has no sensible length")
    text = rest[:size] if isinstance(rest, bytes) else rest.read(size)
    try:
        header = parse_json(text)
    except ValueError as error:
        raise _damaged(path, error) from error
    metadata = header.setdefault("__metadata__", {})
    if not isinstance(metadata, dict) or not all(
        isinstance(entry, dict) and _is_shape(entry.get("shape"))
        for name, entry in header.items()
        if name != "__metadata__"
    ):
        raise _damaged(path, "its header is of another kind")
    return header


def _is_shape(value: object) -> bool:
    return isinstance(value, list) and all(
        type(n) is int and n >= 0 for n in value
    )


def _facts(path: pathlib.Path, header: Mapping[str, Any]) -> dict[str, Any]:
    """The facts in a header; empty where it has none."""
    text = header["__metadata__"].get(_FACTS)
    if text is None:
        return {}
    try:
        if not isinstance(text, str):
            raise ValueError("the facts in it are no text")
        return model_card.checked(parse_json(text))
    except ValueError as error:
        raise _damaged(path, error) from error


def _damaged(path: pathlib.Path, reason: object) -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged ({shown(str(reason), 200)}); {AGAIN}."
    )


def _usage(name: str) -> str:
    """How the model is used, for its card."""
    name = re.sub(r"[^\w.-]", "_", name) or "model"
    return f"""\
## Use

```python
import nvae_tf

model = nvae_tf.from_pretrained("{name}")  # this folder
images = nvae_tf.sample(model, 16, temperature=0.7)
```

```
nvae sample --model={name} --output=samples.png
```

`config.json` holds the whole configuration, `model.safetensors` weights and
statistics by name.
"""
