"""Predictions from a TF Serving server over gRPC."""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from nvae_tf.core.errors import ClientError, ExportError, one_line
from nvae_tf.core.extras import require
from nvae_tf.serving.credentials import Credentials
from nvae_tf.serving.predictor import Place, refusal

__all__ = ["GrpcPredictor"]

_PURPOSE = "Talking gRPC to a server"
_SERVICE = "tensorflow.serving.PredictionService"
_BUSY = ("UNAVAILABLE", "RESOURCE_EXHAUSTED")
# A request that is larger is not sent again.
_RETRY_BUFFER = 2**30
_CONNECT_SECONDS = 1.0
# What gRPC says of a channel whose ends do not know each other.
_NO_TLS = ("handshake", "CERTIFICATE_VERIFY_FAILED", "SSL")


class GrpcPredictor:
    """A served model.

    Args:
      target: "HOST:PORT".
      place: which model.
      credentials: how the two know each other; by default the connection is
        not encrypted.
      timeout: seconds for a request with its retries.
      retries: of a request that found the server busy or away; gRPC makes 4
        at most.

    Raises:
      ClientError: if a file of the credentials is none.
      ExportError: if a package is missing.
    """

    def __init__(
        self,
        target: str,
        place: Place | None = None,
        *,
        credentials: Credentials | None = None,
        timeout: float = 60.0,
        retries: int = 4,
    ):
        self._grpc = require("grpc", "serving", _PURPOSE, ExportError)
        apis = "tensorflow_serving.apis"
        self._predict = require(
            f"{apis}.predict_pb2", "serving", _PURPOSE, ExportError
        )
        self._metadata = require(
            f"{apis}.get_model_metadata_pb2", "serving", _PURPOSE, ExportError
        )
        service = require(
            f"{apis}.prediction_service_pb2_grpc",
            "serving",
            _PURPOSE,
            ExportError,
        )
        self._target, self._place = target, place or Place()
        self._timeout = timeout
        self._channel = self._open(credentials or Credentials(), retries)
        self._stub = service.PredictionServiceStub(self._channel)

    def _open(self, credentials: Credentials, retries: int):
        options = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.per_rpc_retry_buffer_size", _RETRY_BUFFER),
            ("grpc.service_config", _service_config(retries)),
        ]
        if not credentials.tls:
            return self._grpc.insecure_channel(self._target, options)
        channel = self._grpc.ssl_channel_credentials(
            credentials.pem(credentials.ca_file),
            credentials.pem(credentials.key_file),
            credentials.pem(credentials.cert_file),
        )
        if token := credentials.token:
            channel = self._grpc.composite_channel_credentials(
                channel, self._grpc.access_token_call_credentials(token)
            )
        return self._grpc.secure_channel(self._target, channel, options)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def signatures(self) -> dict[str, dict[str, dict[str, tuple]]]:
        """Signature -> "inputs" or "outputs" -> name -> (dtype, shape).

        Raises:
          ClientError: if the server does not answer, or lacks the model.
        """
        request = self._metadata.GetModelMetadataRequest()
        self._address(request)
        request.metadata_field.append("signature_def")
        response = self._call(self._stub.GetModelMetadata, request)
        signatures = self._metadata.SignatureDefMap()
        try:
            response.metadata["signature_def"].Unpack(signatures)
            return self._specs(signatures)
        except (TypeError, ValueError, DecodeError) as error:
            raise ClientError(
                f"{self._target} is not a model of TF Serving."
            ) from error

    def _specs(self, signatures) -> dict[str, dict[str, dict[str, tuple]]]:
        return {
            name: {
                side: {
                    key: (tf.as_dtype(info.dtype).name, _shape(info))
                    for key, info in getattr(definition, side).items()
                }
                for side in ("inputs", "outputs")
            }
            for name, definition in signatures.signature_def.items()
        }

    def predict(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str] | None = None,
    ) -> dict[str, np.ndarray]:
        """Runs a signature on the server.

        Args:
          signature: its name.
          inputs: arrays by name, of the signature's dtypes.
          outputs: names of those that are computed and sent; None for all.

        Returns:
          Arrays by name.

        Raises:
          ClientError: if the server refuses the request, does not answer, or
            answers with something else.
        """
        request = self._predict.PredictRequest()
        self._address(request)
        request.model_spec.signature_name = signature
        request.output_filter.extend(outputs or ())
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        response = self._call(self._stub.Predict, request)
        try:
            return {
                name: tf.make_ndarray(value)
                for name, value in response.outputs.items()
            }
        except (TypeError, ValueError) as error:
            raise ClientError(
                f"{self._target} sent an answer that is not one of TF Serving "
                f"({one_line(error, 100)})."
            ) from error

    def _address(self, request) -> None:
        request.model_spec.name = self._place.model
        if self._place.label:
            request.model_spec.version_label = self._place.label
        elif self._place.version is not None:
            request.model_spec.version.value = self._place.version

    def _call(self, method, request):
        try:
            return method(request, timeout=self._timeout)
        except self._grpc.RpcError as error:
            raise self._explain(error) from error

    def _explain(self, error) -> ClientError:
        code, codes = error.code(), self._grpc.StatusCode
        details = one_line(error.details() or "", 400)
        # A server whose queue is full says the same as a channel without one.
        if code == codes.UNAVAILABLE and not self._is_connected():
            if any(word in details for word in _NO_TLS):
                return ClientError(
                    f"{self._target} cannot be trusted, or trusts nobody "
                    f"here ({details}); --ca_file names what its certificate "
                    "is signed with, and --cert_file one for itself."
                )
            return ClientError(
                f"No server answers at {self._target} ({details}); is it "
                "running, and is this its gRPC port?"
            )
        if code.name in _BUSY:
            return ClientError(
                f"The server at {self._target} is busy ({details}); try "
                "again later, or with smaller batches."
            )
        if code == codes.DEADLINE_EXCEEDED:
            return ClientError(
                f"The server at {self._target} did not answer within "
                f"{self._timeout:g} s; allow more with --timeout, or ask for "
                "fewer images at a time."
            )
        if code == codes.UNAUTHENTICATED:
            details += "; --token_file holds the token that it may want"
        return refusal(
            f"The server at {self._target}", f"({code.name}): {details}"
        )

    def _is_connected(self) -> bool:
        ready = self._grpc.channel_ready_future(self._channel)
        try:
            ready.result(timeout=_CONNECT_SECONDS)
        except self._grpc.FutureTimeoutError:
            return False
        finally:
            ready.cancel()
        return True


def _service_config(retries: int) -> str:
    """How the channel calls, as gRPC reads it."""
    config = {"name": [{"service": _SERVICE}]}
    if retries:
        config["retryPolicy"] = {
            "maxAttempts": retries + 1,
            "initialBackoff": "0.1s",
            "maxBackoff": "5s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": _BUSY,
        }
    return json.dumps({"methodConfig": [config]})


def _shape(info) -> list | None:
    if info.tensor_shape.unknown_rank:
        return None
    return [d.size if d.size >= 0 else None for d in info.tensor_shape.dim]
