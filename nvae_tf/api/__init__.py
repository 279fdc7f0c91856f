"""What `import nvae_tf` offers: models from folders, images out of models.

    import nvae_tf

    model = nvae_tf.load("runs/demo")
    images = nvae_tf.sample(model, 16, temperature=0.7)

The functions take a model and arrays and return arrays.  They give what the
commands give for the same seed: `sample` what `nvae sample` draws, `encode`
what `nvae encode` writes, `score` what `nvae eval likelihood` means.

Images are uint8 `[N, H, W, C]` of the model's size, or floats in [0, 1], with
or without the axis C where the model has one channel.  They are brought to the
model's bits, binarised and padded as its training images were.

A model's graphs are built by the first call, which takes seconds, and kept
with it.  What is wrong with an argument is told by a
`nvae_tf.core.errors.UserError`.
"""

from nvae_tf.api.images import (
    Encoding,
    Scores,
    encode,
    interpolate,
    reconstruct,
    sample,
    score,
)
from nvae_tf.api.runs import (
    from_pretrained,
    load,
    pretrained_models,
    save,
    save_pretrained,
)

__all__ = [
    "Encoding",
    "Scores",
    "encode",
    "from_pretrained",
    "interpolate",
    "load",
    "pretrained_models",
    "reconstruct",
    "sample",
    "save",
    "save_pretrained",
    "score",
]
