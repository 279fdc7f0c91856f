"""One step of a run: taken, kept for a while, looked into if it failed."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from nvae_tf.config.schedules import Coefficients
from nvae_tf.core.reading import shown
from nvae_tf.distribute import replicas
from nvae_tf.distribute.devices import Devices
from nvae_tf.training import diagnosis
from nvae_tf.training.diagnosis import Diagnosis
from nvae_tf.training.step_metrics import StepMetrics
from nvae_tf.training.train_step import TrainStep

__all__ = ["Attempt", "diagnose", "take"]


class Attempt(NamedTuple):
    """A step: what it was given and what it gave.

    Attributes:
      images: float32 `[B, H, W, C]` of this process, one for each pass; of a
        model of classes, pairs of these and their labels.
      coefficients: floats.
      seeds: int32 `[2]`, one for each pass.
      result: of all replicas.
    """

    images: Sequence[tf.Tensor]
    coefficients: Coefficients
    seeds: Sequence[tf.Tensor]
    result: StepMetrics


def take(
    train_step: TrainStep,
    devices: Devices,
    images: Sequence[tf.Tensor],
    coefficients: Coefficients,
    seeds: Sequence[tf.Tensor],
    stop: bool,
) -> Attempt:
    """Takes a step of one pass or of several.

    Args:
      train_step: to take.
      devices: that share it.
      images: see `Attempt`.
      coefficients: likewise.
      seeds: likewise.
      stop: whether this process wants to stop.
    """
    tensors = Coefficients(*[tf.constant(c, tf.float32) for c in coefficients])
    wants_stop = tf.constant(float(stop))
    placed = [devices.per_replica(x) for x in images]
    if len(placed) == 1:
        result = train_step(placed[0], tensors, seed=seeds[0], stop=wants_stop)
    else:
        result = train_step.accumulated(placed, tensors, seeds, wants_stop)
    return Attempt(images, coefficients, seeds, result)


def diagnose(
    train_step: TrainStep, devices: Devices, attempt: Attempt
) -> Diagnosis:
    """What is wrong with a step, as far as this process's share tells.

    The run that it is to help does not depend on it: where the step cannot be
    repeated, for want of memory for example, the diagnosis says so.

    Args:
      train_step: that was taken.
      devices: that shared it.
      attempt: the step.
    """
    found = Diagnosis()
    for images, seed in zip(attempt.images, attempt.seeds, strict=True):
        for index, part in devices.local_parts(images).items():
            own = seed
            if devices.num_replicas > 1:
                own = replicas.own_seed(seed, index)
            try:
                found = diagnosis.diagnose(
                    train_step, part, attempt.coefficients, own
                )
            except (tf.errors.OpError, MemoryError) as error:
                return Diagnosis(failure=shown(str(error), 200))
            if found.found:
                return found
    return found
