"""Ablations: what a change does, and how a table says it."""

import struct
import types

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import ablations, ideas
from nvae_tf.config import presets
from nvae_tf.core.errors import UserError
from nvae_tf.core.json_files import read_json_lines
from nvae_tf.distributions.residual_normal import ResidualNormal
from nvae_tf.training import trainer
from nvae_tf.training.objective import Objective
from tests.support.run_helpers import make_config, write_images


def _row(variant, seed, nll, data="digits") -> dict:
    row = {"data": data, "variant": variant, "seed": seed, "epochs": 2}
    return {**row, "nelbo": nll + 4, "nll": nll, "active": [2, 1, seed]}


def test_differences_are_those_of_the_same_seed():
    other = list(ablations.VARIANTS)[1]
    rows = [_row(ablations.BASELINE, s, 100.0 + 10 * s) for s in (1, 2, 3)]
    rows += [_row(other, s, 99.0 + 9.5 * s) for s in (3, 1, 2)]
    rows += [_row(other, 1, 7.0, data="garments")]
    first, second = ablations.summarize(rows, "digits")
    assert first["difference"] is None
    assert first["nll"] == pytest.approx(120.0)
    assert second["difference"] == pytest.approx(-2.0)
    assert second["spread"] == pytest.approx(0.5)
    assert second["active"] == [2, 1, 2]
    assert "| -2.00 +- 0.50 |" in ablations.table(rows, "digits")


def test_variants_change_what_there_is():
    for changes in ablations.VARIANTS.values():
        plain = {k: v for k, v in changes.items() if "__" in k}
        assert presets.load("mnist_demo", **plain)
        assert {k for k in changes if "__" not in k} <= set(ideas.__all__)


def test_sigma_by_softplus_is_one_at_zero_and_linear_far_out():
    raw = tf.constant([0.0, 4.0, -4.0])
    plain = ResidualNormal(raw, raw).scale.numpy()
    with ideas.sigma_by_softplus():
        found = ResidualNormal(raw, raw).scale.numpy()
    assert found[0] == pytest.approx(plain[0], rel=1e-6)
    # 5 tanh(4/5) = 3.32, of which softplus makes some more.
    assert 3.3 < found[1] < 3.6 < plain[1]
    assert found[2] > plain[2]
    assert ResidualNormal(raw, raw).scale.numpy()[1] == plain[1]


def test_free_bits_leave_small_divergences_without_gradient(monkeypatch):
    """Of two images, two groups of two channels; one channel has little."""
    gamma = tf.constant([0.5, 1.5])

    def plain(self, x, output, coefficients, kl_sizes):
        weighted = output.kl_per_channel * gamma[:, None]
        kl = coefficients.beta * tf.reduce_sum(weighted, axis=[1, 2])
        return tf.zeros([2]), kl, gamma

    monkeypatch.setattr(Objective, "nelbo", plain)
    sizes = tf.Variable([[[0.1, 3.0], [0.6, 4.0]], [[0.3, 0.0], [0.8, 5.0]]])
    coefficients = types.SimpleNamespace(beta=0.8)
    with ideas.free_bits(0.5), tf.GradientTape() as tape:
        output = types.SimpleNamespace(kl_per_channel=sizes)
        _, kl, _ = Objective.nelbo(None, None, output, coefficients, None)
        loss = tf.reduce_mean(kl)
    # Means by channel: 0.2, 1.5, 0.7, 4.5; what is free counts as 0.5.
    expected = 0.8 * (0.5 * (0.5 + 1.5) + 1.5 * (0.7 + 4.5))
    assert loss.numpy() == pytest.approx(expected)
    usual = np.array([[0.0, 0.2], [0.6, 0.6]])
    np.testing.assert_allclose(
        tape.gradient(loss, sizes), [usual, usual], rtol=1e-6, atol=1e-7
    )


def test_images_move_whole_and_each_by_itself(monkeypatch):
    seen = []
    monkeypatch.setattr(
        Objective, "gradients", lambda self, x, seed: seen.append(x.numpy())
    )
    config = types.SimpleNamespace(padding=1)
    objective = types.SimpleNamespace(
        model=types.SimpleNamespace(config=config)
    )
    x = np.zeros([64, 10, 10, 1], np.float32)
    x[:, 4:6, 4:6] = 1

    def moved(x):
        with ideas.shifted_images(2):
            Objective.gradients(
                objective, tf.constant(x), seed=tf.constant([1, 2])
            )
        return seen.pop()

    found = moved(x)
    assert found.shape == x.shape
    np.testing.assert_array_equal(found.sum(axis=(1, 2, 3)), 4)
    first = {tuple(np.argwhere(m[..., 0])[0]) for m in found}
    assert len(first) > 10
    assert {row for row, _ in first} == {2, 3, 4, 5, 6}
    # The padding around images stays what it is.
    assert moved(np.ones_like(x))[:, [0, -1]].max() == 0


def test_posteriors_agree_by_the_divergence_of_the_moved_from_the_images(
    monkeypatch,
):
    nothing = tf.zeros([4])
    monkeypatch.setattr(
        Objective, "nelbo", lambda self, x, output: (nothing, nothing, None)
    )
    # Two images, and the same moved: the first of them has another mean, the
    # second half the sigma.
    mean = np.zeros([4, 2, 2, 1], np.float32)
    mean[2] = 3.0
    scale = np.ones_like(mean)
    scale[3] = 0.5
    latents = types.SimpleNamespace(
        mean=[tf.constant(mean)] * 2, scale=[tf.constant(scale)] * 2
    )
    output = types.SimpleNamespace(latents=latents)
    with ideas.consistent_posteriors(2, 0.1):
        _, kl, _ = Objective.nelbo(None, None, output)
    # Two groups of four latents.
    far, narrow = 0.1 * 8 * 4.5, 0.1 * 8 * (0.125 - 0.5 - np.log(0.5))
    np.testing.assert_allclose(kl, [far, narrow, far, narrow], rtol=1e-6)


def test_a_run_trains_with_posteriors_that_agree(tmp_path):
    with ideas.consistent_posteriors(1, 0.1):
        trainer.train(
            make_config(write_images(tmp_path / "images.npy")), tmp_path / "run"
        )
    records = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    bounds = [r["nelbo"] for r in records if r["kind"] == "train"]
    assert len(bounds) == 6
    assert np.isfinite(bounds).all()


def test_garments_have_labels(tmp_path):
    images = np.arange(5001 * 4, dtype=np.uint8).reshape(5001, 2, 2)
    labels = np.arange(5001, dtype=np.uint8)
    for kind, array in (("images", images), ("labels", labels)):
        head = struct.pack(">BBBB", 0, 0, 8, array.ndim)
        head += struct.pack(f">{array.ndim}I", *array.shape)
        path = tmp_path / f"train-{kind}-idx{array.ndim}-ubyte"
        path.write_bytes(head + array.tobytes())
    with np.load(ablations.garments(tmp_path, tmp_path / "x.npz")) as file:
        np.testing.assert_array_equal(file["images"], images[:5000])
        np.testing.assert_array_equal(file["labels"], labels[:5000])
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match=r"no file train-labels\*"):
        ablations.garments(tmp_path, tmp_path / "x.npz")
