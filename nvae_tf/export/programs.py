"""What exports compute, whatever their format.

Images here are those of the data: without the model's padding, uint8 or, as
floats, in [0, 1].
"""

import tensorflow as tf

from nvae_tf.distributions.likelihoods import pixel_distribution, quantize
from nvae_tf.model import losses
from nvae_tf.model.noise import pixel_noise_specs
from nvae_tf.model.nvae import NVAE

__all__ = [
    "Programs",
    "to_uint8",
    "unrolled",
]


class Programs:
    """Pure functions of tensors around one model in inference mode.

    Args:
      model: what `unrolled` returned; its variables are not used.
      params: nest of tensors or variables like that of
        `model.read_params()`.

    Attributes:
      config: the architecture.
      latent_shapes: shape of a row of every latent group, top-down.
      image_shape: `(H, W, C)` of the images.
      pixel_noise: what a draw of pixels takes, empty for the Bernoulli, whose
        mean image is shown instead, as in the paper.
    """

    def __init__(self, model: NVAE, params):
        self._model = model
        self._params = params
        self.config = c = model.config
        self.latent_shapes = [tuple(shape) for shape in c.latent_shapes]
        self.image_shape = (c.image_size, c.image_size, c.image_channels)
        self.pixel_noise = pixel_noise_specs(c)
        # Traced once each, however many signatures use them.
        self._decode = tf.function(self._decode, autograph=False)
        self._infer = tf.function(self._infer, autograph=False)

    def sample(self, eps, temperature, pixel_noise, label=None):
        """Draws images from the prior.

        Args:
          eps: L float32 tensors `[B, h, w, d]`, standard Normal.
          temperature: float32 `[B, L]`.
          pixel_noise: a float32 tensor `[B, *shape]` for each of
            `self.pixel_noise`.
          label: int32 `[B]`, where the model has classes; what is of none is
            NaN.

        Returns:
          `(images, mean)`, float32 `[B, H, W, C]` in [0, 1]: the draw, and the
          mean image of the same latents.
        """
        logits = self._decode(list(eps), temperature, None, label)
        pixels = self._pixels(logits)
        mean = pixels.mean()
        match self.config.likelihood:
            case "mixture":
                return pixels.sample_from_uniforms(*pixel_noise), mean
            case "normal":
                return pixels.sample_from_noise(*pixel_noise), mean
            case _:
                return mean, mean

    def mean(self, eps, temperature, label=None):
        """The mean image of a draw; see `sample`."""
        logits = self._decode(list(eps), temperature, None, label)
        return self._pixels(logits).mean()

    def decode(self, latents, label=None):
        """The mean image of L latents `[B, h, w, d]`; float32 in [0, 1]."""
        logits = self._decode(None, None, list(latents), label)
        return self._pixels(logits).mean()

    def encode(self, images, eps, label=None):
        """Posterior draws of the latents.

        Args:
          images: uint8 `[B, H, W, C]`.
          eps: L float32 tensors `[B, h, w, d]`.
          label: see `sample`.

        Returns:
          L float32 tensors `[B, h, w, d]`, what `decode` takes.
        """
        return self._infer(self.to_model(images), list(eps), label)["z"]

    def reconstruct(self, images, eps, label=None):
        """The mean image of a posterior draw; float32 `[B, H, W, C]`."""
        out = self._infer(self.to_model(images), list(eps), label)
        return self._pixels(out["logits"]).mean()

    def score(self, images, eps, label=None):
        """Bounds on the likelihood, from one posterior draw.

        Args:
          images: uint8 `[B, H, W, C]`.
          eps: L float32 tensors `[B, h, w, d]`.
          label: see `sample`.

        Returns:
          dict of float32 tensors: `nelbo` `[B]` in nats, `kl_per_group`
          `[B, L]` in nats, `bits_per_dim` `[B]`.
        """
        x = self.to_model(images)
        return self._bounds(x, self._infer(x, list(eps), label))

    def infer(self, images, eps, label=None):
        """All that the posterior says of images, in one walk down.

        Args:
          images: uint8 `[B, H, W, C]`.
          eps: L float32 tensors `[B, h, w, d]`.
          label: see `sample`.

        Returns:
          `(noise, mean, bounds)`: a posterior draw as noise of the prior,
          which `mean` brings back at temperature 1: L float32 tensors
          `[B, h, w, d]`; its mean image; what `score` returns.
        """
        x = self.to_model(images)
        out = self._infer(x, list(eps), label)
        # Every group of the prior sees the latents above.
        prior = self._model.decode(
            latents=out["z"],
            params=self._params,
            with_latents=True,
            labels=label,
        ).latents
        noise = [
            (z - mean) / scale
            for z, mean, scale in zip(
                out["z"], prior.mean, prior.scale, strict=True
            )
        ]
        mean = self._pixels(out["logits"]).mean()
        return noise, mean, self._bounds(x, out)

    def to_model(self, images):
        """Pixels as the model takes them.

        Args:
          images: uint8 `[B, H, W, C]`.

        Returns:
          float32, padded, in [0, 1], at the model's number of bits.  Binary
          models see 128 and above as 1.
        """
        c = self.config
        if c.likelihood == "bernoulli":
            # LiteRT does not compare uint8.
            x = tf.cast(tf.cast(images, tf.int32) >= 128, tf.float32)
        else:
            x = quantize(tf.cast(images, tf.float32) / 255.0, c.num_bits)
        margin = [[0, 0], [c.padding] * 2, [c.padding] * 2, [0, 0]]
        return tf.pad(x, margin) if c.padding else x

    def _decode(self, eps, temperature, latents, label):
        return self._model.decode(
            eps=eps,
            temperature=temperature,
            latents=latents,
            params=self._params,
            labels=label,
        ).logits

    def _infer(self, x, eps, label):
        out = self._model(
            x,
            eps=eps,
            params=self._params,
            with_densities=False,
            with_latents=True,
            labels=label,
        )
        return {
            "logits": out.logits,
            "kl_per_group": out.kl_per_group,
            "z": out.latents.z,
        }

    def _bounds(self, x, out):
        """Of `_infer`'s results for images as the model takes them."""
        likelihood = self._model.likelihood(out["logits"])
        nelbo = losses.reconstruction_nll(likelihood, x)
        nelbo += tf.reduce_sum(out["kl_per_group"], axis=1)
        return {
            "nelbo": nelbo,
            "kl_per_group": out["kl_per_group"],
            "bits_per_dim": losses.bits_per_dim(nelbo, self.config),
        }

    def _pixels(self, logits):
        """The distribution over images without padding."""
        c = self.config
        if c.padding:
            inside = slice(c.padding, -c.padding)
            logits = logits[:, inside, inside, :]
        return pixel_distribution(
            c.likelihood, logits, c.image_channels, c.num_bits
        )


def unrolled(model: NVAE, dtype: str = "float32") -> NVAE:
    """A model of the same architecture for `Programs`.

    Args:
      model: whose architecture it has; its variables are its own, and zero.
      dtype: "float32", or "mixed_float16" to run the networks in half
        precision; likelihoods and divergences are float32 all the same.
    """
    # Without loops over the groups: weights stay constants of the convolutions
    # they belong to, and ONNX runtimes are slow at loops.
    return NVAE(model.config, seed=None, unroll=True, dtype=dtype)


def to_uint8(images):
    """[0, 1] -> 0..255, rounded."""
    return tf.cast(tf.round(255.0 * images), tf.uint8)
