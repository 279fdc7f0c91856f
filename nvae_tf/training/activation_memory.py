"""How much memory a training pass keeps for its backward pass: an estimate.

The model's layers are walked, not run: for each, the tensors are counted that
its operations' gradients read (see `nvae_tf.model.ops`).

- A convolution reads its input, batch normalisation its input, an ELU its
  output; biases, sums, concatenations and up-sampling read nothing.
- A product reads both factors: so the branch of a cell is kept for the
  squeeze-and-excitation that scales it.
- Recomputing batch normalisation with its activation ("bn_swish") saves the
  outputs, which only the next convolution reads; recomputing whole cells
  ("cell") saves all of a cell but its input, and needs room for one cell (see
  `nvae_tf.model.recompute`).

Left out are vectors per image and channel, which are small, what the
backward pass allocates for itself, and what a framework's allocator wastes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from nvae_tf.config import ModelConfig
from nvae_tf.model.cell_operations import InvertedResidual
from nvae_tf.model.cells import ResidualCell
from nvae_tf.model.latent_group import LatentGroup
from nvae_tf.model.nvae import NVAE

__all__ = ["ActivationMemory", "CellValues", "cell_values", "estimate"]

_FLOAT32_BYTES = 4
# float32 tensors of a group's latent shape that are kept: noise, soft clamps,
# sigmas, and what the KL or, with flows, both log-densities read.
_LATENT_TENSORS = 12
_LATENT_TENSORS_WITH_FLOW = 13
# Of them for the prior.
_PRIOR_TENSORS = 5
# float32 tensors of the image's shape that the likelihood keeps; for the
# mixture, as many of each component.
_PIXEL_TENSORS = {"bernoulli": 3, "normal": 6, "mixture": 13}


@dataclasses.dataclass(frozen=True)
class ActivationMemory:
    """Bytes per image that are kept until the backward pass.

    Attributes:
      none: nothing is recomputed.
      bn_swish: batch normalisation with its activation is recomputed.
      cell: whole cells are recomputed, with the room that the largest needs.
      room: that room.
    """

    none: int
    bn_swish: int
    cell: int
    room: int


@dataclasses.dataclass(frozen=True)
class CellValues:
    """Values per image that a residual cell keeps.

    Attributes:
      entry: its input, which a cell that is recomputed keeps alone.
      reads_entry: whether the gradient reads the input.
      inner: all others.
      norms: those of `inner` that "bn_swish" recomputes.
    """

    entry: int
    reads_entry: bool
    inner: int
    norms: int


@dataclasses.dataclass
class _Tally:
    """Values per image, so far."""

    kept: int = 0  # Outside of cells, in the dtype to compute in.
    float32: int = 0  # Outside of cells, in float32 at any precision.
    cells: list[CellValues] = dataclasses.field(default_factory=list)
    # In flow cells, beside their input; float32 at any precision.
    flow_cells: list[int] = dataclasses.field(default_factory=list)


def cell_values(cell: ResidualCell, size: int, channels: int) -> CellValues:
    """Counts what a cell keeps for an input `[B, size, size, channels]`."""
    entry = size**2 * channels
    inner = norms = 0
    reads_entry = cell.resample != "none"  # By the skip's convolution.
    if cell.resample == "down":
        # The swish's gate, and the four phases that are convolved.
        inner += 2 * entry
    for i in range(len(cell.operations)):
        operation = cell.parts[f"op_{i}"]
        if isinstance(operation, InvertedResidual):
            kept, recomputed = _inverted_residual(operation, size, channels)
            reads_input = operation.resample != "up"
        else:
            outputs = _upsampled(operation, size) ** 2 * channels
            kept, recomputed = outputs, outputs * operation.has_norm
            if not operation.has_norm and operation.resample == "up":
                kept += size**2 * channels  # The ELU's, before up-sampling.
            reads_input = operation.has_norm
        inner, norms = inner + kept, norms + recomputed
        if i == 0:
            reads_entry |= reads_input
        elif reads_input:
            inner += size**2 * channels
        size, channels = _output_size(operation, size), cell.filters
    if cell.use_se:
        inner += size**2 * channels
    return CellValues(entry, reads_entry, inner, norms)


def estimate(model: NVAE, *, bytes_per_value: int = 4) -> ActivationMemory:
    """Estimates what one image's training pass keeps.

    Args:
      model: its variables need no values.
      bytes_per_value: 4 to compute in float32, 2 in half precision.
        Distributions, flows and the likelihood are float32 in both.
    """
    config = model.config
    tally = _Tally()
    _add_encoder(tally, model.parts["encoder"], config)
    _add_decoder(tally, model.parts["decoder"], config)
    _add_image(tally, model.parts["image"], config)
    cells = tally.cells
    entries = sum(cell.entry * cell.reads_entry for cell in cells)
    inner = sum(cell.inner for cell in cells)
    norms = sum(cell.norms for cell in cells)
    outside = tally.kept * bytes_per_value + tally.float32 * _FLOAT32_BYTES
    flows = sum(tally.flow_cells) * _FLOAT32_BYTES
    room = max(
        bytes_per_value * max((cell.inner for cell in cells), default=0),
        _FLOAT32_BYTES * max(tally.flow_cells, default=0),
    )
    recomputed = sum(cell.entry for cell in cells) * bytes_per_value
    return ActivationMemory(
        none=outside + flows + (entries + inner) * bytes_per_value,
        bn_swish=(
            outside + flows + (entries + inner - norms) * bytes_per_value
        ),
        cell=outside + recomputed + room,
        room=room,
    )


def _inverted_residual(
    operation: InvertedResidual, size: int, channels: int
) -> tuple[int, int]:
    """(kept without the operation's input, of these by `bn_swish`)."""
    hidden = operation.parts["expand"].filters
    inside = _upsampled(operation, size)
    outside = _output_size(operation, size)
    norms = inside**2 * (channels + hidden) + outside**2 * hidden
    convolved = inside**2 * hidden + outside**2 * (hidden + operation.filters)
    upsampled = inside**2 * channels if operation.resample == "up" else 0
    return norms + convolved + upsampled, norms


def _upsampled(operation, size: int) -> int:
    return 2 * size if operation.resample == "up" else size


def _output_size(operation, size: int) -> int:
    size = _upsampled(operation, size)
    return size // 2 if operation.resample == "down" else size


def _add_cells(
    tally: _Tally,
    cells: Iterable[ResidualCell],
    size: int,
    channels: int,
    repeats: int = 1,
) -> tuple[int, int]:
    """Adds cells in a row; returns size and channels of their output."""
    for cell in cells:
        tally.cells += [cell_values(cell, size, channels)] * repeats
        size, channels = _output_size(cell, size), cell.filters
    return size, channels


def _add_encoder(tally: _Tally, encoder, config: ModelConfig) -> None:
    size, channels = config.padded_size, config.num_channels_enc
    tally.kept += size**2 * config.image_channels
    size, channels = _add_cells(
        tally, encoder.parts["preprocess"].cells, size, channels
    )
    if not config.is_plain_vae:
        for s, groups in enumerate(config.groups_per_scale):
            if s:
                down = [encoder.parts[f"down_{s}"]]
                size, channels = _add_cells(tally, down, size, channels)
            tower = encoder.parts[f"scale_{s}"].cells
            _add_cells(tally, tower, size, channels, groups)
    # An ELU on either side of the top's convolution.
    tally.kept += 2 * size**2 * channels


def _add_decoder(tally: _Tally, decoder, config: ModelConfig) -> None:
    size = config.scale_sizes[0]
    _add_group(tally, decoder.parts["first"], size)
    for s, groups in enumerate(config.groups_top_down):
        if s:
            up = decoder.parts[f"up_{s}"]
            _add_cells(tally, [up], size, 2 * up.filters)
            size *= 2
        if f"scale_{s}" in decoder.parts:
            _add_group(
                tally, decoder.parts[f"scale_{s}"], size, groups - (s == 0)
            )


def _add_group(
    tally: _Tally, group: LatentGroup, size: int, repeats: int = 1
) -> None:
    config, pixels = group.config, size**2 * repeats
    d = config.num_latent_per_group
    state = 0 if config.is_plain_vae else group.width
    tally.kept += pixels * (state + d)  # What the decoder combiner reads.
    if not group.is_first:
        cells = group.parts["cells"].cells
        _add_cells(tally, cells, size, group.width, repeats)
        # Its ELU, which the prior reads, and what the posterior reads.
        tally.kept += pixels * (2 * group.width + group.encoder_width)
    if config.num_flow_pairs:
        hidden = group.parts["flow_0"].parts["expand"].filters
        count = 2 * config.num_flow_pairs
        tally.flow_cells += [3 * size**2 * hidden] * (repeats * count)
        tally.float32 += pixels * count * d
        tensors = _LATENT_TENSORS_WITH_FLOW
    else:
        tensors = _LATENT_TENSORS
    if group.is_first:
        # A standard Normal prior has no parameters.
        tensors -= _PRIOR_TENSORS
    tally.float32 += pixels * d * tensors


def _add_image(tally: _Tally, image, config: ModelConfig) -> None:
    size = config.scale_sizes[-1]
    cells = image.parts["postprocess"].cells
    channels = config.num_channels_dec * 2**config.num_preprocess_blocks
    size, channels = _add_cells(tally, cells, size, channels)
    tally.kept += size**2 * channels
    tensors = _PIXEL_TENSORS[config.likelihood]
    if config.likelihood == "mixture":
        tensors *= config.num_mixtures
    tally.float32 += config.padded_size**2 * config.image_channels * tensors
