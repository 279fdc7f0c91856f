"""The optimiser's state in the checkpoints of the authors' program.

It is `state_dict()` of a torch optimiser: per parameter, by its number, the
moments `exp_avg` (our m) and `exp_inf` (our u) and the count of updates; and
one group of parameters with the learning rate.  The numbers follow the order
of the parameters in the model's `state_dict`.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from nvae_tf.authors.reference_import import IGNORED_SUFFIXES, Slot
from nvae_tf.core.errors import CheckpointError
from nvae_tf.core.reading import shown

__all__ = [
    "Moments",
    "moments_from_reference",
    "parameter_keys",
    "state_from_moments",
]

_BUFFERS = ("running_mean", "running_var", *IGNORED_SUFFIXES)
_NAMES = {"m": "exp_avg", "u": "exp_inf"}
_MOST_UPDATES = 10**12


class Moments(typing.NamedTuple):
    """What Adamax keeps between steps.

    Attributes:
      m: float32 `[N]`, in the order of `Adamax.parameters`.
      u: float32 `[N]`, likewise.
      updates: how many there were.
    """

    m: np.ndarray
    u: np.ndarray
    updates: int


def parameter_keys(keys: Iterable[str]) -> list[str]:
    """Those of a `state_dict`'s keys that the optimiser numbers."""
    return [key for key in keys if not key.endswith(_BUFFERS)]


def moments_from_reference(
    optimizer: Mapping[str, Any],
    keys: Iterable[str],
    slots: Mapping[str, Slot],
    parameters: Iterable,
    path,
) -> Moments | None:
    """Reads the moments out of an optimiser's state.

    Args:
      optimizer: the checkpoint's "optimizer".
      keys: of the checkpoint's `state_dict`, in its order.
      slots: see `reference_slots`.
      parameters: `Adamax.parameters` of the same model.
      path: of the file, for messages.

    Returns:
      The moments; None if the checkpoint holds none.

    Raises:
      CheckpointError: if what it holds does not fit its own parameters.
    """
    state = optimizer.get("state")
    if state is None or (isinstance(state, Mapping) and not state):
        return None
    names = parameter_keys(keys)
    if (
        not isinstance(state, Mapping)
        or _numbers(optimizer) != list(range(len(names)))
        or not all(type(n) is int and 0 <= n < len(names) for n in state)
    ):
        raise _refused(
            path, f"it does not number {len(names)} parameters from 0 on"
        )
    pieces = _Pieces(parameters)
    steps = set()
    for number, entry in state.items():
        slot = slots[names[number]]
        if not isinstance(entry, Mapping) or not {
            "step",
            *_NAMES.values(),
        } <= set(entry):
            raise _refused(path, "a parameter lacks step, exp_avg or exp_inf")
        steps.add(_step(entry["step"], path))
        for name, theirs in _NAMES.items():
            value = _moment(entry[theirs], slot.shape)
            if value is None:
                raise _refused(
                    path,
                    f"{theirs} of {names[number]!r} is not finite or not of "
                    f"shape {slot.shape}",
                )
            if pieces.knows(slot):
                pieces.view(name, slot)[...] = slot.from_reference(value)
    return Moments(pieces.flat["m"], pieces.flat["u"], max(steps))


def state_from_moments(
    moments: Moments,
    keys: Iterable[str],
    slots: Mapping[str, Slot],
    parameters: Iterable,
) -> dict[str, Any]:
    """Writes the moments as the "state" of an optimiser.

    Args:
      moments: the moments; `updates` of 0 gives an empty state.
      keys: of the `state_dict`, in its order.
      slots: see `reference_slots`.
      parameters: `Adamax.parameters` of the same model.

    Returns:
      `{number: {"step", "exp_avg", "exp_inf"}}`, float32 in their layout.
    """
    if not moments.updates:
        return {}
    names = parameter_keys(keys)
    pieces = _Pieces(parameters, moments)
    return {
        number: {
            "step": moments.updates,
            **{
                theirs: np.ascontiguousarray(
                    slots[key].to_reference(pieces.view(name, slots[key]))
                )
                for name, theirs in _NAMES.items()
            },
        }
        for number, key in enumerate(names)
        if pieces.knows(slots[key])
    }


class _Pieces:
    """Flat moments, seen variable by variable.

    Args:
      parameters: the variables, in the order of the flat vectors.
      moments: what to look at; None starts from zeros.
    """

    def __init__(self, parameters: Iterable, moments: Moments | None = None):
        parameters = list(parameters)
        sizes = [int(np.prod(v.shape)) for v in parameters]
        self.flat = (
            {name: np.zeros(sum(sizes), np.float32) for name in _NAMES}
            if moments is None
            else {"m": moments.m, "u": moments.u}
        )
        self._places = {
            id(v): (end - size, end, tuple(v.shape))
            for v, size, end in zip(
                parameters, sizes, np.cumsum(sizes), strict=True
            )
        }

    def knows(self, slot: Slot) -> bool:
        """Whether the optimiser moves the slot's variable."""
        return id(slot.variable) in self._places

    def view(self, name: str, slot: Slot) -> np.ndarray:
        """The slot's part of a flat vector, in our layout; writable."""
        start, end, shape = self._places[id(slot.variable)]
        whole = self.flat[name][start:end].reshape(shape)
        return whole if slot.index is None else whole[slot.index]


def _numbers(optimizer: Mapping[str, Any]) -> list | None:
    """The parameters' numbers, group after group; None if there are none."""
    groups = optimizer.get("param_groups")
    if not isinstance(groups, list):
        return None
    numbers = []
    for group in groups:
        params = group.get("params") if isinstance(group, Mapping) else None
        # 1.0 and True are equal to 1, but number nothing.
        if not isinstance(params, list) or {*map(type, params)} - {int}:
            return None
        numbers += params
    return numbers


def _step(value: Any, path) -> int:
    """A count of updates, which newer versions of torch keep as a tensor."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if not isinstance(value, int | float) or not 0 <= value < _MOST_UPDATES:
        raise _refused(path, f"a step is {shown(value)}, not a count")
    return int(value)


def _moment(value: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """A moment as float32; None if it is none of this shape."""
    if not isinstance(value, np.ndarray) or value.shape != shape:
        return None
    if value.dtype.kind not in "fiu":
        return None
    with np.errstate(over="ignore"):
        value = value.astype(np.float32)
    return value if np.all(np.isfinite(value)) else None


def _refused(path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: the state of its optimiser does not fit its weights: {why}. "
        "Import the weights alone with --weights_only."
    )
