"""Where a training step first stopped being finite.

The pass of the step is repeated outside of a graph, with an observer around
every layer, and nothing is changed.  It keeps nothing for a gradient, which is
computed only where all else is finite, by a graph that recomputes as the step
does: none of it takes more memory than the step.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import tensorflow as tf

from nvae_tf.config import ModelConfig
from nvae_tf.config.schedules import Coefficients
from nvae_tf.model.inputs import images_and_labels
from nvae_tf.model.pure_layer import PureLayer
from nvae_tf.training.objective import LossTerms
from nvae_tf.training.train_step import TrainStep

__all__ = ["Diagnosis", "LayerFinding", "diagnose", "non_finite", "observed"]

_MOST_NAMES = 3


@dataclasses.dataclass(frozen=True)
class LayerFinding:
    """A layer whose output is not finite.

    Attributes:
      name: path of the layer, as checkpoints name its variables.
      index: which of the stacked layers of that name; None for a single one.
      group: latent group that it belongs to, top-down; None for none.
      input_finite: whether it was given finite values.
      params_finite: whether the tensors it computes with are finite; None
        for a layer that only connects others.
    """

    name: str
    index: int | None
    group: int | None
    input_finite: bool
    params_finite: bool | None

    def __str__(self) -> str:
        """A part of a sentence."""
        text = self.name
        if self.index is not None:
            text += f", number {self.index} of its stack"
        if self.group is not None:
            text += f" (latent group {self.group})"
        if self.params_finite is False:
            return f"{text}, whose own parameters are not finite"
        if not self.input_finite:
            return f"{text}, whose input was not finite either"
        return text


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What was not finite in a step; empty where all was.

    Attributes:
      variables: names of state (weights, statistics, moments) with such
        values, before the step.
      images: what is wrong with the batch; the rest is then unknown.
      layer: the first in the order of computation.
      group: the first latent group whose KL is not finite, top-down.
      loss_terms: names, see `LossTerms`; the total last.
      gradients: weights whose gradient is not finite although the loss is, in
        the order of computation: the backward pass met the last one first.
      gradient_norm: NaN if the loss is not finite.
      largest: the largest size of a value in any layer's output, and where.
      failure: why it could not be found out; empty if it could.
    """

    variables: tuple[str, ...] = ()
    images: str = ""
    layer: LayerFinding | None = None
    group: int | None = None
    loss_terms: tuple[str, ...] = ()
    gradients: tuple[str, ...] = ()
    gradient_norm: float = math.nan
    largest: tuple[float, str] | None = None
    failure: str = ""

    @property
    def found(self) -> bool:
        """Whether anything was not finite."""
        return not self.failure and bool(
            self.variables
            or self.images
            or self.layer
            or self.loss_terms
            or not math.isfinite(self.gradient_norm)
        )

    def __str__(self) -> str:
        """One line for the user."""
        if self.failure:
            return f"what went wrong could not be found out: {self.failure}."
        found = []
        if self.variables:
            found.append(f"not finite before the step: {_some(self.variables)}")
        if self.images:
            found.append(f"the batch's images {self.images}")
        if self.layer:
            found.append(f"first layer that is not finite: {self.layer}")
        if self.group is not None:
            found.append(f"first group whose KL is not finite: {self.group}")
        if self.loss_terms:
            found.append(
                f"loss terms that are not finite: {_some(self.loss_terms)}"
            )
        if self.gradients:
            found.append(
                "the loss is finite, its gradient is not, first in the "
                f"backward pass at {self.gradients[-1]}, "
                f"{len(self.gradients)} weights in all"
            )
        if not found:
            found.append(
                "all is finite when the step is computed again; the norm of "
                f"its gradient is {self.gradient_norm:.4g}"
            )
        if self.largest:
            found.append(
                "largest activation {:.3g} at {}".format(*self.largest)
            )
        return "; ".join(found) + "."


def diagnose(
    train_step: TrainStep,
    images,
    coefficients: Coefficients,
    seed,
) -> Diagnosis:
    """Repeats a step that was skipped and finds what went wrong.

    Args:
      train_step: with its state as it is: the skipped step changed nothing
        that matters here.
      images: the step's batch, what `Objective.gradients` takes.
      coefficients: the step's, numbers or float32 scalars.
      seed: int32 `[2]`, of the step's noise.

    Returns:
      A `Diagnosis`; `str` of it is for the user.
    """
    variables = _state_names(train_step)
    fault = _fault_of_images(images_and_labels(images)[0])
    if fault:
        return Diagnosis(variables, fault)
    coefficients = Coefficients(*[tf.cast(c, tf.float32) for c in coefficients])
    watch = _Watch(train_step.model.config)
    with observed(train_step.model, watch):
        output, terms = train_step.objective.terms(images, coefficients, seed)
    result = Diagnosis(
        variables=variables,
        layer=watch.first,
        group=_first_bad_column(output.kl_per_group),
        loss_terms=_bad_terms(terms),
        largest=watch.largest,
    )
    if result.layer or result.loss_terms:
        return result
    gradient = train_step.gradient(
        tf.nest.map_structure(tf.convert_to_tensor, images),
        coefficients,
        tf.constant(seed, tf.int32),
    )
    return dataclasses.replace(
        result,
        gradients=tuple(_names_in_flat(train_step, gradient.numpy())),
        gradient_norm=float(tf.norm(gradient)),
    )


def non_finite(tensors: Mapping[str, np.ndarray]) -> list[str]:
    """Names of the arrays that hold a value which is not finite."""
    return [
        name
        for name, value in tensors.items()
        if value.dtype.kind == "f" and not np.all(np.isfinite(value))
    ]


@contextlib.contextmanager
def observed(
    layer: PureLayer, observer: Callable, path: str = "model"
) -> Iterator[None]:
    """Calls an observer after every call of a layer and the layers within.

    Only calls outside of graphs, in which every group of a scale is a call;
    nothing is recomputed meanwhile, which would go around layers.

    Args:
      layer: the outermost.
      observer: `(path, layer, args, kwargs, result) -> None`, the path as
        checkpoints name it.
      path: of `layer` itself.
    """
    watched = list(_all_layers(layer, path))
    recomputing = [
        (part, part.recompute)
        for _, part in watched
        if hasattr(part, "recompute")
    ]
    for part, _ in recomputing:
        part.recompute = "none"
    for name, part in watched:
        _wrap(part, functools.partial(observer, name, part))
    try:
        yield
    finally:
        for _, part in watched:
            del vars(part)["call"]
        for part, recompute in recomputing:
            part.recompute = recompute


def _wrap(layer: PureLayer, observer: Callable) -> None:
    original = layer.call

    @functools.wraps(original)
    def call(*args, **kwargs):
        result = original(*args, **kwargs)
        observer(args, kwargs, result)
        return result

    # Past Keras, which would track an attribute that is set the usual way.
    vars(layer)["call"] = call


def _all_layers(layer: PureLayer, path: str):
    yield path, layer
    for name, part in layer.parts.items():
        yield from _all_layers(part, f"{path}/{name}")


class _Watch:
    """An observer that notes the first layer whose output is not finite.

    Attributes:
      first: `LayerFinding`, None while all are finite.
      largest: size and place of the largest finite value.
    """

    def __init__(self, config: ModelConfig):
        self._config = config
        self._calls: dict[str, int] = {}
        self.first: LayerFinding | None = None
        self.largest: tuple[float, str] | None = None

    def __call__(self, path, layer, args, kwargs, result) -> None:
        """See `observed`."""
        call = self._calls.get(path, 0)
        self._calls[path] = call + 1
        if self.first is not None:
            return
        inputs = (args, {k: v for k, v in kwargs.items() if k != "params"})
        params = kwargs.get("params")
        if not layer.parts and len(args) > 1:
            # Layers without parts take their input and their parameters.
            inputs, params = args[:1], args[1]
        index = None if layer.stack is None else call
        group = _group(path, index, self._config)
        if not _all_finite(result):
            self.first = LayerFinding(
                name=path,
                index=index,
                group=group,
                input_finite=_all_finite(inputs),
                params_finite=None if layer.parts else _all_finite(params),
            )
        elif not layer.parts:
            size = float(tf.reduce_max(tf.abs(tf.nest.flatten(result)[0])))
            if self.largest is None or size > self.largest[0]:
                place = LayerFinding(path, index, group, True, True)
                self.largest = (size, str(place))


def _group(path: str, index: int | None, config: ModelConfig) -> int | None:
    """The latent group, top-down, that a layer belongs to.

    Args:
      path: of the layer.
      index: in its stack.
      config: of the model.
    """
    _, tower, part, *_ = *path.split("/"), "", ""
    if tower == "decoder" and part == "first":
        return 0
    if index is None or not part.startswith("scale_"):
        return None
    scale = int(part.removeprefix("scale_"))
    groups = config.groups_top_down
    if tower == "decoder":
        # The first group of all is not part of a stack.
        return sum(groups[:scale]) + (scale == 0) + index
    # The encoder counts its scales and groups from the finest, bottom-up.
    scale = len(groups) - 1 - scale
    return sum(groups[: scale + 1]) - 1 - index


def _all_finite(tensors) -> bool:
    return all(
        bool(tf.reduce_all(tf.math.is_finite(t)))
        for t in tf.nest.flatten(tensors)
        if tf.is_tensor(t) and t.dtype.is_floating
    )


def _fault_of_images(images) -> str:
    """What keeps a batch from being images; empty if nothing does."""
    values = np.asarray(images)
    bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if bad.any():
        return (
            f"hold values that are not finite, the first in row {bad.argmax()}"
        )
    if values.min() < 0 or values.max() > 1:
        return f"range from {values.min():g} to {values.max():g}, not in [0, 1]"
    return ""


def _state_names(train_step: TrainStep) -> tuple[str, ...]:
    """Names of all state that is not finite."""
    names = []
    for name, variable in train_step.named_variables().items():
        value = np.asarray(variable)
        for bad in non_finite({name: value}):
            if name.startswith("optimizer/"):
                parts = _names_in_flat(train_step, value)
                names += [f"{name} of {part}" for part in parts]
            else:
                names.append(bad)
    return tuple(names)


def _names_in_flat(train_step: TrainStep, vector: np.ndarray) -> list[str]:
    """Names of the weights whose part of a flat vector is not finite."""
    names = {
        id(variable): name
        for name, variable in train_step.model.named_variables("model/").items()
    }
    weights = train_step.optimizer.parameters
    ends = np.cumsum([int(np.prod(w.shape)) for w in weights])
    pieces = np.split(vector, ends[:-1])
    bad = {
        names[id(weight)]
        for weight, piece in zip(weights, pieces, strict=True)
        if not np.all(np.isfinite(piece))
    }
    return [name for name in names.values() if name in bad]


def _first_bad_column(values) -> int | None:
    """The first column of `[B, L]` that is not finite throughout."""
    bad = ~np.isfinite(np.asarray(values)).all(axis=0)
    return int(bad.argmax()) if bad.any() else None


def _bad_terms(terms: LossTerms) -> tuple[str, ...]:
    """Names of the loss terms that are not finite, the total last."""
    values = terms._asdict()
    del values["balance_coefficients"]  # Made of the KL; no term itself.
    values["total"] = values.pop("total")
    return tuple(k for k, v in values.items() if not _all_finite(v))


def _some(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:_MOST_NAMES])
    more = len(names) - _MOST_NAMES
    return shown + (f" and {more} more" if more > 0 else "")
