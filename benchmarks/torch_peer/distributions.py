"""Latent Normals and the likelihoods of images, `[B, C, H, W]`, in nats."""

import math

import torch
from torch.nn import functional

from nvae_tf.config import ModelConfig

__all__ = ["Normal", "likelihood", "num_pixel_parameters"]

_MIN_LOG_SCALE = -7.0
_MIN_BIN_MASS = 1e-5
_LEFT_EDGE, _RIGHT_EDGE = -0.999, 0.99


def _soft_clamp(t: torch.Tensor) -> torch.Tensor:
    return 5.0 * torch.tanh(t / 5.0)


class Normal:
    """A Normal of raw, unclamped parameters.

    Args:
      mean: before the clamp.
      log_sigma: before the clamp.
      temperature: what multiplies sigma.
    """

    def __init__(self, mean, log_sigma, temperature: float = 1.0):
        self.mean = _soft_clamp(mean)
        self.sigma = torch.exp(_soft_clamp(log_sigma)) + 1e-2
        if temperature != 1.0:
            self.sigma = self.sigma * temperature

    def sample(self, eps: torch.Tensor) -> torch.Tensor:
        """The sample that standard Normal noise stands for."""
        return self.mean + self.sigma * eps

    def log_prob(self, z: torch.Tensor) -> torch.Tensor:
        """Log-density at z."""
        standard = (z - self.mean) / self.sigma
        return (
            -0.5 * standard * standard
            - torch.log(self.sigma)
            - 0.5 * math.log(2 * math.pi)
        )

    def kl(self, prior: "Normal") -> torch.Tensor:
        """KL divergence from a prior."""
        shift = (self.mean - prior.mean) / prior.sigma
        ratio = self.sigma / prior.sigma
        return 0.5 * (shift * shift + ratio * ratio) - 0.5 - torch.log(ratio)


def num_pixel_parameters(config: ModelConfig) -> int:
    """Parameters of the likelihood per pixel."""
    if config.likelihood == "bernoulli":
        return config.image_channels
    if config.image_channels != 3:
        raise ValueError("The peer's likelihoods of levels are of 3 channels.")
    return 6 if config.likelihood == "normal" else 10 * config.num_mixtures


def likelihood(config: ModelConfig, params: torch.Tensor):
    """The distribution of images with given parameters.

    Args:
      config: of the model.
      params: `[B, num_pixel_parameters(config), H, W]`.

    Returns:
      What has `nll(x)`, `[B]` of images in [0, 1] with the padding left out,
      and `mean()`, `[B, C, H, W]` in [0, 1].
    """
    params = params.float()
    if config.likelihood == "bernoulli":
        return _Bernoulli(params, config.padding)
    if config.likelihood == "normal":
        return _PixelNormal(params, config.padding)
    return _LogisticMixture(params, config)


def _total(values: torch.Tensor, padding: int) -> torch.Tensor:
    """Sums `[B, ..., H, W]` over all but B, without the padding."""
    if padding:
        values = values[..., padding:-padding, padding:-padding]
    return values.flatten(1).sum(dim=1)


class _Bernoulli:
    def __init__(self, logits, padding):
        self.logits, self.padding = logits, padding

    def nll(self, x):
        loss = functional.binary_cross_entropy_with_logits(
            self.logits, x, reduction="none"
        )
        return _total(loss, self.padding)

    def mean(self):
        return torch.sigmoid(self.logits)


class _PixelNormal:
    def __init__(self, params, padding):
        self.normal, self.padding = Normal(*params.chunk(2, dim=1)), padding

    def nll(self, x):
        return -_total(self.normal.log_prob(2.0 * x - 1.0), self.padding)

    def mean(self):
        return (self.normal.mean.clamp(-1.0, 1.0) + 1.0) / 2.0


class _LogisticMixture:
    """Discretised logistics; of R, then G given R, then B given both."""

    def __init__(self, params, config: ModelConfig):
        b, _, h, w = params.shape
        m = config.num_mixtures
        self.padding = config.padding
        self.levels = 2.0**config.num_bits - 1.0
        self.logits = params[:, :m]
        blocks = params[:, m:].reshape(b, 3, 3, m, h, w)
        self.means = blocks[:, :, 0]  # [B, 3, M, H, W]
        self.log_scales = blocks[:, :, 1].clamp(min=_MIN_LOG_SCALE)
        self.coefficients = torch.tanh(blocks[:, :, 2])

    def nll(self, x):
        x = 2.0 * x - 1.0
        red, green, _ = x[:, :, None].unbind(dim=1)  # [B, 1, H, W]
        of_red, red_of_blue, green_of_blue = self.coefficients.unbind(dim=1)
        means = torch.stack(
            [
                self.means[:, 0],
                self.means[:, 1] + of_red * red,
                self.means[:, 2] + red_of_blue * red + green_of_blue * green,
            ],
            dim=1,
        )
        log_mass = self._log_bin_mass(x[:, :, None], means).sum(dim=1)
        weights = functional.log_softmax(self.logits, dim=1)
        return -_total(torch.logsumexp(log_mass + weights, dim=1), self.padding)

    def _log_bin_mass(self, x, means):
        centred = x - means
        inverse = torch.exp(-self.log_scales)
        upper = inverse * (centred + 1.0 / self.levels)
        lower = inverse * (centred - 1.0 / self.levels)
        mass = torch.sigmoid(upper) - torch.sigmoid(lower)
        centre = inverse * centred
        log_density = (
            centre - self.log_scales - 2.0 * functional.softplus(centre)
        )
        log_mass = torch.where(
            mass > _MIN_BIN_MASS,
            torch.log(mass.clamp(min=1e-10)),
            log_density - math.log(self.levels / 2.0),
        )
        log_mass = torch.where(
            x > _RIGHT_EDGE, -functional.softplus(lower), log_mass
        )
        return torch.where(
            x < _LEFT_EDGE, upper - functional.softplus(upper), log_mass
        )

    def mean(self):
        weights = torch.softmax(self.logits, dim=1)[:, None]
        red, green, blue = (self.means * weights).sum(dim=2).unbind(dim=1)
        of_red, red_of_blue, green_of_blue = (
            (self.coefficients * weights).sum(dim=2).unbind(dim=1)
        )
        red = red.clamp(-1.0, 1.0)
        green = (green + of_red * red).clamp(-1.0, 1.0)
        blue = blue + red_of_blue * red + green_of_blue * green
        image = torch.stack([red, green, blue.clamp(-1.0, 1.0)], dim=1)
        return (image + 1.0) / 2.0
