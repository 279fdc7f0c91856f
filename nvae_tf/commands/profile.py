"""Which operations took the time of a profile.

    nvae train --config=mnist:small --workdir=runs/mine --profile=5
    nvae profile --workdir=runs/mine

Reads the latest profile of a run, and prints the kinds of operations that took
most time on the CPU, without TensorBoard.
"""

from absl import flags

_WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the run.")
_NUM = flags.DEFINE_integer("num", 20, "Kinds to print.", lower_bound=1)


def main(argv) -> None:
    """Prints the table."""
    del argv
    from nvae_tf.runs.workdir import Workdir
    from nvae_tf.training.profile_times import latest_profile, table

    path = latest_profile(Workdir(_WORKDIR.value).tensorboard_path)
    print(f"{path}\n{table(path, _NUM.value)}")
