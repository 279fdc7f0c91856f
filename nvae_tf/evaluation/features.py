"""Networks whose features tell how alike two sets of images are.

A network is named by what `load_features` takes:

- `inception`: Keras' InceptionV3 with its ImageNet weights, which Keras
  downloads; or an `.h5` file with those weights, without the top layer;
- a `.pb` file: the frozen graph of the Inception network of 2015, from which
  published FIDs are computed (`classify_image_graph_def.pb`);
- a folder with a SavedModel, or a `.keras` file: any network.

A SavedModel or Keras network takes one batch of images `[B, H, W, C]`: uint8
in 0..255 if that is its input's dtype, else float in [0, 1].  Where its input
has a fixed size, images are scaled to it; where it has 3 channels, gray images
are repeated.  What it returns is averaged over space, `[B, H, W, F]`, or taken
as it is, `[B, F]`.

A network is a program that runs with the rights of whoever loads it: take it
from those alone whom you would trust with that.  Keras' safe mode is on, so
that a `.keras` file brings no Python code of its own, and a frozen graph with
operations on files is refused; but neither guards against all that a network
may compute, and a SavedModel may do anything that TensorFlow can.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import re
import zipfile
from collections.abc import Callable, Iterable

import keras
import numpy as np
import tensorflow as tf

from nvae_tf.core.errors import ConfigError, DataError, UserError, one_line
from nvae_tf.core.reading import read_bytes, shown
from nvae_tf.distribute.rounding import tf32

__all__ = ["INCEPTION", "FeatureNetwork", "load_features"]

INCEPTION = "inception"
_INCEPTION_SIZE = 299
_MOST_BYTES = 2**32
# Names of operations that read, write or tell something else than tensors.
_REACHES_OUT = re.compile(
    "File|Save|Restore|Reader|Dataset|Iterator|PyFunc|Print|Summary|Debug|"
    "Table|Rpc|Checkpoint|Remap"
)
# Names in the frozen graph: float 0..255 of any size in, 2048 features out.
_GRAPH_INPUT, _GRAPH_OUTPUT = "ExpandDims:0", "pool_3:0"
# What only that graph has between and behind them.
_GRAPH_NODES = frozenset({"mixed_10/join", "pool_3", "softmax"})


@dataclasses.dataclass(frozen=True)
class FeatureNetwork:
    """A network and what its input is.

    Attributes:
      name: for messages.
      fingerprint: what tells it from other networks, 16 characters.
      function: from images, `dtype` `[B, height, width, channels]`, to
        features `[B, F]` or `[B, H, W, F]`.
      dtype: uint8 for values in 0..255; else float.
      height: of its input; None for any.
      width: likewise.
      channels: likewise.
      scale: what a float input's values, 0 to 1, are multiplied by.
      offset: what is added then.
      gives_fid: whether these are the features of published FIDs: those of
        the frozen Inception graph of 2015 and of no other network.
    """

    name: str
    fingerprint: str
    function: Callable
    dtype: tf.DType = tf.float32
    height: int | None = None
    width: int | None = None
    channels: int | None = None
    scale: float = 1.0
    offset: float = 0.0
    gives_fid: bool = False

    def extract(self, batches: Iterable[np.ndarray]) -> np.ndarray:
        """Features of images.

        Args:
          batches: uint8 `[B, H, W, C]` each.

        Returns:
          float32 `[N, F]`.

        Raises:
          DataError: if there are no images, the images do not fit, or a
            feature is not finite.
        """
        features = [self._one_batch(images) for images in batches]
        if not features:
            raise DataError("There are no images to take features of.")
        result = np.concatenate(features)
        if not np.isfinite(result).all():
            raise DataError(
                f"The feature network {self.name} gives values that are not "
                "finite; check the range of the input it was trained with."
            )
        return result

    def _one_batch(self, images: np.ndarray) -> np.ndarray:
        channels = images.shape[-1]
        wanted = self.channels or channels
        if channels != wanted:
            if (channels, wanted) != (1, 3):
                raise DataError(
                    f"The feature network {self.name} takes images of "
                    f"{wanted} channels, but these have {channels}: choose "
                    "another with --features."
                )
            images = np.repeat(images, 3, axis=-1)
        try:
            # Whatever samples are drawn in: distances are to compare.
            with tf32(False):
                return np.asarray(self._graph(tf.constant(images)), np.float32)
        except (ValueError, TypeError, tf.errors.OpError) as error:
            reason = " ".join(str(error).split())[:300]
            raise DataError(
                f"The feature network {self.name} does not take images of "
                f"shape {list(images.shape[1:])}: {reason}"
            ) from error

    @functools.cached_property
    def _graph(self):
        return tf.function(self._features, autograph=False)

    def _features(self, images):
        size = (self.height, self.width)
        fits = all(
            want in (None, have)
            for want, have in zip(size, images.shape[1:3], strict=True)
        )
        if not fits:
            size = [
                want or have
                for want, have in zip(size, images.shape[1:3], strict=True)
            ]
            # Antialiased, without which a smaller image keeps what it cannot
            # show, and distances follow the scaling more than the images.
            images = tf.image.resize(images, size, antialias=True)
        if self.dtype == tf.uint8:
            if images.dtype != tf.uint8:
                images = tf.clip_by_value(tf.round(images), 0.0, 255.0)
            images = tf.cast(images, tf.uint8)
        else:
            images = tf.cast(images, self.dtype)
            images = images / 255.0 * self.scale + self.offset
        features = tf.convert_to_tensor(self.function(images))
        if features.shape.rank == 4:
            features = tf.reduce_mean(features, axis=[1, 2])
        if features.shape.rank != 2:
            raise ValueError(
                f"it returned shape {features.shape}, not [B, F] or "
                "[B, H, W, F]"
            )
        return tf.cast(features, tf.float32)


def load_features(name: str, output: str = "") -> FeatureNetwork:
    """Loads a feature network.

    Args:
      name: see the module.
      output: which output to take: a key of the SavedModel's outputs, or the
        name of a layer of the Keras model; empty for the only or last one.

    Raises:
      ConfigError: if there is no such network or output.
      DataError: if it cannot be read.
    """
    if name == INCEPTION:
        return _inception("imagenet")
    path = pathlib.Path(name).expanduser()
    loaders = {
        "": _saved_model,
        ".keras": _keras_file,
        ".pb": lambda path, output: _frozen_graph(path),
        ".h5": lambda path, output: _inception(path),
    }
    suffix = "" if path.is_dir() else path.suffix
    if not (path.is_dir() or path.is_file()):
        raise ConfigError(
            f"--features={name}: there is no such file or folder. Give "
            f"'{INCEPTION}', a SavedModel's folder, a .keras file or the "
            "frozen Inception graph (.pb)."
        )
    if suffix not in loaders or (not suffix and path.is_file()):
        raise ConfigError(
            f"--features={name} is neither a folder nor a .keras, .pb or .h5 "
            "file."
        )
    try:
        return loaders[suffix](path, output)
    except UserError:
        raise
    # TensorFlow, Keras and what reads files for them raise many kinds.
    except Exception as error:
        raise DataError(
            f"--features={name} cannot be loaded: {one_line(error, 300)}"
        ) from error


def _inception(weights) -> FeatureNetwork:
    """InceptionV3 of Keras, its last features averaged over space."""
    try:
        network = keras.applications.InceptionV3(
            include_top=False, weights=str(weights), pooling="avg"
        )
    except Exception as error:
        # Keras raises bare Exceptions where a download fails.
        raise DataError(
            "The weights of InceptionV3 cannot be had: "
            f"{one_line(error, 200)}. Download them where there "
            "is a network, from the address that keras.applications names, "
            "and give the file with --features=FILE.h5."
        ) from error
    return FeatureNetwork(
        name=str(INCEPTION if weights == "imagenet" else weights),
        fingerprint=_digest(network, "InceptionV3"),
        function=lambda x: network(x, training=False),
        height=_INCEPTION_SIZE,
        width=_INCEPTION_SIZE,
        channels=3,
        scale=2.0,
        offset=-1.0,
    )


def _frozen_graph(path: pathlib.Path) -> FeatureNetwork:
    content = read_bytes(path, _MOST_BYTES)
    graph = tf.compat.v1.GraphDef()
    try:
        graph.ParseFromString(content)
    except Exception as error:
        # Of protobuf's own, which is not a ValueError.
        raise DataError(f"--features={path} is no frozen graph.") from error
    nodes = [*graph.node]
    for function in graph.library.function:
        nodes += function.node_def
    reaching = sorted({n.op for n in nodes if _REACHES_OUT.search(n.op)})
    if reaching:
        raise DataError(
            f"--features={path} holds the operation {shown(reaching[0])}, "
            "which reaches files or other programs and which no frozen network "
            "needs: it was not run."
        )

    def run(images):
        # The graph scales the images itself; they are not resized before.
        (pooled,) = tf.graph_util.import_graph_def(
            graph,
            input_map={_GRAPH_INPUT: images},
            return_elements=[_GRAPH_OUTPUT],
        )
        return tf.reshape(pooled, [tf.shape(images)[0], pooled.shape[-1]])

    return FeatureNetwork(
        name=str(path),
        fingerprint=hashlib.sha256(content).hexdigest()[:16],
        function=run,
        channels=3,
        scale=255.0,
        gives_fid=_is_inception_of_2015(graph),
    )


def _is_inception_of_2015(graph) -> bool:
    """Whether a frozen graph is that network, by the names of its layers.

    They are that file's own: Inception networks of other trainings name theirs
    otherwise (`InceptionV3/Mixed_7c/...`).
    """
    return {node.name for node in graph.node} >= _GRAPH_NODES


def _keras_file(path: pathlib.Path, output: str) -> FeatureNetwork:
    with zipfile.ZipFile(path) as archive:
        size = sum(info.file_size for info in archive.infolist())
    if size > _MOST_BYTES:
        raise ValueError(f"it unpacks to {size:,} bytes")
    network = keras.saving.load_model(path, compile=False, safe_mode=True)
    if len(network.inputs) != 1 or len(network.inputs[0].shape) != 4:
        raise ValueError("it does not take one batch of images [B, H, W, C]")
    if output:
        names = [layer.name for layer in network.layers]
        if output not in names:
            raise ConfigError(
                f"--features_output={output}: the layers of {path} are "
                f"{', '.join(names)}."
            )
        layer = network.get_layer(output)
        network = keras.Model(network.inputs[0], layer.output)
    _, height, width, channels = network.inputs[0].shape
    return FeatureNetwork(
        name=str(path),
        fingerprint=_digest(network, output),
        function=lambda x: network(x, training=False),
        dtype=tf.as_dtype(network.inputs[0].dtype),
        height=height,
        width=width,
        channels=channels,
    )


def _saved_model(path: pathlib.Path, output: str) -> FeatureNetwork:
    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures.get("serving_default")
    if signature is None:
        raise ConfigError(
            f"--features={path} has no signature 'serving_default'."
        )
    inputs = signature.structured_input_signature[1]
    if len(inputs) != 1:
        raise ValueError(f"it takes {len(inputs)} inputs, not one of images")
    ((key, spec),) = inputs.items()
    outputs = list(signature.structured_outputs)
    if (output or len(outputs) != 1) and output not in outputs:
        raise ConfigError(
            f"--features_output={output}: the outputs of {path} are "
            f"{', '.join(sorted(outputs))}; name one."
        )
    shape = [None] * 4 if spec.shape.rank is None else spec.shape.as_list()
    if len(shape) != 4:
        raise ValueError("it does not take images [B, H, W, C]")
    digest = hashlib.sha256(output.encode())
    for file in sorted(path.rglob("*")):
        if file.is_file() and file.name != "fingerprint.pb":
            digest.update(file.read_bytes())
    return FeatureNetwork(
        name=str(path),
        fingerprint=digest.hexdigest()[:16],
        # Bound, so that its variables live as long as the function.
        function=lambda x, keep=loaded: signature(**{key: x})[
            output or outputs[0]
        ],
        dtype=spec.dtype,
        height=shape[1],
        width=shape[2],
        channels=shape[3],
    )


def _digest(network: keras.Model, salt: str) -> str:
    """Of the architecture, the weights and what else decides the features."""
    config = json.dumps(network.get_config(), sort_keys=True, default=str)
    digest = hashlib.sha256(f"{salt}\n{config}".encode())
    for variable in network.variables:
        digest.update(np.ascontiguousarray(variable.value))
    return digest.hexdigest()[:16]
