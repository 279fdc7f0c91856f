"""The bottom-up encoder (paper figure 2a, left)."""

import tensorflow as tf

from nvae_tf.config import ModelConfig, cell_operations
from nvae_tf.model.cells import CellChain, ResidualCell
from nvae_tf.model.layers import Conv2D
from nvae_tf.model.pure_layer import Mode, PureLayer
from nvae_tf.model.scan import scan

__all__ = ["BottomUpEncoder"]


class BottomUpEncoder(PureLayer):
    """Stem, preprocess, the bottom-up tower and the top of the encoder.

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
        self.parts["stem"] = Conv2D(config.num_channels_enc, 3, name="stem")
        width = config.num_channels_enc
        cells = []
        for _ in range(config.num_preprocess_blocks):
            for i in range(config.num_preprocess_cells):
                is_last = i == config.num_preprocess_cells - 1
                width *= 2 if is_last else 1
                cells.append(
                    self._cell(
                        "pre",
                        width,
                        f"cell_{len(cells)}",
                        resample="down" if is_last else "none",
                    )
                )
        self.parts["preprocess"] = CellChain(cells, name="preprocess")
        if not config.is_plain_vae:
            for s, groups in enumerate(config.groups_per_scale):
                if s:
                    width *= 2
                    self.parts[f"down_{s}"] = self._cell(
                        "enc", width, f"down_{s}", resample="down"
                    )
                self.parts[f"scale_{s}"] = CellChain(
                    [
                        self._cell("enc", width, f"cell_{i}", stack=groups)
                        for i in range(config.num_cells_enc)
                    ],
                    stack=groups,
                    name=f"scale_{s}",
                )
        self.parts["top"] = Conv2D(width, name="top")

    def _cell(self, kind, width, name, *, resample="none", stack=None):
        return ResidualCell(
            cell_operations(self.config.architecture, kind),
            width,
            resample,
            use_se=self.config.use_se,
            recompute=self.recompute,
            stack=stack,
            name=name,
        )

    def build(self, input_shape):
        """Builds all parts; `input_shape` is that of the images."""
        channels = input_shape[-1]
        for part in self.parts.values():
            part.build((None, None, None, channels))
            if part is self.parts["stem"]:
                channels = self.config.num_channels_enc
            elif isinstance(part, CellChain) and part.cells:
                channels = part.cells[-1].filters
            elif isinstance(part, ResidualCell):
                channels = part.filters
        self.built = True

    def call(self, x, params=None, mode=Mode.INFERENCE, unroll=False):
        """Encodes images.

        Args:
          x: `[B, H, W, C]` in [0, 1], in the dtype to compute in.
          params: what `read_params` returned, or None.
          mode: see `Mode`.
          unroll: see `scan`.

        Returns:
          `(top, features, updates)`: the top of the encoder `[B, h, w, C]`,
          and per scale, coarsest first, the features its groups remember,
          stacked top-down `[G, B, h, w, C]` (the coarsest scale remembers one
          group less; None where it remembers none).
        """
        params = self.read_params(mode) if params is None else params
        updates = {}
        features = []

        def run(name, x):
            x, update = self.parts[name](x, params[name], mode=mode)
            if update:
                updates[name] = update
            return x

        x = run("preprocess", run("stem", 2 * x - 1))
        if not self.config.is_plain_vae:
            for s, groups in enumerate(self.config.groups_per_scale):
                if s:
                    x = run(f"down_{s}", x)
                tower = self.parts[f"scale_{s}"]

                def step(x, params, tower=tower):
                    x, update = tower(x, params, mode=mode)
                    return x, {"features": x, "updates": update}

                x, outputs = scan(
                    step, x, params[tower.name], groups, unroll=unroll
                )
                updates[tower.name] = outputs["updates"]
                features.append(tf.reverse(outputs["features"], [0]))
            # The last group the bottom-up pass meets is the first of the
            # top-down pass: it sees the top of the encoder instead.
            # (Split: the gradient of a slice is slow on CPUs.)
            count = features[-1].shape[0]
            features[-1] = tf.split(features[-1], [1, count - 1])[1]
        x = run("top", tf.nn.elu(x))
        return tf.nn.elu(x), features[::-1], updates
