"""Importance-weighted bounds on `-log p(x)`, streamed over images and draws.

For images x and K draws z_k of the posterior,

    -log p(x) <= log K - logsumexp_k(log p(x|z_k) + log p(z_k) - log q(z_k|x))

in expectation, with equality as K grows (Burda, Grosse and Salakhutdinov,
"Importance weighted autoencoders", 2016).  The model is a callable, so that
the arithmetic can be held against one whose log p(x) is known.

The noise of a draw follows from (seed, place of the image among all, number of
the draw) alone: neither the batch size nor the devices change a result, but
for rounding, and a stopped estimate goes on where it was.
"""

import dataclasses
import typing
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import tensorflow as tf

from nvae_tf.core.errors import DataError
from nvae_tf.distribute import replicas
from nvae_tf.model import losses

__all__ = ["Estimate", "ImportanceEstimator", "Progress", "Terms"]

_PHILOX = 1  # The generator's number in `tf.raw_ops`.


class Terms(typing.NamedTuple):
    """What a model says of N pairs of an image and a draw; float32, nats.

    Attributes:
      nll: `[N]`, -log p(x|z).
      log_p: `[N]`, log p(z).
      log_q: `[N]`, log q(z|x).
      kl: `[N, L, d]`, KL of q from p, or what has its expectation: the NELBO
        is `nll` plus its sum.
    """

    nll: typing.Any
    log_p: typing.Any
    log_q: typing.Any
    kl: typing.Any


class Estimate(typing.NamedTuple):
    """Means over the images, in nats.

    Attributes:
      num_images: how many there were.
      nelbo: negative evidence lower bound.
      nll: importance-weighted estimate of -log p(x).
      reconstruction_nll: first term of `nelbo`.
      kl: float64 `[L, d]`, the other.
      nelbo_standard_error: of `nelbo`, over the images; NaN for one image.
      nll_standard_error: of `nll`, likewise.
    """

    num_images: int
    nelbo: float
    nll: float
    reconstruction_nll: float
    kl: np.ndarray
    nelbo_standard_error: float
    nll_standard_error: float


@dataclasses.dataclass
class Progress:
    """How far an estimate is; another process can go on from it.

    Attributes:
      batch: batches finished.
      draw: draws finished of the batch after them.
      rows: float64 `[B]` each: what is known of the images of that batch.
      totals: float64, sums over the images of the finished batches, and of
        the finished draws.
    """

    batch: int = 0
    draw: int = 0
    rows: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    totals: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything under flat names; `from_arrays` reads it back."""
        return {
            "place": np.array([self.batch, self.draw]),
            **{f"rows/{name}": value for name, value in self.rows.items()},
            **{f"totals/{name}": value for name, value in self.totals.items()},
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "Progress":
        """What `to_arrays` gave.

        Raises:
          ValueError: if it is something else.
        """
        groups: dict[str, dict] = {"rows": {}, "totals": {}}
        for name, value in arrays.items():
            group, _, rest = name.partition("/")
            if group in groups:
                groups[group][rest] = value
        place = arrays.get("place", np.zeros(0))
        if place.shape != (2,) or place.dtype.kind != "i" or place.min() < 0:
            raise ValueError("it says no place")
        sizes = {row.shape for row in groups["rows"].values()}
        if len(sizes) > 1 or any(
            value.dtype != np.float64
            for group in groups.values()
            for value in group.values()
        ):
            raise ValueError("its sums are of another kind")
        return cls(*map(int, place), **groups)

    def add(self, name: str, value) -> None:
        """Adds to a total."""
        value = np.asarray(value, np.float64)
        self.totals[name] = self.totals.get(name, 0.0) + value

    def start_batch(self, size: int) -> None:
        """Sets the rows to what no draws are known of."""
        self.rows = {
            "log_sum": np.full(size, -np.inf),
            "nelbo": np.zeros(size),
        }


class ImportanceEstimator:
    """Estimates the bounds of a model; its graph is built once.

    Args:
      terms: `(x [N, ...], eps float32 [N, D]) -> Terms`, `eps` standard
        Normal: one pass of the model.  It runs on every replica.  What x is
        does not matter here: a tensor or a tuple of some.
      noise_size: D.
      strategy: whose replicas share every batch; by default the one in whose
        scope this is called.
    """

    def __init__(
        self,
        terms: Callable[..., Terms],
        noise_size: int,
        strategy: tf.distribute.Strategy | None = None,
    ):
        self._terms = terms
        self._noise_size = noise_size
        self._strategy = strategy or tf.distribute.get_strategy()
        place = self._strategy.experimental_distribute_values_from_function
        self._local_replicas = len(self._local(place(lambda _: tf.zeros([]))))

    def __call__(
        self,
        batches: Iterable,
        num_draws: int,
        seed: int = 0,
        should_stop: Callable[[], bool] = lambda: False,
        *,
        draws_per_pass: int = 1,
        progress: Progress | None = None,
        on_pass: Callable[[Progress], None] = lambda progress: None,
        on_images: Callable[..., None] = lambda nelbo, nll: None,
    ) -> Estimate | None:
        """Streams over the images.

        In a process among several, `batches` are its shard's, and all get the
        same result: none may stop alone.

        Args:
          batches: of `(x [B, ...], weights [B])`, weights 0 or 1; the local
            replicas divide B, which is the same in all batches.
          num_draws: K.
          seed: of the noise.
          should_stop: asked before every pass whether to give up.
          draws_per_pass: draws of every image that are made at once.
          progress: where to go on; `batches` begins after its finished ones.
            It is changed.
          on_pass: gets the progress after every pass.
          on_images: gets the NELBO and the estimate of -log p(x) of each image
            of weight 1, float64 `[B']` in nats, when its batch is finished.

        Returns:
          The estimate over all images of weight 1; None if given up.

        Raises:
          DataError: if no image has weight 1.
        """
        progress = progress or Progress()
        for x, weights in batches:
            if not progress.draw:
                progress.start_batch(len(weights))
            shared = self._share(x), self._share(weights)
            while progress.draw < num_draws:
                if should_stop():
                    return None
                self._take_pass(
                    progress, shared, num_draws, seed, draws_per_pass
                )
                if progress.draw == num_draws:
                    on_images(
                        *_finish_batch(progress, np.asarray(weights), num_draws)
                    )
                    on_pass(progress)
                    break
                on_pass(progress)
        return _estimate(self._over_processes(progress.totals))

    def _take_pass(self, progress, shared, num_draws, seed, size) -> None:
        """Adds the next draws of a batch to what is known of its images."""
        draws = np.arange(progress.draw, progress.draw + size)
        counted = draws < num_draws
        results = self._pass(
            *shared,
            tf.constant([seed, progress.batch], tf.int64),
            tf.constant(draws, tf.int64),
            tf.constant(counted, tf.float32),
        )
        nll, kl, log_weight = (
            np.concatenate(self._local(value), axis=1)[counted].astype(float)
            for value in results[:3]
        )
        kl_sums = np.sum(self._local(results[3]), axis=0, dtype=float)
        rows = progress.rows
        rows["log_sum"] = np.logaddexp(
            rows["log_sum"], np.logaddexp.reduce(log_weight, axis=0)
        )
        rows["nelbo"] = rows["nelbo"] + (nll + kl).sum(axis=0) / num_draws
        progress.add("kl", kl_sums / num_draws)
        progress.draw += int(counted.sum())

    @tf.function(autograph=False)
    def _pass(self, x, weights, numbers, draws, counted):
        return self._strategy.run(
            self._replica_pass, (x, weights, numbers, draws, counted)
        )

    def _replica_pass(self, x, weights, numbers, draws, counted):
        """One pass of C draws on a replica's images of a batch.

        Returns:
          nll, KL and log importance weights, `[C, B]` each, and the sum of
          the KL over what counts, `[L, d]`.
        """
        context = tf.distribute.get_replica_context()
        images, copies = tf.shape(weights)[0], draws.shape[0]
        size = tf.cast(images, tf.int64)
        first = size * (
            numbers[1] * context.num_replicas_in_sync
            + tf.cast(context.replica_id_in_sync_group, tf.int64)
        )
        # Draw after draw, all images in each.
        keys = tf.tile(_keys(numbers[0], first + tf.range(size)), [copies])
        eps = _noise(keys, tf.repeat(draws, images), self._noise_size)
        x = tf.nest.map_structure(
            lambda t: tf.tile(t, [copies] + [1] * (t.shape.rank - 1)), x
        )
        terms = self._terms(x, eps)
        log_weight = losses.log_importance_weight(
            terms.nll, terms.log_p, terms.log_q
        )
        kl = tf.reduce_sum(terms.kl, axis=[1, 2])
        each = tf.reshape(counted[:, None] * weights, [-1])
        return (
            *[tf.reshape(t, [copies, -1]) for t in (terms.nll, kl, log_weight)],
            tf.einsum("n,nld->ld", each, terms.kl),
        )

    def _local(self, value) -> list[np.ndarray]:
        """A value on the replicas of this process."""
        return [
            np.asarray(part)
            for part in self._strategy.experimental_local_results(value)
        ]

    def _share(self, tensors):
        """Slices of the first axis, one for each replica of this process."""
        if self._local_replicas == 1:
            return tensors
        return tf.nest.map_structure(
            lambda t: self._per_replica(tf.split(t, self._local_replicas)),
            tensors,
        )

    def _per_replica(self, values: Sequence):
        values = iter(values)
        return self._strategy.experimental_distribute_values_from_function(
            lambda _: next(values)
        )

    def _over_processes(self, totals: dict) -> dict:
        """Sums over all processes, in each of them."""
        if not isinstance(
            self._strategy, tf.distribute.MultiWorkerMirroredStrategy
        ):
            return totals
        arrays = [np.asarray(total) for total in totals.values()]
        flat = tf.constant(np.concatenate([a.ravel() for a in arrays]))
        others = [tf.zeros_like(flat)] * (self._local_replicas - 1)
        own = self._per_replica([flat, *others]) if others else flat

        @tf.function(autograph=False)
        def share(own):
            return self._strategy.run(replicas.total, (own,))

        ends = np.cumsum([a.size for a in arrays])[:-1]
        parts = np.split(self._local(share(own))[0], ends)
        return {
            name: part.reshape(array.shape)
            for name, part, array in zip(totals, parts, arrays, strict=True)
        }


def _keys(seed, places):
    """int64 `[B]`, all different for seeds and places below 2^31 and 2^32."""
    return seed * 2**32 + places


def _noise(keys, draws, size: int):
    """Standard Normal noise `[N, size]`: row n of keys[n] and draws[n].

    As in `nvae_tf.model.noise`, the upper half of Philox's counter is the
    number of the stream: here, of the draw.
    """

    def row(numbers):
        key, draw = tf.unstack(numbers)
        counter = tf.stack([tf.zeros_like(draw), draw])
        return tf.raw_ops.StatelessRandomNormalV2(
            shape=[size],
            key=tf.bitcast(key, tf.uint64)[None],
            counter=tf.bitcast(counter, tf.uint64),
            alg=_PHILOX,
        )

    return tf.map_fn(
        row,
        tf.stack([keys, draws], axis=1),
        fn_output_signature=tf.TensorSpec([size]),
    )


def _finish_batch(
    progress: Progress, weights, num_draws: int
) -> tuple[np.ndarray, np.ndarray]:
    """Adds a batch whose draws are complete to the totals.

    Returns:
      NELBO and estimate of -log p(x) of the images that count.
    """
    counts = weights > 0
    nll = np.log(num_draws) - progress.rows["log_sum"][counts]
    nelbo = progress.rows["nelbo"][counts]
    progress.add("count", counts.sum())
    progress.add("nll", nll.sum())
    progress.add("nll_squared", np.square(nll).sum())
    progress.add("nelbo", nelbo.sum())
    progress.add("nelbo_squared", np.square(nelbo).sum())
    progress.batch += 1
    progress.draw = 0
    progress.rows = {}
    return nelbo, nll


def _estimate(totals: dict) -> Estimate:
    count = float(totals.get("count", 0))
    if not count:
        raise DataError("None of the images to evaluate can be read.")
    kl = np.asarray(totals["kl"]) / count
    nelbo = float(totals["nelbo"]) / count
    return Estimate(
        num_images=round(count),
        nelbo=nelbo,
        nll=float(totals["nll"]) / count,
        reconstruction_nll=nelbo - float(kl.sum()),
        kl=kl,
        nelbo_standard_error=_standard_error(totals, "nelbo"),
        nll_standard_error=_standard_error(totals, "nll"),
    )


def _standard_error(totals: dict, name: str) -> float:
    """Of a mean over the images, from the sums of values and squares."""
    count = float(totals["count"])
    if count < 2:
        return float("nan")
    mean = float(totals[name]) / count
    variance = float(totals[f"{name}_squared"]) / count - mean**2
    return float(np.sqrt(max(variance, 0.0) / (count - 1)))
