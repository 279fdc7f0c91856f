"""What a training run tells of itself: its records and a progress bar."""

import logging
import time
from collections.abc import Sequence
from typing import Any

from nvae_tf.config import Config
from nvae_tf.core.progress import progress
from nvae_tf.distribute.devices import Devices
from nvae_tf.evaluation.evaluator import ACTIVE_NATS
from nvae_tf.runs.workdir import Workdir
from nvae_tf.training.attempts import Attempt
from nvae_tf.training.metrics import MetricsWriter
from nvae_tf.training.run_state import SavePoint
from nvae_tf.training.validation import Validation

__all__ = ["RunLog"]

_LOG = logging.getLogger(__name__)


class RunLog:
    """The records and the progress bar of one run.

    Of several processes the first one has them; the others write and show
    nothing.

    Args:
      config: of the run.
      workdir: its folder.
      devices: of the run.
      save_point: where it goes on from.
      total_steps: where it ends.

    Attributes:
      metrics: where the records go; None in all processes but the first.
    """

    def __init__(
        self,
        config: Config,
        workdir: Workdir,
        devices: Devices,
        save_point: SavePoint,
        total_steps: int,
    ):
        self._name = config.name
        self.metrics: MetricsWriter | None = None
        if devices.is_chief:
            self.metrics = MetricsWriter(workdir, save_point.metrics_offset)
        self._bar = progress(
            total=total_steps,
            initial=save_point.step,
            unit="step",
            desc=self._name,
            disable=not devices.is_chief,
        )
        self._rate = _Rate(
            config.train.batch_size
            * config.train.accumulate
            * devices.num_replicas
        )

    def close(self) -> None:
        """Ends the bar, and flushes and closes the records."""
        self._bar.close()
        if self.metrics:
            self.metrics.close()

    def offset(self) -> int:
        """Bytes of metrics.jsonl so far; 0 where it is not written."""
        return self.metrics.offset() if self.metrics else 0

    def changes(self, step: int, changed: Sequence[str]) -> None:
        """Records what is new in the configuration since the last start."""
        if self.metrics:
            _LOG.warning("Changed since the last start: %s", "; ".join(changed))
            self.metrics.event(step, "config", changed=list(changed))

    def advance(self) -> None:
        """Counts a step."""
        self._rate.tick()
        self._bar.update()

    def train(self, step: int, attempt: Attempt) -> None:
        """Records the numbers of a step and shows some of them.

        Args:
          step: optimiser steps taken.
          attempt: the last of them.
        """
        values: dict[str, Any] = {
            k: v.numpy() for k, v in attempt.result._asdict().items()
        }
        channels = values.pop("kl_per_channel")
        del values["skipped_in_a_row"], values["stop_requests"]
        values |= {
            **attempt.coefficients._asdict(),
            "active_latents": (channels > ACTIVE_NATS).sum(axis=1),
        }
        if self.metrics:
            # Not the rate: a resumed run writes the same records again.
            self.metrics.scalars(step, "train", values)
        self._bar.set_postfix(
            nelbo=f"{values['nelbo']:.2f}",
            kl=f"{values['kl']:.2f}",
            rec=f"{values['reconstruction_nll']:.2f}",
            img_s=f"{self._rate.images_per_second():.0f}",
            **({"skipped": values["skipped"]} if values["skipped"] else {}),
            refresh=False,
        )

    def evaluation(self, step: int, validation: Validation) -> None:
        """Records what was measured on held-out images.

        Args:
          step: optimiser steps taken.
          validation: what was measured.
        """
        if self.metrics:
            evaluation, averaged = validation
            self.metrics.scalars(step, "evaluation", evaluation._asdict())
            if averaged:
                self.metrics.scalars(step, "evaluation_ema", averaged._asdict())

    def go_on(self, remark: str, *, refresh: bool) -> None:
        """Shows the steps again, after other work.

        Args:
          remark: to stand beside the run's name from now on.
          refresh: whether to show it at once.
        """
        self._rate.restart()
        self._bar.set_description(f"{self._name} ({remark})", refresh=refresh)

    def roll_back(
        self, save_point: SavePoint, failed_at: int, diagnosis: object
    ) -> None:
        """Drops what came after it, and records that the run went back.

        Args:
          save_point: where it goes on from.
          failed_at: step that it had reached.
          diagnosis: what was wrong.
        """
        if self.metrics:
            self.metrics.rewind(save_point.metrics_offset)
            self.metrics.event(
                save_point.step,
                "rollback",
                failed_at=failed_at,
                diagnosis=str(diagnosis),
            )
        self._rate.restart()
        self._bar.n = save_point.step
        self._bar.refresh()


class _Rate:
    """Images per second since the last restart."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self.restart()

    def restart(self) -> None:
        self._steps = 0
        self._since = time.monotonic()

    def tick(self) -> None:
        self._steps += 1

    def images_per_second(self) -> float:
        elapsed = time.monotonic() - self._since
        return self._batch_size * self._steps / max(elapsed, 1e-9)
