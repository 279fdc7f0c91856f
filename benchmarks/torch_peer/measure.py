"""Times of the peer's training steps and samplers, and its memory."""

import gc
import statistics
import time

import torch

from benchmarks.processes import peak_gigabytes
from benchmarks.torch_peer.layers import freeze
from benchmarks.torch_peer.model import NVAE
from benchmarks.torch_peer.training import (
    PRECISIONS,
    TrainStep,
    autocast,
    set_precision,
)
from nvae_tf.config import ModelConfig

__all__ = ["LAYOUTS", "WHATS", "count_parameters", "measure"]

WHATS = ("step", "sample")
LAYOUTS = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}
TEMPERATURE = 0.7
_BETA = 0.4
_LEARNING_RATE = 1e-4
_WARM_UP = 2
_LEAST, _MOST = 3, 200
_SEED = 0


def measure(
    model: dict,
    batch_size: int,
    what: str = "step",
    *,
    started: float | None = None,
    device: str = "cpu",
    precision: str = "float32",
    layout: str = "contiguous",
    compiled: bool = False,
    seconds: float = 2.0,
) -> dict:
    """Measures one program of one model.

    Args:
      model: what `ModelConfig` takes.
      batch_size: images at once.
      what: "step" or "sample", one of `WHATS`.
      started: when this process was, in seconds since the epoch; None where
        it has measured before.
      device: as PyTorch names it.
      precision: a key of `PRECISIONS`.
      layout: a key of `LAYOUTS`.
      compiled: whether by `torch.compile`.
      seconds: how long to run, after warming up.

    Returns:
      What JSON holds.  `step_seconds` is the median of runs that are waited
      for, each; `queued_seconds` the mean of runs that are waited for at last.
    """
    place = torch.device(device)
    on_gpu = place.type == "cuda"
    gc.collect()
    if on_gpu:
        torch.backends.cudnn.benchmark = True
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(place)
    set_precision(precision)
    torch.manual_seed(_SEED)
    config = ModelConfig(**model)

    began = time.perf_counter()
    with place:
        net = NVAE(config)
    net.to(memory_format=LAYOUTS[layout])
    parameters = count_parameters(net)
    make = _step if what == "step" else _sampler
    run = make(net, config, batch_size, precision, LAYOUTS[layout], compiled)
    _wait(place)
    built = time.perf_counter()
    value = float(run())
    first = time.perf_counter()
    result = {
        "first_value": value,
        "parameters": parameters,
        "batch_size": batch_size,
        "build_seconds": built - began,
        "first_seconds": first - built,
    }
    if started is not None:
        result["start_seconds"] = time.time() - started
    result |= _times(run, place, seconds)
    result["images_per_second"] = batch_size / result["queued_seconds"]
    result["peak_gb"] = (
        torch.cuda.max_memory_allocated(place) / 1e9
        if on_gpu
        else peak_gigabytes()
    )
    result["torch"] = torch.__version__
    result["device"] = (
        torch.cuda.get_device_name(place) if on_gpu else place.type
    )
    result["rounds_to_tf32"] = _rounds_to_tf32(place)
    return result


def count_parameters(net: NVAE) -> int:
    """Numbers that training changes."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def _step(net, config, batch_size, precision, layout, compiled):
    net.train()
    step = TrainStep(
        net, precision, learning_rate=_LEARNING_RATE, compiled=compiled
    )
    levels = 2**config.num_bits - 1
    size = config.padded_size
    x = torch.rand(
        batch_size, config.image_channels, size, size, device=step.device
    )
    x = ((x * levels).round() / levels).contiguous(memory_format=layout)
    return lambda: step(x, _BETA).total


def _sampler(net, config, batch_size, precision, layout, compiled):
    del config
    net.eval()
    device = net.prior_ftr0.device
    dtype = PRECISIONS[precision][0] or torch.float32
    freeze(net, dtype, layout)
    sample = net.sample
    if compiled:
        sample = torch.compile(sample)

    def run():
        with torch.inference_mode(), autocast(precision, device):
            images = sample(batch_size, TEMPERATURE)
        return images.mean()

    return run


def _times(run, place: torch.device, seconds: float) -> dict:
    for _ in range(_WARM_UP):
        run()
    _wait(place)
    times = []
    while len(times) < _LEAST or (
        sum(times) < seconds / 2 and len(times) < _MOST
    ):
        began = time.perf_counter()
        value = run()
        _wait(place)
        times.append(time.perf_counter() - began)
    began = time.perf_counter()
    for _ in times:
        value = run()
    _wait(place)
    queued = (time.perf_counter() - began) / len(times)
    if not torch.isfinite(value):
        raise ArithmeticError("The last result is not a number.")
    return {
        "step_seconds": statistics.median(times),
        "queued_seconds": queued,
        "steps": len(times),
    }


def _wait(place: torch.device) -> None:
    if place.type == "cuda":
        torch.cuda.synchronize(place)


def _rounds_to_tf32(place: torch.device) -> dict[str, bool]:
    """Whether float32 loses all but ten bits of a factor, by operation."""
    ones = torch.ones([128, 128], device=place)
    factor = ones * (1.0 + 2.0**-12)
    image = factor.expand(8, 128, 128, 128).contiguous()
    found = {
        "product": factor @ ones,
        "convolution": torch.nn.functional.conv2d(
            image, ones[:, :, None, None]
        ),
    }
    return {
        name: bool((value - 128.0).abs().max() < 2.0**-6)
        for name, value in found.items()
    }
