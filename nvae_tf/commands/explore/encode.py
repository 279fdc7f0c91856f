r"""Encodes images: latents, posterior parameters and bounds in an .npz file.

    nvae encode --workdir=runs/demo --split=test --num=100 \
        --output=latents.npz
    nvae encode --workdir=runs/demo --images=pictures/ \
        --arrays=mean,sigma --output=latents.npz

For each latent group l, top-down from 00, and N images:

    z_00      [N, h, w, d]  a draw from the posterior (--latents=mean: its mean)
    mean_00   [N, h, w, d]  of the posterior, given the groups of z above
    sigma_00  [N, h, w, d]  likewise
    eps_00    [N, h, w, d]  z as noise of the prior: z = mu_p + sigma_p * eps

and, always of a draw, `nelbo` [N] and `kl_per_group` [N, L] in nats and
`bits_per_dim` [N]; `indices` [N] within the split or --images, and `names`
[N].  With flows, `mean` and `sigma` are those before the flow, `z` and `eps`
after it.
"""

from absl import flags

from nvae_tf.commands import flags as common_flags
from nvae_tf.commands import values
from nvae_tf.commands.model_flags import ModelFlags
from nvae_tf.core.errors import UserError

_ARRAYS = ("z", "mean", "sigma", "eps")

_MODEL = ModelFlags()
_IMAGES = common_flags.ImageFlags(num=100)
_SEED = common_flags.define_seed("Of binarisation and noise.")
_LATENTS = common_flags.define_latents()
_KINDS = flags.DEFINE_list(
    "arrays", ",".join(_ARRAYS), "Which arrays of the latents to write."
)
_BATCH_SIZE = common_flags.define_batch_size()
_OUTPUT = common_flags.define_output("latents.npz", "The .npz to write.")


def main(argv) -> None:
    """Loads, encodes, writes one file."""
    del argv
    values.require_suffix(_OUTPUT.value, ".npz")
    for kind in _KINDS.value:
        if kind not in _ARRAYS:
            raise UserError(
                f"--arrays holds {kind!r}; it takes {', '.join(_ARRAYS)}."
            )
    # Before TensorFlow is loaded.
    _MODEL.read_config()
    from nvae_tf.core.npz_files import write_npz
    from nvae_tf.core.progress import progress

    model, config, _ = _MODEL.load()
    source, config = _IMAGES.open(config)
    arrays = _encode(model, config, source, progress)
    write_npz(_OUTPUT.value, **arrays)
    size = sum(array.nbytes for array in arrays.values()) / 2**20
    print(
        f"{len(arrays['nelbo'])} images in {model.config.num_groups} groups, "
        f"{size:.1f} MiB, in {_OUTPUT.value}"
    )


def _encode(model, config, source, progress) -> dict:
    """All arrays by name."""
    import collections

    import numpy as np

    from nvae_tf.datasets import image_input
    from nvae_tf.model import losses
    from nvae_tf.sampling.inference import Inference

    inference = Inference(model)
    batch_size = min(_BATCH_SIZE.value, len(source))
    parts = collections.defaultdict(list)
    for batch in progress(
        image_input.stream(source, config, batch_size, _SEED.value),
        total=-(-len(source) // batch_size),
        unit="batch",
        desc="encoding",
    ):
        code = inference(
            batch.images,
            _SEED.value + batch.numbers,
            draw=_LATENTS.value == "sample",
            with_noise="eps" in _KINDS.value,
            with_bounds=True,
            labels=batch.labels,
        )
        for kind in _KINDS.value:
            for group, array in enumerate(getattr(code, kind)):
                parts[f"{kind}_{group:02d}"].append(array[batch.valid])
        parts["nelbo"].append(code.nelbo[batch.valid])
        parts["kl_per_group"].append(code.kl_per_group[batch.valid])
        parts["places"].append(batch.places[batch.valid])
        parts["indices"].append(batch.numbers[batch.valid])
    if not parts:
        raise UserError(f"No image of {source.name} can be read.")
    arrays = {name: np.concatenate(list_) for name, list_ in parts.items()}
    arrays["bits_per_dim"] = np.asarray(
        losses.bits_per_dim(arrays["nelbo"], model.config), np.float32
    )
    places = arrays.pop("places")
    arrays["names"] = np.array([source.describe(place) for place in places])
    return arrays
