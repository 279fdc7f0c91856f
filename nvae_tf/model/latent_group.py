"""A latent group: prior, posterior, flows and combiners (paper figure 2)."""

import tensorflow as tf
import tensorflow_probability as tfp

from nvae_tf.config import ModelConfig, cell_operations
from nvae_tf.distributions.likelihoods import ResidualNormal
from nvae_tf.model.cells import (
    CellChain,
    DecoderCombiner,
    EncoderCombiner,
    FlowCell,
    ResidualCell,
)
from nvae_tf.model.layers import Conv2D
from nvae_tf.model.pure_layer import Mode, PureLayer

__all__ = ["LatentGroup"]

tfd = tfp.distributions


class LatentGroup(PureLayer):
    """One latent group: cells, prior, posterior, flows and combiners.

    Args:
      config: the architecture.
      width: channels of the decoder's state at this scale.
      encoder_width: channels of the encoder's features at this scale.
      is_first: the top group: no cells, a standard prior, and a posterior
        from the top of the encoder alone.
      recompute: see `nvae_tf.model.recompute`.
      stack: see `PureLayer`.
    """

    def __init__(
        self,
        config: ModelConfig,
        width: int,
        encoder_width: int,
        *,
        is_first: bool = False,
        recompute: str = "none",
        stack=None,
        **kwargs,
    ):
        super().__init__(stack=stack, **kwargs)
        self.config = config
        self.recompute = recompute
        self.width = width
        self.encoder_width = encoder_width
        self.is_first = is_first
        d = config.num_latent_per_group
        if not is_first:
            self.parts["cells"] = CellChain(
                [
                    ResidualCell(
                        cell_operations(config.architecture, "dec"),
                        width,
                        use_se=config.use_se,
                        recompute=recompute,
                        stack=stack,
                        name=f"cell_{i}",
                    )
                    for i in range(config.num_cells_dec)
                ],
                stack=stack,
                name="cells",
            )
            self.parts["prior"] = Conv2D(2 * d, stack=stack, name="prior")
            self.parts["encoder_combiner"] = EncoderCombiner(
                encoder_width, stack=stack, name="encoder_combiner"
            )
        self.parts["posterior"] = Conv2D(
            2 * d, 3, stack=stack, name="posterior"
        )
        for i in range(2 * config.num_flow_pairs):
            self.parts[f"flow_{i}"] = FlowCell(
                mirrored=i % 2 == 1,
                recompute=recompute,
                stack=stack,
                name=f"flow_{i}",
            )
        self.parts["decoder_combiner"] = DecoderCombiner(
            width, stack=stack, name="decoder_combiner"
        )

    def build(self, input_shape):
        """Builds all parts; the widths are the constructor's."""
        del input_shape
        d = self.config.num_latent_per_group
        state = 0 if self.config.is_plain_vae else self.width
        widths = {
            "cells": self.width,
            "prior": self.width,
            "encoder_combiner": self.width,
            "posterior": self.encoder_width,
            "decoder_combiner": state + d,
        }
        for name, part in self.parts.items():
            part.build((None, None, None, widths.get(name, d)))
        self.built = True

    def call(
        self,
        noise=None,
        z=None,
        h=None,
        features=None,
        temperature=None,
        params=None,
        mode=Mode.INFERENCE,
        with_densities=True,
        with_latents=False,
    ):
        """Walks through the group.

        Args:
          noise: float32 `[B, h, w, d]`, standard Normal.
          z: the latent itself `[B, h, w, d]`, in place of noise and a draw.
          h: the decoder's state `[B, h, w, width]`; None in the plain VAE.
          features: what the encoder remembers `[B, h, w, encoder_width]`; None
            to draw from the prior.
          temperature: None, or what multiplies the prior's sigma when drawing
            from it, broadcasts to `[B, h, w, d]`.
          params: what `read_params` returned (one slice of a stack), or None.
          mode: see `Mode`.
          with_densities: also compute log q and log p at the sample.
          with_latents: also return the latent and its distribution.

        Returns:
          `(h, results, updates)`: the next state; float32 `kl` `[B, d]`
          (summed over space), `log_q` and `log_p` `[B]`, all in nats and with
          features only, and if wanted `z`, `mean`, `scale` `[B, h, w, d]`.
        """
        params = self.read_params(mode) if params is None else params
        updates = {}
        if self.is_first:
            raw_prior = None
        else:
            h, updates["cells"] = self.parts["cells"](
                h, params["cells"], mode=mode
            )
            raw_prior = self._split("prior", tf.nn.elu(h), params, mode)
        results = {}
        if features is None:
            source = self._prior(
                raw_prior, noise if z is None else z, temperature
            )
            z = source.from_noise(noise) if z is None else z
        else:
            if not self.is_first:
                features = self.parts["encoder_combiner"](
                    h, features, params["encoder_combiner"], mode=mode
                )
            raw = self._split("posterior", features, params, mode)
            prior = self._prior(raw_prior, raw[0], None)
            if self.config.residual_posterior:
                source = prior.residual(*raw)
            else:
                source = ResidualNormal(*raw)
            before_flow = source.from_noise(noise)
            z = self._flow(before_flow, params, mode)
            results = self._divergence(
                source, prior, before_flow, z, with_densities
            )
        if with_latents:
            results |= {"z": z, "mean": source.loc, "scale": source.scale}
        h = self.parts["decoder_combiner"](
            z if h is None else tf.cast(z, h.dtype),
            h=h,
            params=params["decoder_combiner"],
            mode=mode,
        )
        return h, results, updates

    def _split(self, name, x, params, mode):
        """Raw mean and raw log-sigma from a convolution."""
        y, _ = self.parts[name](x, params[name], mode=mode)
        return tf.split(tf.cast(y, tf.float32), 2, axis=-1)

    def _prior(self, raw, like, temperature) -> ResidualNormal:
        if raw is None:
            return ResidualNormal.standard(tf.shape(like), temperature)
        return ResidualNormal(*raw, temperature=temperature)

    def _flow(self, z, params, mode):
        for i in range(2 * self.config.num_flow_pairs):
            name = f"flow_{i}"
            z, _ = self.parts[name](z, params[name], mode=mode)
        return z

    def _divergence(self, posterior, prior, before_flow, z, with_densities):
        """KL per channel, and the densities where they are needed."""
        results = {}
        has_flow = self.config.num_flow_pairs > 0
        if with_densities or has_flow:
            # The flow's log-determinant is 0: log q is that of its input.
            log_q = posterior.log_prob(before_flow)
            log_p = prior.log_prob(z)
        if with_densities:
            results["log_q"] = tf.reduce_sum(log_q, axis=[1, 2, 3])
            results["log_p"] = tf.reduce_sum(log_p, axis=[1, 2, 3])
        kl = log_q - log_p if has_flow else tfd.kl_divergence(posterior, prior)
        results["kl"] = tf.reduce_sum(kl, axis=[1, 2])
        return results
