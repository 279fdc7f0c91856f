"""What TF Serving needs around the versions of a model."""

import os
import pathlib
import re

from nvae_tf.core.errors import ExportError
from nvae_tf.core.files import write_bytes
from nvae_tf.core.reading import open_regular
from nvae_tf.export.served import templates
from nvae_tf.runs.run_config import CONFIG

__all__ = [
    "check_model_folder",
    "held_versions",
    "versions",
    "write_serving_files",
]

# In models.config: how many of the latest versions a server holds.
_LATEST = (
    rb"model_version_policy\s*:?\s*\{\s*latest\s*:?\s*"
    rb"\{\s*(?:num_versions\s*:\s*)?(\d*)\s*\}\s*\}"
)


def check_model_folder(folder: pathlib.Path) -> None:
    """Raises ExportError where no served model can be.

    That is under a name that the files could not hold, and among the files of
    a run or of a pretrained model.

    Args:
      folder: of the model; need not exist.
    """
    name = folder.resolve().name
    allowed = name.replace("-", "").replace("_", "").replace(".", "")
    if not (name.isascii() and allowed.isalnum()):
        raise ExportError(
            f"A model is served under its folder's name; {name!r} must "
            "consist of letters, digits, '-', '_' and '.'."
        )
    if (folder / CONFIG).is_file():
        raise ExportError(
            f"{folder} is the folder of a run or of a pretrained model: name "
            f"one for what is served alone, such as {folder / 'served'}."
        )


def write_serving_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes what servers are configured with, and containers around them.

    Files that exist stay as they are: they may have been adapted.  One that
    breaks off, as a full disk may have left it, is written again.

    Args:
      folder: of the model, with its versions; its name is the model's.

    Returns:
      The files that were written.

    Raises:
      ExportError: if a file cannot be written.
    """
    contents = templates.fill(folder.resolve().name)
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
    found = _read(path)
    if found is None:
        return False
    return found == content or not content.startswith(found)


def _read(path: pathlib.Path) -> bytes | None:
    """What a file holds; None if there is none."""
    try:
        with open_regular(path, None) as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error}.") from error


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


def held_versions(path: str | os.PathLike) -> list[int]:
    """The versions that a server may hold, by the model's `models.config`.

    The latest, unless its policy says otherwise
    (https://www.tensorflow.org/tfx/serving/serving_config#serving_a_specific_version_of_a_model);
    all of them, unless it is plain how many.

    Args:
      path: the folder of a served model.

    Raises:
      ExportError: if the file cannot be read.
    """
    found = versions(path)
    content = _read(pathlib.Path(path) / "models.config") or b""
    text = re.sub(rb"#[^\n]*", b"", content)
    policies = text.count(b"model_version_policy")
    latest = re.findall(_LATEST, text)
    if len(latest) != policies:
        return found
    return found[-max([1, *(int(number or 1) for number in latest)]) :]
