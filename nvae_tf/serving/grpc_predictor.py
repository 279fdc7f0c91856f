"""Predictions from a TF Serving server over gRPC."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from nvae_tf.core.errors import ClientError, ExportError
from nvae_tf.core.extras import require
from nvae_tf.serving.retry import RetryableError, with_retries

__all__ = ["GrpcPredictor"]

_PURPOSE = "Talking gRPC to a server"


class GrpcPredictor:
    """A served model.

    Args:
      target: "HOST:PORT".
      model: the name it is served under.
      version: None for the latest.
      timeout: seconds for a request with its retries.
      retries: of a request that found the server busy or away.

    Raises:
      ClientError: if a package is missing.
    """

    def __init__(
        self,
        target: str,
        model: str = "nvae",
        version: int | None = None,
        *,
        timeout: float = 60.0,
        retries: int = 5,
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
        self._target, self._model, self._version = target, model, version
        self._timeout, self._retries = timeout, retries
        self._channel = self._grpc.insecure_channel(
            target,
            options=[
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", -1),
            ],
        )
        self._stub = service.PredictionServiceStub(self._channel)

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
        response.metadata["signature_def"].Unpack(signatures)
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
        self, signature: str, inputs: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Runs a signature on the server.

        Args:
          signature: its name.
          inputs: arrays by name, of the signature's dtypes.

        Returns:
          Arrays by name.

        Raises:
          ClientError: if the server refuses the request, or does not answer.
        """
        request = self._predict.PredictRequest()
        self._address(request)
        request.model_spec.signature_name = signature
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        response = self._call(self._stub.Predict, request)
        return {
            name: tf.make_ndarray(value)
            for name, value in response.outputs.items()
        }

    def _address(self, request) -> None:
        request.model_spec.name = self._model
        if self._version is not None:
            request.model_spec.version.value = self._version

    def _call(self, method, request):
        def attempt(seconds: float):
            try:
                return method(request, timeout=seconds)
            except self._grpc.RpcError as error:
                raise self._explain(error) from error

        return with_retries(
            attempt, timeout=self._timeout, retries=self._retries
        )

    def _explain(self, error) -> ClientError:
        code, codes = error.code(), self._grpc.StatusCode
        details = " ".join((error.details() or "").split())[:400]
        if code == codes.UNAVAILABLE:
            return RetryableError(
                f"No server answers at {self._target} ({details}); is it "
                "running, and is this its gRPC port?"
            )
        if code == codes.RESOURCE_EXHAUSTED:
            return RetryableError(
                f"The server at {self._target} is busy ({details}); try "
                "again later, or with smaller batches."
            )
        if code == codes.DEADLINE_EXCEEDED:
            return ClientError(
                f"The server at {self._target} did not answer within "
                f"{self._timeout:g} s; allow more with --timeout, or ask for "
                "fewer images at a time."
            )
        return ClientError(
            f"The server at {self._target} refused the request "
            f"({code.name}): {details}"
        )


def _shape(info) -> list | None:
    if info.tensor_shape.unknown_rank:
        return None
    return [d.size if d.size >= 0 else None for d in info.tensor_shape.dim]
