"""The flags that say what is exported, the same for every kind of export."""

import functools

from absl import flags

from export.source import Source, load_source
from nvae_tf.progress import progress

__all__ = ["define", "load"]


def define() -> None:
    """`--workdir` and how the model in it is taken."""
    flags.DEFINE_string("workdir", "", "Folder of the run.")
    flags.DEFINE_string(
        "checkpoint",
        "latest",
        "Which of its checkpoints: latest, best (by held-out NELBO) or a step.",
    )
    flags.DEFINE_bool("ema", False, "Export the averaged weights.")
    flags.DEFINE_float(
        "temperature", 0.7, "The model is meant to be sampled at."
    )
    flags.DEFINE_bool(
        "readjust_bn",
        False,
        "Re-adjust normalisation to draws at the temperature, for what draws "
        "from the prior.",
    )
    flags.DEFINE_integer("readjust_seed", 0, "Of these draws.")


def load() -> Source:
    """What the flags describe.

    Raises:
      UserError: see `load_source`.
    """
    values = flags.FLAGS
    return load_source(
        values.workdir,
        checkpoint=values.checkpoint,
        ema=values.ema,
        readjust_temperature=values.temperature if values.readjust_bn else None,
        readjust_seed=values.readjust_seed,
        progress=functools.partial(progress, desc="re-adjusting"),
    )
