"""One training step: losses, gradients, optimiser, moving averages."""

import typing

import tensorflow as tf

from nvae_tf.config.schedules import Coefficients
from nvae_tf.distribute import replicas
from nvae_tf.model import flat
from nvae_tf.model.averaging import WeightAverage
from nvae_tf.model.inputs import images_and_labels
from nvae_tf.model.nvae import NVAE
from nvae_tf.model.pure_layer import Mode
from nvae_tf.model.regularizers import SpectralRegularizer
from nvae_tf.model.scan import compiled
from nvae_tf.training.objective import Objective
from nvae_tf.training.optimizer import Adamax
from nvae_tf.training.step_metrics import StepMetrics

__all__ = ["TrainStep"]

FIRST_LOSS_SCALE = 2.0**10
_LARGEST_LOSS_SCALE = 2.0**24
# Steps without overflow after which the loss scale doubles.
_GROWTH_INTERVAL = 2000


class _Result(typing.NamedTuple):
    """What a pass gives; the mean of several is that of the larger batch.

    `means` are to be averaged over replicas; `updates` and `vectors` are equal
    on all of them.
    """

    means: dict
    updates: typing.Any
    vectors: typing.Any


class TrainStep:
    """Computes and applies one update; the only path to new weights.

    A step whose gradient is not finite, or longer than allowed, changes no
    weight, moment or statistic, on no replica: this is decided on the gradient
    that all replicas share.  In float16 the loss is scaled up before its
    gradient is taken, so that small gradients do not vanish, and the scale is
    adapted to overflows.

    It runs on all replicas of the strategy in whose scope it, the model, the
    optimiser and the regulariser were made.  Each replica holds all state and
    updates it by itself; what they share is the gradient, part by part as the
    backward pass ends with them, and the statistics of batch normalisation.

    Args:
      model: whose variables change.
      optimizer: over the model's trainable variables.
      spectral: over the model's kernels.
      average: of the model's weights; None for none.
      max_gradient_norm: see `TrainConfig`.
      jit_compile: compute loss and gradient in one XLA program.
    """

    def __init__(
        self,
        model: NVAE,
        optimizer: Adamax,
        spectral: SpectralRegularizer,
        *,
        average: WeightAverage | None = None,
        max_gradient_norm: float = 0.0,
        jit_compile: bool = False,
    ):
        self.model = model
        self.optimizer = optimizer
        self.spectral = spectral
        self.average = average
        self.max_gradient_norm = max_gradient_norm
        self.strategy = tf.distribute.get_strategy()
        scaled = model.compute_dtype == "float16"
        self.scales_loss = scaled
        self.scalars = {
            "updates": tf.Variable(0, trainable=False, dtype=tf.int64),
            "loss_scale": tf.Variable(
                FIRST_LOSS_SCALE if scaled else 1.0, trainable=False
            ),
            **{
                name: tf.Variable(0, trainable=False, dtype=tf.int64)
                for name in ("good_steps", "skipped", "skipped_in_a_row")
            },
        }
        self.objective = Objective(model, spectral)
        self._structure: _Result | None = None
        if jit_compile:
            self._pass = compiled(self._pass)

    def named_variables(self) -> dict:
        """All state of training, by the names that checkpoints use."""
        return {
            **self.model.named_variables("model/"),
            "optimizer/m": self.optimizer.m,
            "optimizer/u": self.optimizer.u,
            **{
                f"spectral/u_{c_out}x{fan_in}": group.u
                for (c_out, fan_in), group in self.spectral.groups.items()
            },
            **{f"training/{k}": v for k, v in self.scalars.items()},
            **(self.average.named_variables() if self.average else {}),
        }

    def gradients(
        self, x, coefficients: Coefficients, seed=None, eps=None, kl_sizes=None
    ):
        """The pass, its loss and this replica's gradient; changes nothing.

        Args:
          x: float32 `[B, H, W, C]`; of a model of classes the pair of these
            and their labels, int32 `[B]`.
          coefficients: float32 scalars.
          seed: int32 `[2]`, of the noise; or
          eps: L tensors `[B, h, w, d]`.
          kl_sizes: `[L]`, what to balance the KL by; None: by this batch's.

        Returns:
          `(output, terms, gradient, vectors)`, the gradient flat `[N]`.
        """
        output, terms, gradient, vectors = self._gradients(
            x, coefficients, seed, eps, kl_sizes
        )
        return output, terms, flat.pack(gradient), vectors

    @tf.function(autograph=False)
    def gradient(self, x, coefficients: Coefficients, seed):
        """The flat gradient alone, by a graph that recomputes as a step's.

        Args:
          x: see `gradients`, as all others.
          coefficients: likewise.
          seed: likewise.
        """
        return self.gradients(x, coefficients, seed)[2]

    def _gradients(self, x, coefficients, seed, eps, kl_sizes):
        """See `gradients`; the gradient in the optimiser's parts."""
        scales = self.scales_loss
        scale = tf.identity(self.scalars["loss_scale"]) if scales else 1.0
        output, terms, gradients, vectors = self.objective.gradients(
            x,
            coefficients,
            self.optimizer.parameters,
            seed=seed,
            eps=eps,
            kl_sizes=kl_sizes,
            scale=scale,
        )
        gradient = self.optimizer.pack(gradients)
        if scales:
            gradient = [part / scale for part in gradient]
        return output, terms, gradient, vectors

    @tf.function(autograph=False)
    def __call__(
        self, x, coefficients: Coefficients, seed=None, eps=None, stop=0.0
    ):
        """Takes one step; see `gradients` for the arguments.

        Args:
          x: on several replicas a value per replica, as all others may be.
          coefficients: float32 scalars.
          seed: int32 `[2]`, of the noise; every replica draws its own.
          eps: the noise itself, instead of a seed.
          stop: float32 scalar, 1 if this process wants to stop.

        Returns:
          `StepMetrics` of the pass before the update.
        """

        def step(x, coefficients, seed, eps, stop):
            result = self._pass(x, coefficients, seed, eps)
            return self._apply(result, coefficients, stop)

        return self._run(step, x, coefficients, seed, eps, stop)

    def accumulated(
        self, batches, coefficients: Coefficients, seeds=None, stop=0.0
    ):
        """Takes one step with the mean gradient of several batches.

        The result is that of one large batch, but that batch normalisation
        sees each batch apart; its averages move once, by the mean of the
        batches' moments.

        Args:
          batches: like `x` of `__call__`, one for each pass.
          coefficients: float32 scalars.
          seeds: one for each pass.
          stop: see `__call__`.

        Returns:
          `StepMetrics`, means over all batches.
        """
        batches = list(batches)
        sizes = None
        if float(coefficients.beta) < 1:
            # What the KL is balanced by must be known before the first
            # gradient.
            sizes = [
                self._only_kl_sizes(x, seed)
                for x, seed in zip(batches, seeds, strict=True)
            ]
            sizes = tf.add_n(sizes) / len(sizes)
        packed = None
        for x, seed in zip(batches, seeds, strict=True):
            one = self._packed_pass(x, coefficients, seed, sizes)
            packed = one if packed is None else self._sum(packed, one)
        count = tf.constant(len(batches), tf.float32)
        return self._apply_packed(packed, count, coefficients, stop)

    @tf.function(autograph=False)
    def initialize_from(self, x, seed):
        """Chooses the gains and biases that depend on the first batch.

        Args:
          x: like that of `__call__`.
          seed: int32 `[2]`.

        Returns:
          bool scalar: whether all that was chosen is finite.
        """

        def run(x, seed):
            images, labels = images_and_labels(x)
            output = self.model(
                images,
                seed=self._own(seed),
                mode=Mode.INITIALIZATION,
                labels=labels,
            )
            self.model.apply_updates(output.updates)
            return tf.reduce_all(
                [
                    tf.reduce_all(tf.math.is_finite(update))
                    for update in tf.nest.flatten(output.updates)
                ]
            )

        return self._run(run, x, seed)

    @tf.function(autograph=False)
    def _only_kl_sizes(self, x, seed):
        def sizes(x, seed):
            return self.objective.kl_sizes(x, self._own(seed))

        return self._first(self._run(sizes, x, seed))

    @tf.function(autograph=False)
    def _packed_pass(self, x, coefficients, seed, kl_sizes):
        def run(x, coefficients, seed, kl_sizes):
            result = self._pass(x, coefficients, seed, None, kl_sizes)
            self._structure = tf.nest.map_structure(
                lambda t: t.shape, result, expand_composites=False
            )
            return flat.pack(tf.nest.flatten(result))

        return self.strategy.run(run, (x, coefficients, seed, kl_sizes))

    @tf.function(autograph=False)
    def _sum(self, a, b):
        return self.strategy.run(tf.add, (a, b))

    @tf.function(autograph=False)
    def _apply_packed(self, packed, count, coefficients, stop):
        def apply(packed, coefficients, stop):
            shapes = tf.nest.flatten(self._structure)
            result = tf.nest.pack_sequence_as(
                self._structure, flat.unpack(packed / count, shapes)
            )
            return self._apply(result, coefficients, stop)

        return self._run(apply, packed, coefficients, stop)

    def _run(self, function, *args):
        """Runs on all replicas; the first's results, which all share."""
        return self._first(self.strategy.run(function, args))

    def _first(self, results):
        return tf.nest.map_structure(
            lambda r: self.strategy.experimental_local_results(r)[0], results
        )

    def _own(self, seed):
        """The replica's own seed."""
        if seed is None or replicas.count() == 1:
            return seed
        context = tf.distribute.get_replica_context()
        return replicas.own_seed(seed, context.replica_id_in_sync_group)

    def _pass(self, x, coefficients, seed, eps, kl_sizes=None) -> _Result:
        output, terms, gradient, vectors = self._gradients(
            x, coefficients, self._own(seed), eps, kl_sizes
        )
        means = {
            "gradient": gradient,
            "total_loss": terms.total,
            "reconstruction_nll": tf.reduce_mean(terms.reconstruction_nll),
            "kl_per_group": tf.reduce_mean(output.kl_per_group, axis=0),
            "kl_per_channel": tf.reduce_mean(output.kl_per_channel, axis=0),
            "balance_coefficients": terms.balance_coefficients,
            "spectral": terms.spectral,
            "batch_norm": terms.batch_norm,
        }
        return _Result(means, output.updates, vectors)

    def _apply(self, result: _Result, coefficients, stop) -> StepMetrics:
        """Shares the gradient, then updates or skips."""
        means = {**result.means, "stop": tf.convert_to_tensor(stop)}
        gradient = means.pop("gradient")
        if replicas.count() > 1:
            # The backward pass begins with what the model ends with.
            gradient = replicas.means(gradient[::-1])[::-1]
            tensors = tf.nest.flatten(means)
            means = tf.nest.pack_sequence_as(
                means,
                flat.unpack(
                    replicas.mean(flat.pack(tensors)),
                    [t.shape for t in tensors],
                ),
            )
        norm = tf.sqrt(2 * tf.add_n([tf.nn.l2_loss(g) for g in gradient]))
        good = tf.math.is_finite(norm)
        if self.max_gradient_norm:
            good &= norm <= self.max_gradient_norm
        scale = tf.identity(self.scalars["loss_scale"])
        tf.cond(
            good,
            lambda: self._update(gradient, coefficients, result),
            lambda: self._skip(tf.math.is_finite(norm)),
        )
        stop = means.pop("stop") * replicas.count()
        kl = tf.reduce_sum(means["kl_per_group"])
        return StepMetrics(
            **means,
            nelbo=means["reconstruction_nll"] + kl,
            kl=kl,
            gradient_norm=norm,
            loss_scale=scale,
            skipped=tf.identity(self.scalars["skipped"]),
            skipped_in_a_row=tf.identity(self.scalars["skipped_in_a_row"]),
            stop_requests=stop,
        )

    def _skip(self, finite) -> None:
        """Notes that the gradient was of no use."""
        scalars = self.scalars
        scalars["skipped"].assign_add(1)
        scalars["skipped_in_a_row"].assign_add(1)
        scalars["good_steps"].assign(0)
        if self.scales_loss:
            # Too long a gradient is not the scale's fault.
            scale = scalars["loss_scale"]
            lower = tf.maximum(scale / 2, 1.0)
            scale.assign(tf.where(finite, scale, lower))

    def _update(self, gradient, coefficients, result: _Result) -> None:
        """Stores what a step with a good gradient gives."""
        scalars = self.scalars
        count = tf.cast(scalars["updates"].assign_add(1), tf.float32)
        self.optimizer.apply(gradient, coefficients.learning_rate, count)
        self.spectral.store(result.vectors)
        self.model.apply_updates(result.updates)
        if self.average:
            self.average.update(count)
        scalars["skipped_in_a_row"].assign(0)
        good = scalars["good_steps"].assign_add(1)
        if self.scales_loss:
            grows = good % _GROWTH_INTERVAL == 0
            scale = scalars["loss_scale"]
            scale.assign(
                tf.where(
                    grows, tf.minimum(2 * scale, _LARGEST_LOSS_SCALE), scale
                )
            )
