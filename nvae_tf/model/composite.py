"""What layers made of layers share."""

from nvae_tf.model.pure_layer import Mode, PureLayer
from nvae_tf.model.recompute import normalize_and_convolve

__all__ = ["Composite"]


class Composite(PureLayer):
    """A layer made of parts that run one after the other or side by side."""

    def run(self, name, x, params, mode, updates):
        """Runs one part and notes its updates."""
        y, update = self.parts[name](x, params[name], mode=mode)
        if update:
            updates[name] = update
        return y

    def run_norm_and_conv(
        self, norm, conv, x, params, mode, updates, between=None
    ):
        """Runs batch normalisation and the convolution behind it.

        Args:
          norm: name of the first part.
          conv: name of the second part.
          x: `[B, H, W, C]`.
          params: see `PureLayer`.
          mode: see `Mode`.
          updates: where those of the parts are noted.
          between: None, or a linear function of what is convolved.
        """
        if self.recompute == "bn_swish" and mode == Mode.TRAINING:
            y, updates[norm] = normalize_and_convolve(
                self.parts[norm],
                self.parts[conv],
                x,
                params[norm],
                params[conv],
                between,
            )
            return y
        x = self.run(norm, x, params, mode, updates)
        if between is not None:
            x = between(x)
        return self.run(conv, x, params, mode, updates)

    def build_parts(self, shapes):
        """Builds the parts in the order given: name -> input channels."""
        for name, channels in shapes.items():
            self.parts[name].build((None, None, None, channels))
        self.built = True
