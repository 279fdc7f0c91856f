"""From the state of the last latent group to the pixels' distribution."""

import tensorflow as tf

from nvae_tf.config import ModelConfig, cell_operations
from nvae_tf.model.cells import CellChain, ResidualCell
from nvae_tf.model.layers import Conv2D
from nvae_tf.model.pure_layer import Mode, PureLayer

__all__ = ["ImageDecoder"]


class ImageDecoder(PureLayer):
    """Postprocess and image head: `[B, h, w, C] -> [B, H, W, P]`.

    Args:
      config: the architecture.
      num_parameters: P, the likelihood's parameters per pixel.
      recompute: see `nvae_tf.model.recompute`.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_parameters: int,
        *,
        recompute: str = "none",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.config = config
        self.recompute = recompute
        self.num_parameters = num_parameters
        width = config.num_channels_dec * 2**config.num_preprocess_blocks
        cells = []
        for _ in range(config.num_preprocess_blocks):
            for i in range(config.num_postprocess_cells):
                width //= 2 if i == 0 else 1
                cells.append(
                    ResidualCell(
                        cell_operations(config.architecture, "post"),
                        width,
                        "up" if i == 0 else "none",
                        use_se=config.use_se,
                        recompute=recompute,
                        name=f"cell_{len(cells)}",
                    )
                )
        self.parts["postprocess"] = CellChain(cells, name="postprocess")
        self.parts["head"] = Conv2D(num_parameters, 3, name="head")

    def build(self, input_shape):
        """Builds both parts."""
        self.parts["postprocess"].build(input_shape)
        self.parts["head"].build(
            (None, None, None, self.config.num_channels_dec)
        )
        self.built = True

    def call(self, h, params=None, mode=Mode.INFERENCE):
        """Returns `(logits, updates)`, float32 logits."""
        params = self.read_params(mode) if params is None else params
        h, updates = self.parts["postprocess"](
            h, params["postprocess"], mode=mode
        )
        logits, _ = self.parts["head"](tf.nn.elu(h), params["head"], mode=mode)
        return tf.cast(logits, tf.float32), {"postprocess": updates}
