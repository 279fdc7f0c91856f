"""Which operations took the time of a profile.

    nvae train --config=mnist:small --workdir=runs/mine --profile=5
    nvae profile --workdir=runs/mine

Reads the latest profile of a run, and prints the kinds of operations that took
most time on the CPU, without TensorBoard.
"""

import pathlib

from absl import flags

from nvae_tf.commands import values

_WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the run.")
_NUM = flags.DEFINE_integer("num", 20, "Kinds to print.", lower_bound=1)


def main(argv) -> None:
    """Prints the table."""
    del argv
    values.require_workdir(_WORKDIR.value)
    # None of them loads TensorFlow.
    from nvae_tf.runs.run_config import TENSORBOARD
    from nvae_tf.training.profile_times import latest_profile, table

    path = latest_profile(pathlib.Path(_WORKDIR.value, TENSORBOARD))
    print(f"{path}\n{table(path, _NUM.value)}")
