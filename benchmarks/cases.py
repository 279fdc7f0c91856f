"""The models that are measured, in one place."""

import dataclasses
import types

from configs import celeba64, celeba_hq256, cifar10, imagenet32, mnist
from nvae_tf.config import Config, ModelConfig, config_from_dict, presets
from nvae_tf.core.errors import UserError

__all__ = [
    "CASES",
    "RECOMPUTE",
    "Case",
    "as_json",
    "case",
    "half_width_demo",
]

# What the backward pass computes again, unless it is said.
RECOMPUTE = Config.recompute


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and a batch.

    Attributes:
      name: of the case.
      model: the architecture.
      batch_size: images per step.
    """

    name: str
    model: ModelConfig
    batch_size: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` of what the model sees, padding included."""
        size = self.model.padded_size
        return size, size, self.model.image_channels


def _configured(module: types.ModuleType, variant: str | None = None):
    return config_from_dict(module.get_config(variant)).model


_TINY = ModelConfig(
    image_size=8,
    image_channels=1,
    num_bits=1,
    likelihood="bernoulli",
    num_groups_per_scale=3,
    num_latent_per_group=2,
    num_channels_enc=4,
    num_channels_dec=4,
    num_preprocess_cells=1,
    num_postprocess_cells=1,
    num_cells_enc=1,
    num_cells_dec=1,
)

CASES = {
    case.name: case
    for case in (
        # To try the benchmarks themselves out.
        Case("tiny", _TINY, 2),
        # 6 groups of 16 channels, 28x28.
        Case("small", _configured(mnist, "small"), 32),
        # The paper's models, as their configurations have them.
        Case("mnist", _configured(mnist), 32),
        Case("cifar", _configured(cifar10), 8),
        Case("imagenet32", _configured(imagenet32), 8),
        Case("celeba64", _configured(celeba64), 4),
        # That of FFHQ 256 as well.
        Case("celeba_hq256", _configured(celeba_hq256), 1),
        # As deep as the paper's model of CIFAR-10, but narrow: the work per
        # operation is small, and their number large.
        Case(
            "deep",
            ModelConfig(
                num_groups_per_scale=30,
                num_channels_enc=16,
                num_channels_dec=16,
            ),
            4,
        ),
    )
}


def case(name: str, batch_size: int | None = None, **changes) -> Case:
    """A case by its name.

    Args:
      name: a key of `CASES`.
      batch_size: another than the case's.
      **changes: of the `ModelConfig`.

    Raises:
      UserError: if there is no such case.
    """
    if name not in CASES:
        raise UserError(
            f"There is no case {name!r}; choose one of {', '.join(CASES)}."
        )
    known = CASES[name]
    return dataclasses.replace(
        known,
        model=dataclasses.replace(known.model, **changes),
        batch_size=batch_size or known.batch_size,
    )


def half_width_demo(seed: int, epochs: int, **changes) -> Config:
    """The run of `mnist_demo` at half its width, for many short trainings.

    Args:
      seed: of weights, order and noise.
      epochs: how long.
      **changes: see `presets.load`.
    """
    return presets.load(
        "mnist_demo",
        **{
            "model__num_channels_enc": 8,
            "model__num_channels_dec": 8,
            "train__seed": seed,
            "train__epochs": epochs,
            "evaluation__image_temperatures": (),
            **changes,
        },
    )


def as_json(known: Case) -> dict:
    """A case as JSON holds it, for programs that cannot import this."""
    return {
        "batch_size": known.batch_size,
        "model": dataclasses.asdict(known.model),
    }
