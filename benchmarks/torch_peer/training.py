"""The training step: loss, penalties, Adamax."""

import collections
import contextlib
import typing
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from benchmarks.torch_peer.distributions import likelihood
from benchmarks.torch_peer.layers import convolutions
from benchmarks.torch_peer.model import NVAE
from nvae_tf.config import ModelConfig

__all__ = [
    "PRECISIONS",
    "Loss",
    "SpectralPenalty",
    "TrainStep",
    "autocast",
    "balance_alphas",
    "set_precision",
]

ROUNDS = 4
FIRST_STEP_ROUNDS = 40
_SMALLEST_NORM = 1e-3
_LOSS_SCALE = 2.0**10

# What each precision computes in: the type of autocast, and whether products
# of float32 may round their factors to TF32.
PRECISIONS: dict[str, tuple[torch.dtype | None, bool]] = {
    "float32": (None, False),
    "tf32": (None, True),
    "bfloat16": (torch.bfloat16, False),
    "float16": (torch.float16, False),
}


def set_precision(precision: str) -> None:
    """Allows or forbids TF32 in this process.

    Args:
      precision: a key of `PRECISIONS`.
    """
    allowed = PRECISIONS[precision][1]
    # Not by `fp32_precision`: `torch.compile` then refuses to read the old
    # settings, and stops.
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def autocast(precision: str, device: torch.device):
    """The context of a pass.

    Args:
      precision: a key of `PRECISIONS`.
      device: where the pass runs.
    """
    dtype = PRECISIONS[precision][0]
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)


class Loss(typing.NamedTuple):
    """The loss and its terms; float32, nats.

    Attributes:
      total: scalar.
      reconstruction_nll: `[B]`.
      balanced_kl: `[B]`, beta included.
      balance_coefficients: `[L]`.
      kl: `[B, L, d]`.
      spectral: scalar, before lambda.
      batch_norm: scalar, before lambda.
    """

    total: torch.Tensor
    reconstruction_nll: torch.Tensor
    balanced_kl: torch.Tensor
    balance_coefficients: torch.Tensor
    kl: torch.Tensor
    spectral: torch.Tensor
    batch_norm: torch.Tensor


def balance_alphas(config: ModelConfig) -> list[float]:
    """Relative size of every group's KL, top-down: `4^i / G_i`."""
    alphas = [
        4.0**scale / groups
        for scale, groups in enumerate(config.groups_top_down)
        for _ in range(groups)
    ]
    return [alpha / min(alphas) for alpha in alphas]


class SpectralPenalty:
    """Sum of the largest singular values of the kernels that were used.

    Kernels of one shape share a batched power iteration.

    Args:
      model: that has the convolutions.
    """

    def __init__(self, model: nn.Module):
        self.groups = collections.defaultdict(list)
        for conv in convolutions(model):
            c_out, *rest = conv.weight.shape
            fan_in = rest[0] * rest[1] * rest[2]
            self.groups[c_out, fan_in].append(conv)
        self.u = {
            (c_out, fan_in): functional.normalize(
                torch.randn(
                    len(convs), 1, c_out, device=convs[0].weight.device
                ),
                dim=-1,
            )
            for (c_out, fan_in), convs in self.groups.items()
        }

    def __call__(self, rounds: int) -> torch.Tensor:
        """Iterates and sums up; to be called after a pass.

        Args:
          rounds: of the power iteration.
        """
        total = 0.0
        for shape, convs in self.groups.items():
            kernels = torch.stack([conv.used.flatten(1) for conv in convs])
            # They hold the graph of the pass.
            for conv in convs:
                conv.used = None
            with torch.no_grad():
                u = self.u[shape]
                for _ in range(rounds):
                    v = _normalized(torch.bmm(u, kernels))
                    u = _normalized(torch.bmm(v, kernels.mT))
                self.u[shape] = u
            total = total + (torch.bmm(u, kernels) * v).sum()
        return total


def _normalized(t: torch.Tensor) -> torch.Tensor:
    return functional.normalize(t, dim=-1, eps=_SMALLEST_NORM)


class TrainStep:
    """Takes steps of training.

    Args:
      model: on its device, in training mode.
      precision: a key of `PRECISIONS`.
      learning_rate: of Adamax.
      weight_decay: of Adamax, coupled.
      regularization: lambda, the weight of the penalties.
      first_rounds: of the power iteration in the first step.
      compiled: whether `torch.compile` makes a program of the pass.
    """

    def __init__(
        self,
        model: NVAE,
        precision: str = "float32",
        *,
        learning_rate: float = 1e-2,
        weight_decay: float = 3e-4,
        regularization: float = 1e-2,
        first_rounds: int = FIRST_STEP_ROUNDS,
        compiled: bool = False,
    ):
        set_precision(precision)
        self.model = model
        self.precision = precision
        self.regularization = regularization
        self.device = model.prior_ftr0.device
        self.optimizer = torch.optim.Adamax(
            model.parameters(),
            lr=learning_rate,
            betas=(0.9, 0.999),
            eps=1e-3,
            weight_decay=weight_decay,
        )
        self.scaler = torch.amp.GradScaler(
            self.device.type,
            init_scale=_LOSS_SCALE,
            enabled=precision == "float16",
        )
        self.spectral = SpectralPenalty(model)
        self._gammas = collections.defaultdict(list)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                self._gammas[module.num_features].append(module.weight)
        self._alphas = torch.tensor(
            balance_alphas(model.config), device=self.device
        )
        self._rounds = first_rounds
        self._nelbo = self._negative_elbo
        if compiled:
            self._nelbo = torch.compile(self._negative_elbo)

    def __call__(
        self,
        x: torch.Tensor,
        beta: float = 1.0,
        eps: Sequence[torch.Tensor] | None = None,
    ) -> Loss:
        """Takes a step; returns what it minimised, without waiting for it.

        Args:
          x: images `[B, C, H, W]` in [0, 1].
          beta: coefficient of the KL.
          eps: see `NVAE.forward`.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(x, beta, eps)
        self.scaler.scale(loss.total).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return Loss(*(term.detach() for term in loss))

    def set_coefficients(
        self, learning_rate: float, regularization: float
    ) -> None:
        """Changes what schedules change, for the steps that follow."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.regularization = regularization

    def loss(self, x, beta: float = 1.0, eps=None) -> Loss:
        """The loss of a pass in training mode; see `__call__`."""
        nll, balanced, gamma, kl = self._nelbo(x, beta, eps)
        spectral = self.spectral(self._rounds)
        self._rounds = ROUNDS
        batch_norm = self._batch_norm_penalty()
        total = (nll + balanced).mean()
        total = total + self.regularization * (spectral + batch_norm)
        return Loss(total, nll, balanced, gamma, kl, spectral, batch_norm)

    def _negative_elbo(self, x, beta, eps):
        with autocast(self.precision, self.device):
            output = self.model(x, eps)
        nll = likelihood(self.model.config, output.logits).nll(x)
        per_group = output.kl.sum(dim=2)
        gamma = torch.ones_like(self._alphas)
        if beta < 1:
            sizes = per_group.detach().abs().mean(dim=0)
            gamma = (sizes + 0.01) / self._alphas
            gamma = gamma / gamma.mean()
        return nll, beta * (per_group * gamma).sum(dim=1), gamma, output.kl

    def _batch_norm_penalty(self) -> torch.Tensor:
        """Sum of `max |gamma|` of all batch normalisations."""
        total = torch.zeros([], device=self.device)
        for gammas in self._gammas.values():
            total = total + torch.stack(gammas).abs().amax(dim=1).sum()
        return total
