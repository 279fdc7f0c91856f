"""The client, against servers that send anything at all."""

import contextlib
import gzip
import http.server
import json
import subprocess
import sys
import time

import numpy as np
import pytest
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2

from nvae_tf.core.errors import ClientError
from nvae_tf.serving import rest_predictor
from nvae_tf.serving.client import Client
from nvae_tf.serving.grpc_predictor import GrpcPredictor
from nvae_tf.serving.rest_predictor import RestPredictor
from tests.support.export_servers import serve_grpc
from tests.support.running import running

_SHAPE = (4, 4, 3)


def _tensor(dtype, *sizes):
    dims = [{"size": str(size)} for size in (-1, *sizes)]
    return {"dtype": dtype, "tensor_shape": {"dim": dims}}


def _signature(inputs, outputs):
    return {"inputs": inputs, "outputs": outputs}


_SEED = {"seed": _tensor("DT_INT64")}
_IMAGES = {"images": _tensor("DT_UINT8", *_SHAPE)}
_SIGNATURES = {
    "sample": _signature(_SEED, _IMAGES),
    "decode": _signature({"z_0": _tensor("DT_FLOAT", 2)}, _IMAGES),
    "reconstruct": _signature({**_SEED, **_IMAGES}, _IMAGES),
    "score": _signature(
        {**_SEED, **_IMAGES},
        {
            "nelbo": _tensor("DT_FLOAT"),
            "kl_per_group": _tensor("DT_FLOAT", 1),
            "bits_per_dim": _tensor("DT_FLOAT"),
        },
    ),
}


def _metadata(signatures=_SIGNATURES):
    return {"metadata": {"signature_def": {"signature_def": signatures}}}


def _pixels(rows=2, value=7):
    return np.full((rows, *_SHAPE), value).tolist()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    metadata: object = None
    answer: object = None
    connections: list

    def setup(self):
        super().setup()
        self.connections.append(self.client_address)

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._send(self.metadata)

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self._send(self.answer)

    def _send(self, content):
        # The client may have gone away.
        with contextlib.suppress(ConnectionError):
            if callable(content):
                content(self)
                self.close_connection = True
                return
            if not isinstance(content, bytes):
                content = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)


@contextlib.contextmanager
def _server(answer=None, metadata=None):
    """A REST server; gives its URL and the connections that it was asked by."""
    values = {
        "answer": staticmethod(answer) if callable(answer) else answer,
        "metadata": _metadata() if metadata is None else metadata,
        "connections": [],
    }
    if callable(metadata):
        values["metadata"] = staticmethod(metadata)
    handler = type("Handler", (_Handler,), values)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    with running(server):
        url = f"http://127.0.0.1:{server.server_port}"
        yield url, values["connections"]


@contextlib.contextmanager
def _client(url, **options):
    predictor = RestPredictor(url, **{"timeout": 20, "retries": 0, **options})
    with contextlib.closing(predictor):
        yield Client(predictor)


def test_one_connection_serves_many_requests():
    with _server({"outputs": _pixels()}) as (url, connections):
        with _client(url) as client:
            for _ in range(5):
                assert client.sample([1, 2]).shape == (2, *_SHAPE)
        assert len(connections) == 1


@pytest.mark.parametrize(
    "answer",
    [
        [],
        None,
        7,
        "text",
        {},
        {"outputs": None},
        {"outputs": {"images": _pixels()}},
        {"outputs": _pixels(1)},
        {"outputs": _pixels(10)},
        {"outputs": []},
        {"outputs": _pixels(value=0.5)},
        {"outputs": _pixels(value=256)},
        {"outputs": _pixels(value=-1)},
        {"outputs": _pixels(value=10**30)},
        {"outputs": _pixels(value=2**62)},
        {"outputs": _pixels(value=float("nan"))},
        {"outputs": _pixels(value=None)},
        {"outputs": _pixels(value=True)},
        {"outputs": _pixels(value="7")},
        {"outputs": _pixels(value={})},
        {"outputs": [_pixels(1)[0], _pixels(1)[0][:2]]},
        b"",
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"outputs": 1' + b"0" * 5000 + b"}",
    ],
    ids=lambda value: repr(value)[:30],
)
def test_answer_that_is_no_pair_of_images_is_refused(answer):
    with _server(answer) as (url, _), _client(url) as client:
        with pytest.raises(ClientError) as caught:
            client.sample([1, 2])
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "change",
    [
        {"nelbo": None},
        {"nelbo": [1.0]},
        {"nelbo": [[1.0], [2.0]]},
        {"kl_per_group": [[1.0, 2.0], [1.0, 2.0]]},
        {"bits_per_dim": "ab"},
        {"bits_per_dim": [{}, {}]},
    ],
)
def test_answer_that_is_no_pair_of_scores_is_refused(change):
    images = np.zeros((2, *_SHAPE), np.uint8)
    scores = {
        "nelbo": [1.0, 2.0],
        "kl_per_group": [[1.0], [2]],
        "bits_per_dim": [1.0, 2.0],
    }
    with _server({"outputs": scores}) as (url, _), _client(url) as client:
        assert client.score(images, [1, 2])["nelbo"].tolist() == [1.0, 2.0]
    with _server({"outputs": scores | change}) as (url, _):
        with _client(url) as client, pytest.raises(ClientError):
            client.score(images, [1, 2])


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        7,
        {"metadata": None},
        {"metadata": {"signature_def": []}},
        _metadata([]),
        _metadata({}),
        _metadata({"sample": None}),
        _metadata(_SIGNATURES | {"sample": {"inputs": [], "outputs": []}}),
        _metadata(_SIGNATURES | {"decode": _signature({}, _IMAGES)}),
        *[
            _metadata(
                _SIGNATURES
                | {"reconstruct": _signature({"images": spec}, _IMAGES)}
            )
            for spec in (
                None,
                [],
                {"dtype": 3, "tensor_shape": {}},
                {"dtype": "DT_UINT8", "tensor_shape": None},
                {"dtype": "DT_UINT8", "tensor_shape": {"unknown_rank": True}},
                {"dtype": "DT_UINT8", "tensor_shape": {"dim": [{"size": "x"}]}},
                _tensor("DT_UINT8", 4, 4),
                _tensor("DT_UINT8", 4, 5, 3),
                _tensor("DT_UINT8", -1, -1, 3),
                _tensor("DT_UINT8", 0, 0, 3),
                _tensor("DT_UINT8", 4, 4, 5),
                _tensor("DT_UINT8", 10**9, 10**9, 3),
                _tensor("DT_FLOAT", 4, 4, 3),
            )
        ],
    ],
    ids=lambda value: repr(value)[-40:],
)
def test_metadata_of_something_else_is_refused(metadata):
    with _server(metadata=metadata) as (url, _):
        with pytest.raises(ClientError), _client(url):
            raise AssertionError


def _head(handler, *lines):
    for line in ("HTTP/1.1 200 OK", *lines, ""):
        handler.wfile.write(f"{line}\r\n".encode())
    handler.wfile.flush()


def _drip(handler):
    """A byte now and then, for ever."""
    for _ in range(200):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


def _drip_body(handler):
    _head(handler, "Content-Length: 1000000")
    _drip(handler)


def _drip_head(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX:")
    _drip(handler)


def _drip_chunks(handler):
    _head(handler, "Transfer-Encoding: chunked")
    for _ in range(200):
        handler.wfile.write(b"1\r\n \r\n")
        handler.wfile.flush()
        time.sleep(0.05)


@pytest.mark.parametrize("drip", [_drip_body, _drip_head, _drip_chunks])
def test_server_that_drips_does_not_outlive_the_timeout(drip):
    with _server(drip) as (url, _), _client(url) as client:
        client._predictor._timeout = 0.6
        begin = time.monotonic()
        with pytest.raises(ClientError, match=r"within 0\.6 s"):
            client.sample([1, 2])
        assert time.monotonic() - begin < 5


def _endless(handler):
    _head(handler, "Content-Length: 100000000000")
    block = b" " * 2**20
    while True:
        handler.wfile.write(block)


def _packed(handler):
    body = gzip.compress(b" " * 10_000_000)
    _head(
        handler,
        "Content-Encoding: gzip",
        f"Content-Length: {len(body)}",
    )
    handler.wfile.write(body)


def _broken_off(handler):
    _head(handler, "Content-Length: 1000")
    handler.wfile.write(b'{"outputs"')


def _no_http(handler):
    handler.wfile.write(b"SSH-2.0-OpenSSH\r\n" * 3)


def _elsewhere(handler):
    handler.wfile.write(
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n"
        b"Content-Length: 0\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (_endless, "far more than the model's images have"),
        (_packed, "not JSON"),
        (_broken_off, "broke"),
        (_no_http, "."),
        (_elsewhere, "HTTP 302"),
    ],
)
def test_what_is_no_answer_is_told_in_a_sentence(answer, message):
    with _server(answer) as (url, _), _client(url) as client:
        with pytest.raises(ClientError, match=message):
            client.sample([1, 2])


def test_an_answer_has_no_more_bytes_than_its_rows_may_have(monkeypatch):
    images = np.array(_pixels(), np.uint8)
    padded = json.dumps({"outputs": _pixels()}).encode() + b" " * 20_000
    with _server(padded) as (url, _), _client(url) as client:
        assert client.reconstruct([1, 2], images).shape == images.shape
        monkeypatch.setattr(rest_predictor, "_FRAME_BYTES", 0)
        with pytest.raises(ClientError, match="far more than"):
            client.reconstruct([1, 2], images)


def test_a_model_whose_images_are_transparent_is_served():
    shape = (4, 4, 4)
    images = {"images": _tensor("DT_UINT8", *shape)}
    signatures = {
        **_SIGNATURES,
        "sample": _signature(_SEED, images),
        "reconstruct": _signature({**_SEED, **images}, images),
    }
    answer = {"outputs": np.full((2, *shape), 7).tolist()}
    with _server(answer, _metadata(signatures)) as (url, _):
        with _client(url) as client:
            assert client.sample([1, 2]).shape == (2, *shape)


class _Stub:
    """A predictor that answers what it is told to."""

    def __init__(self, answer):
        self._answer = answer

    def signatures(self):
        images = ("uint8", [None, *_SHAPE])
        return {
            "reconstruct": {"inputs": {"images": images}},
            "decode": {"inputs": {"z_0": None}},
        }

    def predict(self, signature, inputs, outputs=None):
        return self._answer


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, *_SHAPE), np.uint8),
        np.zeros((2, *_SHAPE), np.float32),
        np.zeros((2, *_SHAPE[1:]), np.uint8),
        np.zeros((), np.uint8),
        np.array([b"a", b"b"], object),
        None,
    ],
)
def test_wrong_images_are_refused_whatever_the_protocol(images):
    answer = {} if images is None else {"images": images}
    with pytest.raises(ClientError, match="asked for"):
        Client(_Stub(answer)).sample([1, 2])


class _Fake:
    """What a gRPC server sends, in place of what it should."""

    name = "nvae"
    definitions: dict = {}

    def check(self, *_):
        pass


def test_grpc_answer_that_makes_no_sense_is_refused(monkeypatch):
    with serve_grpc(_Fake()) as target:
        predictor = GrpcPredictor(target, timeout=20)
        with pytest.raises(ClientError, match="not an export"):
            Client(predictor)
        metadata = get_model_metadata_pb2.GetModelMetadataResponse()
        metadata.metadata["signature_def"].value = b"\xff\xff"
        metadata.metadata[
            "signature_def"
        ].type_url = "type.googleapis.com/tensorflow.serving.SignatureDefMap"
        monkeypatch.setattr(predictor, "_call", lambda *_: metadata)
        with pytest.raises(ClientError, match="not a model"):
            predictor.signatures()
        answer = predict_pb2.PredictResponse()
        answer.outputs["images"].dtype = 4
        answer.outputs["images"].tensor_shape.dim.add().size = 2**40
        answer.outputs["images"].tensor_content = b"abc"
        monkeypatch.setattr(predictor, "_call", lambda *_: answer)
        with pytest.raises(ClientError, match="not one of TF Serving"):
            predictor.predict("sample", {})
        predictor.close()


_WITHOUT_TENSORFLOW = """\
import sys
sys.modules["tensorflow"] = None  # An import of it raises.
sys.modules["grpc"] = None
from nvae_tf.commands.main import main
main(sys.argv[1:])
"""


def test_rest_needs_no_tensorflow(tmp_path):
    with _server({"outputs": _pixels()}) as (url, _):
        result = subprocess.run(
            [
                sys.executable,
                "-c",
                _WITHOUT_TENSORFLOW,
                "client",
                "sample",
                f"--rest={url}",
                "--num=2",
                f"--output={tmp_path}/a.png",
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "a.png").is_file()
