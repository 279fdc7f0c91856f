"""Reading the checkpoints of the authors' program.

`load` needs no PyTorch.  `reference_slots` maps every key of their format to
a place in our variables; importing, exporting and the parity tests share it.
"""

import typing
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from nvae_tf.authors import torch_file
from nvae_tf.authors.reference_config import config_from_reference
from nvae_tf.config import Config, ModelConfig
from nvae_tf.core.errors import CheckpointError
from nvae_tf.core.reading import shown
from nvae_tf.model.cell_operations import InvertedResidual
from nvae_tf.model.cells import ResidualCell
from nvae_tf.model.layers import BatchNorm, Conv2D, Dense
from nvae_tf.model.nvae import NVAE

__all__ = [
    "IGNORED_SUFFIXES",
    "ReferenceCheckpoint",
    "Slot",
    "assign_state",
    "load",
    "read",
    "reference_slots",
]

# Of epochs or steps; and what float32 can scale by.
_MOST_COUNT = 10**12
_MOST_SCALE = 2.0**100
# Of tensors that say nothing about the model.
IGNORED_SUFFIXES = ("num_batches_tracked", "weight_normalized")


class Slot(typing.NamedTuple):
    """Where a tensor of a reference checkpoint lives in our variables.

    Attributes:
      variable: ours.
      index: position along the variable's stack, or None.
      kind: "conv", "dense", "gain", "state" or "vector": how axes differ.
    """

    variable: keras.Variable
    index: int | None
    kind: str

    def from_reference(self, value: np.ndarray) -> np.ndarray:
        """Their layout -> ours."""
        if self.kind == "conv":  # OIHW -> HWIO
            return np.transpose(value, (2, 3, 1, 0))
        if self.kind == "dense":  # [out, in] -> [in, out]
            return np.transpose(value)
        if self.kind == "state":  # CHW -> HWC
            return np.transpose(value, (1, 2, 0))
        return value.reshape(-1) if self.kind == "gain" else value

    def to_reference(self, value: np.ndarray) -> np.ndarray:
        """Our layout -> theirs."""
        if self.kind == "conv":
            return np.transpose(value, (3, 2, 0, 1))
        if self.kind == "dense":
            return np.transpose(value)
        if self.kind == "state":
            return np.transpose(value, (2, 0, 1))
        return value.reshape(-1, 1, 1, 1) if self.kind == "gain" else value

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in the reference's layout."""
        shape = tuple(self.variable.shape)[0 if self.index is None else 1 :]
        return self.to_reference(np.broadcast_to(np.float32(0), shape)).shape

    def of(self, value: Any) -> np.ndarray:
        """The tensor, in their layout, within an array like the variable."""
        value = np.asarray(value)
        return self.to_reference(
            value if self.index is None else value[self.index]
        )


class ReferenceCheckpoint(typing.NamedTuple):
    """What a file of the authors' program holds.

    Attributes:
      path: of the file, for messages.
      args: the `argparse.Namespace` that the program was started with.
      state_dict: names to arrays in the authors' layout.
      optimizer: its optimiser's `state_dict`; empty if there is none.
      epoch: epochs completed.
      global_step: optimiser steps taken, as the program counts them.
      loss_scale: of mixed precision; None if the file does not tell.
    """

    path: Any
    args: Any
    state_dict: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    epoch: int
    global_step: int
    loss_scale: float | None


def read(path) -> ReferenceCheckpoint:
    """Reads a checkpoint of the authors' program; builds nothing.

    Args:
      path: a file that their program wrote with `torch.save`.

    Raises:
      CheckpointError: if the file cannot be read, or holds anything but plain
        values and tensors, or is not of their program.
    """
    values = torch_file.read(path)
    if not isinstance(values, Mapping) or not {
        "args",
        "state_dict",
    } <= set(values):
        raise CheckpointError(
            f"{path} is not a checkpoint of the NVAE authors' program: it "
            "must hold 'args' and 'state_dict'."
        )
    state = values["state_dict"]
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(value, np.ndarray)
        for name, value in state.items()
    ):
        raise CheckpointError(
            f"{path}: 'state_dict' is {shown(state)}, not a mapping of names "
            "to tensors; the file is not one of the authors' program."
        )
    optimizer = values.get("optimizer")
    return ReferenceCheckpoint(
        path=path,
        args=values["args"],
        state_dict=state,
        optimizer=optimizer if isinstance(optimizer, Mapping) else {},
        epoch=_count(values, "epoch", path),
        global_step=_count(values, "global_step", path),
        loss_scale=_loss_scale(values, path),
    )


def _count(values: Mapping, name: str, path) -> int:
    """A whole number of the checkpoint, 0 where it has none."""
    value = values.get(name, 0)
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if not isinstance(value, int) or not 0 <= value < _MOST_COUNT:
        raise CheckpointError(
            f"{path}: {name!r} is {shown(value)}, not a count; the file is not "
            "one of the authors' program."
        )
    return value


def _loss_scale(values: Mapping, path) -> float | None:
    """The scale of mixed precision, None where there is none."""
    scaler = values.get("grad_scalar")
    scale = scaler.get("scale") if isinstance(scaler, Mapping) else None
    if isinstance(scale, np.ndarray) and scale.ndim == 0:
        scale = scale.item()
    if scale is None:
        return None
    if not isinstance(scale, int | float) or not 0 < scale < _MOST_SCALE:
        raise CheckpointError(
            f"{path}: 'scale' in 'grad_scalar' is {shown(scale)}, which scales "
            "no loss; the file is not one of the authors' program."
        )
    return float(scale)


def load(path) -> tuple[NVAE, Config]:
    """Reads a checkpoint of the authors' program.

    Args:
      path: a file that their program wrote with `torch.save`.

    Returns:
      The model with the checkpoint's weights and statistics, and the
      configuration it was trained with.

    Raises:
      CheckpointError: if the file cannot be read, holds anything but plain
        values and tensors, or its tensors are not those of its configuration.
    """
    checkpoint = read(path)
    config = config_from_reference(checkpoint.args, checkpoint.state_dict, path)
    model = NVAE(config.model, seed=None)
    assign_state(model, checkpoint.state_dict, path)
    return model, config


def assign_state(model: NVAE, state: Mapping[str, Any], path) -> None:
    """Copies a reference `state_dict` into the model's variables.

    Raises:
      CheckpointError: for missing, extra or misshapen keys.
    """
    slots = reference_slots(model)
    given = {k for k in state if not k.endswith(IGNORED_SUFFIXES)}
    for problem, keys in (
        ("lacks", slots.keys() - given),
        ("has unexpected", given - slots.keys()),
    ):
        if keys:
            first = shown(sorted(keys)[0])
            raise CheckpointError(
                f"{path} {problem} {len(keys)} tensors, '{first}' among them; "
                "its weights do not belong to the model its 'args' describe."
            )
    arrays: dict[int, np.ndarray] = {}
    variables = {}
    for key, slot in slots.items():
        value = np.asarray(state[key])
        if value.shape != slot.shape:
            raise CheckpointError(
                f"{path}: {key!r} has shape {shown(value.shape)}, but the "
                f"model its 'args' describe needs {slot.shape}."
            )
        if value.dtype.kind not in "fiu":
            raise CheckpointError(
                f"{path}: {key!r} holds {value.dtype}, not numbers."
            )
        # As float32: what is larger would become infinite.
        with np.errstate(over="ignore"):
            value = value.astype(np.float32)
        if not np.all(np.isfinite(value)):
            raise CheckpointError(
                f"{path}: {key!r} holds values that are not finite as float32; "
                "the run that wrote it had diverged. Use an earlier checkpoint."
            )
        ident = id(slot.variable)
        if ident not in arrays:
            variables[ident] = slot.variable
            arrays[ident] = np.zeros(slot.variable.shape, np.float32)
        target = arrays[ident]
        if slot.index is None:
            target[...] = slot.from_reference(value)
        else:
            target[slot.index] = slot.from_reference(value)
    for ident, variable in variables.items():
        variable.assign(arrays[ident])


def reference_slots(model: NVAE) -> dict[str, Slot]:
    """Every key of the authors' `state_dict` for this model, with its slot."""
    slots: dict[str, Slot] = {}

    def add(prefix, layer, index=None):
        for key, variable, kind in _leaf_keys(layer):
            slots[f"{prefix}.{key}"] = Slot(variable, index, kind)

    config = model.config
    encoder, decoder = model.parts["encoder"], model.parts["decoder"]
    slots["prior_ftr0"] = Slot(decoder.prior_h0, None, "state")
    add("stem", encoder.parts["stem"])
    for i, cell in enumerate(encoder.parts["preprocess"].cells):
        add(f"pre_process.{i}", cell)
    add("enc0.1", encoder.parts["top"])
    # Top-down: the group of every number, with its place in a stack.
    groups = [(decoder.parts["first"], None)]
    tower = 0
    for s, count in enumerate(config.groups_top_down):
        if s:
            add(f"dec_tower.{tower}", decoder.parts[f"up_{s}"])
            tower += 1
        for i in range(count - (s == 0)):
            groups.append((decoder.parts[f"scale_{s}"], i))
        for group, index in groups[len(groups) - count :]:
            if not group.is_first:
                for cell in group.parts["cells"].cells:
                    add(f"dec_tower.{tower}", cell, index)
                    tower += 1
            combiner = (
                "stem_decoder"
                if config.is_plain_vae
                else f"dec_tower.{tower}.conv"
            )
            add(combiner, group.parts["decoder_combiner"].parts["conv"], index)
            tower += 1
    for number, (group, index) in enumerate(groups):
        add(f"enc_sampler.{number}", group.parts["posterior"], index)
        if number:
            add(f"dec_sampler.{number - 1}.1", group.parts["prior"], index)
        for i in range(2 * config.num_flow_pairs):
            pair = number * config.num_flow_pairs + i // 2
            flow = group.parts[f"flow_{i}"]
            prefix = f"nf_cells.{pair}.cell{1 + i % 2}"
            add(f"{prefix}.conv.convz.0", flow.parts["expand"], index)
            add(f"{prefix}.conv.convz.2", flow.parts["spatial"], index)
            add(f"{prefix}.mu.conv_0", flow.parts["project"], index)
    if not config.is_plain_vae:
        _add_encoder_tower(add, config, encoder, groups)
    for i, cell in enumerate(model.parts["image"].parts["postprocess"].cells):
        add(f"post_process.{i}", cell)
    add("image_conditional.1", model.parts["image"].parts["head"])
    return slots


def _add_encoder_tower(add, config: ModelConfig, encoder, groups) -> None:
    """Bottom-up: cells of every group, then the combiner it shares."""
    tower = 0
    number = config.num_groups - 1  # of the group, top-down
    for s, count in enumerate(config.groups_per_scale):
        if s:
            add(f"enc_tower.{tower}", encoder.parts[f"down_{s}"])
            tower += 1
        for i in range(count):
            for cell in encoder.parts[f"scale_{s}"].cells:
                add(f"enc_tower.{tower}", cell, i)
                tower += 1
            if number:
                group, index = groups[number]
                combiner = group.parts["encoder_combiner"]
                add(f"enc_tower.{tower}.conv", combiner.parts["conv"], index)
                tower += 1
            number -= 1


def _leaf_keys(layer):
    """Yields (key, variable, kind) of everything under a layer."""
    if isinstance(layer, Conv2D):
        yield "weight", layer.v, "conv"
        if layer.use_bias:
            yield "bias", layer.bias, "vector"
        if layer.weight_norm:
            yield "log_weight_norm", layer.g, "gain"
    elif isinstance(layer, BatchNorm):
        yield "weight", layer.gamma, "vector"
        yield "bias", layer.beta, "vector"
        yield "running_mean", layer.mean, "vector"
        yield "running_var", layer.variance, "vector"
    elif isinstance(layer, Dense):
        yield "weight", layer.kernel, "dense"
        yield "bias", layer.bias, "vector"
    else:
        for prefix, part in _named_parts(layer):
            for key, variable, kind in _leaf_keys(part):
                yield f"{prefix}.{key}", variable, kind


def _named_parts(layer):
    """The reference's names of a composite layer's parts."""
    if isinstance(layer, ResidualCell):
        for name, part in layer.parts.items():
            if name.startswith("op_"):
                yield f"_ops.{name.removeprefix('op_')}", part
            else:
                yield name, part
    elif isinstance(layer, InvertedResidual):
        o = 1 if layer.resample == "up" else 0
        yield f"conv.{o}.bn", layer.parts["norm_in"]
        yield f"conv.{o + 1}.conv.0", layer.parts["expand"]
        yield f"conv.{o + 1}.conv.1", layer.parts["norm_expand"]
        yield f"conv.{o + 2}.conv.0", layer.parts["spatial"]
        yield f"conv.{o + 2}.conv.1", layer.parts["norm_spatial"]
        yield f"conv.{o + 3}", layer.parts["project"]
        yield f"conv.{o + 4}.bn", layer.parts["norm_out"]
    else:
        elu = getattr(layer, "operation", "") == "res_bnelu"
        names = {
            "norm": "bn.bn" if elu else "bn_act",
            "conv": "1" if layer.name == "skip" else "conv_0",
            "squeeze": "se.0",
            "excite": "se.2",
            **{f"phase_{i}": f"conv_{i + 1}" for i in range(4)},
        }
        for name, part in layer.parts.items():
            yield names[name], part
