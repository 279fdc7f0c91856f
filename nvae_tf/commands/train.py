r"""Trains an NVAE, or goes on where a run was.

    nvae train --config=mnist_demo --workdir=runs/demo
    nvae train --config=cifar10:no_flow --workdir=runs/cifar10 \
        --config.train.batch_size=64 --dry_run

Any value of the configuration can be changed.  The same command, started
again, goes on where the run in --workdir was.

On several GPUs of this machine it starts a process for each; --num_processes
says how many.
On several machines, start the command on each of them with TF_CONFIG, or by
Slurm's srun; the workdir is a folder that all of them see.
"""

import sys

from absl import flags

from nvae_tf.commands import command_line, values
from nvae_tf.core.errors import UserError
from nvae_tf.distribute import cluster, launcher, machine

_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Folder of the run: checkpoints, metrics, TensorBoard."
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Print what would be trained, and train nothing."
)
_STRATEGY = flags.DEFINE_string(
    "strategy",
    "auto",
    "Devices: one_device; mirrored (all GPUs, in one process, which takes long "
    "to start); multi_worker (one device in each of the processes that "
    "TF_CONFIG or Slurm describes); tpu; auto chooses.",
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes",
    None,
    "Start so many local processes, one device each; by default as many as "
    "there are GPUs. The batch size of the configuration is that of each of "
    "them.",
    lower_bound=1,
)
_PROFILE = flags.DEFINE_integer(
    "profile",
    0,
    "Record so many steps for TensorBoard's profiler, after the first ones.",
    lower_bound=0,
)
command_line.define_config()


def main(argv) -> None:
    """Plans, launches or trains."""
    del argv
    config = command_line.config_from_flags()
    if _DRY_RUN.value:
        from nvae_tf.training import dry_run

        print(dry_run.describe(config, _num_replicas()))
        return
    values.require_workdir(_WORKDIR.value)
    if not launcher.launched() and (count := _num_processes()) > 1:
        # As it was started: a script, -m or the console script.
        command = [sys.executable, *sys.orig_argv[1:]]
        sys.exit(launcher.launch(count, _WORKDIR.value, command))
    launcher.end_with_launcher()
    from nvae_tf.training import trainer

    trainer.train(
        config,
        _WORKDIR.value,
        _STRATEGY.value,
        profile_steps=_PROFILE.value,
    )


def _num_processes() -> int:
    """How many local processes to start; 1 where this is one of the run's.

    Raises:
      UserError: if it is more than the strategy or the cluster has room for.
    """
    count = _NUM_PROCESSES.value
    if count is None:
        is_auto = _STRATEGY.value == "auto"
        return launcher.processes_to_launch() if is_auto else 1
    if count > 1:
        _require_several(count)
    return count


def _require_several(count: int) -> None:
    """Raises UserError if so many processes could not train together."""
    if _STRATEGY.value not in ("auto", "multi_worker"):
        raise UserError(
            f"--num_processes={count} starts processes that train together, "
            f"but with --strategy={_STRATEGY.value} each would be a run of its "
            "own: leave one of the two out."
        )
    try:
        described = cluster.find()
    except UserError:
        # The processes find what the launcher describes to them, not this.
        return
    if described and len(described.addresses) > 1:
        raise UserError(
            f"--num_processes={count} starts processes on one machine, but "
            f"TF_CONFIG or Slurm describes {len(described.addresses)} "
            "processes of this run already, and each would start more: leave "
            "--num_processes out."
        )


def _num_replicas() -> int:
    """How many devices the run would train on.

    Raises:
      UserError: see `_num_processes`.
    """
    launched = _num_processes()
    if launched > 1 or _STRATEGY.value == "one_device":
        return launched
    if _STRATEGY.value == "mirrored":
        return max(1, len(machine.chosen_gpus()))
    described = cluster.find()
    return len(described.addresses) if described else 1
