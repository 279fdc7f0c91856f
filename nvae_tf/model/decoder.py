"""The top-down decoder: a walk through all latent groups (paper figure 2).

One walk serves training (latents from the posterior), sampling and export
(latents from the prior).
"""

import math

import tensorflow as tf

from nvae_tf.config import ModelConfig, cell_operations
from nvae_tf.model.cells import ResidualCell
from nvae_tf.model.latent_group import LatentGroup
from nvae_tf.model.pure_layer import Mode, PureLayer
from nvae_tf.model.scan import scan

__all__ = ["ClassEmbedding", "TopDownDecoder"]


class ClassEmbedding(PureLayer):
    """What the state of one scale learns of an image's class.

    It begins at zero: at its first step a model of classes computes what the
    unconditional model of the same seed does.  That breaks no symmetry that
    matters, since the gradient to a class is that of its own images.

    Args:
      num_classes: K.
      width: channels of the state, C.
    """

    def __init__(self, num_classes: int, width: int, **kwargs):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.width = width

    def build(self, input_shape):
        """Creates the table `[K, C]`."""
        del input_shape
        self.table = self.add_stacked("table", (self.num_classes, self.width))
        self.built = True

    def initialize(self, seed):
        """Sets the table to zero."""
        del seed
        self.table.assign(tf.zeros(self.table.shape))

    def read_params(self, mode=Mode.INFERENCE):
        """The table, whatever the mode."""
        del mode
        return {"table": tf.convert_to_tensor(self.table)}

    def call(self, labels, params=None, mode=Mode.INFERENCE):
        """Looks classes up.

        Args:
          labels: int32 `[B]`.
          params: what `read_params` returned, or None.
          mode: see `Mode`.

        Returns:
          `(rows, updates)`: float32 `[B, 1, 1, C]`, NaN where a label is of no
          class, and no updates.
        """
        params = self.read_params(mode) if params is None else params
        # A product, not a gather: its gradient is dense, and what is out of
        # range reads no other row on any device.
        is_class = tf.equal(labels[:, None], tf.range(self.num_classes)[None])
        rows = tf.linalg.matmul(tf.cast(is_class, tf.float32), params["table"])
        known = tf.reduce_any(is_class, axis=1, keepdims=True)
        rows = tf.where(known, rows, math.nan)
        return rows[:, None, None, :], {}


class TopDownDecoder(PureLayer):
    """All latent groups, coarsest scale first (paper figure 2b).

    Args:
      config: the architecture.
      recompute: see `nvae_tf.model.recompute`.
    """

    def __init__(
        self, config: ModelConfig, *, recompute: str = "none", **kwargs
    ):
        super().__init__(**kwargs)
        self.config = config
        self.recompute = recompute
        encoder_width, width = config.latent_width
        self.parts["first"] = LatentGroup(
            config, width, encoder_width, is_first=True, name="first"
        )
        for s, groups in enumerate(config.groups_top_down):
            if s:
                width //= 2
                encoder_width //= 2
                self.parts[f"up_{s}"] = ResidualCell(
                    cell_operations(config.architecture, "dec"),
                    width,
                    "up",
                    use_se=config.use_se,
                    recompute=recompute,
                    name=f"up_{s}",
                )
            count = groups - (s == 0)
            if count:
                self.parts[f"scale_{s}"] = LatentGroup(
                    config,
                    width,
                    encoder_width,
                    recompute=recompute,
                    stack=count,
                    name=f"scale_{s}",
                )
            if config.num_classes:
                self.parts[f"class_{s}"] = ClassEmbedding(
                    config.num_classes, width, name=f"class_{s}"
                )

    def build(self, input_shape):
        """Creates `prior_h0` and builds all parts."""
        del input_shape
        config = self.config
        size = config.scale_sizes[0]
        self.prior_h0 = self.add_stacked(
            "prior_h0",
            (size, size, config.latent_width[1]),
            # The plain VAE has no state: no gradient, update or decay.
            trainable=not config.is_plain_vae,
        )
        for part in self.parts.values():
            is_up = isinstance(part, ResidualCell)
            width = 2 * part.filters if is_up else part.width
            part.build((None, None, None, width))
        self.built = True

    def initialize(self, seed):
        """Also draws `prior_h0` from U(0, 1)."""
        super().initialize(seed)
        self.prior_h0.assign(
            tf.random.stateless_uniform(
                self.prior_h0.shape, [seed & 0x7FFFFFFF, 2], alg="philox"
            )
        )

    def read_params(self, mode=Mode.INFERENCE):
        """Also `prior_h0`."""
        return {
            **super().read_params(mode),
            "prior_h0": tf.convert_to_tensor(self.prior_h0),
        }

    def call(
        self,
        noise,
        top=None,
        features=None,
        temperature=None,
        latents=None,
        params=None,
        mode=Mode.INFERENCE,
        dtype=tf.float32,
        unroll=False,
        with_densities=True,
        with_latents=False,
        labels=None,
    ):
        """Walks down all groups.

        Args:
          noise: per scale, coarsest first, float32 `[G, B, h, w, d]`; None
            with `latents`.
          top: the top of the encoder; None to draw from the prior.
          features: per scale, from the encoder.
          temperature: None or float32 `[L, B or 1]`, per group.
          latents: per scale `[G, B, h, w, d]`, instead of draws.
          params: what `read_params` returned, or None.
          mode: see `Mode`.
          dtype: of the decoder's state.
          unroll: see `scan`.
          with_densities: see `LatentGroup`.
          with_latents: see `LatentGroup`.
          labels: int32 `[B]`, where the model has classes.

        Returns:
          `(h, results, updates)`: the last state, and a dictionary of the
          groups' results, each a list per scale of `[G, B, ...]`.
        """
        params = self.read_params(mode) if params is None else params
        config = self.config
        inputs = [
            self._inputs(s, noise, latents, features, temperature)
            for s in range(config.num_latent_scales)
        ]
        head = {
            name: x[0] for name, x in inputs[0].items() if name != "features"
        }
        inputs[0] = {
            name: x if name == "features" else x[1:]
            for name, x in inputs[0].items()
        }
        h = None
        if not config.is_plain_vae:
            batch = tf.shape(head["noise" if latents is None else "z"])[0]
            h = tf.cast(params["prior_h0"], dtype)[None]
            h = tf.repeat(h, batch, axis=0)
            h = self._with_class(h, 0, labels, params, mode)
        static = {
            "mode": mode,
            "with_densities": with_densities,
            "with_latents": with_latents,
        }
        updates = {}
        h, first, updates["first"] = self.parts["first"](
            h=h, features=top, params=params["first"], **head, **static
        )
        h = tf.cast(h, dtype)  # The plain VAE's comes from a float32 latent.
        if config.is_plain_vae:
            # It has no state before.
            h = self._with_class(h, 0, labels, params, mode)
        results = [tf.nest.map_structure(lambda x: x[None], first)]
        for s, groups in enumerate(config.groups_top_down):
            if s:
                name = f"up_{s}"
                h, updates[name] = self.parts[name](h, params[name], mode=mode)
                h = self._with_class(h, s, labels, params, mode)
            count = groups - (s == 0)
            if not count:
                continue
            group = self.parts[f"scale_{s}"]

            def step(h, slices, group=group):
                h, result, update = group(h=h, **slices, **static)
                return h, {"results": result, "updates": update}

            h, outputs = scan(
                step,
                h,
                inputs[s] | {"params": params[group.name]},
                count,
                unroll=unroll,
            )
            results.append(outputs["results"])
            updates[group.name] = outputs["updates"]
        merged = {name: [r[name] for r in results] for name in first}
        return h, merged, updates

    def _with_class(self, h, s, labels, params, mode):
        """The state with what scale s knows of the classes, if any."""
        if labels is None:
            return h
        name = f"class_{s}"
        rows, _ = self.parts[name](labels, params[name], mode=mode)
        return h + tf.cast(rows, h.dtype)

    def _inputs(self, s, noise, latents, features, temperature):
        """What the groups of scale s take, stacked."""
        inputs = {}
        if latents is None:
            inputs["noise"] = noise[s]
        else:
            inputs["z"] = latents[s]
        if features:
            inputs["features"] = features[s]
        if temperature is not None:
            start = sum(self.config.groups_top_down[:s])
            count = self.config.groups_top_down[s]
            inputs["temperature"] = temperature[
                start : start + count, :, None, None, None
            ]
        return inputs
