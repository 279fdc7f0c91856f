"""Spectral regularisation and the BN gamma penalty (paper section 3.2)."""

import collections
import typing

import tensorflow as tf

from nvae_tf.model.layers import BatchNorm, Conv2D
from nvae_tf.model.pure_layer import PureLayer

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

    def __call__(self, params: dict, rounds: int = ROUNDS, after=None):
        """Iterates and sums up.

        Args:
          params: what the model's `read_params` returned.
          rounds: of the power iteration, at least 1.
          after: lists of tensors by the paths of kernels, filled by the time
            the gradient is taken: what the gradient to a kernel waits for.

        Returns:
          `(loss, vectors)`: float32 scalar, with a gradient to the kernels,
          which needs the vectors alone; what `store` keeps.
        """
        after = {} if after is None else after
        total = 0.0
        vectors = []
        for group in self.groups.values():
            # Two groups at a time: each needs a copy of its kernels.
            with tf.control_dependencies(vectors[-2:-1]):
                matrices = tf.stop_gradient(_matrices(group, params))
            u = tf.convert_to_tensor(group.u)[:, None, :]  # [n, 1, c_out]
            for _ in range(rounds):
                v, wv, u = _round(matrices, u)
            kernels = {
                path: _at(params, path)["kernel"] for path, _ in group.paths
            }
            total += _singular_values(kernels, v, wv, u, after)
            vectors.append(u[:, 0, :])
        return total, vectors

    def kernels(self, params: dict) -> dict:
        """What lies where the kernels are, by the paths of their layers.

        Args:
          params: what the model's `read_params` returned, or such a nest.
        """
        return {
            path: _at(params, path)["kernel"]
            for group in self.groups.values()
            for path, _ in group.paths
        }

    def store(self, vectors) -> None:
        """Keeps the vectors for the next step."""
        for group, u in zip(self.groups.values(), vectors, strict=True):
            group.u.assign(u)

    @tf.function(autograph=False)
    def warm_up(self, params: dict, rounds: int) -> None:
        """Iterates without a loss, before the first step."""
        for group in self.groups.values():
            matrices = _matrices(group, params)

            def one_round(i, u, matrices=matrices):
                return i + 1, _round(matrices, u)[-1]

            _, u = tf.while_loop(
                lambda i, _: i < rounds,
                one_round,
                (0, group.u[:, None, :]),
                maximum_iterations=rounds,
            )
            group.u.assign(u[:, 0, :])


def _round(matrices, u):
    """One round of the power iteration.

    Vectors are rows: CPUs multiply them by matrices much faster than columns.

    Args:
      matrices: `[n, fan_in, c_out]`.
      u: `[n, 1, c_out]`.

    Returns:
      `(v, wv, u)`: v `[n, 1, fan_in]`, its product with the matrices, and that
      product normalised.
    """
    v = _normalize(tf.linalg.matmul(u, matrices, transpose_b=True))
    wv = tf.linalg.matmul(v, matrices)
    return v, wv, _normalize(wv)


def _singular_values(kernels: dict, v, wv, u, after: dict):
    """The sum of `sigma = v W u^T` over all matrices.

    Its gradient to a matrix is `v^T u`: it does not read the matrix again.

    Args:
      kernels: `[*stack, kh, kw, c_in, c_out]` by path, n matrices in all.
      v: `[n, 1, fan_in]`.
      wv: `[n, 1, c_out]`, the product `v W`.
      u: `[n, 1, c_out]`.
      after: see `SpectralRegularizer`.
    """
    sizes = [k.shape[:-4].num_elements() for k in kernels.values()]

    @tf.custom_gradient
    def sum_of_sigmas(*matrices):
        def grad(upstream):
            gradients = []
            for path, *pair, matrix in zip(
                kernels,
                tf.split(upstream * v, sizes),
                tf.split(u, sizes),
                matrices,
                strict=True,
            ):
                with tf.control_dependencies(after.get(path, [])):
                    product = tf.linalg.matmul(*pair, transpose_a=True)
                gradients.append(tf.reshape(product, matrix.shape))
            return gradients

        return tf.reduce_sum(wv * u), grad

    return sum_of_sigmas(*kernels.values())


def _matrices(group: _KernelGroup, params: dict):
    """The group's kernels, stacked: `[n, fan_in, c_out]`."""
    c_out = group.u.shape[-1]
    stacks = [
        tf.reshape(_at(params, path)["kernel"], [stack, -1, c_out])
        for path, stack in group.paths
    ]
    return stacks[0] if len(stacks) == 1 else tf.concat(stacks, axis=0)


def _normalize(t):
    norm = tf.sqrt(tf.reduce_sum(tf.square(t), axis=-1, keepdims=True))
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
