"""What is exported: a trained model and where it came from."""

import dataclasses
import inspect
import typing
from collections.abc import Mapping

import numpy as np

from export.errors import ExportError
from nvae_tf.config import Config
from nvae_tf.model import NVAE

__all__ = ["Source", "load_source"]


@dataclasses.dataclass
class Source:
    """A model with the parameters to export.

    Attributes:
      model: its variables are those of the checkpoint.
      config: of the run.
      info: what else is known: "step", and where measured "nelbo" in nats.
      params: nest of tensors to run the model with, like that of
        `model.read_params()`, which is the default; statistics re-adjusted
        for sampling come in here.
      batch_norm: how the statistics came about, for the model card.
      weights: likewise for the weights.
    """

    model: NVAE
    config: Config
    info: Mapping[str, typing.Any] = dataclasses.field(default_factory=dict)
    params: Mapping | None = None
    batch_norm: str = "moving averages of training"
    weights: str = "as trained"

    def __post_init__(self):
        """Reads the parameters and checks them.

        Raises:
          ExportError: if the configuration is not the model's, or a
            parameter is not finite.
        """
        if self.config.model != self.model.config:
            raise ExportError(
                "The configuration does not describe the model: their "
                "architectures differ."
            )
        if self.params is None:
            self.params = self.model.read_params()
        for path, value in _leaves(self.params):
            if not np.all(np.isfinite(value)):
                raise ExportError(
                    f"The parameter {path} is not finite: training diverged, "
                    "or the normalisation statistics were re-adjusted at a "
                    "temperature that they cannot bear. Export an earlier "
                    "checkpoint or the statistics of training."
                )


def load_source(workdir: str, *, ema: bool = False) -> Source:
    """Loads what a training run left in its workdir.

    Args:
      workdir: of a training run.
      ema: take the exponential average of the weights.

    Raises:
      UserError: if there is no usable checkpoint.
    """
    # Imported here: the rest of `export` does not know of training runs.
    from nvae_tf.workdir import load_model

    if not ema:
        return Source(*load_model(workdir))
    if "ema" not in inspect.signature(load_model).parameters:
        raise ExportError(
            "Training runs of this version keep no averaged weights; leave "
            "out --ema."
        )
    return Source(*load_model(workdir, ema=True), weights="exponential average")


def _leaves(params: Mapping, prefix: str = ""):
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", np.asarray(value)
