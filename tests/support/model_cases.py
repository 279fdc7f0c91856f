"""Small models of every kind, with weights far from their initial values."""

from __future__ import annotations

import numpy as np

from nvae_tf.config import ARCHITECTURES, ModelConfig
from nvae_tf.model.nvae import NVAE


def small(**changes) -> ModelConfig:
    """Two scales of 4x4 and 2x2 with 2 and 1 groups, gray, unless changed.

    The cells are those of the smallest graphs, not the paper's: tracing takes
    most of a test's time.
    """
    values = {
        "image_size": 8,
        "image_channels": 1,
        "num_bits": 1,
        "likelihood": "bernoulli",
        "num_latent_scales": 2,
        "num_groups_per_scale": 2,
        "adaptive_groups": True,
        "num_latent_per_group": 3,
        "num_channels_enc": 4,
        "num_channels_dec": 4,
        "num_preprocess_cells": 1,
        "num_postprocess_cells": 1,
        "num_cells_enc": 1,
        "num_cells_dec": 1,
        "architecture": "res_bnswish",
    }
    return ModelConfig(**(values | changes))


_COLOUR = {"image_channels": 3, "num_bits": 8, "likelihood": "mixture"}
# mbconv_den convolves in 8 groups.
_WIDE = {"num_channels_enc": 8, "num_channels_dec": 8}
_PLAIN = {"num_latent_scales": 1, "num_groups_per_scale": 1}

CONFIGS = {
    "plain_vae": small(**_PLAIN),
    "plain_vae_flows": small(**_PLAIN, **_COLOUR, num_flow_pairs=1),
    "one_scale": small(num_latent_scales=1, num_groups_per_scale=3),
    "equal_groups": small(adaptive_groups=False),
    "three_scales": small(
        image_size=16,
        num_latent_scales=3,
        num_groups_per_scale=5,
        min_groups_per_scale=2,
    ),
    "more_cells": small(
        image_size=16,
        num_preprocess_blocks=2,
        num_preprocess_cells=2,
        num_postprocess_cells=3,
        num_cells_enc=2,
        num_cells_dec=3,
        architecture="res_mbconv",
    ),
    "two_flows": small(num_flow_pairs=2),
    "no_se": small(use_se=False),
    "no_residual": small(residual_posterior=False),
    "wide_encoder": small(num_channels_enc=8),
    "wide_decoder": small(num_channels_dec=12),
    "mixture": small(**_COLOUR),
    "mixture_5_bits": small(**_COLOUR | {"num_bits": 5, "num_mixtures": 3}),
    "normal": small(**_COLOUR | {"likelihood": "normal", "num_mixtures": 1}),
    "padded": small(image_size=12, padding=2),
    **{
        name: small(architecture=name, **_WIDE if name == "mbconv_den" else {})
        for name in ARCHITECTURES
    },
}

# What makes them differ is in others too, or at the ends of the model alone.
ALIKE = {
    "mixture",
    "normal",
    "padded",
    "plain_vae",
    "one_scale",
    "equal_groups",
    "wide_encoder",
    "wide_decoder",
    "mixture_5_bits",
    "plain_vae_flows",
    *(ARCHITECTURES.keys() - {"res_mbconv", "mbconv_den", "res_elu"}),
}


def randomize(layer, seed: int = 0) -> None:
    """Moves every variable away from where it starts."""
    rng = np.random.default_rng(seed)
    for variable in layer.variables:
        value = np.asarray(variable)
        if variable.name == "variance":
            value = rng.uniform(0.5, 1.5, value.shape)
        else:
            value = value + rng.normal(0.0, 0.2, value.shape)
        if variable.path.endswith("squeeze/bias"):
            value += 1.0  # Far from where the gates' ReLUs are dead.
        variable.assign(value.astype(np.float32))


_VALUES: dict[tuple, dict[str, np.ndarray]] = {}


def random_model(config: ModelConfig, *, seed: int = 0, **kwargs) -> NVAE:
    """A model that no initial value is left in.

    What its weights are is computed once: drawing them takes as long as making
    the model.
    """
    values = _VALUES.get((config, seed))
    model = NVAE(config, seed=seed if values is None else None, **kwargs)
    variables = model.named_variables()
    if values is None:
        randomize(model, seed)
        _VALUES[config, seed] = {
            name: np.asarray(variable) for name, variable in variables.items()
        }
    else:
        for name, value in values.items():
            variables[name].assign(value)
    return model


def images(config: ModelConfig, batch: int = 2, seed: int = 0) -> np.ndarray:
    """Images of the levels that the configuration has."""
    size = config.padded_size
    levels = 2**config.num_bits - 1
    rng = np.random.default_rng(seed)
    shape = (batch, size, size, config.image_channels)
    return (rng.integers(0, levels + 1, shape) / levels).astype(np.float32)


def noise(config: ModelConfig, batch: int = 2, seed: int = 1) -> list:
    """`eps` for a pass."""
    rng = np.random.default_rng(seed)
    return [
        rng.normal(size=(batch, *shape)).astype(np.float32)
        for shape in config.latent_shapes
    ]
