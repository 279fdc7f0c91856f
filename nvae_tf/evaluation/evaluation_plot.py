"""A picture of what the latent groups hold."""

import io
import math
from typing import Any

from nvae_tf.core import extras
from nvae_tf.core.errors import UserError
from nvae_tf.core.files import write_bytes
from nvae_tf.runs.results import number_text

__all__ = ["EXTRA", "can_plot", "plot_groups", "require_matplotlib"]

EXTRA = "report"


def can_plot() -> bool:
    """Whether matplotlib is installed."""
    return extras.is_installed("matplotlib")


def require_matplotlib() -> None:
    """Raises UserError if there is no matplotlib."""
    extras.require("matplotlib", EXTRA, "--plot", UserError)


def plot_groups(
    path, record: dict[str, Any], groups_top_down, channels
) -> None:
    """Writes a PNG with the KL and the active latents of every group.

    Args:
      path: the file.
      record: of an evaluation, as evaluation.json holds it.
      groups_top_down: number of groups of each scale, coarsest first.
      channels: latent channels per group.

    Raises:
      DataError: if the file cannot be written.
    """
    # Not pyplot: no window system, and no state of a caller's, is touched.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 5.5), dpi=120, layout="constrained")
    kl, active = figure.subplots(2, 1, sharex=True)
    # Without a bar where there is no number.
    heights = [math.nan if v is None else v for v in record["kl_per_group"]]
    first = 0
    for scale, count in enumerate(groups_top_down):
        groups = range(first, first + count)
        colour = f"C{scale % 10}"
        kl.bar(
            groups,
            heights[first : first + count],
            color=colour,
            label=f"scale {scale}: "
            f"{number_text(record['kl_per_scale'][scale], '.2f')} nats",
        )
        active.bar(
            groups,
            record["active_latents"][first : first + count],
            color=colour,
        )
        first += count
    kl.set_ylabel("KL (nats)")
    kl.legend()
    active.axhline(channels, color="grey", linewidth=0.8, linestyle="--")
    active.set_ylabel(f"active latents of {channels}")
    active.set_xlabel("latent group, top-down")
    active.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(
        f"{record['num_images']} images ({record['split']}), step "
        f"{record['step']}: NELBO {number_text(record['nelbo'], '.2f')} nats, "
        f"KL {number_text(record['kl'], '.2f')}"
    )
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_bytes(path, content.getvalue())
