"""NVAE: a deep hierarchical variational autoencoder (arXiv 2007.03898)."""

import contextlib
import typing
from collections.abc import Iterator

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from nvae_tf.config import ModelConfig
from nvae_tf.config.run import policy_of
from nvae_tf.distribute.rounding import tf32
from nvae_tf.distributions.likelihoods import (
    num_pixel_parameters,
    pixel_distribution,
)
from nvae_tf.model import inputs
from nvae_tf.model.decoder import TopDownDecoder
from nvae_tf.model.encoder import BottomUpEncoder
from nvae_tf.model.image_decoder import ImageDecoder
from nvae_tf.model.layers import Conv2D
from nvae_tf.model.pure_layer import Mode, PureLayer

__all__ = ["NVAE", "Latents", "NVAEOutput"]

tfd = tfp.distributions


class Latents(typing.NamedTuple):
    """Latent groups and the distributions they were drawn from.

    Attributes:
      z: list of L tensors `[B, h, w, d]`, top-down.
      mean: the same shapes; of the posterior before the flow, or the prior.
      scale: the same shapes, sigma.
    """

    z: list
    mean: list
    scale: list


class NVAEOutput(typing.NamedTuple):
    """What one pass returns; all float32.

    Attributes:
      logits: `[B, H, W, P]`, the likelihood's parameters.
      kl_per_group: `[B, L]`, nats, top-down.
      kl_per_channel: `[B, L, d]`, nats, summed over space.
      log_q: `[B]`, nats: log q(z|x) at the sample; None if not asked for.
      log_p: `[B]`, nats: log p(z); None if not asked for.
      latents: `Latents` if asked for, else None.
      updates: what `NVAE.apply_updates` stores after a training pass.
    """

    logits: typing.Any
    kl_per_group: typing.Any
    kl_per_channel: typing.Any
    log_q: typing.Any
    log_p: typing.Any
    latents: Latents | None
    updates: dict


class NVAE(PureLayer, keras.Model):
    """The model: encoder, top-down walk, image head.

    A pass is pure; see `pure_layer`.  After a training pass store its
    `updates` with `apply_updates`.

    Args:
      config: the architecture.
      seed: of the initial weights; None leaves them zero.
      unroll: build the groups of a scale as copies in the graph instead of a
        loop; needed where one graph holds several replicas that normalise
        together, see `nvae_tf.distribute.replicas`.
      recompute: "none", "bn_swish" or "cell": what the backward pass computes
        again instead of keeping; see `nvae_tf.model.recompute`.
      device: "CPU", "GPU" or "TPU", what the passes are traced for; None for
        the devices of the strategy in whose scope the model is made.
    """

    def __init__(
        self,
        config: ModelConfig,
        seed: int | None = 0,
        unroll: bool = False,
        *,
        recompute: str = "bn_swish",
        device: str | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        # TensorFlow begins with it on: float32 is to mean float32.
        tf.config.experimental.enable_tensor_float_32_execution(False)
        self.device = device
        self.config = config
        self.seed = seed
        self.unroll = unroll
        self.recompute = recompute
        self.parts["encoder"] = BottomUpEncoder(
            config, recompute=recompute, name="encoder"
        )
        self.parts["decoder"] = TopDownDecoder(
            config, recompute=recompute, name="decoder"
        )
        self.parts["image"] = ImageDecoder(
            config,
            num_pixel_parameters(
                config.likelihood, config.image_channels, config.num_mixtures
            ),
            recompute=recompute,
            name="image",
        )
        channels = config.num_channels_dec * 2**config.num_preprocess_blocks
        self.parts["encoder"].build((None, None, None, config.image_channels))
        self.parts["decoder"].build(())
        self.parts["image"].build((None, None, None, channels))
        if device is not None:
            for _, layer in self.leaves():
                if isinstance(layer, Conv2D):
                    layer.for_cpu = device == "CPU"
        self.built = True
        if seed is not None:
            self.initialize(seed)

    def build(self, input_shape=None):
        """Nothing left to do: the constructor knows all shapes."""
        del input_shape

    def save_pretrained(self, folder, **options) -> None:
        """Writes a folder to hand on: see `nvae_tf.save_pretrained`."""
        # The front door: what a model is knows nothing of files.
        import nvae_tf

        nvae_tf.save_pretrained(self, folder, **options)

    def compute_in(self, precision: str) -> None:
        """Has what is traced from here on compute in another precision.

        The variables are float32 whatever the precision.  Whether GPUs round
        to TF32 is decided for all of the process: by the last call, or the
        last model that was made, which has it off.

        Args:
          precision: see `nvae_tf.Config.precision`.
        """
        self.dtype_policy = policy_of(precision)
        tf.config.experimental.enable_tensor_float_32_execution(
            precision == "tf32"
        )

    @contextlib.contextmanager
    def computing_in(self, precision: str) -> Iterator[None]:
        """`compute_in` for what is traced, and run, in the block.

        Args:
          precision: see there.
        """
        policy = self.dtype_policy
        with tf32(precision == "tf32"):
            self.compute_in(precision)
            try:
                yield
            finally:
                self.dtype_policy = policy

    def likelihood(self, logits) -> tfd.Distribution:
        """The distribution over images that the parameters stand for.

        Args:
          logits: `[B, H, W, P]`.

        Returns:
          A distribution of event shape `[H, W, C]` over images in [0, 1]; its
          `log_prob` leaves out the padding.
        """
        c = self.config
        return pixel_distribution(
            c.likelihood, logits, c.image_channels, c.num_bits, c.padding
        )

    def call(
        self,
        x,
        eps=None,
        seed=None,
        training=False,
        params=None,
        mode=None,
        with_densities=True,
        with_latents=False,
        labels=None,
    ) -> NVAEOutput:
        """Encodes and decodes images.

        Args:
          x: `[B, H, W, C]` in [0, 1], padded where the data is.
          eps: L tensors `[B, h, w, d]`, top-down: the noise of every draw.
          seed: int32 `[2]`, from which noise is drawn where `eps` is None.
          training: whether to normalise by the batch's moments.
          params: what `read_params(mode)` returned, to use instead of the
            variables.
          mode: see `Mode`; by default it follows from `training`.
          with_densities: whether to compute `log_q` and `log_p`.
          with_latents: whether to return the latents.
          labels: integers `[B]`, the images' classes, where the model has any;
            None for an unconditional model.

        Returns:
          An `NVAEOutput`.

        Raises:
          DataError: if x is not such a batch of images, or the labels do not
            fit the model.
          ValueError: if `eps` does not fit the latent shapes.
        """
        if mode is None:
            mode = Mode.TRAINING if training else Mode.INFERENCE
        x = inputs.checked_images(x, self.config)
        labels = inputs.checked_labels(labels, self.config, x.shape[0])
        params = self.read_params(mode) if params is None else params
        noise = inputs.noise_by_scale(self.config, eps, seed, tf.shape(x)[0])
        rows = noise[0].shape[1]
        if None not in (rows, x.shape[0]) and rows != x.shape[0]:
            raise ValueError(
                f"`eps` has {rows} rows for {x.shape[0]} images; give one for "
                "each."
            )
        x = tf.cast(x, self.compute_dtype)
        top, features, encoder_updates = self.parts["encoder"](
            x, params["encoder"], mode=mode, unroll=self.unroll
        )
        h, results, decoder_updates = self.parts["decoder"](
            noise,
            top,
            features,
            params=params["decoder"],
            mode=mode,
            dtype=x.dtype,
            unroll=self.unroll,
            with_densities=with_densities,
            with_latents=with_latents,
            labels=labels,
        )
        logits, image_updates = self.parts["image"](
            h, params["image"], mode=mode
        )
        kl = tf.transpose(tf.concat(results["kl"], 0), [1, 0, 2])  # [B, L, d]
        return NVAEOutput(
            logits=logits,
            kl_per_group=tf.reduce_sum(kl, axis=-1),
            kl_per_channel=kl,
            log_q=_sum_groups(results.get("log_q")),
            log_p=_sum_groups(results.get("log_p")),
            latents=_latents(results) if with_latents else None,
            updates={
                "encoder": encoder_updates,
                "decoder": decoder_updates,
                "image": image_updates,
            },
        )

    def decode(
        self,
        eps=None,
        seed=None,
        temperature=None,
        batch_size=None,
        latents=None,
        params=None,
        mode=Mode.INFERENCE,
        with_latents=False,
        labels=None,
    ) -> NVAEOutput:
        """Decodes draws from the prior, or given latents.

        Args:
          eps: L tensors `[B, h, w, d]`, top-down.
          seed: int32 `[2]`; with `batch_size`, where `eps` is None.
          temperature: multiplies the prior's sigma: None for 1, a scalar,
            `[L]` for one per group, top-down, `[B, L]`, or `[B, 1]` for one
            per image.  One axis always means groups; a first of two may be 1.
          batch_size: number of images, with `seed`.
          latents: L tensors `[B, h, w, d]`, in place of draws.
          params: see `call`.
          mode: see `Mode`.
          with_latents: whether to return the latents.
          labels: see `call`.

        Returns:
          An `NVAEOutput` without KL and densities.

        Raises:
          DataError: if the labels do not fit the model.
          ValueError: if `eps`, `latents` or `temperature` does not fit.
        """
        params = self.read_params(mode) if params is None else params
        given = {"eps": eps, "seed": seed, "temperature": temperature}
        for name, value in given.items():
            if latents is not None and value is not None:
                raise ValueError(
                    f"`{name}` is of draws, and `latents` takes their place: "
                    "give one of them."
                )
        noise = None
        if latents is None:
            noise = inputs.noise_by_scale(self.config, eps, seed, batch_size)
        else:
            latents = inputs.by_scale(self.config, latents, "latents")
        batch = (noise or latents)[0].shape[1]
        labels = inputs.checked_labels(labels, self.config, batch)
        h, results, decoder_updates = self.parts["decoder"](
            noise,
            temperature=inputs.per_group(self.config, temperature, batch),
            latents=latents,
            params=params["decoder"],
            mode=mode,
            dtype=tf.as_dtype(self.compute_dtype),
            unroll=self.unroll,
            with_latents=with_latents,
            labels=labels,
        )
        logits, image_updates = self.parts["image"](
            h, params["image"], mode=mode
        )
        return NVAEOutput(
            logits=logits,
            kl_per_group=None,
            kl_per_channel=None,
            log_q=None,
            log_p=None,
            latents=_latents(results) if with_latents else None,
            updates={"decoder": decoder_updates, "image": image_updates},
        )

    def sample_logits(
        self,
        eps=None,
        temperature=1.0,
        *,
        seed=None,
        batch_size=None,
        labels=None,
    ):
        """Likelihood parameters of draws from the prior, `[B, H, W, P]`.

        See `decode` for the arguments.
        """
        return self.decode(
            eps, seed, temperature, batch_size, labels=labels
        ).logits


def _sum_groups(per_scale):
    """Lists of `[G, B]` -> `[B]`."""
    if per_scale is None:
        return None
    return tf.reduce_sum(tf.concat(per_scale, axis=0), axis=0)


def _latents(results) -> Latents:
    return Latents(
        *[
            [z for stack in results[name] for z in tf.unstack(stack)]
            for name in Latents._fields
        ]
    )
