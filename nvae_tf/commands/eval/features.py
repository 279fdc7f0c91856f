"""Trains a small feature network on labelled images.

    nvae eval features --data=mnist_5k --output=features.keras
    nvae eval features --data=labelled.npz --output=features.keras

For `nvae eval samples --features=features.keras` on small or
gray images, about which Inception knows little.  The network is a classifier
of a few convolutions; its features are what its last layer sees.  It takes
minutes on a CPU.  An .npz file holds x_train, uint8 [N, H, W] or [N, H, W, C],
and y_train, integers [N], as those of keras.datasets do.
"""

from absl import flags

from nvae_tf.core.errors import ConfigError, DataError
from nvae_tf.core.reading import shown

_MOST_CLASSES = 100_000
_DATA = flags.DEFINE_string(
    "data",
    "mnist_5k",
    "'mnist_5k' (the digits of the demo), or an .npz file with "
    "x_train and y_train.",
)
_OUTPUT = flags.DEFINE_string(
    "output", "features.keras", "The .keras file to write."
)
_FEATURES = flags.DEFINE_integer(
    "num_features", 64, "Width of the last layer.", lower_bound=2
)
_EPOCHS = flags.DEFINE_integer(
    "epochs", 10, "Passes over the images.", lower_bound=1
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Of weights, order and held-out images.", lower_bound=0
)
_HELD_OUT = 0.1
_BATCH = 64


def main(argv) -> None:
    """Reads, trains, reports the held-out accuracy, writes."""
    del argv
    if not _OUTPUT.value.endswith(".keras"):
        raise ConfigError(f"--output={_OUTPUT.value} must end in .keras.")
    # Before TensorFlow is loaded.
    images, labels = _read()
    import keras
    import numpy as np

    from nvae_tf.core.files import replacing

    keras.utils.set_random_seed(_SEED.value)
    order = np.random.default_rng(_SEED.value).permutation(len(images))
    held_out = max(1, round(_HELD_OUT * len(images)))
    train, test = order[held_out:], order[:held_out]
    features, classifier = build(
        images.shape[1:], int(labels.max()) + 1, _FEATURES.value
    )
    classifier.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    classifier.fit(
        images[train] / np.float32(255.0),
        labels[train],
        batch_size=_BATCH,
        epochs=_EPOCHS.value,
        verbose=2,
    )
    _, accuracy = classifier.evaluate(
        images[test] / np.float32(255.0), labels[test], verbose=0
    )
    with replacing(_OUTPUT.value) as temporary:
        named = temporary.with_suffix(".keras")
        features.save(named)
        named.replace(temporary)
    print(
        f"{_OUTPUT.value}: {_FEATURES.value} features; {accuracy:.1%} of "
        f"{held_out} held-out images are classified correctly."
    )


def build(shape, num_classes: int, num_features: int):
    """The network and a classifier on top of it.

    Args:
      shape: `(H, W, C)` of an image.
      num_classes: outputs of the classifier.
      num_features: outputs of the network, F.

    Returns:
      Two Keras models that take float `[B, H, W, C]` in [0, 1]: the features
      `[B, F]`, and logits `[B, num_classes]`.
    """
    import keras

    x = images = keras.Input(shape)
    for channels in (32, 64, 128):
        x = keras.layers.Conv2D(channels, 3, padding="same")(x)
        # Quick to settle: small data sets have few steps.
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
        x = keras.layers.ReLU()(x)
        x = keras.layers.MaxPooling2D(padding="same")(x)
    x = keras.layers.Flatten()(x)
    features = keras.layers.Dense(num_features, activation="relu")(x)
    logits = keras.layers.Dense(num_classes)(features)
    return keras.Model(images, features), keras.Model(images, logits)


def _read():
    """`(uint8 [N, H, W, C], integers [N])`."""
    import numpy as np

    from nvae_tf.core.npz_files import NpzFile

    if _DATA.value == "mnist_5k":
        from nvae_tf.datasets.arrays import labelled_mnist_5k

        return labelled_mnist_5k()
    advice = "give an .npz file with x_train and y_train"
    with NpzFile(_DATA.value, DataError, advice) as stored:
        if not {"x_train", "y_train"} <= stored.headers.keys():
            raise DataError(
                f"--data={_DATA.value} holds "
                f"{shown(', '.join(stored.headers), 200)}; {advice}."
            )
        # All images are in memory to train on: these are few.
        x, y = (stored.read(name, 2**34) for name in ("x_train", "y_train"))
    x, y = x[..., None] if x.ndim == 3 else x, y.reshape(-1)
    fits = x.ndim == 4 and len(x) == len(y) and len(x) > 1
    if x.dtype != np.uint8 or y.dtype.kind not in "iu" or not fits:
        raise DataError(
            f"--data={_DATA.value} holds x_train {x.dtype} {list(x.shape)} and "
            f"y_train {y.dtype} {list(y.shape)}; uint8 [N, H, W, C] and "
            "integers [N] are needed."
        )
    if y.min() < 0 or y.max() >= _MOST_CLASSES:
        raise DataError(
            f"--data={_DATA.value} has labels that are not 0 to "
            f"{_MOST_CLASSES - 1}."
        )
    return x, y.astype(np.int64)
