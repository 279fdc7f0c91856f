"""By what a client knows a server, and a server a client; no TensorFlow."""

from __future__ import annotations

import dataclasses
import ssl

from nvae_tf.core.errors import ClientError, one_line
from nvae_tf.core.reading import open_regular

__all__ = ["Credentials"]

_MOST_BYTES = 2**20


@dataclasses.dataclass(frozen=True)
class Credentials:
    """Files; none of their content is part of a command, which others see.

    Attributes:
      tls: encrypt. REST tells by its URL, https://.
      ca_file: certificates (PEM) that the server's is signed with; empty for
        those of the well-known authorities, as gRPC brings them and, for
        REST, the system has them.
      cert_file: the client's own certificate (PEM), where a server asks.
      key_file: its key (PEM).
      token_file: a token that goes with every request, as `Authorization:
        Bearer TOKEN`.

    Raises:
      ClientError: if something is there that has no use without another, or a
        file cannot be read.
    """

    tls: bool = False
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    token_file: str = ""

    def __post_init__(self):
        """Checks what is together."""
        if bool(self.cert_file) != bool(self.key_file):
            raise ClientError(
                "A client's certificate needs its key and the other way "
                "round: name --cert_file and --key_file."
            )
        files = {
            "--ca_file": self.ca_file,
            "--cert_file": self.cert_file,
            "--token_file": self.token_file,
        }
        useless = [flag for flag, path in files.items() if path]
        if useless and not self.tls:
            raise ClientError(
                f"{useless[0]} is for encrypted connections alone, on which "
                "nobody else reads it: say --tls with --target, or https:// "
                "in --rest."
            )
        for path in (*files.values(), self.key_file):
            if path:
                _read(path)
        self._check_pem()

    def _check_pem(self) -> None:
        """Before a library fails in a way of its own."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if self.ca_file:
                context.load_verify_locations(self.ca_file)
        except (ssl.SSLError, ValueError) as error:
            raise ClientError(
                f"{self.ca_file} holds no certificates in PEM "
                f"({one_line(error, 80)})."
            ) from error
        try:
            if self.cert_file:
                # Nobody is asked for a password.
                context.load_cert_chain(self.cert_file, self.key_file, bytes)
        except (ssl.SSLError, ValueError) as error:
            raise ClientError(
                f"{self.cert_file} and {self.key_file} are no certificate and "
                f"its key, in PEM and without a password "
                f"({one_line(error, 80)})."
            ) from error

    @property
    def token(self) -> str:
        """The token; empty if there is none.

        Raises:
          ClientError: if its file holds something else.
        """
        if not self.token_file:
            return ""
        try:
            token = _read(self.token_file).decode("ascii").strip()
        except UnicodeDecodeError:
            token = ""
        if not token or not token.isprintable() or " " in token:
            raise ClientError(
                f"{self.token_file} is no token: it must hold one word of "
                "ASCII characters."
            )
        return token

    def pem(self, path: str) -> bytes | None:
        """What is in one of the files; None if there is none."""
        return _read(path) if path else None


def _read(path: str) -> bytes:
    with open_regular(path, ClientError) as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ClientError(
            f"{path} is larger than any certificate, key or token."
        )
    return content
