"""A whole training by the peer, on given images and by our schedules."""

import numpy as np
import torch

from benchmarks.torch_peer.distributions import likelihood
from benchmarks.torch_peer.model import NVAE
from benchmarks.torch_peer.training import TrainStep
from nvae_tf.config import ModelConfig, TrainConfig, schedules

__all__ = ["ACTIVE_NATS", "learn"]

# A latent channel is in use from so many nats on.
ACTIVE_NATS = 0.1


def learn(
    model: dict, train: dict, images: str, started: float | None = None
) -> dict:
    """Trains from the first step to the last; evaluates after every epoch.

    Args:
      model: what `ModelConfig` takes; of binary images.
      train: what `TrainConfig` takes.
      images: an `.npz` file with "train" and "held_out", uint8
        `[N, H, W, C]`: intensities, drawn anew as pixels on every visit.
      started: see `benchmarks.processes`.

    Returns:
      "points": of every epoch the "step", and on the held-out images the
      "nelbo" (nats), "kl_per_group" (nats) and "active", latent channels in
      use by group.
    """
    del started
    config, settings = ModelConfig(**model), TrainConfig(**train)
    with np.load(images) as file:
        train_images, held_out = (
            _padded(file[key], config.padding) for key in ("train", "held_out")
        )
    torch.manual_seed(settings.seed)
    net = NVAE(config)
    step = TrainStep(net, weight_decay=settings.weight_decay)
    batch = settings.batch_size
    steps_per_epoch = len(train_images) // batch
    held_out = _drawn(held_out, torch.Generator().manual_seed(0))
    number, points = 0, []
    for _ in range(settings.epochs):
        order = torch.randperm(len(train_images))
        net.train()
        for start in range(0, steps_per_epoch * batch, batch):
            now = schedules.coefficients(settings, number, steps_per_epoch)
            step.set_coefficients(now.learning_rate, now.regularization)
            chosen = order[start : start + batch]
            step(_drawn(train_images[chosen]), now.beta)
            number += 1
        points.append({"step": number, **_evaluate(net, held_out)})
    return {"points": points}


def _padded(images: np.ndarray, padding: int) -> torch.Tensor:
    """`[N, C, H, W]` in [0, 1]."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return torch.nn.functional.pad(x, [padding] * 4)


def _drawn(intensities: torch.Tensor, generator=None) -> torch.Tensor:
    return torch.bernoulli(intensities, generator=generator)


def _evaluate(net: NVAE, x: torch.Tensor, batch: int = 100) -> dict:
    net.eval()
    torch_state = torch.get_rng_state()
    torch.manual_seed(0)
    nelbo, kl = 0.0, 0.0
    with torch.no_grad():
        for part in x.split(batch):
            output = net(part)
            nll = likelihood(net.config, output.logits).nll(part)
            nelbo += float((nll + output.kl.sum(dim=(1, 2))).sum())
            kl = kl + output.kl.sum(dim=0)
    torch.set_rng_state(torch_state)
    kl = kl / len(x)
    return {
        "nelbo": nelbo / len(x),
        "kl_per_group": kl.sum(dim=1).tolist(),
        "active": (kl > ACTIVE_NATS).sum(dim=1).tolist(),
    }
