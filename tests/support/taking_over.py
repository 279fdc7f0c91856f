"""All that an import reads of a checkpoint of the authors' program."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from unittest import mock

import numpy as np

from nvae_tf.authors import reference_import, reference_table, torch_file
from nvae_tf.authors.reference_config import config_from_reference
from nvae_tf.authors.reference_optimizer import (
    Moments,
    moments_from_reference,
    parameter_keys,
)
from nvae_tf.model.nvae import NVAE

__all__ = ["FILES", "sample", "take_over"]

_FOLDER = pathlib.Path(__file__).parents[1] / "data" / "reference"
FILES = ("bernoulli_two_scales.pt", "dmol_flow_one_scale.pt")


def sample(name: str) -> dict:
    """What a checkpoint of the authors' program holds, after some updates."""
    value = torch_file.read(_FOLDER / name)
    state = value["state_dict"]
    names = parameter_keys(state)
    value["optimizer"] = {
        "state": {
            number: {
                "step": 5,
                "exp_avg": np.zeros_like(state[name]),
                "exp_inf": np.ones_like(state[name]),
            }
            for number, name in enumerate(names)
        },
        "param_groups": [{"params": list(range(len(names)))}],
    }
    return value


def take_over(value: object, path="checkpoint.pt") -> Moments | None:
    """Imports what a file holds, but for writing the workdir.

    Raises:
      UserError: if it cannot be imported.
    """
    with mock.patch.object(torch_file, "read", return_value=value):
        found = reference_import.read(path)
    config = config_from_reference(found.args, found.state_dict, path)
    table = reference_table.comparison(found.args, config, config)
    text = reference_table.format_table(table)
    unused = reference_table.unused(found.args)
    assert len(text) + sum(map(len, unused)) < 20_000
    assert text.replace("\n", "").isprintable()
    built = _model(config.model)
    model = built.model
    # The same weights with another optimiser need not be assigned again.
    if built.holds is not found.state_dict:
        built.holds = None
        reference_import.assign_state(model, found.state_dict, path)
        built.holds = found.state_dict
    return moments_from_reference(
        found.optimizer,
        found.state_dict,
        reference_import.reference_slots(model),
        model.trainable_variables,
        path,
    )


@dataclasses.dataclass
class _Built:
    """A model, and the weights that it holds."""

    model: NVAE
    holds: object = None


@functools.lru_cache(maxsize=4)
def _model(config) -> _Built:
    return _Built(NVAE(config, seed=None))
