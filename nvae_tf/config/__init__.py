"""What a run is: its configuration, presets and schedules.

The dataclasses are the whole vocabulary; `nvae_tf.config.run` explains every
key of a run and `nvae_tf.config.model` those of the architecture.
"""

from nvae_tf.config.model import (
    ARCHITECTURES,
    MOST_CLASSES,
    LatentShape,
    ModelConfig,
    cell_operations,
)
from nvae_tf.config.parsing import config_from_dict
from nvae_tf.config.run import (
    MAX_PIXELS,
    PRECISIONS,
    RECOMPUTE,
    CheckpointConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    TrainConfig,
)

__all__ = [
    "ARCHITECTURES",
    "MAX_PIXELS",
    "MOST_CLASSES",
    "PRECISIONS",
    "RECOMPUTE",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "LatentShape",
    "ModelConfig",
    "TrainConfig",
    "cell_operations",
    "config_from_dict",
]
