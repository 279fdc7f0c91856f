r"""Opens a trained model in the browser.

    nvae play --workdir=runs/demo
    nvae play --workdir=runs/demo --port=8000 --noopen

Writes the page of `nvae export web` into the workdir, or takes the one that is
there while the checkpoint is the same, and serves it to this machine alone,
until Ctrl-C.
"""

import os
import sys
import threading
import webbrowser

from absl import flags

from nvae_tf.commands.export.flags import SourceFlags
from nvae_tf.commands.web_flags import EngineFlags

_SOURCE = SourceFlags()
_ENGINE = EngineFlags()
_PORT = flags.DEFINE_integer(
    "port",
    0,
    "On which the page is served; 0: a free one.",
    lower_bound=0,
    upper_bound=65535,
)
_OPEN = flags.DEFINE_bool("open", True, "Open the page in a browser.")


def main(argv) -> None:
    """Exports, serves, waits for Ctrl-C."""
    del argv
    from nvae_tf.core.errors import UserError
    from nvae_tf.core.progress import stop_requests
    from nvae_tf.web.kept import kept_page
    from nvae_tf.web.server import PageServer

    if not _SOURCE.workdir:
        raise UserError("Name a folder with --workdir=DIR.")
    chosen = {**_SOURCE.chosen, "webgpu": _ENGINE.webgpu}
    folder, was_there = kept_page(_SOURCE.workdir, chosen, _make)
    print(f"{'Found' if was_there else 'Wrote'} {folder}")
    with PageServer(folder, _PORT.value) as server, stop_requests() as stop:
        # Beside, so that a signal is heard here.
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        print(f"Serving it at {server.url}; Ctrl-C ends.", flush=True)
        if _OPEN.value and _has_screen():
            webbrowser.open(server.url)
        while not stop():
            thread.join(0.2)
        server.shutdown()
    print("Ended.")


def _make(folder, origin) -> None:
    """Writes the page, in place of an older one."""
    _ENGINE.require_packages()
    from nvae_tf.web.export import export_web

    print("Writing the page, which takes a minute or more.", flush=True)
    export_web(
        _SOURCE.load(),
        folder,
        runtime_place=_ENGINE.place,
        webgpu=_ENGINE.webgpu,
        temperature=_SOURCE.temperature,
        overwrite=True,
        origin=origin,
    )


def _has_screen() -> bool:
    """Whether a browser would have a window rather than this terminal."""
    if sys.platform != "linux":
        return True
    return any(os.environ.get(n) for n in ("DISPLAY", "WAYLAND_DISPLAY"))
