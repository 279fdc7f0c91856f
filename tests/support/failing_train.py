"""`train.py` that fails when and where a test says so.

`NVAE_TEST_FAILURE=PROCESS:STEP:HOW[:PLACE]`: the process of that number, or
every one where it is "all", having taken so many steps of the run, fails where
it next comes to a place of `PLACES`, by default before another step: "kill" as
if by the system's memory keeper, "error" by an exception.
"""

import os
import pathlib
import runpy
import signal

from nvae_tf.runs import checkpoint_folder
from nvae_tf.runs.checkpointing import CheckpointStore
from nvae_tf.training.trainer import Trainer
from nvae_tf.training.validation import Validator

PROGRAM = pathlib.Path(__file__).parents[2] / "train.py"
VARIABLE = "NVAE_TEST_FAILURE"
# The last two are those of the process that writes.
PLACES = {
    "step": (Trainer, "_take_step"),
    "evaluation": (Validator, "measure"),
    "writing": (checkpoint_folder, "write"),
    "rotation": (CheckpointStore, "_remove"),
}


def fail(how: str) -> None:
    """Ends this process, or tries to."""
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise RuntimeError("This process fails, as it was told to.")


def arm(process: str, step: int, how: str, place: str = "step") -> None:
    """Lets a process fail from a step on."""
    reached = False
    take_step = Trainer._take_step
    owner, name = PLACES[place]

    def take(trainer):
        nonlocal reached
        is_here = process in ("all", str(trainer.devices.worker))
        reached = is_here and trainer.step >= step
        if reached and place == "step":
            fail(how)
        return take_step(trainer)

    Trainer._take_step = take
    if place == "step":
        return
    original = getattr(owner, name)

    def work(*args, **kwargs):
        if not reached:
            return original(*args, **kwargs)
        if place == "rotation":
            # Half of it is done.
            original(*args, **kwargs)
        return fail(how)

    setattr(owner, name, work)


if __name__ == "__main__":
    which, after, *rest = os.environ[VARIABLE].split(":")
    arm(which, int(after), *rest)
    runpy.run_path(str(PROGRAM), run_name="__main__")
