"""The base of all layers: pure computation from given tensors.

Every layer is a *pure* Keras layer.  Its variables are read by `read_params`,
which also normalises kernels and, for inference, folds batch normalisation
into a scale and an offset; `call` computes from these tensors and changes
nothing.  What a training pass wants written back (moments for the moving
averages, data-dependent initial values) comes back as `updates`, which
`apply_updates` stores.  So a forward pass may be recomputed, run in a loop
over stacked weights, or run with an exponential average of the weights,
without side effects happening twice or to the wrong variables.

With `stack=n` a layer holds the variables of n equal layers along a leading
axis; the caller passes one slice of `read_params()` to `call`.
"""

import dataclasses
import enum
import inspect
import zlib

import keras

from nvae_tf.config import ModelConfig

__all__ = ["Mode", "PureLayer"]


class Mode(enum.StrEnum):
    """What a pass computes with.

    INFERENCE uses the moving averages, TRAINING the batch's moments, and
    INITIALIZATION is a training pass in which the layers with data-dependent
    initialisation choose their gains and biases on the way.
    """

    INFERENCE = "inference"
    TRAINING = "training"
    INITIALIZATION = "initialization"


class PureLayer(keras.layers.Layer):
    """A Keras layer that computes from the tensors it is given.

    A composite layer names its parts in `self.parts`; the nested dictionaries
    of `read_params`, `updates` and `initialize` follow that naming.

    Attributes:
      stack: None, or how many equal layers share this object.
      parts: sublayers by name.
    """

    def __init__(self, stack: int | None = None, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.stack = stack
        self.parts: dict[str, PureLayer] = {}
        self.own_variables: dict[str, keras.Variable] = {}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        keras.saving.register_keras_serializable("nvae_tf")(cls)

    def get_config(self):
        """Constructor arguments, for serialisation: an attribute for each."""
        config = super().get_config()
        for cls in type(self).__mro__:
            if issubclass(cls, PureLayer):
                config |= {
                    name: _plain(getattr(self, name))
                    for name, argument in _arguments(cls).items()
                    if argument.kind is not argument.VAR_KEYWORD
                }
        return config

    @classmethod
    def from_config(cls, config):
        """The layer that `get_config` described, also after JSON."""
        if "config" in config:
            config = {**config, "config": ModelConfig(**config["config"])}
        return super().from_config(config)

    def add_stacked(self, name: str, shape, trainable=True):
        """Adds a float32 variable, with the stack's axis in front."""
        prefix = () if self.stack is None else (self.stack,)
        variable = self.add_weight(
            name=name,
            shape=(*prefix, *shape),
            initializer="zeros",
            dtype="float32",
            trainable=trainable,
            # Keras would hand out half-precision copies inside a model of
            # mixed precision; what needs to be cast is cast where it is used.
            autocast=False,
        )
        self.own_variables[name] = variable
        return variable

    def named_variables(self, prefix: str = "") -> dict[str, keras.Variable]:
        """Every variable under a name that checkpoints use, "a/b/gamma"."""
        named = {prefix + k: v for k, v in self.own_variables.items()}
        for name, part in self.parts.items():
            named |= part.named_variables(f"{prefix}{name}/")
        return named

    def read_params(self, mode: str = Mode.INFERENCE) -> dict:
        """The tensors `call` computes with, normalised, float32."""
        return {name: p.read_params(mode) for name, p in self.parts.items()}

    def apply_updates(self, updates: dict) -> None:
        """Stores what a training pass returned."""
        for name, update in updates.items():
            self.parts[name].apply_updates(update)

    def leaves(self, path: tuple[str, ...] = ()):
        """Yields `(path, layer)` of the layers without parts below this one.

        The path leads to their tensors in what `read_params` returns.
        """
        if not self.parts:
            yield path, self
        for name, part in self.parts.items():
            yield from part.leaves((*path, name))

    def initialize(self, seed: int) -> None:
        """Draws all variables anew; every part from a seed of its own."""
        for name, part in self.parts.items():
            part.initialize(zlib.crc32(name.encode(), seed))


def _arguments(cls) -> dict[str, inspect.Parameter]:
    """What a class's constructor takes, but for `self`."""
    arguments = dict(inspect.signature(cls.__init__).parameters)
    del arguments["self"]
    return arguments


def _plain(value):
    """An argument as JSON holds it."""
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(value)
    if isinstance(value, list):
        return [layer.get_config() for layer in value]
    return value
