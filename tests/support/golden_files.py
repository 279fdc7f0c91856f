"""The files of the authors' program's results, and the model they belong to.

`NAME.npz` holds inputs and results, `NAME.pt` beside it the checkpoint.  Images
and noise are NCHW there; everything here is NHWC.
"""

from __future__ import annotations

import json
import os
import pathlib

import numpy as np
import tensorflow as tf

from nvae_tf.authors import reference_import
from nvae_tf.config.schedules import Coefficients
from nvae_tf.model import flat, losses
from nvae_tf.model.pure_layer import Mode
from nvae_tf.model.regularizers import SpectralRegularizer
from nvae_tf.training.optimizer import Adamax
from nvae_tf.training.train_step import TrainStep

HERE = pathlib.Path(__file__).parents[1] / "data" / "reference"
FOLDER = pathlib.Path(os.environ.get("NVAE_GOLDEN_DIR") or HERE)

# What the two training steps of every file were taken with.
REGULARIZATION, LEARNING_RATE, WEIGHT_DECAY = 1e-2, 1e-2, 3e-4
# Buffers that say nothing about the model.
_IGNORED = ("num_batches_tracked", "weight_normalized")
# No parameter moves further in two steps of Adamax at that learning rate.
_FURTHEST = 2.5 * LEARNING_RATE


def pairs() -> list[pathlib.Path]:
    """Every `NAME.npz` that has its `NAME.pt`."""
    files = sorted(FOLDER.glob("*.npz"))
    return [path for path in files if path.with_suffix(".pt").exists()]


def likelihoods() -> pathlib.Path:
    """The one file without a checkpoint, from here if `FOLDER` lacks it."""
    path = FOLDER / "likelihoods.npz"
    return path if path.exists() else HERE / "likelihoods.npz"


def nhwc(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, 1, -1)


class Golden:
    """One pair of files."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        with np.load(path) as file:
            self.arrays = {
                key: file[key]
                for key in file.files
                if not key.endswith(_IGNORED)
            }
        self.config = json.loads(str(self.arrays["config"]))
        self.x = nhwc(self.arrays["x"])
        self.eps = [
            nhwc(self.group("eps")[n]) for n in sorted(self.group("eps"))
        ]

    def group(self, prefix: str) -> dict[str, np.ndarray]:
        """What lies under `prefix/`, images turned to NHWC."""
        start = f"{prefix}/"
        found = {
            key.removeprefix(start): array
            for key, array in self.arrays.items()
            if key.startswith(start)
        }
        if prefix in ("eval", "sample", "train0", "train1"):
            return {k: nhwc(a) if a.ndim == 4 else a for k, a in found.items()}
        return found

    def load(self):
        """`(model, config)` from the checkpoint."""
        return reference_import.load(self.path.with_suffix(".pt"))

    def steps(self) -> list[int]:
        """Which training steps the file holds, 0 and 1."""
        return [i for i in (0, 1) if self.group(f"train{i}")]

    def coefficients(self, step: int = 0) -> Coefficients:
        """What step 0 or 1 was taken with."""
        beta = self.arrays[f"train{step}/kl_coeff"]
        return Coefficients(
            tf.constant(beta, tf.float32),
            tf.constant(REGULARIZATION, tf.float32),
            tf.constant(LEARNING_RATE, tf.float32),
        )

    def train_step(self, *, unroll: bool = False) -> TrainStep:
        """The production step, in the state the file's first step met."""
        model, _ = self.load()
        model.unroll = unroll
        if self._chose_gains_from_data():
            output = model(self.x, eps=self.eps, mode=Mode.INITIALIZATION)
            model.apply_updates(output.updates)
        spectral = SpectralRegularizer(model)
        self._assign_vectors(model, spectral)
        optimizer = Adamax(model.trainable_variables, WEIGHT_DECAY)
        return TrainStep(model, optimizer, spectral)

    def _chose_gains_from_data(self) -> bool:
        """Whether data-dependent initialisation was part of the first step."""
        before, after = self.group("state"), self.group("state2")
        return any(
            np.abs(after[key] - before[key]).max() > _FURTHEST
            for key in after
            if key.endswith("log_weight_norm")
        )

    def _assign_vectors(self, model, spectral: SpectralRegularizer) -> None:
        """Gives every kernel its row of `spectral_u0`."""
        slots = reference_import.reference_slots(model)
        paths = {
            id(layer.v): path
            for path, layer in model.leaves()
            if hasattr(layer, "v")
        }
        vectors = self.group("spectral_u0")
        remaining = {shape: list(rows) for shape, rows in vectors.items()}
        row_of = {}
        for name in json.loads(str(self.arrays["spectral_order"])):
            slot = slots[f"{name.removesuffix('.weight')}.weight"]
            c_out, *rest = slot.shape
            rows = remaining[f"{c_out}x{int(np.prod(rest))}"]
            row_of[paths[id(slot.variable)], slot.index or 0] = rows.pop(0)
        unused = {shape: len(rows) for shape, rows in remaining.items() if rows}
        assert not unused, f"vectors without a kernel: {unused}"
        for group in spectral.groups.values():
            group.u.assign(
                np.stack(
                    [
                        row_of.pop((path, index))
                        for path, stack in group.paths
                        for index in range(stack)
                    ]
                )
            )
        assert not row_of, f"kernels that are not regularised: {list(row_of)}"


def gradients_by_key(step: TrainStep, flat) -> dict[str, np.ndarray | None]:
    """The flat gradient by the reference's keys; None for what has none."""
    parameters = step.optimizer.parameters
    sizes = [int(np.prod(v.shape)) for v in parameters]
    pieces = np.split(np.asarray(flat), np.cumsum(sizes)[:-1])
    by_variable = {
        id(v): piece.reshape(v.shape)
        for v, piece in zip(parameters, pieces, strict=True)
    }
    slots = reference_import.reference_slots(step.model)
    return {
        key: (
            slot.of(by_variable[id(slot.variable)])
            if id(slot.variable) in by_variable
            else None
        )
        for key, slot in slots.items()
        if "running_" not in key
    }


def state_by_key(model) -> dict[str, np.ndarray]:
    """All weights and statistics by the reference's keys."""
    slots = reference_import.reference_slots(model)
    return {key: slot.of(slot.variable) for key, slot in slots.items()}


def noise(gradients: dict) -> float:
    """What rounding leaves of a gradient that ought to cancel.

    The gradient to a kernel's norm before batch normalisation, or to a bias
    there, is a sum of terms as large as the gradients around it which is zero
    but for the penalties: what remains is rounding of the terms, in an order
    that each processor and library chooses for itself.

    Args:
      gradients: of the whole model, by key.

    Returns:
      Half of float32's epsilon of the norm of them all.
    """
    squares = [
        np.sum(np.square(g, dtype=np.float64)) for g in gradients.values()
    ]
    return 2.0**-24 * float(np.sqrt(np.sum(squares)))


def assert_gradients_agree(expected: dict, actual: dict) -> None:
    """The gradient of every parameter, None where there is none.

    Args:
      expected: by key, of the authors' program.
      actual: likewise, of another.
    """
    assert actual.keys() == expected.keys()
    rounding = noise(expected)
    wrong = {}
    for key, gradient in expected.items():
        if actual[key] is None:
            assert not gradient.any(), f"{key} must have a gradient"
            continue
        assert actual[key].shape == gradient.shape, key
        norm = np.linalg.norm(gradient)
        error = np.linalg.norm(actual[key] - gradient)
        if not error < 1e-3 * norm + rounding:
            wrong[key] = error, norm
    assert not wrong


def assert_states_agree(gradients: dict, expected: dict, actual: dict) -> None:
    """All weights, and statistics of batch normalisation, after two steps.

    Args:
      gradients: by key, before the first of them.
      expected: weights by key, of the authors' program.
      actual: likewise, of another.
    """
    assert actual.keys() == expected.keys()
    rounding = noise(gradients)
    # Adamax divides a gradient by its size and epsilon: it makes much of one
    # that is nothing but noise, in both steps.
    of_noise = 2 * LEARNING_RATE * rounding / Adamax.EPSILON
    wrong = {}
    for key, value in expected.items():
        tolerance = 2e-4
        if key in gradients and np.linalg.norm(gradients[key]) <= rounding:
            tolerance += of_noise
        error = np.abs(actual[key] - value).max()
        if not error < tolerance:
            wrong[key] = error
    assert not wrong


def watched(step: TrainStep, x, eps):
    """A step that also tells what it starts from.

    Returns:
      A function of coefficients that takes the step, and returns
      `(results, gradient, metrics)`: what files hold of the pass in training
      mode, the flat gradient, and what the step returns.
    """
    take = type(step).__call__.python_function
    gradients = step.objective.gradients

    @tf.function(autograph=False)
    def taken(coefficients):
        seen = []

        def remembered(*args, **kwargs):
            seen.append(gradients(*args, **kwargs))
            return seen[-1]

        step.objective.gradients = remembered
        metrics = take(step, x, coefficients, eps=eps)
        [(_, terms, gradient, _)] = seen
        return terms, flat.pack(step.optimizer.pack(gradient)), metrics

    def run(coefficients):
        # A step itself has no use for densities.
        output = step.model(x, eps=eps, training=True)
        results = pass_results(step.model, output, x)
        terms, gradient, metrics = taken(coefficients)
        return results | loss_results(terms), gradient, metrics

    return run


def pass_results(model, output, x) -> dict:
    """What files hold about a pass, from our output."""
    likelihood = model.likelihood(output.logits)
    nll = losses.reconstruction_nll(likelihood, x)
    return {
        "logits": output.logits,
        "kl_per_group": output.kl_per_group,
        "kl_diag": tf.reduce_mean(output.kl_per_channel, axis=0),
        "log_q": output.log_q,
        "log_p": output.log_p,
        "reconstruction_nll": nll,
        "log_importance_weight": losses.log_importance_weight(
            nll, output.log_p, output.log_q
        ),
        "output_mean": likelihood.mean(),
    }


def loss_results(terms) -> dict:
    """What files hold about a loss, from ours."""
    return {
        "reconstruction_nll": terms.reconstruction_nll,
        "kl_balance_coeffs": terms.balance_coefficients,
        "balanced_kl": terms.balanced_kl,
        "spectral_loss": terms.spectral,
        "bn_loss": terms.batch_norm,
        "total_loss": terms.total,
    }
