r"""Writes a web page that runs the model in the browser.

    nvae export web --workdir=runs/mnist --output=site
    python -m http.server --directory=site --bind 127.0.0.1

A folder of static files for any host: nothing that a visitor draws or opens is
sent anywhere.  The page draws, interpolates, encodes and scores; the same seed
and temperature give the same picture as everywhere else.

Its engine, ONNX Runtime Web, is fetched from npm and compared with a checksum;
--runtime takes it from elsewhere:

    nvae export web --workdir=runs/mnist --runtime=onnxruntime-web-1.30.0.tgz

Hosts that send the headers in site/_headers let the page use several threads.
"""

from nvae_tf.commands.export.flags import SourceFlags
from nvae_tf.commands.flags import define_output, define_overwrite
from nvae_tf.commands.web_flags import EngineFlags

_SOURCE = SourceFlags()
_OUTPUT = define_output("site", "Folder of the page.")
_ENGINE = EngineFlags()
_OVERWRITE = define_overwrite()


def main(argv) -> None:
    """The command."""
    del argv
    # Before TensorFlow and the model are loaded.
    _ENGINE.require_packages()
    _SOURCE.require()
    from nvae_tf.web.export import export_web

    path = export_web(
        _SOURCE.load(),
        _OUTPUT.value,
        runtime_place=_ENGINE.place,
        webgpu=_ENGINE.webgpu,
        temperature=_SOURCE.temperature,
        overwrite=_OVERWRITE.value,
    )
    print(
        f"Wrote {path}; its model agrees with the live one. To look at it:\n"
        f"python -m http.server --directory={path} --bind 127.0.0.1"
    )
