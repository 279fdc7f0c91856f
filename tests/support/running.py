"""Servers that run beside a test."""

import contextlib
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def running(server) -> Iterator:
    """Has a `socketserver` answer while the block runs, then closes it."""
    with server:
        # How often it looks whether it is to close: by default twice a second.
        thread = threading.Thread(
            target=server.serve_forever, args=(0.01,), daemon=True
        )
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
