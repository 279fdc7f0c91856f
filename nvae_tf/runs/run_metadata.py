"""The part of a run's checkpoint that is not arrays: plain values, as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nvae_tf.config import Config
from nvae_tf.core.errors import CheckpointError

__all__ = ["damaged", "require_run_metadata", "run_metadata"]

# What it holds at least.
_KINDS = {
    "steps_per_epoch": int | None,
    "position": list,
    "metrics_offset": int,
    "evaluation": dict | None,
    "evaluation_due": bool,
}


def run_metadata(
    config: Config,
    *,
    steps_per_epoch: int | None,
    position: Sequence[int],
    metrics_offset: int,
    evaluation: dict[str, Any] | None = None,
    evaluation_due: bool = False,
    **further: Any,
) -> dict[str, Any]:
    """What a run goes on from, beside its arrays.

    Args:
      config: of the run.
      steps_per_epoch: None where only training will know, see
        `training.new_run`.
      position: epoch, and steps taken in it.
      metrics_offset: bytes of metrics.jsonl up to there.
      evaluation: the last one's numbers; None before the first.
      evaluation_due: whether the model as it is has yet to be evaluated.
      **further: `images_per_step`; `rollbacks`, of `training.recovery`;
        `imported`, where weights of another program are from.
    """
    return {
        "steps_per_epoch": steps_per_epoch,
        "position": list(position),
        "seed": config.train.seed,
        "model": config.model.to_dict(),
        "metrics_offset": metrics_offset,
        "evaluation": evaluation,
        "evaluation_due": evaluation_due,
        **further,
    }


def require_run_metadata(metadata: Mapping[str, Any], folder: Any) -> None:
    """Raises CheckpointError for what no run has saved.

    Args:
      metadata: of a checkpoint.  What else than its form has to be right, such
        as the model, is for the run that goes on from it.
      folder: of the run, to be named.
    """
    for name, kind in _KINDS.items():
        if name not in metadata or not isinstance(metadata[name], kind):
            raise damaged(name, folder)
    position = metadata["position"]
    if [type(n) for n in position] != [int, int] or min(position) < 0:
        raise damaged("position", folder)
    if metadata["metrics_offset"] < 0:
        raise damaged("metrics_offset", folder)
    images = metadata.get("images_per_step", 1)
    if type(images) is not int or images < 1:
        raise damaged("images_per_step", folder)


def damaged(name: str, folder: Any) -> CheckpointError:
    """What to raise for an entry that no run has saved."""
    return CheckpointError(
        f"The latest checkpoint in {folder} has no {name!r} that a run could "
        "have saved: take one from elsewhere, or choose another --workdir."
    )
