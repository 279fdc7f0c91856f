"""What is lowered of a run: initialisation, step, evaluation, sampling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import tensorflow as tf

from benchmarks.accelerator import lower
from nvae_tf.config import Config
from nvae_tf.core.errors import UserError
from nvae_tf.model import layers, losses
from nvae_tf.model.nvae import NVAE
from nvae_tf.training import new_run
from nvae_tf.training.train_step import TrainStep

__all__ = ["Function", "functions", "make_step"]


class Function(NamedTuple):
    """A function to lower; see `benchmarks.accelerator.lower`.

    Attributes:
      call: gives tensors by name.
      arguments: specifications by name.
      exact: whether its products have to be float32's on all devices.
    """

    call: Callable[..., dict[str, Any]]
    arguments: dict[str, tf.TensorSpec]
    exact: bool = False


def make_step(config: Config, unroll: bool) -> TrainStep:
    """All state of a run, before its first step.

    Args:
      config: of the run.
      unroll: see `NVAE`.

    Raises:
      UserError: for what is not supported there.
    """
    if config.train.accumulate > 1:
        raise UserError(
            "train.accumulate is more than 1: that is not supported here."
        )
    if config.data.labels:
        raise UserError("data.labels is True: that is not supported here.")
    if config.train.initial_model:
        raise UserError(
            "train.initial_model is set, but a run here begins with random "
            "weights: leave it out."
        )
    model = NVAE(
        config.model,
        seed=config.train.seed,
        unroll=unroll,
        recompute=config.recompute,
        dtype=config.dtype_policy,
        device="GPU",
    )
    if any(
        getattr(leaf, "data_dependent", False) for _, leaf in model.leaves()
    ):
        raise UserError(
            "model.architecture is one that starts from its first batch: that "
            "is not supported here."
        )
    return new_run.fresh_train_step(model, config)


def functions(
    step: TrainStep,
    config: Config,
    *,
    images: int,
    draws: tuple[int, int],
    samples: int,
) -> dict[str, Function]:
    """All that a training needs.

    Args:
      step: see `make_step`.
      config: of the run.
      images: of a pass of "evaluate", which makes one draw for each.
      draws: of a pass of "weigh": how many images, and draws for each.
      samples: pictures that are drawn at once.
    """
    model = step.model
    size, channels = config.model.padded_size, config.model.image_channels
    noise = sum(_sizes(model))

    def initialize(zero):
        # The compiler would write the weights out, were it to know the seed.
        plain, uniform = tf.random.stateless_uniform, layers.uniform_in_one
        with (
            mock.patch.object(
                tf.random,
                "stateless_uniform",
                lambda shape, seed, *args, **kwargs: plain(
                    shape, tf.convert_to_tensor(seed) + zero, *args, **kwargs
                ),
            ),
            mock.patch.object(
                layers, "uniform_in_one", uniform.python_function
            ),
        ):
            model.initialize(config.train.seed)
        new_run.warm_up(step)
        if step.average:
            step.average.restart()
        return {"zero": zero}

    def sample(eps, temperature):
        logits = model.sample_logits(
            eps=_by_group(model, eps), temperature=temperature
        )
        return {"mean": model.likelihood(logits).mean()}

    def pass_of(images, draws):
        return Function(
            lambda x, eps: _evaluated(model, x, eps, draws),
            {
                "x": tf.TensorSpec([images, *shape], tf.float32),
                "eps": tf.TensorSpec([draws * images, noise], tf.float32),
            },
            exact=True,
        )

    shape = (size, size, channels)
    return {
        "initialize": Function(
            initialize, {"zero": tf.TensorSpec([], tf.int32)}
        ),
        "step": Function(*lower.step_function(step, config.train.batch_size)),
        "evaluate": pass_of(images, 1),
        "weigh": pass_of(*draws),
        "sample": Function(
            sample,
            {
                "eps": tf.TensorSpec([samples, noise], tf.float32),
                "temperature": tf.TensorSpec([], tf.float32),
            },
        ),
    }


def _sizes(model: NVAE) -> list[int]:
    return [h * w * c for h, w, c in model.config.latent_shapes]


def _by_group(model: NVAE, eps) -> list:
    """`[N, D]` -> L tensors `[N, h, w, d]`."""
    parts = tf.split(eps, _sizes(model), axis=1)
    return [
        tf.reshape(part, [-1, *shape])
        for part, shape in zip(parts, model.config.latent_shapes, strict=True)
    ]


def _evaluated(model: NVAE, x, eps, draws: int) -> dict[str, Any]:
    """Terms of all pairs of an image and a draw, `[draws, B]`, nats.

    The images are encoded once, whatever the number of draws.
    """
    encode = model.parts["encoder"]
    with mock.patch.dict(model.parts, {"encoder": _Repeated(encode, draws)}):
        output = model(x, eps=_by_group(model, eps))
    nll = losses.reconstruction_nll(
        model.likelihood(output.logits), tf.tile(x, [draws, 1, 1, 1])
    )
    kl = tf.reduce_sum(output.kl_per_group, axis=1)
    weight = losses.log_importance_weight(nll, output.log_p, output.log_q)
    groups = tf.reshape(
        output.kl_per_group, [draws, -1, model.config.num_groups]
    )
    return {
        "nelbo": tf.reshape(nll + kl, [draws, -1]),
        "log_weight": tf.reshape(weight, [draws, -1]),
        "kl_per_group": tf.reduce_mean(groups, axis=0),
    }


class _Repeated:
    """An encoder whose results are as many times as long."""

    def __init__(self, encoder, count: int):
        self._encoder = encoder
        self._count = count

    def read_params(self, mode):
        """Those of the encoder."""
        return self._encoder.read_params(mode)

    def __call__(self, x, params, **options):
        top, features, updates = self._encoder(x, params, **options)
        count = self._count
        return (
            tf.tile(top, [count, 1, 1, 1]),
            [tf.tile(f, [1, count, 1, 1, 1]) for f in features],
            updates,
        )
