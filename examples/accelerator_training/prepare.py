r"""Makes a folder that `train` can train from, without TensorFlow.

    python -m examples.accelerator_training.prepare \
        --config=examples/presets/mnist.py --output=folder/mnist

Needs the project and JAX, of the version that will train or an older one.  Any
value of the configuration can be changed.
"""

from __future__ import annotations

import io
import json
import lzma

import numpy as np
from absl import flags

from benchmarks.accelerator import artifact, lower
from examples.accelerator_training import functions, images
from nvae_tf.commands import command_line
from nvae_tf.config import Config
from nvae_tf.core.files import new_folder, write_bytes

_OUTPUT = flags.DEFINE_string("output", "", "Folder to write; a new one.")
_UNROLL = flags.DEFINE_bool(
    "unroll", False, "Groups as copies instead of loops."
)
_IMAGES = flags.DEFINE_integer(
    "images", 500, "Of a pass of the evaluation, with a draw for each."
)
_WEIGHED = flags.DEFINE_integer(
    "weighed_images", 20, "Of a pass of the importance-weighted bound."
)
_DRAWS = flags.DEFINE_integer("draws", 100, "Likewise, for each image.")
_SAMPLES = flags.DEFINE_integer("samples", 64, "Pictures drawn at once.")
command_line.define_config()


def main(argv) -> None:
    """Lowers the functions, and packs the images."""
    del argv
    config = command_line.config_from_flags()
    with new_folder(_OUTPUT.value) as folder:
        data = images.pack(config)
        write_bytes(folder / "images.npz.xz", _compressed(data.arrays))
        step = functions.make_step(config, _UNROLL.value)
        variables = lower.variables_by_name(step.named_variables())
        _write_all(folder, step, variables, config)
        values = {
            name: _short(np.asarray(variable))
            for name, variable in variables.items()
            if not name.startswith(("model/", "average/"))
        }
        write_bytes(folder / "values.npz.xz", _compressed(values))
        description = _description(config, step, data.description, variables)
        write_bytes(
            folder / "run.json", json.dumps(description, indent=1).encode()
        )
    print(f"{_OUTPUT.value} is prepared.")


def _write_all(folder, step, variables, config) -> None:
    """Lowers all functions of a step."""
    parts = functions.functions(
        step,
        config,
        images=_IMAGES.value,
        draws=(_WEIGHED.value, _DRAWS.value),
        samples=_SAMPLES.value,
    )
    for name, part in parts.items():
        _write(folder, name, part, variables)


def _write(folder, name: str, part, variables: dict) -> None:
    """Lowers a function."""
    lowered = lower.lower_function(part.call, part.arguments, variables)
    described = {**lowered.description, "exact": part.exact}
    content = artifact.pack(lowered.module, described)
    write_bytes(folder / f"{name}.program", content)
    print(f"{name}: {len(content):,} bytes", flush=True)


def _description(config: Config, step, data: dict, variables: dict) -> dict:
    """All that is no array."""
    model = step.model
    names = {id(v): name for name, v in model.named_variables("model/").items()}
    return {
        "config": config.to_dict(),
        "data": data,
        "variables": {
            name: [list(v.shape), np.dtype(v.dtype.as_numpy_dtype).name]
            for name, v in variables.items()
        },
        # In the order in which averages hold them.
        "weights": [names[id(v)] for v in model.trainable_variables],
        "statistics": [names[id(v)] for v in model.non_trainable_variables],
    }


def _short(value: np.ndarray) -> np.ndarray:
    """The value, or a scalar if all of it is one number."""
    return value if np.ptp(value) else value.reshape(-1)[0]


def _compressed(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return lzma.compress(buffer.getvalue())


if __name__ == "__main__":
    command_line.run(main)
