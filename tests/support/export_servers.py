"""Servers that do around a real exported model what TensorFlow Serving does.

There is none to be had here.  Whatever is believed of it has an address:

[rest]: https://www.tensorflow.org/tfx/serving/api_rest
[http]: https://github.com/tensorflow/serving/blob/master/tensorflow_serving/model_servers/http_server.cc
[core]: https://github.com/tensorflow/serving/blob/master/tensorflow_serving/model_servers/server_core.cc
[predict]: https://github.com/tensorflow/serving/blob/master/tensorflow_serving/apis/predict.proto
[util]: https://github.com/tensorflow/serving/blob/master/tensorflow_serving/servables/tensorflow/predict_util.cc

How it merges requests is told in `tests.support.merging`.
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import functools
import http.server
import json
import pathlib
import re
import threading
import time

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tests.support.merging import Queue
from tests.support.running import running

_CODES = {code.value[0]: code for code in grpc.StatusCode}


@functools.lru_cache(maxsize=1)
def _load(folder: str, _changed: int):
    """One that the last test has loaded need not be loaded again."""
    return tf.saved_model.load(folder)


class Backend:
    """A loaded model, and whether requests that arrive together are merged.

    Args:
      folder: of the SavedModel; its name is the version.
      name: under which it is served.
      window: seconds that a request waits for others; 0 to run each alone.
      max_rows: rows of the largest batch.
      max_batches: batches that wait; beyond them requests are turned away.
      labels: versions by name, `version_labels` of the configuration.

    Attributes:
      failures: classes of `tf.errors` to answer the next requests with.
      delay: seconds that every request takes besides.
      requests: how many came.
      filters: names of outputs that were asked for.
    """

    def __init__(
        self,
        folder,
        name="nvae",
        window=0.0,
        *,
        max_rows=32,
        max_batches=64,
        labels=None,
    ):
        file = pathlib.Path(folder) / "saved_model.pb"
        self._loaded = _load(str(folder), file.stat().st_mtime_ns)
        self.name = name
        self._version = int(pathlib.Path(folder).name)
        self._labels = labels or {}
        self._limits = (window, max_rows, max_batches)
        self.failures: list = []
        self.filters: list[tuple[str, ...]] = []
        self.delay = 0.0
        self.requests = 0
        self._queues: dict[tuple, Queue] = {}
        self._lock = threading.Lock()
        saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
        self.definitions = {
            name: definition
            for name, definition in saved.meta_graphs[0].signature_def.items()
            if not name.startswith("__")
        }

    @property
    def merged(self) -> list[int]:
        """Numbers of requests that ran together."""
        return [n for queue in self._queues.values() for n in queue.merged]

    def check(self, name: str, version=None, label: str = "") -> None:
        """Raises what the server was told to fail with, or for a name."""
        self.requests += 1
        time.sleep(self.delay)
        if self.failures:
            raise self.failures.pop(0)(None, None, "told to fail")
        if label and label not in self._labels:
            # GetModelVersionForLabel of [core].
            raise tf.errors.InvalidArgumentError(
                None, None, f"Unrecognized servable version label: {label}"
            )
        wanted = self._labels[label] if label else version
        if name != self.name or wanted not in (None, self._version):
            raise tf.errors.NotFoundError(
                None, None, f"Servable not found for request: Latest({name})"
            )

    def predict(self, signature: str, inputs: dict, outputs=()) -> dict:
        """Runs a signature; `outputs` are as in [predict]."""
        signature = signature or "serving_default"
        outputs = tuple(sorted(outputs))
        self.filters.append(outputs)
        if signature not in self._loaded.signatures:
            # PreProcessPrediction of [util].
            raise tf.errors.FailedPreconditionError(
                None, None, f'Serving signature key "{signature}" not found.'
            )
        self._check_names(signature, inputs, outputs)
        window, *limits = self._limits
        if not window:
            return self._run(signature, outputs, inputs)
        with self._lock:
            # What asks for other outputs waits in another queue.
            key = signature, outputs
            if key not in self._queues:
                run = functools.partial(self._run, *key)
                self._queues[key] = Queue(run, window, *limits)
        return self._queues[key].submit(inputs).result()

    def _check_names(self, signature, inputs, outputs):
        """PreProcessPrediction of [util]: names and types, but no shapes."""
        definition = self.definitions[signature]
        if set(inputs) != set(definition.inputs):
            raise tf.errors.InvalidArgumentError(
                None, None, f"inputs must be {sorted(definition.inputs)}"
            )
        for name, value in inputs.items():
            wanted = tf.as_dtype(definition.inputs[name].dtype)
            if tf.as_dtype(value.dtype) != wanted:
                raise tf.errors.InvalidArgumentError(
                    None, None, f"input {name} must be {wanted.name}"
                )
        for name in set(outputs) - set(definition.outputs):
            raise tf.errors.InvalidArgumentError(
                None, None, f"output tensor alias not found: {name}"
            )

    def _run(self, signature: str, outputs: tuple, inputs: dict) -> dict:
        results = self._loaded.signatures[signature](
            **{k: tf.constant(v) for k, v in inputs.items()}
        )
        return {k: results[k].numpy() for k in outputs or results}


class _Servicer(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, backend: Backend):
        self._backend = backend

    def Predict(self, request, context):  # noqa: N802
        with _status(context):
            self._backend.check(*_meant(request.model_spec))
            outputs = self._backend.predict(
                request.model_spec.signature_name,
                {k: tf.make_ndarray(v) for k, v in request.inputs.items()},
                request.output_filter,
            )
            response = predict_pb2.PredictResponse()
            for name, value in outputs.items():
                response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
            return response

    def GetModelMetadata(self, request, context):  # noqa: N802
        with _status(context):
            self._backend.check(*_meant(request.model_spec))
            signatures = get_model_metadata_pb2.SignatureDefMap()
            for name, definition in self._backend.definitions.items():
                signatures.signature_def[name].CopyFrom(definition)
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            response.metadata["signature_def"].Pack(signatures)
            return response


def _meant(spec):
    """Name, version and label of a `ModelSpec`."""
    kind = spec.WhichOneof("version_choice")
    version = spec.version.value if kind == "version" else None
    return spec.name, version, spec.version_label


@contextlib.contextmanager
def _status(context):
    try:
        yield
    except tf.errors.OpError as error:
        context.abort(_CODES[error.error_code], error.message)


@contextlib.contextmanager
def serve_grpc(backend: Backend, credentials=None, interceptors=()):
    """Runs a gRPC server; gives "HOST:PORT"."""
    server = grpc.server(
        concurrent.futures.ThreadPoolExecutor(16),
        options=[("grpc.max_receive_message_length", -1)],
        interceptors=interceptors,
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        _Servicer(backend), server
    )
    port = (
        server.add_secure_port("127.0.0.1:0", credentials)
        if credentials
        else server.add_insecure_port("127.0.0.1:0")
    )
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


# ToHTTPStatusCode of [http].
_HTTP = {1: 499, 3: 400, 4: 504, 5: 404, 8: 429, 9: 400, 12: 501, 14: 503}
# Of [rest], "URL".
_PLACE = r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?"


class Handler(http.server.BaseHTTPRequestHandler):
    backend: Backend

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer(f"{_PLACE}/metadata", None)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(f"{_PLACE}:predict", body)

    def _answer(self, route, body):
        match = re.fullmatch(route, self.path)
        if match is None:
            self._send(404, {"error": f"Malformed request: {self.path}"})
            return
        name, version, label = match.groups()
        try:
            version = None if version is None else int(version)
            self.backend.check(name, version, label or "")
            if body is None:
                self._send(200, self._metadata(name))
            else:
                self._send(200, self._predict(body))
        except tf.errors.OpError as error:
            self._send(
                _HTTP.get(error.error_code, 500), {"error": error.message}
            )

    def _metadata(self, name):
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for key, definition in self.backend.definitions.items():
            signatures.signature_def[key].CopyFrom(definition)
        content = json_format.MessageToDict(
            signatures,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
        )
        return {
            "model_spec": {"name": name},
            "metadata": {"signature_def": content},
        }

    def _predict(self, body):
        """[rest], "Predict API", with "inputs"; it has no output filter."""
        try:
            body = json.loads(body)
            signature = body.get("signature_name", "serving_default")
            # Of an unknown one the backend tells.
            definition = self.backend.definitions.get(signature)
            inputs = {
                name: _decode(value, definition.inputs[name])
                for name, value in body["inputs"].items()
                if definition
            }
        except (
            AttributeError,
            KeyError,
            OverflowError,
            TypeError,
            ValueError,
        ) as error:
            raise tf.errors.InvalidArgumentError(
                None, None, f"JSON Parse error: {error}"
            ) from error
        outputs = {
            name: _encode(value)
            for name, value in self.backend.predict(signature, inputs).items()
        }
        # "Response format": one output comes without its name.
        if len(outputs) == 1:
            (outputs,) = outputs.values()
        return {"outputs": outputs}

    def _send(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        # The client may have given up.
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)


def _decode(value, info):
    """[rest], "Encoding binary values"."""
    dtype = tf.as_dtype(info.dtype)
    if dtype == tf.string:
        return np.array([base64.b64decode(v["b64"]) for v in value], object)
    array = np.asarray(value)
    if array.dtype.kind not in ("iuf" if dtype.is_floating else "iu"):
        raise TypeError(f"not of expected type: {dtype.name}")
    return array.astype(dtype.as_numpy_dtype)


def _encode(value):
    if value.dtype == object:
        return [{"b64": base64.b64encode(v).decode()} for v in value]
    return value.tolist()


@contextlib.contextmanager
def serve_rest(backend: Backend, context=None, handler=Handler):
    """Runs a REST server, over TLS with an `ssl.SSLContext`; gives its URL."""
    handler = type("Handler", (handler,), {"backend": backend})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if context:
        # The handshake is for the threads, so that nobody waits for it.
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    with running(server):
        yield f"http{'s' * bool(context)}://127.0.0.1:{server.server_port}"
