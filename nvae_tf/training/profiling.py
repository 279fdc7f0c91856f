"""A profile of some training steps, for TensorBoard.

    nvae train --config=... --workdir=runs/mine --profile=5

records five steps, once the first ones (tracing, graph optimisation, the
libraries' own warm-up) are over, under `runs/mine/tensorboard`.  TensorBoard
shows it with the package `xprof`; `nvae profile --workdir=runs/mine` prints
the operations that took most time without it.
"""

from __future__ import annotations

import contextlib
import pathlib
import sys
from collections.abc import Iterator

import tensorflow as tf
import tqdm

__all__ = ["WARM_UP_STEPS", "StepProfiler"]

WARM_UP_STEPS = 5


class StepProfiler:
    """Profiles a number of steps in a row, once.

    A context manager, so that a profile that an error or a stop cuts short is
    written too::

        with StepProfiler(folder, 5) as profiler:
            for step in range(first, last):
                with profiler.step(step):
                    train_step(next(batches), ...)

    Args:
      folder: TensorBoard's; the profile goes to `plugins/profile/TIME` in it.
      num_steps: how many to profile; 0 makes all of this do nothing.
      skip: steps to let pass before.
    """

    def __init__(self, folder, num_steps: int, skip: int = WARM_UP_STEPS):
        if num_steps < 0 or skip < 0:
            raise ValueError(
                f"num_steps ({num_steps}) and skip ({skip}) must not be "
                "negative."
            )
        self.folder = pathlib.Path(folder)
        self._to_skip = skip
        self._to_profile = num_steps
        self._is_running = False
        self._profiled: list[int] = []

    def __enter__(self) -> StepProfiler:
        return self

    def __exit__(self, *_) -> None:
        if self._is_running:
            self._stop()
        elif self._to_profile:
            _say(
                "No profile was written: the run ended within its first "
                f"{WARM_UP_STEPS} steps, which are not profiled."
            )

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Runs one step of the loop, the wait for its batch included.

        Args:
          number: of the step, to name it in the profile.
        """
        if not self._to_profile:
            yield
            return
        if self._to_skip:
            self._to_skip -= 1
            yield
            return
        if not self._is_running:
            tf.profiler.experimental.start(str(self.folder))
            self._is_running = True
        with tf.profiler.experimental.Trace("train", step_num=number, _r=1):
            yield
        self._profiled.append(number)
        self._to_profile -= 1
        if not self._to_profile:
            self._stop()

    def _stop(self) -> None:
        # Accelerators work behind the program's back; what they still have to
        # do belongs to the steps that were profiled.
        tf.test.experimental.sync_devices()
        tf.profiler.experimental.stop()
        self._is_running = False
        self._to_profile = 0
        if not self._profiled:
            return
        first, last = self._profiled[0], self._profiled[-1]
        steps = f"step {first}" if first == last else f"steps {first}-{last}"
        _say(
            f"Wrote a profile of {steps} to {self.folder}. To see it: "
            f"pip install xprof && tensorboard --logdir={self.folder}"
        )


def _say(text: str) -> None:
    """Prints to stderr, above a progress bar if there is one."""
    tqdm.tqdm.write(text, file=sys.stderr)
