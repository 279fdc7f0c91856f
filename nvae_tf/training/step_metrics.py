"""What a training step tells of itself."""

import typing

__all__ = ["StepMetrics"]


class StepMetrics(typing.NamedTuple):
    """Means over the batch of all replicas; float32 scalars, nats.

    Attributes:
      total_loss: what was minimised.
      nelbo: reconstruction and plain KL.
      reconstruction_nll: of the batch.
      kl: sum over groups.
      kl_per_group: `[L]`.
      kl_per_channel: `[L, d]`.
      balance_coefficients: `[L]`.
      spectral: before lambda.
      batch_norm: before lambda.
      gradient_norm: of the whole loss, without decay.
      loss_scale: what the loss was multiplied by; 1 but in float16.
      skipped: steps so far whose gradient was not finite or too long, so that
        nothing was updated.
      skipped_in_a_row: the latest of them, without a good step between.
      stop_requests: how many processes want to stop.
    """

    total_loss: typing.Any
    nelbo: typing.Any
    reconstruction_nll: typing.Any
    kl: typing.Any
    kl_per_group: typing.Any
    kl_per_channel: typing.Any
    balance_coefficients: typing.Any
    spectral: typing.Any
    batch_norm: typing.Any
    gradient_norm: typing.Any
    loss_scale: typing.Any
    skipped: typing.Any
    skipped_in_a_row: typing.Any
    stop_requests: typing.Any
