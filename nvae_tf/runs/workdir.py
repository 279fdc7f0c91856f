"""The folder of one run: its configuration, checkpoints and results.

::

    config.json        the whole configuration
    checkpoints/       see `nvae_tf.runs.checkpointing`
    metrics.jsonl      one record per line
    tensorboard/       scalars and images
"""

import contextlib
import dataclasses
import json
import pathlib
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from nvae_tf.config import Config
from nvae_tf.core.errors import CheckpointError, UserError
from nvae_tf.core.files import write_bytes
from nvae_tf.core.locks import HeldElsewhereError, exclusive
from nvae_tf.core.reading import shown
from nvae_tf.model.averaging import WeightAverage
from nvae_tf.model.nvae import NVAE
from nvae_tf.runs import pretrained_folder
from nvae_tf.runs.checkpointing import Checkpoint, CheckpointStore
from nvae_tf.runs.run_config import CONFIG, TENSORBOARD, read_config

__all__ = [
    "Workdir",
    "assign_tensors",
    "load_model",
    "read_tensors",
    "require_weights",
]


class Workdir:
    """Paths and files of a run.

    Args:
      path: the folder.
    """

    def __init__(self, path):
        if not str(path):
            raise UserError("Name a folder with --workdir=DIR.")
        self.path = pathlib.Path(path)
        self.config_path = self.path / CONFIG
        self.metrics_path = self.path / "metrics.jsonl"
        self.tensorboard_path = self.path / TENSORBOARD

    def checkpoints(self, keep: int = 3) -> CheckpointStore:
        """The run's checkpoints."""
        return CheckpointStore(self.path / "checkpoints", keep)

    def read_config(self) -> Config:
        """The configuration that the run was started with.

        Raises:
          UserError: if this is not the workdir of a run.
        """
        return read_config(self.path)

    def check_config(self, config: Config) -> list[str]:
        """Compares with the configuration that the run was started with.

        What decides the model, its data and the order of the data cannot
        change within a run; schedules, evaluation and paths can.

        Returns:
          The keys that changed, each with its old and new value.

        Raises:
          UserError: if a key changed that cannot.
        """
        if not self.config_path.exists() or not self.checkpoints().steps():
            return []
        old, new = map(dataclasses.asdict, (self.read_config(), config))
        changed = dict(_differences(old, new))
        if config.data.source != "image_folder":
            # Of folders alone: its default has been another.
            changed.pop("data.split_by", None)
        texts = {
            key: f"{key} ({was!r} there, {now!r} now)"
            for key, (was, now) in sorted(changed.items())
        }
        fixed = [key for key in texts if not _may_change(key)]
        if fixed:
            flags = " ".join(
                f"--config.{key}={shlex.quote(str(changed[key][0]))}"
                for key in fixed
            )
            raise UserError(
                f"{self.path} belongs to a run with another configuration; it "
                f"differs in {', '.join(texts[key] for key in fixed)}. Choose "
                f"another --workdir, or the same configuration ({flags})."
            )
        return list(texts.values())

    def write_config(self, config: Config) -> None:
        """Writes config.json."""
        text = json.dumps(config.to_dict(), indent=2) + "\n"
        write_bytes(self.config_path, text.encode())

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the workdir for one training process.

        Raises:
          UserError: if another process trains here.
        """
        with contextlib.ExitStack() as stack:
            if pretrained_folder.is_folder(self.path):
                raise UserError(
                    f"{self.path} is the folder of a pretrained model, which "
                    "training would spoil. Choose another --workdir."
                )
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(exclusive(self.path / ".lock"))
            except HeldElsewhereError as error:
                who = f" ({error.holder})" if error.holder else ""
                raise UserError(
                    f"Another process is training in {self.path}{who}. Stop "
                    "it, or choose another --workdir."
                ) from error
            except OSError as error:
                raise UserError(
                    f"--workdir={self.path} cannot be written to: {error}. "
                    "Choose another folder."
                ) from error
            yield


_CHANGEABLE = (
    "name",
    "train.",
    "evaluation.",
    "checkpoint.",
    "data.path",
    "data.data_dir",
    "data.num_workers",
    "data.skip_corrupt",
    "data.max_pixels",
    "data.max_unpacked_mb",
    "recompute",
    "jit_compile",
)
# train.batch_size and train.accumulate may change with the number of replicas:
# a checkpoint knows how many images a step takes.
_FIXED = ("train.seed", "train.ema_decay")


def _may_change(key: str) -> bool:
    return key.startswith(_CHANGEABLE) and key not in _FIXED


def _differences(
    old: dict, new: dict, prefix: str = ""
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yields (key, (old value, new value)) of what differs."""
    for key in old.keys() | new.keys():
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            yield f"{prefix}{key}", (a, b)


def read_tensors(variables: dict[str, Any]) -> dict[str, np.ndarray]:
    """Values of variables, by the names that checkpoints use."""
    return {name: np.asarray(v) for name, v in variables.items()}


def assign_tensors(
    variables: dict[str, Any],
    tensors: Mapping[str, np.ndarray],
    origin: str,
    *,
    unless_finite: str | None = None,
) -> None:
    """Sets variables to what is stored under the same names.

    Args:
      variables: by those names.
      tensors: what is stored; floats of any precision.
      origin: where, the start of messages.
      unless_finite: refuse what is not finite, as a model to be used must be,
        and say this. A run goes on with whatever it was, and tells itself what
        is wrong.

    Raises:
      CheckpointError: if one is missing, has another shape or type, or there
        is a variable of the model that is not asked for.
    """
    unknown = sorted(
        k for k in tensors.keys() - variables.keys() if k.startswith("model/")
    )
    if unknown:
        raise CheckpointError(
            f"{origin} holds "
            f"'{shown(unknown[0])}', which the model lacks: it belongs to "
            "another configuration or version."
        )
    for name, variable in variables.items():
        value = tensors.get(name)
        if value is None or value.shape != tuple(variable.shape):
            found = "nothing" if value is None else f"shape {value.shape}"
            raise CheckpointError(
                f"{origin} has {found} under {name!r}, where shape "
                f"{tuple(variable.shape)} is needed: it belongs to another "
                "configuration or version."
            )
        dtype = np.dtype(keras.backend.standardize_dtype(variable.dtype))
        if not np.can_cast(value.dtype, dtype, "same_kind"):
            raise CheckpointError(
                f"{origin} holds {value.dtype} values under {name!r}, where "
                f"{dtype} is needed: it belongs to another version."
            )
        with np.errstate(over="ignore"):
            value = value.astype(dtype, copy=False)
        if unless_finite is not None and not np.all(np.isfinite(value)):
            raise CheckpointError(
                f"{origin} holds values under {name!r} that are not finite: "
                f"{unless_finite}."
            )
        variable.assign(value)


def require_weights(
    config: Config, tensors: Mapping[str, np.ndarray], origin: str
) -> None:
    """Raises CheckpointError if a model is far larger than what is stored.

    Whoever wrote config.json may ask for any model: its weights must be there
    before it is built.

    Args:
      config: that describes the model.
      tensors: what is stored.
      origin: where, the start of the message.
    """
    given = sum(
        value.size
        for name, value in tensors.items()
        if name.startswith("model/")
    )
    least = config.model.least_weights()
    if least > given:
        raise CheckpointError(
            f"{origin} holds {given:,} weights, but the model that "
            f"config.json describes has at least {least:,}: they do not belong "
            "together."
        )


def _read_checkpoint(workdir: Workdir, which: str) -> Checkpoint:
    """A checkpoint by its step, or "latest" or "best".

    Raises:
      UserError: if there is none such, or it is damaged.
    """
    store = workdir.checkpoints()
    if which == "latest":
        checkpoint = store.restore_latest()
        if checkpoint is None and pretrained_folder.is_folder(workdir.path):
            raise CheckpointError(
                f"{workdir.path} is the folder of a pretrained model, not a "
                f"workdir: use --model={workdir.path}, or "
                "nvae_tf.from_pretrained in Python."
            )
        if checkpoint is None:
            raise CheckpointError(
                f"{workdir.path} holds no checkpoint yet; nvae train writes "
                "the first one when it starts."
            )
        return checkpoint
    if which == "best":
        checkpoint = store.restore_best()
        if checkpoint is None:
            raise CheckpointError(
                f"No checkpoint in {workdir.path} has been evaluated yet; "
                "nvae train evaluates every evaluation.every_epochs epochs."
            )
        return checkpoint
    steps = store.steps()
    is_number = which.isascii() and which.isdecimal() and len(which) < 19
    if not is_number or int(which) not in steps:
        raise CheckpointError(
            f"--checkpoint={shown(which)} must be latest, best or one of the "
            f"steps in {workdir.path}: "
            f"{', '.join(map(str, steps)) or 'none yet'}."
        )
    return store.restore(int(which))


def load_model(
    path, *, ema: bool | None = None, checkpoint: str = "latest"
) -> tuple[NVAE, Config, dict[str, Any]]:
    """The model of a run, to be used: in float32 whatever it trained in.

    Args:
      path: the workdir.
      ema: whether to take the exponential average of the weights and of the
        statistics of batch normalisation; None takes it where the run keeps
        one, which is what such a run is for.
      checkpoint: "latest", "best" (by held-out NELBO) or a step.

    Returns:
      The model, the run's configuration, and what is known of the weights:
      "step", "ema" (whether they are the average) and, where they were
      evaluated, "nelbo" (nats) and "bits_per_dim".

    Raises:
      UserError: if there is no run, no intact checkpoint, or no average.
    """
    workdir = Workdir(path)
    config = workdir.read_config()
    found = _read_checkpoint(workdir, checkpoint)
    saved = found.metadata.get("model")
    if saved is not None and saved != config.model.to_dict():
        raise CheckpointError(
            f"The checkpoint of step {found.step} in {path} is of another "
            "configuration than config.json beside it: restore that file."
        )
    origin = f"The checkpoint of step {found.step} in {path}"
    diverged = (
        "the run had diverged. Choose an earlier one with --checkpoint=STEP"
    )
    require_weights(config, found.tensors, origin)
    model = NVAE(config.model, seed=None)
    # Not in the precision of the run: that is for training.
    model.compute_in("float32")
    assign_tensors(
        model.named_variables("model/"),
        found.tensors,
        origin,
        unless_finite=diverged,
    )
    evaluation = _group(found.metadata.get("evaluation"))
    averaged = _group(evaluation.pop("average", None))
    if evaluation.pop("step", found.step) != found.step:
        # Of an earlier state of the model.
        evaluation, averaged = {}, {}
    has_average = bool(config.train.ema_decay) and any(
        name.startswith("average/") for name in found.tensors
    )
    if ema and not has_average:
        reason = (
            f"the checkpoint of step {found.step} holds none"
            if config.train.ema_decay
            else "train.ema_decay is 0"
        )
        raise UserError(
            f"The run in {path} keeps no averaged weights: {reason}. Leave "
            "--ema away."
        )
    if ema is None:
        ema = has_average
    if ema:
        average = WeightAverage(model, config.train.ema_decay)
        assign_tensors(
            {**model.named_variables("model/"), **average.named_variables()},
            found.tensors,
            origin,
            unless_finite=diverged,
        )
        average.assign_to_model()
        evaluation = averaged
    return model, config, {"step": found.step, "ema": ema, **evaluation}


def _group(value: Any) -> dict[str, Any]:
    """A copy of a group of values; empty for anything else."""
    return dict(value) if isinstance(value, dict) else {}
