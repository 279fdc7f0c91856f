"""What every step of a training run is given."""

from nvae_tf.config import Config
from nvae_tf.core.errors import UserError
from nvae_tf.datasets import pipeline
from nvae_tf.distribute.devices import Devices

__all__ = ["TrainBatches"]


class TrainBatches:
    """The batches of all steps, this process's share of each.

    Args:
      config: of the run.
      devices: of the run.

    Attributes:
      steps_per_epoch: of `train.accumulate` batches each.

    Raises:
      UserError: if the images cannot be had, or are too few for one step.
    """

    def __init__(self, config: Config, devices: Devices):
        self._config = config
        self._devices = devices
        self._source = pipeline.open_source(config, "train")
        self._batch_size = config.train.batch_size * devices.local_replicas
        self.steps_per_epoch = self._count_steps()

    def from_step(self, step: int, seed: int):
        """Batches from a step on, `train.accumulate` for each step.

        Args:
          step: the number of steps before.
          seed: of order and transformations.

        Returns:
          An iterator without end, to be closed; see `datasets.batches`.
        """
        accumulate = self._config.train.accumulate
        epoch, rest = divmod(step, self.steps_per_epoch)
        return pipeline.batches(
            self._source,
            self._config,
            training=True,
            batch_size=self._batch_size,
            seed=seed,
            position=pipeline.Position(epoch, rest * accumulate),
            shard_index=self._devices.worker,
            num_shards=self._devices.num_workers,
            batches_per_step=accumulate,
        )

    def _count_steps(self) -> int:
        train = self._config.train
        batches = pipeline.num_batches(
            self._source,
            training=True,
            batch_size=self._batch_size,
            num_shards=self._devices.num_workers,
        )
        if batches < train.accumulate:
            raise UserError(
                f"{self._source.name} has {len(self._source)} images, too few "
                f"for one step: train.batch_size {train.batch_size} on "
                f"{self._devices.num_replicas} devices, train.accumulate "
                f"{train.accumulate} times. Lower one of them."
            )
        return batches // train.accumulate
