"""Servers with TF Serving's protocols around a real exported model."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import http.server
import json
import pathlib
import queue
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

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Backend:
    """A loaded model that merges requests which arrive together.

    Args:
      folder: of the SavedModel.
      name: under which it is served.
      window: seconds that a request waits for others; 0 to run each alone.

    Attributes:
      failures: classes of `tf.errors` to answer the next requests with.
      delay: seconds that every request takes besides.
      merged: numbers of requests that ran together.
      requests: how many came.
    """

    def __init__(self, folder, name="nvae", window=0.0):
        self._loaded = tf.saved_model.load(str(folder))
        self.name = name
        self.window = window
        self.failures: list = []
        self.delay = 0.0
        self.merged: list[int] = []
        self.requests = 0
        self._queues: dict[str, queue.Queue] = {}
        self._lock = threading.Lock()
        content = (pathlib.Path(folder) / "saved_model.pb").read_bytes()
        saved = saved_model_pb2.SavedModel.FromString(content)
        self.definitions = {
            name: definition
            for name, definition in saved.meta_graphs[0].signature_def.items()
            if not name.startswith("__")
        }

    def check(self, name: str) -> None:
        """Raises what the server was told to fail with, or for a name."""
        self.requests += 1
        time.sleep(self.delay)
        if self.failures:
            raise self.failures.pop(0)(None, None, "told to fail")
        if name != self.name:
            raise tf.errors.NotFoundError(
                None, None, f"Servable not found for request: Latest({name})"
            )

    def predict(self, signature: str, inputs: dict) -> dict:
        signature = signature or "serving_default"
        if signature not in self._loaded.signatures:
            raise tf.errors.FailedPreconditionError(
                None, None, f'Serving signature key "{signature}" not found.'
            )
        if not self.window:
            return self._run(signature, inputs)
        return self._queue(signature, inputs).result()

    def _run(self, signature: str, inputs: dict) -> dict:
        function = self._loaded.signatures[signature]
        specs = function.structured_input_signature[1]
        if set(inputs) != set(specs):
            raise tf.errors.InvalidArgumentError(
                None, None, f"inputs must be {sorted(specs)}"
            )
        outputs = function(
            **{k: tf.constant(v, specs[k].dtype) for k, v in inputs.items()}
        )
        return {name: value.numpy() for name, value in outputs.items()}

    def _queue(self, signature, inputs):
        future = concurrent.futures.Future()
        with self._lock:
            if signature not in self._queues:
                self._queues[signature] = queue.Queue()
                threading.Thread(
                    target=self._merge, args=(signature,), daemon=True
                ).start()
        self._queues[signature].put((inputs, future))
        return future

    def _merge(self, signature):
        waiting = self._queues[signature]
        while True:
            batch = [waiting.get()]
            time.sleep(self.window)
            with contextlib.suppress(queue.Empty):
                while len(batch) < 8:
                    batch.append(waiting.get_nowait())
            self.merged.append(len(batch))
            try:
                inputs = {
                    name: np.concatenate([given[name] for given, _ in batch])
                    for name in batch[0][0]
                }
                outputs = self._run(signature, inputs)
            except Exception as error:
                for _, future in batch:
                    future.set_exception(error)
                continue
            start = 0
            for given, future in batch:
                end = start + len(next(iter(given.values())))
                future.set_result({k: v[start:end] for k, v in outputs.items()})
                start = end


class _Servicer(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, backend: Backend):
        self._backend = backend

    def Predict(self, request, context):  # noqa: N802
        with _status(context):
            self._backend.check(request.model_spec.name)
            outputs = self._backend.predict(
                request.model_spec.signature_name,
                {k: tf.make_ndarray(v) for k, v in request.inputs.items()},
            )
            response = predict_pb2.PredictResponse()
            for name, value in outputs.items():
                response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
            return response

    def GetModelMetadata(self, request, context):  # noqa: N802
        with _status(context):
            self._backend.check(request.model_spec.name)
            signatures = get_model_metadata_pb2.SignatureDefMap()
            for name, definition in self._backend.definitions.items():
                signatures.signature_def[name].CopyFrom(definition)
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            response.metadata["signature_def"].Pack(signatures)
            return response


@contextlib.contextmanager
def _status(context):
    try:
        yield
    except tf.errors.OpError as error:
        context.abort(_CODES[error.error_code], error.message)


@contextlib.contextmanager
def serve_grpc(backend: Backend):
    """Runs a gRPC server; gives "HOST:PORT"."""
    server = grpc.server(
        concurrent.futures.ThreadPoolExecutor(16),
        options=[("grpc.max_receive_message_length", -1)],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        _Servicer(backend), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


# The status codes of gRPC as TF Serving's REST interface translates them.
_HTTP = {3: 400, 5: 404, 8: 429, 9: 412, 14: 503}


class _Handler(http.server.BaseHTTPRequestHandler):
    backend: Backend

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer(r"/v1/models/(\w+)(?:/versions/\d+)?/metadata", None)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(
            r"/v1/models/(\w+)(?:/versions/\d+)?:predict", json.loads(body)
        )

    def _answer(self, route, body):
        match = re.fullmatch(route, self.path)
        if match is None:
            self._send(404, {"error": f"Malformed request: {self.path}"})
            return
        try:
            self.backend.check(match[1])
            if body is None:
                self._send(200, self._metadata(match[1]))
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
        signature = body.get("signature_name", "serving_default")
        inputs = {
            name: _decode(value) for name, value in body["inputs"].items()
        }
        definition = self.backend.definitions[signature]
        for name, value in inputs.items():
            if value.dtype != object:
                dtype = tf.as_dtype(definition.inputs[name].dtype)
                inputs[name] = value.astype(dtype.as_numpy_dtype)
        outputs = {
            name: _encode(value)
            for name, value in self.backend.predict(signature, inputs).items()
        }
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


def _decode(value):
    if value and isinstance(value[0], dict):
        return np.array([base64.b64decode(v["b64"]) for v in value], object)
    return np.asarray(value)


def _encode(value):
    if value.dtype == object:
        return [{"b64": base64.b64encode(v).decode()} for v in value]
    return value.tolist()


@contextlib.contextmanager
def serve_rest(backend: Backend):
    """Runs a REST server; gives its URL."""
    handler = type("Handler", (_Handler,), {"backend": backend})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
