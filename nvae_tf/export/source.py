"""What is exported: a trained model and where it came from."""

import dataclasses
import typing
from collections.abc import Mapping

import numpy as np

from nvae_tf.config import Config
from nvae_tf.core.errors import ExportError
from nvae_tf.model.nvae import NVAE

__all__ = ["Source", "load_source"]


@dataclasses.dataclass
class Source:
    """A model with the parameters to export.

    Attributes:
      model: its variables are those of the checkpoint.
      config: of the run.
      info: what else is known: "step", whether the weights are the average,
        "ema", and where measured "nelbo" in nats.
      params: nest of tensors to run the model with, like that of
        `model.read_params()`, which is the default.
      draw_params: likewise for draws from the prior, where their statistics
        have been re-adjusted; by default `params`.
      batch_norm: how the statistics came about, for the model card.
      weights: likewise for the weights.
      options: of `load_source`, which would load the same again.
    """

    model: NVAE
    config: Config
    info: Mapping[str, typing.Any] = dataclasses.field(default_factory=dict)
    params: Mapping | None = None
    draw_params: Mapping | None = None
    batch_norm: str = "moving averages of training"
    weights: str = "as trained"
    options: Mapping[str, typing.Any] = dataclasses.field(default_factory=dict)

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
        if self.draw_params is None:
            self.draw_params = self.params
        for path, value in (
            *_leaves(self.params),
            *_leaves(self.draw_params),
        ):
            if not np.all(np.isfinite(value)):
                raise ExportError(
                    f"The parameter {path} is not finite: training diverged, "
                    "or the normalisation statistics were re-adjusted at a "
                    "temperature that they cannot bear. Export an earlier "
                    "checkpoint or the statistics of training."
                )


def load_source(
    workdir: str = "",
    *,
    pretrained: str = "",
    checkpoint: str = "latest",
    ema: bool | None = None,
    readjust_temperature: float | None = None,
    readjust_seed: int = 0,
    **readjust_options,
) -> Source:
    """Loads what a training run left in its workdir, or a pretrained model.

    Args:
      workdir: of a training run.
      pretrained: in its place, see `nvae_tf.runs.model_places`; it has one
        set of weights, so `checkpoint` and `ema` say nothing of it.
      checkpoint: which of the run, see `nvae_tf.runs.workdir.load_model`.
      ema: whether to take the exponential average of the weights; None takes
        it where the run keeps one. `Source.options` says what was taken.
      readjust_temperature: re-adjust normalisation at this temperature, for
        draws from the prior; None for the statistics of training.
      readjust_seed: of the draws that they settle on.
      **readjust_options: of `nvae_tf.sampling.readjust.readjust_cached`; what
        it gives for a pretrained model is not kept.

    Raises:
      UserError: if there is no usable checkpoint, no average where one is
        wanted, or re-adjusted statistics are not finite.
    """
    # Imported here: the rest of `export` does not know of training runs.
    from nvae_tf.runs.measured import metrics_of
    from nvae_tf.runs.pretrained import load
    from nvae_tf.runs.workdir import load_model

    options: dict[str, typing.Any]
    if pretrained:
        model, config, info = load(pretrained)
        options = {}
    else:
        model, config, info = load_model(
            workdir, ema=ema, checkpoint=checkpoint
        )
        metrics = metrics_of(workdir, info["step"], info["ema"])
        if metrics:
            info["metrics"] = metrics
        # By its step: the run may go on.
        options = {"checkpoint": str(info["step"]), "ema": info["ema"]}
    source = Source(
        model,
        config,
        info,
        weights="exponential average" if info["ema"] else "as trained",
        options=options,
    )
    if readjust_temperature is None:
        return source
    from nvae_tf.sampling.readjust import checkpoint_tag, readjust_cached

    readjust_cached(
        source.model,
        workdir or None,
        checkpoint_tag(info["step"], info["ema"]),
        readjust_temperature,
        readjust_seed,
        **readjust_options,
    )
    return dataclasses.replace(
        source,
        draw_params=source.model.read_params(),
        batch_norm="moving averages of training; for draws from the prior "
        f"re-adjusted at temperature {readjust_temperature:g}",
        options={
            **options,
            "readjust_temperature": readjust_temperature,
            "readjust_seed": readjust_seed,
        },
    )


def _leaves(params: Mapping, prefix: str = ""):
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", np.asarray(value)
