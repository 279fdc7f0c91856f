"""The client, over TLS, with certificates and tokens."""

import contextlib
import shutil
import ssl
import subprocess

import grpc
import numpy as np
import pytest

from nvae_tf.core.errors import ClientError
from nvae_tf.serving.client import Client
from nvae_tf.serving.credentials import Credentials
from nvae_tf.serving.grpc_predictor import GrpcPredictor
from nvae_tf.serving.rest_predictor import RestPredictor
from tests.support.export_servers import (
    Backend,
    Handler,
    serve_grpc,
    serve_rest,
)
from tests.support.in_process import run as nvae
from tests.support.shared_exports import saved_model

pytestmark = pytest.mark.skipif(
    not shutil.which("openssl"), reason="needs the command openssl"
)

_TOKEN = "abc.def-123"
_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


def _openssl(folder, *arguments):
    subprocess.run(
        ["openssl", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=60,
    )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """ca.pem, and server.pem and client.pem signed by it, with their keys."""
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("ca", "other"):
        _openssl(
            folder, "req", "-x509", *_KEY, "-keyout", f"{name}.key", "-out",
            f"{name}.pem", "-days", "2", "-subj", f"/CN={name}",
        )  # fmt: skip
    for name in ("server", "client"):
        _openssl(
            folder, "req", *_KEY, "-keyout", f"{name}.key", "-out",
            f"{name}.csr", "-subj", "/CN=127.0.0.1", "-addext",
            "subjectAltName=IP:127.0.0.1",
        )  # fmt: skip
        _openssl(
            folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem",
            "-CAkey", "ca.key", "-days", "2", "-copy_extensions", "copy",
            "-out", f"{name}.pem",
        )  # fmt: skip
    _openssl(
        folder, "ec", "-in", "client.key", "-aes256", "-passout", "pass:word",
        "-out", "locked.key",
    )  # fmt: skip
    (folder / "token").write_text(f"{_TOKEN}\n")
    return folder


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    return Backend(saved_model("served", tmp_path_factory))


class _Checking(grpc.ServerInterceptor):
    """Lets nobody in without the token."""

    def intercept_service(self, continuation, details):
        if ("authorization", f"Bearer {_TOKEN}") in details.invocation_metadata:
            return continuation(details)

        def refuse(_, context):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")

        return grpc.unary_unary_rpc_method_handler(refuse)


class _CheckingHandler(Handler):
    def _answer(self, route, body):
        if self.headers["Authorization"] == f"Bearer {_TOKEN}":
            super()._answer(route, body)
        else:
            self._send(401, {"error": "no token"})


@contextlib.contextmanager
def _grpc_server(backend, folder, ask_client=False):
    credentials = grpc.ssl_server_credentials(
        [
            (
                (folder / "server.key").read_bytes(),
                (folder / "server.pem").read_bytes(),
            )
        ],
        (folder / "ca.pem").read_bytes() if ask_client else None,
        ask_client,
    )
    interceptors = () if ask_client else [_Checking()]
    with serve_grpc(backend, credentials, interceptors) as target:
        yield target


@contextlib.contextmanager
def _rest_server(backend, folder, ask_client=False):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    if ask_client:
        context.load_verify_locations(folder / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
    handler = Handler if ask_client else _CheckingHandler
    with serve_rest(backend, context, handler) as url:
        yield url


_BOTH = pytest.mark.parametrize(
    ("serve", "kind"),
    [(_grpc_server, GrpcPredictor), (_rest_server, RestPredictor)],
    ids=["grpc", "rest"],
)


@contextlib.contextmanager
def _predictor(kind, address, folder, **files):
    paths = {name: str(folder / file) for name, file in files.items()}
    predictor = kind(
        address,
        credentials=Credentials(tls=True, **paths),
        timeout=20,
        retries=1,
    )
    with contextlib.closing(predictor):
        yield predictor


@_BOTH
def test_server_is_known_by_its_certificate_and_the_client_by_its_token(
    backend, certificates, serve, kind
):
    with serve(backend, certificates) as address:
        with _predictor(
            kind,
            address,
            certificates,
            ca_file="ca.pem",
            token_file="token",
        ) as predictor:
            images = Client(predictor).sample([1, 2])
    assert images.shape == (2, 8, 8, 3)
    assert len(np.unique(images)) > 1


@_BOTH
@pytest.mark.parametrize("ca_file", [None, "other.pem"])
def test_server_of_an_unknown_certificate_is_not_talked_to(
    backend, certificates, serve, kind, ca_file
):
    files = {"ca_file": ca_file} if ca_file else {}
    before = backend.requests
    with serve(backend, certificates) as address:
        with _predictor(
            kind, address, certificates, token_file="token", **files
        ) as predictor:
            with pytest.raises(ClientError, match="cannot be trusted"):
                predictor.signatures()
    assert backend.requests == before


@_BOTH
def test_client_without_the_token_is_told_of_it(
    backend, certificates, serve, kind
):
    with serve(backend, certificates) as address:
        with _predictor(
            kind, address, certificates, ca_file="ca.pem"
        ) as predictor:
            with pytest.raises(ClientError, match="--token_file"):
                predictor.signatures()


@_BOTH
def test_client_is_known_by_its_certificate(backend, certificates, serve, kind):
    with serve(backend, certificates, ask_client=True) as address:
        with _predictor(
            kind,
            address,
            certificates,
            ca_file="ca.pem",
            cert_file="client.pem",
            key_file="client.key",
        ) as predictor:
            assert Client(predictor).sample([1]).shape == (1, 8, 8, 3)
        with _predictor(
            kind, address, certificates, ca_file="ca.pem"
        ) as predictor:
            with pytest.raises(ClientError):
                predictor.signatures()


def test_commands_take_certificates_and_tokens(backend, certificates, tmp_path):
    files = [
        f"--ca_file={certificates / 'ca.pem'}",
        f"--token_file={certificates / 'token'}",
    ]
    output = tmp_path / "a.png"
    with _grpc_server(backend, certificates) as target:
        nvae(
            "client sample", f"--target={target}", "--tls", *files, "--num=2",
            f"--output={output}",
        )  # fmt: skip
    expected = output.read_bytes()
    with _rest_server(backend, certificates) as url:
        nvae(
            "client sample", f"--rest={url}", *files, "--num=2",
            f"--output={output}",
        )  # fmt: skip
    assert output.read_bytes() == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target=a:1", "--token_file=token"], "--tls"),
        (["--rest=http://a:1", "--ca_file=ca.pem"], "https://"),
        (["--rest=http://a:1", "--tls"], "https://"),
        (["--target=a:1", "--tls", "--cert_file=client.pem"], "--key_file"),
        (["--target=a:1", "--tls", "--ca_file=absent"], "absent"),
        (["--target=a:1", "--tls", "--token_file=ca.pem"], "ca.pem is no tok"),
        (["--target=a:1", "--tls", "--token_file=empty"], "empty is no token"),
        (["--rest=https://a:1", "--token_file=."], "but a folder"),
        (["--rest=https://a:1", "--ca_file=token"], "token holds no cert"),
        (["--target=a:1", "--tls", "--ca_file=empty"], "empty holds no cert"),
        (
            [
                "--target=a:1",
                "--tls",
                "--cert_file=client.pem",
                "--key_file=server.key",
            ],
            "no certificate and its key",
        ),
        (
            [
                "--rest=https://a:1",
                "--cert_file=client.pem",
                "--key_file=locked.key",
            ],
            "without a password",
        ),
        (["--target=a:1", "--version=1", "--label=x"], "one of them"),
    ],
)
def test_what_does_not_go_together_is_told(
    certificates, monkeypatch, arguments, message
):
    monkeypatch.chdir(certificates)
    (certificates / "empty").touch()
    with pytest.raises(ClientError, match=message):
        nvae("client sample", *arguments, "--retries=0", "--timeout=5")
