"""Trains an NVAE.

    python train.py --config=configs/mnist_demo.py --workdir=runs/demo

Any value of the configuration can be changed: --config.train.batch_size=64.
The same command, started again, goes on where the run in --workdir was.
"""

from absl import flags

from nvae_tf import command_line

_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Folder of the run: checkpoints, metrics, TensorBoard."
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Print what would be trained, and train nothing."
)
command_line.define_config()


def main(argv) -> None:
    """Parses the flags and makes one call."""
    del argv
    config = command_line.config_from_flags()
    if _DRY_RUN.value:
        from nvae_tf import dry_run

        print(dry_run.describe(config))
        return
    from nvae_tf import trainer

    trainer.train(config, _WORKDIR.value)


if __name__ == "__main__":
    command_line.run(main)
