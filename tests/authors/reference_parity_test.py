"""Every number of the authors' program's results, through our training step.

Runs over the pairs `NAME.npz` + `NAME.pt` in `tests/data/reference`, or in the
folder that the environment variable NVAE_GOLDEN_DIR names.
"""

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.config import ModelConfig, cell_operations
from nvae_tf.model import losses
from tests.support import golden_files
from tests.support.golden_files import Golden

pytestmark = [pytest.mark.early, pytest.mark.numerics]

_TOLERANCE = 1e-4
_GIVEN = {"config", "x", "eps", "state", "spectral_order", "spectral_u0"}
_RESULTS = {"eval", "sample", "train", "train0", "train1", "grad0", "state2"}
_LOSSES = {"balance", "alpha", "groups"}
# Compared where the distributions are tested.
_DISTRIBUTIONS = {"mixture8", "mixture5", "normal", "latent"}


@pytest.fixture(
    scope="module", params=golden_files.pairs(), ids=lambda p: p.stem
)
def golden(request):
    return Golden(request.param)


@pytest.fixture(scope="module")
def loaded(golden):
    """`(model, config)`, for passes that change nothing."""
    return golden.load()


@pytest.fixture(scope="module")
def trajectory(golden):
    """Two production steps, and what each of them started from."""
    _held(golden, "train0")
    step = golden.train_step()
    watched = golden_files.watched(step, golden.x, golden.eps)
    return step, [watched(golden.coefficients(i)) for i in golden.steps()]


@pytest.fixture
def eagerly():
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def likelihoods():
    with np.load(golden_files.likelihoods()) as file:
        return {key: file[key] for key in file.files}


def _held(golden, prefix):
    """A group of the file's; a file need not hold all of them."""
    found = golden.group(prefix)
    if not found:
        pytest.skip(f"{golden.path.stem} holds nothing under {prefix}/")
    return found


def _assert_close(name, actual, expected):
    """Within 1e-4 of each value; logits also within 1e-4 absolutely."""
    # Elsewhere no more than what float32 itself can tell apart.
    floor = 1e-6 * np.max(np.abs(expected), initial=0.0)
    np.testing.assert_allclose(
        np.asarray(actual, np.float64),
        expected,
        rtol=_TOLERANCE,
        atol=_TOLERANCE if name.startswith("logits") else floor,
        err_msg=name,
    )


def _assert_all_close(expected, results):
    """Every key of a file's group has a result of ours and agrees with it."""
    unknown = expected.keys() - results.keys()
    assert not unknown, f"no result of ours is known for {sorted(unknown)}"
    for name in expected:
        _assert_close(name, results[name], expected[name])


def test_there_is_something_to_agree_with():
    assert golden_files.pairs(), (
        f"{golden_files.FOLDER} holds no pair NAME.npz and NAME.pt"
    )


def test_every_key_of_a_file_is_known(golden):
    unknown = {key.split("/")[0] for key in golden.arrays} - _GIVEN - _RESULTS
    assert not unknown, f"nothing here compares {sorted(unknown)}"
    assert golden.group("train").keys() <= {"kl_alpha"}


def test_configuration_is_that_of_the_file(golden, loaded):
    model, config = loaded
    assert model.config == config.model
    assert (
        list(config.model.groups_per_scale)
        == golden.config["groups_per_scale_fine_to_coarse"]
    )
    for kind in ("enc", "dec", "pre", "post"):
        ours = list(cell_operations(config.model.architecture, kind))
        for name, operations in golden.config["arch_cells"].items():
            if name.endswith(f"_{kind}"):
                assert operations == ours, name
    assert golden.x.shape[1:] == (
        config.model.padded_size,
        config.model.padded_size,
        config.model.image_channels,
    )
    assert [e.shape[1:] for e in golden.eps] == list(config.model.latent_shapes)


def test_weights_and_statistics_are_read_as_they_are(golden, loaded):
    state = golden_files.state_by_key(loaded[0])
    assert state.keys() == golden.group("state").keys()
    for key, expected in golden.group("state").items():
        np.testing.assert_array_equal(state[key], expected, err_msg=key)


def test_inference_agrees(golden, loaded):
    model, _ = loaded

    @tf.function(autograph=False)
    def run(x, eps):
        return golden_files.pass_results(model, model(x, eps=eps), x)

    _assert_all_close(_held(golden, "eval"), run(golden.x, golden.eps))


def test_sampling_from_the_prior_agrees(golden, loaded):
    model, _ = loaded
    sample = tf.function(model.sample_logits, autograph=False)
    expected = _held(golden, "sample")
    results = {}
    for name in expected:
        assert name.startswith("logits_t"), f"{name} is not known"
        temperature = tf.constant(float(name.removeprefix("logits_t")))
        results[name] = sample(golden.eps, temperature)
    _assert_all_close(expected, results)


def test_losses_of_both_steps_agree(golden, trajectory):
    for i, (results, *_) in enumerate(trajectory[1]):
        expected = golden.group(f"train{i}")
        del expected["kl_coeff"]
        _assert_all_close(expected, results)


def test_gradient_of_every_parameter_agrees(golden, trajectory):
    step, taken = trajectory
    actual = golden_files.gradients_by_key(step, taken[0][1])
    golden_files.assert_gradients_agree(_held(golden, "grad0"), actual)


def test_two_training_steps_agree(golden, trajectory):
    step, taken = trajectory
    _assert_steps_agree(golden, step, [metrics for *_, metrics in taken])


@pytest.mark.long
def test_two_training_steps_agree_without_a_loop(golden, eagerly):
    """Operation by operation, and each group by itself."""
    _held(golden, "train0")
    step = golden.train_step(unroll=True)
    metrics = [
        step(golden.x, golden.coefficients(i), eps=golden.eps)
        for i in golden.steps()
    ]
    _assert_steps_agree(golden, step, metrics)


def _assert_steps_agree(golden, step, metrics):
    for i, reported in enumerate(metrics):
        _assert_metrics_agree(reported, golden.group(f"train{i}"))
    golden_files.assert_states_agree(
        golden.group("grad0"),
        _held(golden, "state2"),
        golden_files.state_by_key(step.model),
    )


def _assert_metrics_agree(metrics, expected):
    """What the step itself reports is of the pass before its update."""
    for name, actual, value in (
        ("total_loss", metrics.total_loss, expected["total_loss"]),
        ("spectral", metrics.spectral, expected["spectral_loss"]),
        ("batch_norm", metrics.batch_norm, expected["bn_loss"]),
        (
            "reconstruction_nll",
            metrics.reconstruction_nll,
            expected["reconstruction_nll"].mean(),
        ),
        (
            "kl_per_group",
            metrics.kl_per_group,
            expected["kl_per_group"].mean(axis=0),
        ),
        ("kl_per_channel", metrics.kl_per_channel, expected["kl_diag"]),
        (
            "balance_coefficients",
            metrics.balance_coefficients,
            expected["kl_balance_coeffs"],
        ),
    ):
        _assert_close(name, actual, value)


def test_balancing_reckons_with_the_groups_of_every_scale(golden, loaded):
    _assert_close(
        "kl_alpha",
        losses.balance_alphas(loaded[1].model),
        _held(golden, "train")["kl_alpha"],
    )


def test_every_key_about_likelihoods_is_known(likelihoods):
    prefixes = {key.split("/")[0] for key in likelihoods}
    unknown = prefixes - _LOSSES - _DISTRIBUTIONS
    assert not unknown, f"nothing compares {sorted(unknown)}"


def test_balanced_kl_agrees(likelihoods):
    kl, alpha, beta = (
        likelihoods[f"balance/{key}"]
        for key in ("kl_per_group", "alpha", "beta")
    )
    balanced, gamma = losses.balanced_kl(kl, alpha, beta)
    _assert_close("coeffs", gamma, likelihoods["balance/coeffs"])
    _assert_close("balanced_kl", balanced, likelihoods["balance/balanced_kl"])


def test_groups_and_alphas_of_every_shape_agree(likelihoods):
    groups = [key for key in likelihoods if key.startswith("groups/")]
    alphas = [key for key in likelihoods if key.startswith("alpha/")]
    assert len(groups) == len(alphas) > 0
    for key in groups + alphas:
        scales, count, adaptive, smallest = map(
            int, key.split("/")[1].split("_")
        )
        config = ModelConfig(
            image_size=2**scales,
            num_latent_scales=scales,
            num_groups_per_scale=count,
            adaptive_groups=bool(adaptive),
            min_groups_per_scale=smallest,
        )
        if key.startswith("groups/"):
            assert list(config.groups_per_scale) == list(likelihoods[key])
        else:
            _assert_close(key, losses.balance_alphas(config), likelihoods[key])
