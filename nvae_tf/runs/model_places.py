"""Where pretrained models are: by name, in a folder, on Hugging Face's hub.

::

    mnist                    comes with the project, see `shipped`
    runs/copy                a folder that `save` wrote
    hf://user/repo           the hub; hf://user/repo@revision
"""

from __future__ import annotations

import difflib
import os
import pathlib
import re
from typing import Any

from nvae_tf.core.errors import CheckpointError
from nvae_tf.core.extras import require
from nvae_tf.core.reading import shown
from nvae_tf.runs import pretrained_folder

__all__ = ["locate", "shipped", "shipped_folder"]

_HUB = "hf://"
_PLACE = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96})(?:@(?P<revision>[\w./-]+))?",
    re.ASCII,
)


def shipped_folder() -> pathlib.Path:
    """Where the models are that come with the project."""
    return pathlib.Path(__file__).resolve().parents[1] / "pretrained"


def shipped() -> dict[str, pathlib.Path]:
    """Folders of the models that come with the project, by name."""
    folder = shipped_folder()
    if not folder.is_dir():
        return {}
    return {
        path.name: path
        for path in sorted(folder.iterdir())
        if pretrained_folder.is_folder(path)
    }


def locate(place: str | os.PathLike) -> pathlib.Path:
    """The folder of a model; what is on the hub is fetched.

    Args:
      place: a name, a folder or hf://user/repo[@revision].  A name
        comes before a folder of the same name, which is ./NAME then, or any
        `Path`.

    Raises:
      CheckpointError: if there is none such, it cannot be fetched, or the
        package that fetches it is missing.
    """
    text = os.fspath(place)
    if text.startswith(_HUB):
        return _fetch(text)
    models = shipped()
    if isinstance(place, str) and text in models:
        return models[text]
    if os.path.isdir(text):
        return pathlib.Path(text)
    known = ", ".join(models) or "none"
    close = difflib.get_close_matches(text[:80], models, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise CheckpointError(
        f"There is no folder and no model '{shown(text, 240)}'.{hint} Models "
        f"that come with the project: {known}; hf://USER/REPO names one on "
        "Hugging Face's hub."
    )


def _fetch(text: str) -> pathlib.Path:
    """The folder of a snapshot in the cache of Hugging Face's package."""
    match = _PLACE.fullmatch(text.removeprefix(_HUB))
    if match is None:
        raise CheckpointError(
            f"{shown(text)} names no model: it must look like "
            "hf://user/repo or hf://user/repo@revision."
        )
    hub: Any = require(
        "huggingface_hub", "hub", f"{text}", error=CheckpointError
    )
    try:
        folder = hub.snapshot_download(
            match["repo"],
            revision=match["revision"],
            # Nothing else is read, whatever else there is.
            allow_patterns=[
                pretrained_folder.CONFIG,
                pretrained_folder.WEIGHTS,
            ],
        )
    except Exception as error:
        # Whatever it or the transport below it raises.
        raise CheckpointError(
            f"{text} cannot be fetched "
            f"({shown(' '.join(str(error).split()), 200)}); check the name, "
            "the connection and, for what is not public, that you are logged "
            "in with hf auth login."
        ) from error
    return pathlib.Path(folder)
