"""Re-adjusted normalisation statistics, kept in the workdir for the next time.

Hundreds of passes go into them; see `nvae_tf.readjust`.
"""

import io
import pathlib
from collections.abc import Callable, Iterable

import numpy as np

from export.errors import ExportError
from nvae_tf.data_files import write_bytes
from nvae_tf.model import NVAE
from nvae_tf.readjust import STEPS, readjust_batch_norm

__all__ = ["readjust_cached"]

FOLDER = "readjusted_batch_norm"


def readjust_cached(
    model: NVAE,
    workdir: str,
    name: str,
    temperature: float,
    seed: int,
    *,
    steps: int = STEPS,
    progress: Callable[[Iterable], Iterable] = iter,
) -> None:
    """Sets the model's statistics to those of draws from the prior.

    Args:
      model: its statistics are changed.
      workdir: where results are kept.
      name: of the weights, such as that of their step.
      temperature: of the draws.
      seed: of the draws.
      steps: see `readjust_batch_norm`.
      progress: likewise.

    Raises:
      UserError: if a statistic is not finite, or cannot be stored.
    """
    path = (
        pathlib.Path(workdir)
        / FOLDER
        / f"{name}_temperature{temperature:g}_seed{seed}_passes{steps}.npz"
    )
    statistics = {
        key: variable
        for key, variable in model.named_variables().items()
        if key.endswith(("/mean", "/variance"))
    }
    if path.exists():
        values = _read(path, statistics)
        for key, variable in statistics.items():
            variable.assign(values[key])
        return
    readjust_batch_norm(
        model, temperature, steps=steps, seed=seed, progress=progress
    )
    content = io.BytesIO()
    np.savez(content, **{k: v.numpy() for k, v in statistics.items()})
    write_bytes(path, content.getvalue())


def _read(path: pathlib.Path, statistics) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as stored:
            values = dict(stored)
    except (OSError, ValueError, EOFError) as error:
        values, reason = {}, error
    else:
        reason = "it belongs to another model"
    shapes = {key: tuple(v.shape) for key, v in statistics.items()}
    if {key: v.shape for key, v in values.items()} != shapes:
        raise ExportError(
            f"The statistics in {path} cannot be used ({reason}); remove the "
            "file to have them computed again."
        )
    return values
