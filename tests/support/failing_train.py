"""`train.py` that fails when and where a test says so.

`NVAE_TEST_FAILURE=PROCESS:STEP:HOW[:PLACE]`: the process of that number, or
every one where it is "all", having taken so many steps of the run, fails where
it next comes to a place of `PLACES`, by default before another step: "kill" as
if by the system's memory keeper, "error" by an exception.

HOW "nan" ends no process: that one's images are not finite until the run has
gone back, and at its end every process prints a checksum of all its state.
"""

import hashlib
import os
import pathlib
import runpy
import signal

import tensorflow as tf

from nvae_tf.runs import checkpoint_folder
from nvae_tf.runs.checkpointing import CheckpointStore
from nvae_tf.runs.workdir import read_tensors
from nvae_tf.training import attempts
from nvae_tf.training.trainer import Trainer
from nvae_tf.training.validation import Validator

PROGRAM = pathlib.Path(__file__).parents[2] / "train.py"
VARIABLE = "NVAE_TEST_FAILURE"
# What a process prints before its checksum.
STATE = "All state:"
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


def spoil(process: str, step: int) -> None:
    """Gives a process images that are not finite from a step on.

    Until the run has gone back.
    """
    is_spoilt = False
    take_step, take, run = Trainer._take_step, attempts.take, Trainer.run

    def take_step_here(trainer):
        nonlocal is_spoilt
        is_spoilt = (
            process == str(trainer.devices.worker)
            and trainer.step >= step
            and not trainer.state.recovery.history
        )
        return take_step(trainer)

    def take_images(train_step, devices, images, *arguments, **options):
        if is_spoilt:
            images = [tf.fill(tf.shape(x), float("nan")) for x in images]
        return take(train_step, devices, images, *arguments, **options)

    def run_to_the_end(trainer, *arguments):
        result = run(trainer, *arguments)
        state = read_tensors(trainer.state.train_step.named_variables())
        digest = hashlib.sha256()
        for name in sorted(state):
            digest.update(name.encode() + state[name].tobytes())
        print(STATE, digest.hexdigest(), flush=True)
        return result

    Trainer._take_step, Trainer.run = take_step_here, run_to_the_end
    attempts.take = take_images


if __name__ == "__main__":
    which, after, *rest = os.environ[VARIABLE].split(":")
    if rest == ["nan"]:
        spoil(which, int(after))
    else:
        arm(which, int(after), *rest)
    runpy.run_path(str(PROGRAM), run_name="__main__")
