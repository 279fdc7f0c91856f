"""Names in the folder of a run; its configuration, without TensorFlow."""

from __future__ import annotations

import pathlib

from nvae_tf.config import Config, config_from_dict
from nvae_tf.core.errors import ConfigError, UserError
from nvae_tf.core.json_files import read_json

__all__ = ["CONFIG", "TENSORBOARD", "read_config"]

CONFIG = "config.json"
TENSORBOARD = "tensorboard"


def read_config(folder: pathlib.Path) -> Config:
    """The configuration that a run was started with.

    Args:
      folder: its workdir.

    Raises:
      UserError: if this is not the workdir of a run.
    """
    if not folder.is_dir():
        raise UserError(f"There is no workdir {folder}; nvae train makes one.")
    path = folder / CONFIG
    try:
        return config_from_dict(read_json(path))
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} holds no {CONFIG}: it is not the workdir of a run. Give "
            "the folder that nvae train was given."
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read: {error}. Restore it from a backup, or "
            "start a new workdir."
        ) from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
