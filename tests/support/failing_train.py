"""`train.py` that fails when and where a test says so.

`NVAE_TEST_FAILURE=PROCESS:STEP:HOW`: the process of that number, having taken
so many steps of the run, fails instead of taking another: "kill" as if by the
system's memory keeper, "error" by an exception.
"""

import os
import pathlib
import runpy
import signal

from nvae_tf.training.trainer import Trainer

PROGRAM = pathlib.Path(__file__).parents[2] / "train.py"
VARIABLE = "NVAE_TEST_FAILURE"


def fail(how: str) -> None:
    """Ends this process, or tries to."""
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise RuntimeError("This process fails, as it was told to.")


def arm(process: int, step: int, how: str) -> None:
    """Lets a process fail at a step."""
    take_step = Trainer._take_step

    def take_or_fail(trainer):
        if (trainer.devices.worker, trainer.step) == (process, step):
            fail(how)
        return take_step(trainer)

    Trainer._take_step = take_or_fail


if __name__ == "__main__":
    *place, kind = os.environ[VARIABLE].split(":")
    arm(*map(int, place), kind)
    runpy.run_path(str(PROGRAM), run_name="__main__")
