"""The configuration of a run that exists, to go on or to begin another with.

    nvae train --config=workdir:runs/demo --workdir=runs/demo

What follows the colon is the workdir. Any value can be changed as usual;
within one run, only what does not decide the model and the order of its data.
"""

import pathlib

from nvae_tf.config import config_from_dict, presets
from nvae_tf.core.errors import ConfigError
from nvae_tf.core.json_files import read_json


def get_config(variant=None):
    path = pathlib.Path(variant or "") / "config.json"
    if variant is None or not path.is_file():
        raise ConfigError(
            "The preset workdir takes the folder of a run, which holds a "
            "config.json: --config=workdir:runs/demo."
        )
    config = presets.create("workdir")
    # Here, where an unknown key or a wrong type gets a sentence.
    saved = config_from_dict(read_json(path, ConfigError))
    config.update(saved.to_dict())
    return config
