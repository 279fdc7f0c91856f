"""Requests that TF Serving answers to itself before it takes others.

The first request of every signature pays for the optimisation of its graph;
with these requests beside the model the server pays when it loads a version.
"""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from nvae_tf.core.errors import ExportError
from nvae_tf.core.extras import require
from nvae_tf.export.runners import Runner
from nvae_tf.sampling.images import encode_png

__all__ = [
    "WARMUP_FILE",
    "example_inputs",
    "read_warmup",
    "require_protos",
    "write_warmup",
]

WARMUP_FILE = pathlib.PurePath("assets.extra/tf_serving_warmup_requests")

_PURPOSE = "Writing warm-up requests (or leave them out with --nowarmup)"


def require_protos(purpose: str = _PURPOSE):
    """Imports TF Serving's messages.

    Args:
      purpose: what needs them, for the message.

    Raises:
      ExportError: if tensorflow-serving-api is not installed.
    """
    module = "tensorflow_serving.apis.prediction_log_pb2"
    return require(module, "serving", purpose, ExportError)


def example_inputs(
    specs: Mapping[str, tuple], count: int, image_shape: Sequence[int]
) -> dict[str, np.ndarray]:
    """Random inputs of a signature, plausible and always the same.

    Args:
      specs: what `Runner.inputs` returned.
      count: rows.
      image_shape: `(H, W, C)` of the images.

    Returns:
      Arrays by name.
    """
    random = np.random.default_rng(0)
    inputs = {}
    for name, (dtype, shape) in specs.items():
        # Older exports took temperatures of one axis or of two.
        shape = [count, *(shape or [None])[1:]]
        if dtype in ("string", "object"):
            images = random.integers(0, 256, [count, *image_shape], np.uint8)
            value = np.array([encode_png(image) for image in images], object)
        elif dtype == "int64":
            value = np.arange(count)
        elif dtype == "int32":
            # The label of a class that every model has.
            value = np.zeros(shape, np.int32)
        elif dtype == "uint8":
            value = random.integers(0, 256, shape, np.uint8)
        elif name == "temperature":
            value = np.full(shape, 0.7, np.float32)
        elif name == "t" or name.startswith("u_"):
            value = random.random(shape, np.float32)
        else:
            value = random.standard_normal(shape, np.float32)
        inputs[name] = value
    return inputs


def write_warmup(
    folder: pathlib.Path,
    runner: Runner,
    batch_sizes: Sequence[int],
    image_shape: Sequence[int],
    model_name: str,
) -> None:
    """Writes a request per signature and batch size.

    Args:
      folder: of the SavedModel.
      runner: the SavedModel, loaded.
      batch_sizes: rows of the requests.
      image_shape: `(H, W, C)` of the images.
      model_name: under which the model will be served.

    Raises:
      ExportError: if tensorflow-serving-api is not installed.
    """
    log_protos = require_protos()
    path = folder / WARMUP_FILE
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for name in runner.names:
            for count in batch_sizes:
                log = log_protos.PredictionLog()
                request = log.predict_log.request
                request.model_spec.name = model_name
                request.model_spec.signature_name = name
                inputs = example_inputs(runner.inputs(name), count, image_shape)
                for key, value in inputs.items():
                    request.inputs[key].CopyFrom(
                        tf.make_tensor_proto(value, runner.inputs(name)[key][0])
                    )
                writer.write(log.SerializeToString())


def read_warmup(folder: pathlib.Path) -> list[tuple[str, dict]]:
    """The requests beside a SavedModel: (signature, inputs) each.

    Raises:
      ExportError: if tensorflow-serving-api is not installed.
    """
    log_protos = require_protos("Reading warm-up requests")
    requests = []
    for record in tf.data.TFRecordDataset(str(folder / WARMUP_FILE)):
        log = log_protos.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        inputs = {k: tf.make_ndarray(v) for k, v in request.inputs.items()}
        requests.append((request.model_spec.signature_name, inputs))
    return requests
