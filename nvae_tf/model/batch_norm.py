"""Batch normalisation with its activation, over one replica or many.

The backward pass keeps the input and computes the normalised values again
from the moments: an activation's output, which is as large as its input, is
kept only where the operation behind it wants it, and by `normalize_then` not
even there.

On several replicas the moments are those of the whole batch.  One reduction
of two numbers per channel in each direction carries all that the replicas have
to tell each other, and TensorFlow's own operation does the rest, as on one.
"""

import dataclasses
import functools
import typing

import tensorflow as tf

from nvae_tf.distribute import replicas
from nvae_tf.model.ops import ACTIVATIONS

__all__ = [
    "EPSILON",
    "Moments",
    "affine",
    "moments_of_all",
    "normalize",
    "normalize_then",
    "zero_after",
]

EPSILON = 1e-5


class Moments(typing.NamedTuple):
    """What a batch's values are normalised by.

    Attributes:
      mean: float32 `[C]`, over batch and space of all replicas.
      variance: float32 `[C]`, the *unbiased* one: what moving averages take.
    """

    mean: typing.Any
    variance: typing.Any


def normalize(x, gamma, beta, activation: str, moments: Moments | None = None):
    """Normalises by the batch's own moments and applies an activation.

    Args:
      x: `[B, H, W, C]`, any floating dtype.
      gamma: float32 `[C]`.
      beta: float32 `[C]`.
      activation: a key of `ACTIVATIONS`.
      moments: those of `x`, if an earlier pass found them already.

    Returns:
      `(y, moments)`: y like x, and its `Moments`, without gradient.
    """

    @tf.custom_gradient
    def run(x, gamma, beta):
        norm = _forward(x, gamma, beta, moments)
        y = ACTIVATIONS[activation][0](norm.normalized)

        def grad(upstream, *_):
            if activation != "linear":
                z = norm.again(zero_after(upstream))
                upstream = ACTIVATIONS[activation][1](z, upstream)
            return norm.gradients(upstream)

        return (y, *norm.moments), grad

    y, mean, variance = run(x, gamma, beta)
    return y, _constant(mean, variance)


def normalize_then(
    function, x, gamma, beta, activation: str, weights, moments=None
):
    """`function(normalize(x), weights)`, without keeping what is in between.

    The backward pass computes the input of `function` again.

    Args:
      function: `(y, weights) -> out`, whose gradient reads its arguments and
        not its result, such as a convolution.
      x: `[B, H, W, C]`, any floating dtype.
      gamma: float32 `[C]`.
      beta: float32 `[C]`.
      activation: a key of `ACTIVATIONS`.
      weights: a tensor.
      moments: see `normalize`.

    Returns:
      `(out, moments)`, see `normalize`.
    """
    act, act_grad = ACTIVATIONS[activation]

    @tf.custom_gradient
    def run(x, gamma, beta, weights):
        norm = _forward(x, gamma, beta, moments)
        out = function(act(norm.normalized), weights)

        def grad(upstream, *_):
            z = norm.again(zero_after(upstream))
            # A copy made ahead of the tape, see `recompute.recomputed`.
            inputs = [act(z), tf.identity(weights)]
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                # Its gradient is wanted; its value is not, and is pruned.
                again = function(*inputs)
            d_y, d_weights = tape.gradient(again, inputs, upstream)
            return (*norm.gradients(act_grad(z, d_y)), d_weights)

        return (out, *norm.moments), grad

    out, mean, variance = run(x, gamma, beta, weights)
    return out, _constant(mean, variance)


def affine(x, scale, offset):
    """`x * scale + offset`, computed in float32, in the dtype of `x`.

    Args:
      x: `[B, H, W, C]`.
      scale: float32 `[C]`.
      offset: float32 `[C]`.
    """
    return tf.cast(tf.cast(x, tf.float32) * scale + offset, x.dtype)


def zero_after(tensor):
    """A float32 zero that is there once `tensor` is, or NaN if that is NaN.

    What depends on it waits for the backward pass.  Without it a recomputation
    would start, and take its memory, as soon as its inputs are there; and
    would be recognised as what the forward pass has computed already, and be
    replaced by it.  Unlike a control dependency it binds compilers, too.
    """
    first = tf.reshape(tensor, [-1])[0]
    return tf.minimum(tf.abs(tf.cast(first, tf.float32)), 0.0)


def moments_of_all(values):
    """Mean and biased variance of a tensor's columns, over all replicas.

    Args:
      values: `[N, C]`, the same N on every replica; any floating dtype.

    Returns:
      `(mean, variance, count)`: float32 `[C]`, `[C]`, and the scalar number of
      values that they are moments of.
    """
    values = tf.cast(values, tf.float32)
    mean = tf.reduce_mean(values, axis=0)
    variance = tf.reduce_mean(tf.square(values - mean), axis=0)
    count = tf.cast(tf.shape(values)[0] * replicas.count(), tf.float32)
    if replicas.count() > 1:
        mean, variance = _combined(mean, variance)
    return mean, variance, count


def _combined(mean, variance):
    """The moments of all replicas from each one's own.

    By the formula of Chan, Golub & LeVeque (1979) for parts of one size: the
    variance is the mean of the parts' variances and of their means' squared
    distances from the mean of all.

    Args:
      mean: float32 `[C]`, of this replica's values.
      variance: float32 `[C]`, biased.

    Returns:
      The two of all replicas.
    """
    if not replicas.own_processes():
        of_all = replicas.mean(mean)
        spread = tf.square(mean - of_all)
        return of_all, replicas.mean(variance + spread)
    key = replicas.key(tf.TensorSpec([2, *mean.shape], tf.float64))
    combine = _combiner(replicas.count(), replicas.device_kind())
    combined = combine(mean, variance, key)
    for tensor in combined:
        tensor.set_shape(mean.shape)
    return combined


@functools.cache
def _combiner(count: int, device_kind: str):
    """`(mean, variance, key) -> (mean, variance)` of so many replicas.

    One graph for all layers.
    """
    del count, device_kind  # They are part of the graph.
    vector = tf.TensorSpec([None], tf.float32)

    @tf.function(
        autograph=False,
        input_signature=[vector, vector, tf.TensorSpec([], tf.int32)],
    )
    def combine(mean, variance, key):
        # The squared distances as E[mean^2] - E[mean]^2, in float64: what
        # cancels there is smaller by 2^5 than what rounding the means to
        # float32 has cost before, however large they are.
        mean = tf.cast(mean, tf.float64)
        second = tf.cast(variance, tf.float64) + tf.square(mean)
        mean, second = tf.unstack(
            replicas.reduction(tf.stack([mean, second]), key, final="Div")
        )
        variance = tf.maximum(second - tf.square(mean), 0)
        return tf.cast(mean, tf.float32), tf.cast(variance, tf.float32)

    return combine


def _constant(mean, variance) -> Moments:
    return Moments(tf.stop_gradient(mean), tf.stop_gradient(variance))


def _forward(x, gamma, beta, moments: Moments | None):
    if replicas.count() == 1:
        # Faster than from moments that are known.
        return _Fused.of(x, gamma, beta)
    return _Synchronized.of(x, gamma, beta, moments)


@dataclasses.dataclass(frozen=True)
class _Fused:
    """A normalisation by TensorFlow's own operation, on one replica.

    The reserve spaces hold what its gradient wants, which differs between
    devices: they go there and nowhere else.
    """

    x: typing.Any
    gamma: typing.Any
    beta: typing.Any
    normalized: typing.Any
    moments: Moments
    reserved: list

    @classmethod
    def of(cls, x, gamma, beta):
        y, mean, variance, *reserved = _by_own_moments(x, gamma, beta)
        return cls(x, gamma, beta, y, Moments(mean, variance), reserved)

    def again(self, zero):
        """The normalised values, from the input and the moments."""
        mean, variance = self.moments
        count = tf.cast(tf.size(self.x) // self.x.shape[-1], tf.float32)
        biased = variance * ((count - 1) / count)
        scale = self.gamma * tf.math.rsqrt(biased + EPSILON) + zero
        return affine(self.x, scale, self.beta - mean * scale)

    def gradients(self, upstream):
        """To x, gamma and beta."""
        return tf.raw_ops.FusedBatchNormGradV3(
            y_backprop=upstream,
            x=self.x,
            scale=self.gamma,
            reserve_space_1=self.reserved[0],
            reserve_space_2=self.reserved[1],
            reserve_space_3=self.reserved[2],
            epsilon=EPSILON,
            is_training=True,
        )[:3]


@dataclasses.dataclass(frozen=True)
class _Synchronized:
    """A normalisation by the moments of all replicas."""

    x: typing.Any
    gamma: typing.Any
    beta: typing.Any
    normalized: typing.Any
    moments: Moments
    variance: typing.Any  # The biased one, float32 [C].
    round: replicas.Round | None

    @classmethod
    def of(cls, x, gamma, beta, moments: Moments | None):
        size = _size(x)
        total = size * replicas.count()
        if moments is None:
            _, mean, variance, *_ = _by_own_moments(x, gamma, beta)
            mean, variance = _combined(mean, variance * ((size - 1) / size))
            # A single value has no unbiased variance; 0, as on one replica.
            moments = Moments(mean, variance * (total / max(total - 1, 1)))
        else:
            variance = moments.variance * ((total - 1) / total)
        y = _normalized(x, gamma, beta, moments.mean, variance)
        which = replicas.current_round()
        return cls(x, gamma, beta, y, moments, variance, which)

    def again(self, zero):
        """The normalised values, from the input and the moments."""
        return _normalized(
            self.x,
            self.gamma + zero,
            self.beta,
            self.moments.mean,
            self.variance,
        )

    def gradients(self, upstream):
        """To x, and this replica's share of those to gamma and beta.

        The loss is taken to be the sum of the replicas'.
        """
        mean = self.moments.mean
        # As if the moments were constants.
        d_x, d_gamma, d_beta, *_ = tf.raw_ops.FusedBatchNormGradV3(
            y_backprop=upstream,
            x=self.x,
            scale=self.gamma,
            reserve_space_1=mean,
            reserve_space_2=self.variance,
            reserve_space_3=[],
            epsilon=EPSILON,
            is_training=False,
        )
        with replicas.in_round(self.round):
            totals = replicas.total(tf.stack([d_gamma, d_beta]))
        size = _size(self.x) * replicas.count()
        inverse = tf.math.rsqrt(self.variance + EPSILON)
        slope, offset = tf.unstack(self.gamma * inverse * (-1 / size) * totals)
        # What the moments' own dependence on x adds is affine in x.
        of_moments = _normalized(self.x, slope, offset, mean, self.variance)
        return d_x + of_moments, d_gamma, d_beta


def _by_own_moments(x, gamma, beta):
    """TensorFlow's normalisation by this replica's moments: all it gives."""
    return tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=gamma,
        offset=beta,
        mean=[],
        variance=[],
        epsilon=EPSILON,
        is_training=True,
    )


def _normalized(x, gamma, beta, mean, variance):
    """`(x - mean) / deviation * gamma + beta` in one pass, like x."""
    return tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=gamma,
        offset=beta,
        mean=mean,
        variance=variance,
        epsilon=EPSILON,
        is_training=False,
    ).y


def _size(x) -> int:
    """Values of a channel."""
    return x.shape[:-1].num_elements()
