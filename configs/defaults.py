"""The bare defaults, a starting point for a configuration of one's own.

    nvae train --config=defaults --workdir=runs/mine

Devices: those of the model that you describe.
The paper has no result to compare with.
"""

from nvae_tf.config.presets import choose, create

__all__ = ["choose", "create", "get_config"]


def get_config(variant=None):
    choose(variant, "defaults")
    return create("nvae")
