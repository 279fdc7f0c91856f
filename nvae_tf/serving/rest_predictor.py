"""Predictions from a TF Serving server over REST; needs no TensorFlow."""

from __future__ import annotations

import base64
import binascii
import contextlib
import functools
import math
import queue
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from nvae_tf.core.errors import ClientError, ExportError, one_line
from nvae_tf.core.extras import require
from nvae_tf.core.json_files import parse_json
from nvae_tf.serving.credentials import Credentials
from nvae_tf.serving.predictor import Place, refusal

__all__ = ["RestPredictor"]

_PURPOSE = "Talking REST to a server"
_BUSY = (429, 502, 503, 504)
_UNAUTHORIZED = 401
# Packed, a small answer could be one of any size.
_HEADERS = {"Accept-Encoding": "identity"}
_CONNECTIONS = 16
_CHUNK = 2**16
# Of an answer: what it says besides its numbers, and each of them as text.
_FRAME_BYTES, _NUMBER_BYTES = 2**24, 32
_SHOWN = 400

T = TypeVar("T")


class RestPredictor:
    """A served model.

    Args:
      url: of the server, "http://HOST:PORT".
      place: which model.
      credentials: how the two know each other; by default the server by the
        certificates that the system trusts, if its URL is "https://".
      timeout: seconds for a request with its retries.
      retries: of a request that found the server busy or away.

    Raises:
      ClientError: if `url` is none, or a file of the credentials.
      ExportError: if a package is missing.
    """

    def __init__(
        self,
        url: str,
        place: Place | None = None,
        *,
        credentials: Credentials | None = None,
        timeout: float = 60.0,
        retries: int = 4,
    ):
        if not url.startswith(("http://", "https://")):
            raise ClientError(
                f"{url} is no URL; it looks like http://HOST:8501."
            )
        self._urllib3 = require("urllib3", "serving", _PURPOSE, ExportError)
        self._url = url.rstrip("/") + _path(place or Place())
        self._timeout = timeout
        self._signatures: dict | None = None
        credentials = credentials or Credentials(tls=url.startswith("https:"))
        self._headers = dict(_HEADERS)
        if token := credentials.token:
            if not url.startswith("https:"):
                raise ClientError(f"{url} would get the token unencrypted.")
            self._headers["Authorization"] = f"Bearer {token}"
        self._pool = self._connections(url, credentials)
        self._retry = self._urllib3.Retry(
            retries,
            status_forcelist=_BUSY,
            # Whom one does not trust now one does not trust later.
            other=0,
            allowed_methods=None,
            backoff_factor=0.1,
            backoff_jitter=0.1,
            # The last answer says more than that there were too many.
            raise_on_status=False,
        )

    def _connections(self, url: str, credentials: Credentials):
        """Those that stay open, through a proxy where the environment says."""
        options = {
            "maxsize": _CONNECTIONS,
            "ca_certs": credentials.ca_file or None,
            "cert_file": credentials.cert_file or None,
            "key_file": credentials.key_file or None,
        }
        parts = urllib.parse.urlsplit(url)
        proxy = urllib.request.getproxies().get(parts.scheme)
        if proxy and not urllib.request.proxy_bypass(parts.netloc):
            return self._urllib3.ProxyManager(proxy, **options)
        return self._urllib3.PoolManager(**options)

    def close(self) -> None:
        """Closes the connections."""
        self._pool.clear()

    def signatures(self) -> dict[str, dict[str, dict[str, tuple]]]:
        """Signature -> "inputs" or "outputs" -> name -> (dtype, shape).

        Raises:
          ClientError: if the server does not answer, or lacks the model.
        """
        if self._signatures is None:
            answer = self._call("/metadata", None, _FRAME_BYTES)
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
            except (
                AttributeError,
                KeyError,
                TypeError,
                ValueError,
                OverflowError,
            ) as error:
                raise ClientError(
                    f"{self._url} is not a model of TF Serving."
                ) from error
        return self._signatures

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
          outputs: names of those that are returned; None for all. REST knows
            no filter: all of them travel
            (https://www.tensorflow.org/tfx/serving/api_rest#predict_api).

        Returns:
          Arrays by name.

        Raises:
          ClientError: if the server refuses the request, does not answer, or
            answers with something else.
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
            _most_bytes(specs, max(map(_rows, inputs.values()), default=1)),
        )
        try:
            found = answer["outputs"]
            # A single output comes without its name.
            if len(specs) == 1:
                found = {next(iter(specs)): found}
            return {
                name: _from_json(found[name], dtype)
                for name, (dtype, _) in specs.items()
                if outputs is None or name in outputs
            }
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ClientError(
                f"{self._url} sent an answer that is not one of TF Serving "
                f"({one_line(error, 100)})."
            ) from error

    def _call(self, suffix: str, body: Mapping | None, most: int) -> Any:
        """The JSON that a request is answered with, of at most `most` bytes."""
        deadline = time.monotonic() + self._timeout

        def ask() -> tuple[int, bytes]:
            response = self._pool.request(
                "GET" if body is None else "POST",
                self._url + suffix,
                json=body,
                headers=self._headers,
                retries=self._retry,
                timeout=self._timeout,
                redirect=False,
                preload_content=False,
            )
            try:
                content = self._read(response, most, deadline)
            except BaseException:
                response.close()
                raise
            response.release_conn()
            return response.status, content

        errors = self._urllib3.exceptions
        try:
            status, content = _within(self._timeout, ask)
        except (TimeoutError, errors.TimeoutError) as error:
            raise self._too_slow() from error
        except errors.MaxRetryError as error:
            if isinstance(error.reason, errors.ReadTimeoutError):
                raise self._too_slow() from error
            if isinstance(error.reason, errors.SSLError):
                raise ClientError(
                    f"{self._url} cannot be trusted, or trusts nobody here "
                    f"({one_line(error.reason, _SHOWN)}); --ca_file names "
                    "what its certificate is signed with, and --cert_file "
                    "one for itself."
                ) from error
            raise ClientError(
                f"No server answers at {self._url} "
                f"({one_line(error.reason, _SHOWN)}); is it running, and is "
                "this its REST port?"
            ) from error
        except errors.HTTPError as error:
            raise ClientError(
                f"The connection to {self._url} broke "
                f"({one_line(error, _SHOWN)})."
            ) from error
        if status != 200:
            raise self._refusal(status, content)
        try:
            return parse_json(content, finite=False, kind=None)
        except ValueError as error:
            raise ClientError(
                f"{self._url} sent an answer that is not JSON."
            ) from error

    def _read(self, response, most: int, deadline: float) -> bytes:
        """All of an answer, as it is: nothing is unpacked."""
        content = bytearray()
        while chunk := response.read1(_CHUNK, decode_content=False):
            content += chunk
            if time.monotonic() > deadline:
                raise TimeoutError
            if len(content) > most:
                raise ClientError(
                    f"{self._url} sent an answer of more than {most:,} bytes, "
                    "far more than the model's images have: it is not TF "
                    "Serving, or serves another model."
                )
        return bytes(content)

    def _too_slow(self) -> ClientError:
        return ClientError(
            f"{self._url} did not answer within {self._timeout:g} s; allow "
            "more with --timeout, or ask for fewer images at a time."
        )

    def _refusal(self, status: int, content: bytes) -> ClientError:
        text = content.decode(errors="replace")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            text = parse_json(text)["error"]
        answer = f"(HTTP {status}): {one_line(text, _SHOWN)}"
        if status in _BUSY:
            return ClientError(
                f"The server at {self._url} is busy {answer}; try again later, "
                "or with smaller batches."
            )
        if status == _UNAUTHORIZED:
            answer += "; --token_file holds the token that it may want"
        return refusal(self._url, answer)


def _path(place: Place) -> str:
    """Of a model, https://www.tensorflow.org/tfx/serving/api_rest."""
    quote = functools.partial(urllib.parse.quote, safe="")
    path = f"/v1/models/{quote(place.model)}"
    if place.label:
        return f"{path}/labels/{quote(place.label)}"
    if place.version is not None:
        return f"{path}/versions/{place.version}"
    return path


def _within(seconds: float, function: Callable[[], T]) -> T:
    """What a function returns or raises, if it does so in time.

    Sockets know limits for every read alone: a server that sends a byte now
    and then would outlive them all.

    Raises:
      TimeoutError: if it takes longer; it then goes on in the background.
    """
    outcome: queue.SimpleQueue = queue.SimpleQueue()

    def work():
        try:
            outcome.put((function(), None))
        except BaseException as error:
            outcome.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        value, error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return value


def _spec(info: Mapping) -> tuple[str, list | None]:
    kind = info["dtype"].removeprefix("DT_").lower()
    dtype = {"float": "float32", "double": "float64"}.get(kind, kind)
    shape = info["tensor_shape"]
    if shape.get("unknown_rank"):
        return dtype, None
    sizes = [int(d["size"]) for d in shape.get("dim", [])]
    return dtype, [size if size >= 0 else None for size in sizes]


def _most_bytes(specs: Mapping[str, tuple], rows: int) -> int:
    """What an answer to so many rows may come to."""
    numbers = 0
    for dtype, shape in specs.values():
        if dtype == "string":
            return 2**30
        numbers += math.prod(size or 1 for size in (shape or [])[1:])
    return _FRAME_BYTES + rows * numbers * _NUMBER_BYTES


def _rows(value: np.ndarray) -> int:
    return len(value) if np.ndim(value) else 1


def _to_json(value: np.ndarray) -> Any:
    value = np.asarray(value)
    if value.dtype == object:
        return [{"b64": base64.b64encode(v).decode()} for v in value]
    return value.tolist()


def _from_json(value: Any, dtype: str) -> np.ndarray:
    """An array of just the dtype that the signature has.

    Raises:
      TypeError: if it is of another kind.
      ValueError: likewise, or if a number does not fit.
    """
    if dtype == "string":
        try:
            decoded = [base64.b64decode(v["b64"], validate=True) for v in value]
        except binascii.Error as error:
            raise ValueError("bytes are not base64") from error
        array = np.empty(len(decoded), object)
        array[:] = decoded
        return array
    found = np.asarray(value)
    kinds = "iu" if np.dtype(dtype).kind in "iu" else "iuf"
    if found.dtype.kind not in kinds:
        raise TypeError(f"{found.dtype} in place of {dtype}")
    if kinds == "iu" and found.size:
        limits = np.iinfo(dtype)
        if found.min() < limits.min or found.max() > limits.max:
            raise ValueError(f"a number does not fit into {dtype}")
    return found.astype(dtype)
