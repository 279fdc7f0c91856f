r"""A pretrained model, trained further, on its own images or others.

    nvae train --config=pretrained:mnist --workdir=runs/mine \
        --config.data.source=image_folder --config.data.path=/path/to/pictures

What follows the colon is a name of `nvae models`, the folder of a pretrained
model, or hf://user/repo. The model begins with those weights and trains as it
was trained, but for what would undo them: the learning rate is a fifth, the KL
terms have their full weight from the first step, and there are 10 epochs.
"""

from nvae_tf.config import presets
from nvae_tf.core.errors import ConfigError
from nvae_tf.runs import model_places, pretrained_folder


def get_config(variant=None):
    if not variant:
        raise ConfigError(
            "The preset pretrained takes a model: --config=pretrained:mnist, "
            "or another of `nvae models`, a folder, or hf://USER/REPO."
        )
    config = presets.create("pretrained")
    model = pretrained_folder.describe(model_places.locate(variant)).config
    config.update(model.to_dict())
    train = config.train
    config.name += "_further"
    train.update(
        initial_model=variant,
        epochs=10,
        warmup_epochs=1,
        learning_rate=train.learning_rate / 5,
        min_learning_rate=train.min_learning_rate / 5,
        kl_const_coeff=1.0,
    )
    presets.set_cadence(config)
    return config
