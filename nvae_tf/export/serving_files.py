"""What TF Serving needs around the versions of a model."""

import os
import pathlib
import re

from nvae_tf.core.errors import ExportError
from nvae_tf.core.files import write_bytes
from nvae_tf.core.reading import open_regular

__all__ = ["check_model_name", "versions", "write_serving_files"]

_MODELS = """\
model_config_list {{
  config {{
    name: "{name}"
    base_path: "/models/{name}"
    model_platform: "tensorflow"
    # A new version is loaded as soon as its folder appears; the old one
    # answers until then.
    model_version_policy {{ latest {{ num_versions: 1 }} }}
  }}
}}
"""

# No allowed_batch_sizes: batches would be padded up to them, which on CPUs is
# work for nothing. An image does not depend on the batch around it.
_BATCHING = """\
# Requests of at most this many rows are merged; larger ones are split.
max_batch_size { value: 32 }
# How long a request waits for others.
batch_timeout_micros { value: 5000 }
# Batches of a signature that run side by side.
num_batch_threads { value: 2 }
# Beyond these requests are turned away, and clients try again.
max_enqueued_batches { value: 64 }
"""

_COMPOSE = """\
# docker compose up: gRPC on port 8500, REST on port 8501.
services:
  {name}:
    image: tensorflow/serving:${{TF_SERVING_TAG:-latest}}
    ports:
      - "8500:8500"
      - "8501:8501"
    volumes:
      - ./:/models/{name}:ro
    command:
      - --model_config_file=/models/{name}/models.config
      - --enable_batching=true
      - --batching_parameters_file=/models/{name}/batching_parameters.txt
    restart: unless-stopped
"""


def check_model_name(name: str) -> None:
    """Raises ExportError for a name that the files could not hold."""
    allowed = name.replace("-", "").replace("_", "").replace(".", "")
    if not (name.isascii() and allowed.isalnum()):
        raise ExportError(
            f"A model is served under its folder's name; {name!r} must "
            "consist of letters, digits, '-', '_' and '.'."
        )


def write_serving_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes models.config, batching_parameters.txt and docker-compose.yml.

    Files that exist stay as they are: they may have been adapted.  One that
    breaks off, as a full disk may have left it, is written again.

    Args:
      folder: of the model, with its versions; its name is the model's.

    Returns:
      The files that were written.

    Raises:
      ExportError: if a file cannot be written.
    """
    model = folder.resolve().name
    contents = {
        "models.config": _MODELS.format(name=model),
        "batching_parameters.txt": _BATCHING,
        "docker-compose.yml": _COMPOSE.format(name=model),
    }
    written = []
    for name, content in contents.items():
        path = folder / name
        if _is_whole(path, content.encode()):
            continue
        write_bytes(path, content.encode(), ExportError)
        written.append(path)
    return written


def _is_whole(path: pathlib.Path, content: bytes) -> bool:
    """Whether a file is there that is more than a beginning of `content`."""
    try:
        with open_regular(path, None) as file:
            found = file.read()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error}.") from error
    return found == content or not content.startswith(found)


def versions(path: str | os.PathLike) -> list[int]:
    """The versions in the folder of a served model, ascending."""
    path = pathlib.Path(path)
    if not path.is_dir():
        return []
    return sorted(
        int(entry.name)
        for entry in path.iterdir()
        if entry.is_dir() and re.fullmatch(r"\d+", entry.name)
    )
