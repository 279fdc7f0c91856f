"""Re-adjusting batch normalisation for sampling.

The moving statistics are those of training, where latents come from the
posterior.  At a temperature below 1 the prior's draws look different; the
authors let the statistics settle on them before they sample colour images.
That takes hundreds of passes, so the result can be kept in the workdir.
"""

import hashlib
import math
import pathlib
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from nvae_tf.core.errors import CheckpointError, UserError
from nvae_tf.core.npz_files import read_npz, write_npz
from nvae_tf.model.nvae import NVAE
from nvae_tf.model.pure_layer import Mode
from nvae_tf.sampling.classes import in_turn
from nvae_tf.sampling.temperatures import as_rows

__all__ = [
    "BATCH_SIZE",
    "FOLDER",
    "STEPS",
    "checkpoint_tag",
    "readjust_batch_norm",
    "readjust_cached",
]

STEPS = 500
BATCH_SIZE = 16
FOLDER = "readjusted_batch_norm"


def readjust_batch_norm(
    model: NVAE,
    temperature,
    *,
    steps: int = STEPS,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    progress: Callable[[Iterable], Iterable] = iter,
) -> None:
    """Lets the decoder's moving statistics settle on draws from the prior.

    Changes the model's moving means and variances; the encoder's stay.  Of
    classes all are drawn, in turn.

    Args:
      model: the model.
      temperature: a number, or `[L]` for one per group: the same for all
        images.
      steps: passes in training mode.
      batch_size: images per pass.
      seed: of the draws.
      progress: wraps the steps, to show how far they are.

    Raises:
      UserError: if the temperature does not fit, or a statistic is not finite
        afterwards; the model is then as it was.
    """
    statistics = _statistics(model)
    before = {name: v.numpy() for name, v in statistics.items()}
    temperature = tf.constant(as_rows(temperature, model.config.num_groups, 1))

    @tf.function(autograph=False)
    def one_pass(number, labels):
        out = model.decode(
            seed=tf.stack([seed, number]),
            temperature=temperature,
            batch_size=batch_size,
            mode=Mode.TRAINING,
            labels=labels,
        )
        model.apply_updates(out.updates)

    for number in progress(range(steps)):
        labels = in_turn(model.config, batch_size, number * batch_size)
        one_pass(
            tf.constant(number),
            None if labels is None else tf.constant(labels),
        )
    for name, variable in statistics.items():
        if not np.all(np.isfinite(variable.numpy())):
            for other, value in before.items():
                statistics[other].assign(value)
            raise UserError(
                f"After re-adjustment the statistic {name} is not finite: the "
                "model does not bear batch statistics at this temperature. "
                "Choose another --temperature, or leave --readjust_bn away."
            )


def checkpoint_tag(step: int | None, ema: bool = False) -> str:
    """What `readjust_cached` calls the weights of a checkpoint."""
    return f"step{step}{'_ema' if ema else ''}"


def readjust_cached(
    model: NVAE,
    workdir,
    tag: str,
    temperature,
    seed: int = 0,
    *,
    steps: int = STEPS,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[Iterable], Iterable] = iter,
) -> None:
    """`readjust_batch_norm`, or what it gave the last time.

    Args:
      model: its statistics are changed.  Each precision that it computes in
        has results of its own.
      workdir: where results are kept, in a sub-folder; None for nowhere.
      tag: of the weights, see `checkpoint_tag`; other weights under the same
        tag (of a run that was started anew) get results of their own.
      temperature: see `readjust_batch_norm`.
      seed: likewise.
      steps: likewise.
      batch_size: likewise.
      progress: likewise.

    Raises:
      UserError: if a statistic is not finite, or cannot be stored.
      CheckpointError: if what is stored is damaged or not finite.
    """
    statistics = _statistics(model)
    path = None
    if workdir is not None:
        # Not of the statistics: they forget what they were before they settle,
        # and the model may have been re-adjusted at another temperature.
        digest = _digest(
            variable.numpy()
            for name, variable in model.named_variables().items()
            if name not in statistics
        )
        path = pathlib.Path(workdir, FOLDER) / (
            f"{tag}_{digest}_temperature{_describe(temperature)}_seed{seed}"
            f"_passes{steps}x{batch_size}{_precision(model)}.npz"
        )
        if path.exists():
            values = _read(path, statistics)
            for key, variable in statistics.items():
                variable.assign(values[key])
            return
    readjust_batch_norm(
        model,
        temperature,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
    )
    if path is not None:
        write_npz(path, **{k: v.numpy() for k, v in statistics.items()})


def _precision(model: NVAE) -> str:
    """For a file name: what the model computes in, unless it is float32."""
    policy = model.dtype_policy.name
    if policy != "float32":
        return f"_{policy}"
    rounds = tf.config.experimental.tensor_float_32_execution_enabled()
    return "_tf32" if rounds else ""


def _statistics(model: NVAE) -> dict:
    return {
        name: variable
        for name, variable in model.named_variables().items()
        if name.endswith(("/mean", "/variance"))
    }


def _digest(arrays: Iterable[np.ndarray]) -> str:
    digest = hashlib.blake2b(digest_size=6)
    for array in arrays:
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def _describe(temperature) -> str:
    """For a file name: the number, or a digest of many."""
    values = np.unique(np.asarray(temperature, np.float32))
    if values.size == 1:
        return f"{values[0]:g}"
    return _digest([np.asarray(temperature, np.float32)])


def _read(path: pathlib.Path, statistics) -> dict[str, np.ndarray]:
    """What `readjust_cached` stored.

    Raises:
      CheckpointError: if it is not that, or not finite.
    """
    advice = "remove the file to have them computed again"
    wanted = {k: (tuple(v.shape), np.float32) for k, v in statistics.items()}
    most = 4 * sum(math.prod(shape) for shape, _ in wanted.values())
    values = read_npz(path, most, CheckpointError, advice)
    if {key: (v.shape, v.dtype) for key, v in values.items()} != wanted:
        reason = "it belongs to another model"
    elif not all(np.all(np.isfinite(v)) for v in values.values()):
        reason = "they are not finite"
    else:
        return values
    raise CheckpointError(
        f"The statistics in {path} cannot be used ({reason}); {advice}."
    )
