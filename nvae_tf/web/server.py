"""Serves an exported page to the browsers of this machine."""

from __future__ import annotations

import email.utils
import http
import http.server
import json
import os
import pathlib
import shutil
import urllib.parse
from collections.abc import Mapping
from typing import Any

from nvae_tf.core.errors import UserError
from nvae_tf.web import manifest

__all__ = ["HEADERS", "PageServer"]

# The first two isolate the page, without which browsers give WebAssembly one
# thread. The policy is that of the page, whose own does not bind its worker.
HEADERS: Mapping[str, str] = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src "
        "'self'; connect-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".md": "text/plain; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".py": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
}
_BINARY = "application/octet-stream"


class PageServer(http.server.ThreadingHTTPServer):
    """A server of what a page's manifest lists, and of nothing else.

    Args:
      folder: of the page.
      port: on loopback; 0 for a free one.

    Attributes:
      url: of the page.

    Raises:
      UserError: if the folder is no exported page, or the port is taken.
    """

    daemon_threads = True
    # Another process on the port is to be told of, not to be doubled.
    allow_reuse_port = False

    def __init__(self, folder: pathlib.Path, port: int = 0):
        self.folder = folder
        self.files: dict[str, Any] = manifest.read(folder)["files"]
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as error:
            raise UserError(
                f"Cannot listen on port {port} of this machine: {error}. Give "
                "another --port, or 0 for a free one."
            ) from error
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"

    def handle_error(self, request, client_address):
        """A browser that went away is no error."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # A connection that says nothing does not hold its thread.
    timeout = 60
    server: PageServer

    def do_GET(self):
        self._answer(with_body=True)

    def do_HEAD(self):
        self._answer(with_body=False)

    def log_message(self, *arguments):
        """Requests of one's own browser are not worth lines."""

    def _answer(self, with_body: bool) -> None:
        address = urllib.parse.urlsplit(self.path).path
        name = urllib.parse.unquote(address).removeprefix("/") or "index.html"
        facts = self.server.files.get(name)
        if facts is None and name == manifest.FILE_NAME:
            facts = {"sha256": None}
        file = facts and manifest.open_file(self.server.folder, name)
        if not facts or not file:
            self._refuse(http.HTTPStatus.NOT_FOUND, with_body)
            return
        with file:
            tag = f'"{facts["sha256"]}"'
            if facts["sha256"] and self.headers.get("If-None-Match") == tag:
                self._start(http.HTTPStatus.NOT_MODIFIED, 0)
                return
            self._start(
                http.HTTPStatus.OK,
                os.fstat(file.fileno()).st_size,
                {
                    "Content-Type": _TYPES.get(
                        pathlib.PurePosixPath(name).suffix, _BINARY
                    ),
                    **({"ETag": tag} if facts["sha256"] else {}),
                },
            )
            if with_body:
                shutil.copyfileobj(file, self.wfile)

    def _refuse(self, status: http.HTTPStatus, with_body: bool) -> None:
        body = json.dumps({"error": status.phrase}).encode()
        self._start(status, len(body), {"Content-Type": "application/json"})
        if with_body:
            self.wfile.write(body)

    def _start(
        self,
        status: http.HTTPStatus,
        length: int,
        more: Mapping[str, str] | None = None,
    ) -> None:
        self.send_response_only(status)
        self.send_header("Date", email.utils.formatdate(usegmt=True))
        for name, value in {**HEADERS, **(more or {})}.items():
            self.send_header(name, value)
        # Asked for again each time, but sent again only if it changed.
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Content-Length", str(length))
        self.end_headers()
