"""Trains an NVAE.

    python train.py --config=configs/mnist_demo.py --workdir=runs/demo

Any value of the configuration can be changed: --config.train.batch_size=64.
The same command, started again, goes on where the run in --workdir was.

On several devices of this machine: --num_processes=8, one process for each.
On several machines, start the command on each of them with TF_CONFIG, or by
Slurm's srun; the workdir is a folder that all of them see.
"""

import sys

from absl import flags

from nvae_tf import command_line, launcher

_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Folder of the run: checkpoints, metrics, TensorBoard."
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Print what would be trained, and train nothing."
)
_STRATEGY = flags.DEFINE_string(
    "strategy",
    "auto",
    "Devices: one_device; mirrored (all GPUs, in one process); multi_worker "
    "(one device in each of the processes that TF_CONFIG or Slurm describes); "
    "tpu; auto chooses.",
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes",
    1,
    "Start so many local processes, one device each. The batch size of the "
    "configuration is that of each of them.",
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
    """Parses the flags and makes one call."""
    del argv
    config = command_line.config_from_flags()
    if _DRY_RUN.value:
        from nvae_tf import dry_run

        print(dry_run.describe(config, _NUM_PROCESSES.value))
        return
    if _NUM_PROCESSES.value > 1 and not launcher.launched():
        command = [sys.executable, *sys.argv]
        sys.exit(launcher.launch(_NUM_PROCESSES.value, _WORKDIR.value, command))
    from nvae_tf import trainer

    trainer.train(
        config,
        _WORKDIR.value,
        _STRATEGY.value,
        profile_steps=_PROFILE.value,
    )


if __name__ == "__main__":
    command_line.run(main)
