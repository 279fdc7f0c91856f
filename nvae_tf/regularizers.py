"""Spectral regularisation and the BN gamma penalty (paper section 3.2)."""

import collections
import typing

import tensorflow as tf

from nvae_tf.layers import BatchNorm, Conv2D, PureLayer

__all__ = [
    "FIRST_STEP_ROUNDS",
    "ROUNDS",
    "SpectralRegularizer",
    "batch_norm_loss",
]

ROUNDS = 4
FIRST_STEP_ROUNDS = 40
_SMALLEST_NORM = 1e-3


class _KernelGroup(typing.NamedTuple):
    """Kernels that are matrices of one shape.

    Attributes:
      paths: where they are in `read_params`, with their stack sizes.
      u: variable `[n, c_out]`, the left singular vectors so far.
    """

    paths: list[tuple[tuple[str, ...], int]]
    u: tf.Variable


class SpectralRegularizer:
    """Sum of the largest singular values of all convolution kernels.

    Every kernel, depthwise and masked ones too, counts as the matrix
    `[fan_in, c_out]` of its normalised values.  Matrices of one shape are
    stacked and share their power iteration; its vectors stay between steps.

    Args:
      model: whose kernels to regularise.
      seed: of the first vectors.
    """

    def __init__(self, model: PureLayer, seed: int = 0):
        paths = collections.defaultdict(list)
        for path, layer in model.leaves():
            if isinstance(layer, Conv2D):
                *_, c_out = layer.v.shape
                fan_in = layer.v.shape[-4:-1].num_elements()
                paths[c_out, fan_in].append((path, layer.stack or 1))
        self.groups: dict[tuple[int, int], _KernelGroup] = {}
        for i, ((c_out, fan_in), members) in enumerate(paths.items()):
            count = sum(stack for _, stack in members)
            noise = tf.random.stateless_normal(
                [count, c_out], [seed, i], alg="philox"
            )
            self.groups[c_out, fan_in] = _KernelGroup(
                members,
                tf.Variable(
                    _normalize(noise), False, name=f"u_{c_out}x{fan_in}"
                ),
            )

    @property
    def variables(self) -> list[tf.Variable]:
        """The vectors of the power iteration; checkpoints keep them."""
        return [group.u for group in self.groups.values()]

    def __call__(self, params: dict, rounds: int = ROUNDS):
        """Iterates and sums up.

        Args:
          params: what the model's `read_params` returned.
          rounds: of the power iteration, at least 1.

        Returns:
          `(loss, vectors)`: float32 scalar, with a gradient to the kernels;
          what `store` keeps.
        """
        total = 0.0
        vectors = []
        for (_, fan_in), group in self.groups.items():
            # Two groups at a time: each needs a copy of its kernels.
            with tf.control_dependencies(vectors[-2:-1]):
                matrices = _matrices(group, params, fan_in)
            constant = tf.stop_gradient(matrices)  # [n, fan_in, c_out]
            u = tf.convert_to_tensor(group.u)[:, :, None]  # [n, c_out, 1]
            for _ in range(rounds):
                v = _normalize(tf.linalg.matmul(constant, u), axis=-2)
                wv = tf.linalg.matmul(constant, v, transpose_a=True)
                u = _normalize(wv, axis=-2)
            # sigma = v^T W u = <W, v u^T>, one gradient per kernel.
            total += tf.reduce_sum(v * tf.linalg.matmul(matrices, u))
            vectors.append(u[:, :, 0])
        return total, vectors

    def store(self, vectors) -> None:
        """Keeps the vectors for the next step."""
        for group, u in zip(self.groups.values(), vectors, strict=True):
            group.u.assign(u)

    @tf.function(autograph=False)
    def warm_up(self, params: dict, rounds: int) -> None:
        """Iterates without a loss, before the first step."""
        for (_, fan_in), group in self.groups.items():
            matrices = _matrices(group, params, fan_in)

            def one_round(i, u, matrices=matrices):
                v = _normalize(tf.linalg.matmul(matrices, u), axis=-2)
                u = tf.linalg.matmul(matrices, v, transpose_a=True)
                return i + 1, _normalize(u, axis=-2)

            _, u = tf.while_loop(
                lambda i, _: i < rounds,
                one_round,
                (0, group.u[:, :, None]),
                maximum_iterations=rounds,
            )
            group.u.assign(u[:, :, 0])


def _matrices(group: _KernelGroup, params: dict, fan_in: int):
    """The group's kernels, stacked: `[n, fan_in, c_out]`."""
    c_out = group.u.shape[-1]
    stacks = [
        tf.reshape(_at(params, path)["kernel"], [stack, fan_in, c_out])
        for path, stack in group.paths
    ]
    return stacks[0] if len(stacks) == 1 else tf.concat(stacks, axis=0)


def _normalize(t, axis=-1):
    norm = tf.sqrt(tf.reduce_sum(tf.square(t), axis, keepdims=True))
    return t / tf.maximum(norm, _SMALLEST_NORM)


def batch_norm_loss(model: PureLayer, params: dict):
    """Sum over all BN layers of `max |gamma|`, float32 scalar."""
    gammas = collections.defaultdict(list)
    for path, layer in model.leaves():
        if isinstance(layer, BatchNorm):
            gamma = _at(params, path)["gamma"]
            width = gamma.shape[-1]
            gammas[width].append(tf.reshape(gamma, [-1, width]))
    return tf.add_n(
        [
            tf.reduce_sum(tf.reduce_max(tf.abs(tf.concat(same, 0)), axis=-1))
            for same in gammas.values()
        ]
        or [tf.zeros([])]
    )


def _at(params: dict, path: tuple[str, ...]) -> dict:
    for name in path:
        params = params[name]
    return params
