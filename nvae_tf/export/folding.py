"""Folding batch normalisation into convolutions, ahead of an export.

In inference batch normalisation multiplies and shifts every channel by
constants.  Where a convolution comes right before it, or, without padding and
activation between, right after it, kernels can take these factors over: the
exported graph then has plain convolutions and an addition per channel, which
runtimes fuse.

Both directions are exact but for rounding.  What stays is normalisation of a
cell's input that an activation follows (the input also feeds the skip
connection) and any that precedes a padded convolution: the zeros around the
image would have to become `-offset / scale`.
"""

from collections.abc import Mapping

import numpy as np

from nvae_tf.model.cell_operations import InvertedResidual, NormConv
from nvae_tf.model.cells import ResidualCell
from nvae_tf.model.pure_layer import PureLayer

__all__ = ["fold_batch_norm", "is_neutral"]


def fold_batch_norm(model: PureLayer, params: Mapping) -> dict:
    """Returns parameters that compute the same with fewer operations.

    Args:
      model: the layer that the parameters belong to, such as an `NVAE`.
      params: what `model.read_params(Mode.INFERENCE)` returned.

    Returns:
      The same nest as float32 NumPy arrays.  A normalisation that has been
      folded away keeps the scale 1 and, unless the convolution before it has
      no bias to take it, the offset 0, as scalars (of a stack: vectors, a
      scalar per slice): graph optimisers drop multiplications by the scalar 1.
    """
    if isinstance(params, Mapping):
        arrays = {
            name: fold_batch_norm(model.parts[name], value)
            if name in model.parts
            else np.asarray(value, np.float32)
            for name, value in params.items()
        }
        if isinstance(model, InvertedResidual):
            _fold_inverted_residual(arrays)
        elif isinstance(model, ResidualCell):
            _fold_between_operations(model, arrays)
        return arrays
    raise TypeError(f"params must be a nested mapping, not {type(params)}.")


def is_neutral(name: str, value: np.ndarray) -> bool:
    """Whether a parameter of a normalisation does nothing.

    Such parameters must be constants of the graph, whatever the others are, so
    that optimisers see it.

    Args:
      name: key of the parameter in the nest.
      value: of the parameter.
    """
    if name == "scale":
        return bool(np.all(value == 1))
    return name == "offset" and not np.any(value)


def _fold_inverted_residual(params: dict) -> None:
    """BN, 1x1, BN, swish, depthwise, BN, swish, 1x1, BN: all but swish goes.

    The first BN precedes a convolution of size 1, which pads nothing; nearest
    up-sampling before it repeats pixels, which changes nothing either.
    """
    norm, expand = params["norm_in"], params["expand"]
    scale, offset = norm["scale"], norm["offset"]
    kernel = np.float64(expand["kernel"])  # [*stack, 1, 1, c_in, c_out]
    # What the offset becomes behind the convolution: [*stack, c_out].
    shift = np.einsum("...i,...io->...o", offset, kernel[..., 0, 0, :, :])
    expand["kernel"] = kernel * scale[..., None, None, :, None]
    after = params["norm_expand"]
    after["offset"] = after["offset"] + after["scale"] * shift
    norm["scale"] = np.ones(scale.shape[:-1], np.float32)
    norm["offset"] = np.zeros(scale.shape[:-1], np.float32)
    for conv, norm in (
        ("expand", "norm_expand"),
        ("spatial", "norm_spatial"),
        ("project", "norm_out"),
    ):
        _scale_outputs(params[conv], params[norm])


def _fold_between_operations(cell: ResidualCell, params: dict) -> None:
    """BN at the start of an operation into the convolution before it."""
    for i in range(1, len(cell.operations)):
        before, after = (cell.parts[f"op_{j}"] for j in (i - 1, i))
        if not (isinstance(before, NormConv) and isinstance(after, NormConv)):
            continue
        if not after.has_norm:
            continue
        conv = params[f"op_{i - 1}"]["conv"]
        norm = params[f"op_{i}"]["norm"]
        conv["bias"] = np.float32(
            np.float64(conv["bias"]) * norm["scale"] + norm["offset"]
        )
        _scale_outputs(conv, norm)
        norm["offset"] = np.zeros_like(norm["scale"])


def _scale_outputs(conv: dict, norm: dict) -> None:
    """Moves the scale of a BN into the kernel of the convolution before."""
    kernel = np.float64(conv["kernel"])  # [*stack, k, k, c_in, c_out]
    conv["kernel"] = np.float32(
        kernel * norm["scale"][..., None, None, None, :]
    )
    norm["scale"] = np.ones(norm["scale"].shape[:-1], np.float32)
    norm["offset"] = np.float32(norm["offset"])
