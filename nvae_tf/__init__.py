"""NVAE, the deep hierarchical variational autoencoder, in TensorFlow.

Importing this package imports nothing else: TensorFlow and Keras are loaded
by the modules that need them.
"""

import importlib
import sys

from nvae_tf._moved import MODULES, explain

__version__ = "0.1.0"


def __getattr__(name):
    """Modules under the names that they had before there were packages."""
    if name in MODULES:
        return importlib.import_module(MODULES[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if sys.argv[:1] == ["-m"]:
    # python -m nvae_tf.NAME imports this package first.
    explain(sys.orig_argv)
