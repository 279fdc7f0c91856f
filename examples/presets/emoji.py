"""Emoji of two vendors, 32x32, colour: 7 latent groups, for two CPU cores.

    python -m examples.emoji --vendors=google,twitter --output=data/emoji
    nvae train --config=examples/presets/emoji.py --workdir=runs/emoji

Devices: two CPU cores, one to two hours.
The paper has no result to compare with.

Begins with the weights of `cartoon-faces`, whose model it is: what draws flat
colours and outlines there is of use here.  The pictures are few, so they are
mirrored at random, though mirrored letters are none.
"""

from nvae_tf.config import presets


def get_config(variant=None):
    """The locked `ConfigDict` of the run."""
    presets.choose(variant, "default")
    config = presets.read("pretrained:cartoon-faces")
    config.name = "emoji"
    config.data.update(path="data/emoji", flip=True)
    config.train.update(learning_rate=0.003)
    config.evaluation.update(every_epochs=5, final_importance_samples=10)
    return config
