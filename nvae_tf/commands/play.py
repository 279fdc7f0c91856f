r"""Opens a trained model in the browser.

    nvae play --workdir=runs/demo
    nvae play --workdir=runs/demo --port=8000 --noopen
    nvae play --model=NAME

Writes the page of `nvae export web` into the workdir, or takes the one that is
there while the checkpoint is the same, and serves it to this machine alone,
until Ctrl-C.  That of a pretrained model is kept where --output says, or
removed at the end.
"""

import contextlib
import os
import pathlib
import sys
import tempfile
import threading
import webbrowser

from absl import flags

from nvae_tf.commands.export.flags import SourceFlags
from nvae_tf.commands.flags import define_output
from nvae_tf.commands.web_flags import EngineFlags

_SOURCE = SourceFlags()
_ENGINE = EngineFlags()
_OUTPUT = define_output(
    "", "Folder of the page; by default web/ in the workdir."
)
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
    # Before TensorFlow is loaded.
    _SOURCE.require()
    from nvae_tf.core.progress import stop_requests
    from nvae_tf.web.kept import kept_page
    from nvae_tf.web.server import PageServer

    chosen = {**_SOURCE.chosen, "webgpu": _ENGINE.webgpu}
    with contextlib.ExitStack() as stack:
        place = _place(stack)
        folder, was_there = kept_page(place, _weights(), chosen, _make)
        print(f"{'Found' if was_there else 'Wrote'} {folder}")
        server = stack.enter_context(PageServer(folder, _PORT.value))
        stop = stack.enter_context(stop_requests())
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


def _place(stack: contextlib.ExitStack) -> pathlib.Path:
    """Where the page is to be kept; for a model of no run, for a while."""
    if _OUTPUT.value:
        return pathlib.Path(_OUTPUT.value)
    if _SOURCE.folder is not None:
        return _SOURCE.folder / "web"
    scratch = tempfile.TemporaryDirectory(prefix="nvae-play-")
    return pathlib.Path(stack.enter_context(scratch)) / "web"


def _weights() -> list | None:
    """What tells the weights from others, ready for JSON."""
    if _SOURCE.folder is not None:
        from nvae_tf.web.kept import saved_state

        return saved_state(_SOURCE.folder, str(_SOURCE.chosen["checkpoint"]))
    from nvae_tf.runs import model_places, pretrained_folder

    return pretrained_folder.weights_state(model_places.locate(_SOURCE.model))


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
