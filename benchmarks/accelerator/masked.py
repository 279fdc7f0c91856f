"""An update that is computed always, and stored where the gradient is good.

The training step stores in a branch (`tf.cond`), which the host of an
accelerator may have to wait for.  Here all of its new values are computed and
chosen element by element, so that nothing has to be waited for; but weights and
moments are read and written in steps that are skipped, too.
"""

import contextlib
from collections.abc import Iterator
from unittest import mock

import tensorflow as tf

from benchmarks.accelerator import lower
from nvae_tf.training.train_step import TrainStep

__all__ = ["by_mask"]


@contextlib.contextmanager
def by_mask(step: TrainStep | None) -> Iterator[None]:
    """What is traced of a step in the block has no branch; None: as usual."""
    with contextlib.ExitStack() as stack:
        if step is not None:
            stack.enter_context(mock.patch.object(tf, "cond", _chooser(step)))
        yield


def _chooser(step: TrainStep):
    """What a step takes for `tf.cond`, which it calls for its update alone."""
    variables = lower.variables_by_name(step.named_variables()).values()

    def choose(good, update, skip):
        before = [tf.identity(v) for v in variables]
        update()
        updated = [tf.identity(v) for v in variables]
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        skip()
        for variable, value in zip(variables, updated, strict=True):
            variable.assign(tf.where(good, value, variable))

    return choose
