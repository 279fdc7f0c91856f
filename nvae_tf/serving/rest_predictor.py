"""Predictions from a TF Serving server over REST."""

import base64
import contextlib
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import numpy as np

from nvae_tf.core.errors import ClientError
from nvae_tf.serving.retry import RetryableError, with_retries

__all__ = ["RestPredictor"]

_BUSY = (429, 502, 503, 504)


class RestPredictor:
    """A served model.

    Args:
      url: of the server, "http://HOST:PORT".
      model: the name it is served under.
      version: None for the latest.
      timeout: seconds for a request with its retries.
      retries: of a request that found the server busy or away.
    """

    def __init__(
        self,
        url: str,
        model: str = "nvae",
        version: int | None = None,
        *,
        timeout: float = 60.0,
        retries: int = 5,
    ):
        if not url.startswith(("http://", "https://")):
            raise ClientError(
                f"{url} is no URL; it looks like http://HOST:8501."
            )
        self._url = f"{url.rstrip('/')}/v1/models/{model}"
        if version is not None:
            self._url += f"/versions/{version}"
        self._timeout, self._retries = timeout, retries
        self._signatures: dict | None = None

    def close(self) -> None:
        """Nothing to close: every request has its own connection."""

    def signatures(self) -> dict[str, dict[str, dict[str, tuple]]]:
        """Signature -> "inputs" or "outputs" -> name -> (dtype, shape).

        Raises:
          ClientError: if the server does not answer, or lacks the model.
        """
        if self._signatures is None:
            answer = self._call("/metadata", None)
            try:
                definitions = answer["metadata"]["signature_def"]
                self._signatures = {
                    name: {
                        side: {
                            key: _spec(info)
                            for key, info in definition[side].items()
                        }
                        for side in ("inputs", "outputs")
                    }
                    for name, definition in definitions["signature_def"].items()
                }
            except (KeyError, TypeError) as error:
                raise ClientError(
                    f"{self._url} is not a model of TF Serving."
                ) from error
        return self._signatures

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
        if signature not in self.signatures():
            raise ClientError(
                f"{self._url} has no signature {signature!r}; it has "
                f"{', '.join(sorted(self.signatures()))}."
            )
        specs = self.signatures()[signature]["outputs"]
        answer = self._call(
            ":predict",
            {
                "signature_name": signature,
                "inputs": {k: _to_json(v) for k, v in inputs.items()},
            },
        )
        outputs = answer.get("outputs")
        # A single output comes without its name.
        if len(specs) == 1:
            outputs = {next(iter(specs)): outputs}
        try:
            return {
                name: _from_json(outputs[name], dtype)
                for name, (dtype, _) in specs.items()
            }
        except (KeyError, TypeError, ValueError) as error:
            raise ClientError(
                f"{self._url} sent an answer that is not one of TF Serving."
            ) from error

    def _call(self, suffix: str, body: Mapping | None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._url + suffix,
            data=data,
            headers={"Content-Type": "application/json"},
        )

        def attempt(seconds: float):
            try:
                with urllib.request.urlopen(
                    request, timeout=seconds
                ) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                raise self._explain(error) from error
            except TimeoutError as error:
                raise self._too_slow() from error
            except urllib.error.URLError as error:
                if isinstance(error.reason, TimeoutError):
                    raise self._too_slow() from error
                raise RetryableError(
                    f"No server answers at {self._url} ({error.reason}); is "
                    "it running, and is this its REST port?"
                ) from error
            except (ConnectionError, http.client.HTTPException) as error:
                raise RetryableError(
                    f"The connection to {self._url} broke ({error!r})."
                ) from error
            except ValueError as error:
                raise ClientError(
                    f"{self._url} sent an answer that is not JSON."
                ) from error

        return with_retries(
            attempt, timeout=self._timeout, retries=self._retries
        )

    def _too_slow(self) -> ClientError:
        return ClientError(
            f"{self._url} did not answer within {self._timeout:g} s; allow "
            "more with --timeout, or ask for fewer images at a time."
        )

    def _explain(self, error: urllib.error.HTTPError) -> ClientError:
        text = error.read().decode(errors="replace")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            text = json.loads(text)["error"]
        kind = RetryableError if error.code in _BUSY else ClientError
        return kind(
            f"{self._url} refused the request (HTTP {error.code}): "
            f"{' '.join(str(text).split())[:400]}"
        )


def _spec(info: Mapping) -> tuple[str, list | None]:
    kind = info["dtype"].removeprefix("DT_").lower()
    dtype = {"float": "float32", "double": "float64"}.get(kind, kind)
    shape = info["tensor_shape"]
    if shape.get("unknown_rank"):
        return dtype, None
    sizes = [int(d["size"]) for d in shape.get("dim", [])]
    return dtype, [size if size >= 0 else None for size in sizes]


def _to_json(value: np.ndarray) -> Any:
    value = np.asarray(value)
    if value.dtype == object:
        return [{"b64": base64.b64encode(v).decode()} for v in value]
    return value.tolist()


def _from_json(value: Any, dtype: str) -> np.ndarray:
    if dtype == "string":
        return np.array([base64.b64decode(v["b64"]) for v in value], object)
    return np.asarray(value, dtype)
