"""The whole pass against the groups taken one by one, as the paper draws it.

Cells and convolutions are the model's own (they have tests of their own);
everything between them is written out here once more, in NumPy.
"""

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.model.pure_layer import Mode
from tests.support import model_cases
from tests.support.numpy_reference import elu

pytestmark = [pytest.mark.numerics, pytest.mark.long]

_CONFIGS = [
    "plain_vae",
    "plain_vae_flows",
    "one_scale",
    "three_scales",
    "equal_groups",
    "more_cells",
    "two_flows",
    "no_residual",
    "wide_encoder",
    "wide_decoder",
    "mixture",
]


class _Parts:
    """Runs the parts of a model, a stack's members one at a time."""

    def __init__(self, model, mode):
        self.model, self.mode = model, mode

    def run(self, layer, *inputs, index=None, **more):
        params = layer.read_params(self.mode)
        if index is not None:
            params = tf.nest.map_structure(lambda t: t[index], params)
        inputs = [tf.constant(t, tf.float32) for t in inputs]
        result = layer(*inputs, params=params, mode=self.mode, **more)
        return np.asarray(result[0] if isinstance(result, tuple) else result)

    def encode(self, x):
        """`(top, remembered)`: the features in bottom-up order."""
        config = self.model.config
        parts = self.model.parts["encoder"].parts
        s = self.run(parts["preprocess"], self.run(parts["stem"], 2 * x - 1))
        remembered = []
        if config.num_groups > 1:
            for scale, groups in enumerate(config.groups_per_scale):
                if scale:
                    s = self.run(parts[f"down_{scale}"], s)
                for group in range(groups):
                    for cell in parts[f"scale_{scale}"].cells:
                        s = self.run(cell, s, index=group)
                    remembered.append(s)
            remembered.pop()
        return elu(self.run(parts["top"], elu(s))), remembered

    def groups(self):
        """`(group, index, up)` top-down; up is the cell before it, if any."""
        decoder = self.model.parts["decoder"].parts
        for scale, count in enumerate(self.model.config.groups_top_down):
            for i in range(count):
                if scale == i == 0:
                    yield decoder["first"], None, None
                    continue
                up = decoder[f"up_{scale}"] if scale and not i else None
                index = i - 1 if scale == 0 else i
                yield decoder[f"scale_{scale}"], index, up

    def decode(self, eps, top=None, remembered=(), temperature=1.0):
        """Latents from the posterior if the encoder's features are given."""
        config, remembered = self.model.config, list(remembered)
        h = None
        if config.num_groups > 1:
            h = np.stack([self.model.parts["decoder"].prior_h0] * len(eps[0]))
        seen = []
        for (group, index, up), noise in zip(self.groups(), eps, strict=True):
            parts = group.parts

            def run(name, *inputs, parts=parts, index=index, **more):
                return self.run(parts[name], *inputs, index=index, **more)

            if up is not None:
                h = self.run(up, h)
            prior = np.zeros_like(noise), np.zeros_like(noise)
            if "cells" in parts:
                for cell in parts["cells"].cells:
                    h = self.run(cell, h, index=index)
                prior = np.split(run("prior", elu(h)), 2, axis=-1)
            if top is None:
                mean, sigma = _normal(*prior)
                z = mean + temperature * sigma * noise
                seen.append((z, mean, sigma, None, None, None))
            else:
                features = top
                if "encoder_combiner" in parts:
                    conv = parts["encoder_combiner"].parts["conv"]
                    features = remembered.pop()
                    features = features + self.run(conv, h, index=index)
                raw = np.split(run("posterior", features), 2, axis=-1)
                if config.residual_posterior:
                    raw = [r + p for r, p in zip(raw, prior, strict=True)]
                mean, sigma = _normal(*raw)
                drawn = mean + sigma * noise
                z = drawn
                for i in range(2 * config.num_flow_pairs):
                    z = run(f"flow_{i}", z)
                log_q = _log_prob(drawn, mean, sigma)
                log_p = _log_prob(z, *_normal(*prior))
                kl = _kl(mean, sigma, *_normal(*prior))
                if config.num_flow_pairs:
                    kl = log_q - log_p
                seen.append((z, mean, sigma, kl, log_q, log_p))
            conv = parts["decoder_combiner"].parts["conv"]
            both = z if h is None else np.concatenate([h, z], axis=-1)
            h = self.run(conv, both, index=index)
        assert not remembered
        image = self.model.parts["image"].parts
        h = self.run(image["postprocess"], h)
        return self.run(image["head"], elu(h)), zip(*seen, strict=True)


def _normal(raw_mean, raw_log_sigma):
    mean, log_sigma = (
        5 * np.tanh(np.asarray(t, np.float64) / 5)
        for t in (raw_mean, raw_log_sigma)
    )
    return mean, np.exp(log_sigma) + 0.01


def _log_prob(z, mean, sigma):
    density = -0.5 * ((z - mean) / sigma) ** 2 - np.log(sigma)
    return density - 0.5 * np.log(2 * np.pi)


def _kl(mean_q, sigma_q, mean_p, sigma_p):
    difference, ratio = (mean_q - mean_p) / sigma_p, sigma_q / sigma_p
    return 0.5 * (difference**2 + ratio**2) - 0.5 - np.log(ratio)


def _close(actual, expected, tolerance=2e-4):
    np.testing.assert_allclose(
        np.asarray(actual, np.float64),
        expected,
        rtol=tolerance,
        atol=tolerance,
    )


def _assert_latents(latents, z, mean, sigma):
    for ours, by_hand in zip(latents, (z, mean, sigma), strict=True):
        for actual, expected in zip(ours, by_hand, strict=True):
            _close(actual, expected)


@pytest.mark.parametrize("mode", [Mode.INFERENCE, Mode.TRAINING])
@pytest.mark.parametrize("name", _CONFIGS)
def test_pass_takes_the_groups_from_top_to_bottom(name, mode):
    config = model_cases.CONFIGS[name]
    model = model_cases.random_model(config)
    x = model_cases.images(config, batch=4)
    eps = model_cases.noise(config, batch=4)
    parts = _Parts(model, mode)
    logits, seen = parts.decode(eps, *parts.encode(x))
    z, mean, sigma, kl, log_q, log_p = seen
    out = model(x, eps=eps, mode=mode, with_latents=True)
    _close(out.logits, logits)
    _assert_latents(out.latents, z, mean, sigma)
    kl = np.stack([k.sum((1, 2)) for k in kl], axis=1)
    _close(out.kl_per_channel, kl, 1e-3)
    _close(out.kl_per_group, kl.sum(-1), 1e-3)
    _close(out.log_q, sum(t.sum((1, 2, 3)) for t in log_q), 1e-3)
    _close(out.log_p, sum(t.sum((1, 2, 3)) for t in log_p), 1e-3)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("name", _CONFIGS)
def test_sampling_walks_the_same_way_from_the_prior(name, temperature):
    config = model_cases.CONFIGS[name]
    model = model_cases.random_model(config)
    eps = model_cases.noise(config)
    logits, seen = _Parts(model, Mode.INFERENCE).decode(
        eps, temperature=temperature
    )
    z, mean, sigma, *_ = seen
    out = model.decode(eps, temperature=temperature, with_latents=True)
    _close(out.logits, logits)
    _assert_latents(out.latents, z, mean, [temperature * s for s in sigma])
    _close(model.sample_logits(eps=eps, temperature=temperature), logits)
