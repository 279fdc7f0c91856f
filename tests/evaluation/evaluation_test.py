"""Numbers of a model, and the files that evaluations leave."""

import json
import signal
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from nvae_tf.core.errors import UserError
from nvae_tf.core.progress import stop_requests
from nvae_tf.evaluation import evaluation_plot
from nvae_tf.evaluation.evaluator import ACTIVE_NATS, Evaluator
from nvae_tf.evaluation.importance import Progress
from nvae_tf.evaluation.partial_results import PartialResult, weights_digest
from nvae_tf.model import losses
from tests.support import model_cases

_CONFIG = model_cases.CONFIGS["padded"]


@pytest.fixture(scope="module")
def model():
    return model_cases.random_model(_CONFIG)


@pytest.fixture(scope="module")
def evaluator(model):
    return Evaluator(model)


@pytest.fixture(scope="module")
def batches():
    x = tf.constant(model_cases.images(_CONFIG, 8))
    return [(x[:4], tf.ones([4])), (x[4:], tf.ones([4]))]


@pytest.fixture(scope="module")
def evaluation(evaluator, batches):
    return evaluator(batches, 16, seed=1)


def test_numbers_are_float32s_whatever_the_model_computes_in(
    model, evaluation, batches
):
    model.dtype_policy = "mixed_bfloat16"
    try:
        evaluator = Evaluator(model)
        assert evaluator(batches, 16, seed=1) == evaluation
        assert model.compute_dtype == "bfloat16"
        rounded = Evaluator(model, precision="mixed_bfloat16")
        assert rounded(batches, 16, seed=1).nelbo != evaluation.nelbo
    finally:
        model.dtype_policy = "float32"


def test_parts_of_an_evaluation_add_up(evaluation):
    e = evaluation
    assert e.nelbo == pytest.approx(e.reconstruction_nll + e.kl)
    assert e.kl == pytest.approx(sum(e.kl_per_group))
    assert len(e.kl_per_group) == len(e.active_latents) == _CONFIG.num_groups
    # One group at the coarsest scale, two at the other.
    assert e.kl_per_scale == pytest.approx(
        [e.kl_per_group[0], sum(e.kl_per_group[1:])]
    )
    dimensions = np.log(2) * _CONFIG.image_size**2
    assert e.bits_per_dim == pytest.approx(e.nelbo / dimensions)
    assert e.nll_bits_per_dim == pytest.approx(e.nll / dimensions)
    assert e.nelbo_standard_error > 0
    json.dumps(e._asdict())


def test_numbers_are_those_of_the_model_itself(model, evaluation, batches):
    images = tf.concat([images for images, _ in batches], axis=0)
    x = tf.tile(images, [16, 1, 1, 1])
    out = model(x, seed=[2, 5])
    nll = losses.reconstruction_nll(model.likelihood(out.logits), x)
    kl = np.mean(out.kl_per_channel, axis=0)
    assert evaluation.reconstruction_nll == pytest.approx(
        np.mean(nll), abs=6 * np.std(nll) / np.sqrt(len(nll))
    )
    np.testing.assert_allclose(
        evaluation.kl_per_group, kl.sum(axis=-1), rtol=0.15
    )
    active = (kl > ACTIVE_NATS).sum(axis=-1)
    assert abs(np.array(evaluation.active_latents) - active).max() <= 1


def test_more_draws_tighten_the_bound(evaluator, evaluation, batches):
    # The mean over many estimates with few draws, against many draws.
    single = [evaluator(batches, 1, seed=s).nll for s in range(8)]
    assert evaluation.nll < np.mean(single)
    assert evaluation.nll < evaluation.nelbo


def test_partial_result_is_found_by_its_settings_alone(tmp_path):
    settings = {"split": "test", "num_importance_samples": 3, "step": 7}
    partial = PartialResult(tmp_path, settings, every_seconds=1e6)
    assert partial.load() == Progress()
    progress = Progress(batch=2, draw=1)
    progress.start_batch(4)
    progress.add("count", 9.0)
    partial.save_now_and_then(progress)
    assert not partial.path.exists()
    partial.save(progress)
    found = PartialResult(tmp_path, settings).load()
    assert (found.batch, found.draw) == (2, 1)
    assert found.totals == {"count": 9.0}
    np.testing.assert_array_equal(found.rows["log_sum"], [-np.inf] * 4)
    other = PartialResult(tmp_path, {**settings, "step": 8})
    assert other.load() == Progress()
    other.save(progress)
    assert partial.load().batch == 2
    other.remove()
    assert partial.path.exists()
    partial.remove()
    assert not partial.path.parent.exists()


def test_damaged_partial_result_starts_anew(tmp_path, caplog):
    settings = {"split": "test", "num_importance_samples": 3}
    partial = PartialResult(tmp_path, settings)
    partial.save(Progress(batch=2))
    partial.path.write_bytes(partial.path.read_bytes()[:50])
    assert partial.load() == Progress()
    assert "damaged" in caplog.text


def test_digest_tells_weights_apart(model):
    other = model_cases.random_model(_CONFIG, seed=1)
    assert weights_digest(model) == weights_digest(model)
    assert weights_digest(model) != weights_digest(other)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)]
)
def test_first_signal_is_a_request_and_handlers_come_back(number, status):
    before = signal.getsignal(number)
    with stop_requests() as stop:
        assert not stop()
        signal.raise_signal(number)
        assert stop()
        assert stop.status == status
        # The next one would end the process.
        assert signal.getsignal(number) == signal.SIG_DFL
    assert signal.getsignal(number) == before


def test_plot_is_a_picture(tmp_path, evaluation):
    path = tmp_path / "e.png"
    record = {"split": "test", "step": 3, **evaluation._asdict()}
    evaluation_plot.plot_groups(
        path, record, _CONFIG.groups_top_down, _CONFIG.num_latent_per_group
    )
    picture = np.asarray(Image.open(path).convert("RGB"))
    assert picture.shape[:2] == (660, 1080)
    # The colours of the two scales.
    for colour in ((31, 119, 180), (255, 127, 14)):
        assert (picture == colour).all(axis=-1).sum() > 1000


def test_missing_matplotlib_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match="extra 'report'"):
        evaluation_plot.require_matplotlib()
