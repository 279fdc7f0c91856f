r"""Writes a folder to hand on: configuration, weights and a model card.

    nvae export pretrained --workdir=runs/mnist --output=mnist-small \
        --dtype=float16 --card=card.json
    nvae sample --model=mnist-small

Every --model takes the folder, `nvae_tf.from_pretrained` too, and Hugging
Face's hub reads its card.  The metrics on it are those that nvae eval
likelihood and nvae eval samples left in the workdir for the same weights.
What only people know is in --card, a file of JSON:

    {"name": "mnist-small", "license": "cc-by-sa-3.0",
     "datasets": ["mnist"], "description": "Handwritten digits."}

Half precision makes the file half as large; nvae eval likelihood says what it
costs in bits per dimension.
"""

from absl import flags

from nvae_tf.commands import flags as common_flags
from nvae_tf.commands.model_flags import ModelFlags

_MODEL = ModelFlags(with_precision=False)
_OUTPUT = common_flags.define_output("", "The folder to make.")
_DTYPE = flags.DEFINE_enum(
    "dtype",
    "float32",
    ["float32", "float16", "bfloat16"],
    "How weights are stored; statistics stay in float32.",
)
_CARD = flags.DEFINE_string(
    "card", "", "JSON: any of name, license, datasets and description."
)
_OVERWRITE = common_flags.define_overwrite()


def main(argv) -> None:
    """Loads, writes, says how large it is."""
    del argv
    from nvae_tf.core.errors import UserError
    from nvae_tf.runs import model_card, pretrained_folder

    if not _OUTPUT.value:
        raise UserError("Name the folder to make with --output=FOLDER.")
    said = model_card.read_card(_CARD.value) if _CARD.value else {}
    _MODEL.read_config()
    from nvae_tf.runs import pretrained
    from nvae_tf.runs.measured import metrics_of

    model, config, info = _MODEL.load()
    if _MODEL.folder is not None:
        info["metrics"] = metrics_of(_MODEL.folder, info["step"], info["ema"])
    folder = pretrained.save(
        model,
        config,
        _OUTPUT.value,
        {**info, **said},
        dtype=_DTYPE.value,
        overwrite=_OVERWRITE.value,
    )
    stored = pretrained_folder.describe(folder)
    print(
        f"{stored.parameters:,} parameters, {stored.num_bytes / 1e6:.1f} MB, "
        f"{len(stored.facts['metrics'])} metrics, in {folder}"
    )
    if not stored.facts["metrics"]:
        print(
            "Nothing was measured of these weights: nvae eval likelihood does, "
            "before they are written."
        )
    if not stored.facts["license"]:
        print("Its card states no licence: --card gives one.")
