"""Runs of one process that share their graphs, which take longest to make."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.training import run_state, validation

_BUILT_ONCE = [
    (run_state, "NVAE"),
    (run_state, "WeightAverage"),
    (run_state, "Adamax"),
    (run_state, "SpectralRegularizer"),
    (run_state, "TrainStep"),
    (validation, "Evaluator"),
    (validation, "Illustrator"),
]


@contextlib.contextmanager
def shared_graphs() -> Iterator[None]:
    """Within, runs with equal models and optimisers have the same objects.

    Every run finds their variables as a new process would have them.
    """
    made: dict = {}
    first: dict = {}

    def build(name, make, /, *args, **kwargs):
        key = (name, *map(_key, args), *map(_key, sorted(kwargs.items())))
        if key not in made:
            made[key] = make(*args, **kwargs)
            variables = _variables(made[key])
            first[key] = [(v, np.asarray(v)) for v in variables]
        else:
            for variable, value in first[key]:
                variable.assign(value)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        for module, name in _BUILT_ONCE:
            make = getattr(module, name)
            patch.setattr(
                module,
                name,
                lambda *a, _n=name, _m=make, **k: build(_n, _m, *a, **k),
            )
        yield


def _variables(maker):
    """All state of an object, that of others it was made with or not."""
    if hasattr(maker, "named_variables"):
        return list(maker.named_variables().values())
    return list(getattr(maker, "variables", ()))


def _key(value):
    """What tells two arguments apart; those that were made once are kept."""
    if isinstance(value, list | tuple):
        return tuple(map(_key, value))
    if isinstance(value, tf.distribute.Strategy):
        return type(value)
    if isinstance(value, str | int | float | None):
        return value
    return value if dataclasses.is_dataclass(value) else id(value)
