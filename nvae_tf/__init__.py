"""NVAE, the deep hierarchical variational autoencoder, in TensorFlow.

Examples:
  >>> import nvae_tf
  >>> model = nvae_tf.load("runs/demo")
  >>> images = nvae_tf.sample(model, 16, temperature=0.7)
  >>> images.shape, images.dtype
  ((16, 28, 28, 1), dtype('uint8'))
  >>> code = nvae_tf.encode(model, images)

Importing this package imports nothing else: TensorFlow and Keras are loaded by
the first use of a name that needs them.
"""

import importlib
import os
import sys
import typing

from nvae_tf._moved import MODULES, explain

if typing.TYPE_CHECKING:
    from nvae_tf.api import (
        Encoding,
        Scores,
        encode,
        from_pretrained,
        interpolate,
        load,
        pretrained_models,
        reconstruct,
        sample,
        save,
        save_pretrained,
        score,
    )
    from nvae_tf.authors import reference_export as reference_export
    from nvae_tf.authors import reference_import as reference_import
    from nvae_tf.config import Config, ModelConfig
    from nvae_tf.config.presets import load as load_config
    from nvae_tf.core.errors import UserError
    from nvae_tf.model import losses as losses
    from nvae_tf.model.nvae import NVAE

# Else TensorFlow would take all of a GPU's memory, whatever it needs; it reads
# this when it first uses one.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

__version__ = "0.1.0"
__all__ = [
    "NVAE",
    "Config",
    "Encoding",
    "ModelConfig",
    "Scores",
    "UserError",
    "encode",
    "from_pretrained",
    "interpolate",
    "load",
    "load_config",
    "pretrained_models",
    "reconstruct",
    "sample",
    "save",
    "save_pretrained",
    "score",
]

# Where the public names live, and under which name.
_HOMES = {
    "NVAE": ("nvae_tf.model.nvae", "NVAE"),
    "Config": ("nvae_tf.config", "Config"),
    "ModelConfig": ("nvae_tf.config", "ModelConfig"),
    "UserError": ("nvae_tf.core.errors", "UserError"),
    "load_config": ("nvae_tf.config.presets", "load"),
}

if not typing.TYPE_CHECKING:
    # Hidden from type checkers, to whom any name would be one of ours.

    def __getattr__(name: str) -> typing.Any:
        """Loads a public name, or a module by the name it had before."""
        if name in MODULES:
            return importlib.import_module(MODULES[name])
        if name not in __all__:
            raise AttributeError(
                f"module {__name__!r} has no attribute {name!r}"
            )
        module, attribute = _HOMES.get(name, ("nvae_tf.api", name))
        value = getattr(importlib.import_module(module), attribute)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*__all__, *globals()})


if sys.argv[:1] == ["-m"]:
    # python -m nvae_tf.NAME imports this package first.
    explain(sys.orig_argv)
