"""What the tests of exports export: small models of every kind."""

from __future__ import annotations

import functools
import pathlib

import pytest

from nvae_tf.authors import reference_import
from nvae_tf.config import Config, DataConfig
from nvae_tf.export.source import Source
from nvae_tf.runs.workdir import Workdir, read_tensors
from tests.support.model_cases import random_model, small

REFERENCE = pathlib.Path(__file__).parents[1] / "data" / "reference"

_PLAIN = {
    "num_latent_scales": 1,
    "num_groups_per_scale": 1,
    "image_channels": 3,
    # Depthwise convolutions, which every runtime computes in its own way.
    "architecture": "res_mbconv",
}
MODELS = {
    # Flows, two scales and a mixture, as configs/tiny.py has them; the cells of
    # that are in the next ones.
    "tiny": small(
        image_channels=3,
        num_bits=8,
        likelihood="mixture",
        num_mixtures=2,
        num_flow_pairs=1,
    ),
    "plain_vae": small(**_PLAIN | {"image_channels": 1}),
    "mixture_5_bits": small(**_PLAIN, likelihood="mixture", num_bits=5),
    "normal": small(**_PLAIN, likelihood="normal", num_bits=8),
}
# For what is around an export, which is made the sooner.
_SERVED = {
    "served": small(
        image_channels=3,
        num_bits=8,
        likelihood="mixture",
        num_mixtures=1,
        num_latent_scales=1,
    ),
    # Two scales, and so two places that are told the class.
    "classes": small(
        image_channels=3,
        num_bits=8,
        likelihood="mixture",
        num_mixtures=1,
        num_groups_per_scale=1,
        num_classes=3,
    ),
}
each_model = pytest.mark.parametrize(
    "name",
    ["served", "plain_vae"]
    + [
        pytest.param(name, marks=pytest.mark.long)
        for name in MODELS
        if name != "plain_vae"
    ],
)
CHECKPOINTS = ("bernoulli_two_scales", "dmol_flow_one_scale")


@functools.cache
def source(name: str) -> Source:
    """A random model, or a checkpoint of the authors' program."""
    info = {"step": 7, "nelbo": 123.4}
    if name in CHECKPOINTS:
        return Source(*reference_import.load(REFERENCE / f"{name}.pt"), info)
    model = random_model((MODELS | _SERVED)[name])
    is_binary = model.config.likelihood == "bernoulli"
    config = Config(
        name=name,
        model=model.config,
        data=DataConfig(
            binarize=is_binary, labels=bool(model.config.num_classes)
        ),
    )
    return Source(model, config, info)


def write_run(path: pathlib.Path, name: str) -> pathlib.Path:
    """Makes `path` the workdir of a run that ended with this model."""
    base = source(name)
    workdir = Workdir(path)
    workdir.write_config(base.config)
    tensors = read_tensors(base.model.named_variables("model/"))
    workdir.checkpoints().save(9, tensors, {"evaluation": {"nelbo": 50.0}})
    return path
