"""What a pass takes, returns, refuses and leaves unchanged."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.config import Config
from nvae_tf.distribute import replicas
from nvae_tf.model.nvae import NVAE
from tests.support import model_cases

pytestmark = [pytest.mark.early, pytest.mark.numerics]

_CONFIG = model_cases.CONFIGS["two_flows"]
_SEED = tf.constant([3, 5])


@functools.cache
def _model(name="two_flows"):
    """Shared by tests that change nothing."""
    return model_cases.random_model(model_cases.CONFIGS[name])


def _inputs(config=_CONFIG, batch=2):
    return model_cases.images(config, batch), model_cases.noise(config, batch)


def _assert_equal(first, second, tolerance=0.0):
    tf.nest.assert_same_structure(first, second)
    for a, b in zip(
        tf.nest.flatten(first), tf.nest.flatten(second), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


# --- what comes out ----------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("likelihood", "bits", "per_pixel"),
    [
        ("bernoulli", 1, {1: 1, 3: 3}),
        ("mixture", 8, {1: 30, 3: 100}),
        ("mixture", 5, {1: 30, 3: 100}),
        ("normal", 8, {1: 2, 3: 6}),
    ],
)
def test_likelihood_is_over_images(likelihood, bits, per_pixel, channels):
    config = model_cases.small(
        image_channels=channels, likelihood=likelihood, num_bits=bits
    )
    model = NVAE(config)
    x, eps = _inputs(config)
    out = model(x, eps=eps)
    assert out.logits.shape == (2, 8, 8, per_pixel[channels])
    distribution = model.likelihood(out.logits)
    assert distribution.event_shape == (8, 8, channels)
    assert distribution.batch_shape == (2,)
    assert distribution.log_prob(x).shape == (2,)
    for image in (distribution.mean(), distribution.sample(seed=_SEED)):
        assert image.shape == x.shape
        assert tf.reduce_min(image) >= 0
        assert tf.reduce_max(image) <= 1


@pytest.mark.parametrize("name", ["plain_vae", "three_scales", "two_flows"])
def test_results_have_a_place_for_every_group(name):
    config = model_cases.CONFIGS[name]
    x, eps = _inputs(config, batch=3)
    out = _model(name)(x, eps=eps, with_latents=True)
    groups = config.num_groups
    assert out.kl_per_group.shape == (3, groups)
    assert out.kl_per_channel.shape == (3, groups, 3)
    assert out.log_q.shape == out.log_p.shape == (3,)
    np.testing.assert_allclose(
        out.kl_per_group, np.sum(out.kl_per_channel, axis=-1), rtol=1e-5
    )
    for tensors in out.latents:
        shapes = [t.shape[1:] for t in tensors]
        assert shapes == list(config.latent_shapes)


def test_densities_and_latents_come_when_asked_for():
    x, eps = _inputs()
    full = _model()(x, eps=eps, with_latents=True)
    short = _model()(x, eps=eps, with_densities=False)
    assert short.log_q is short.log_p is short.latents is None
    _assert_equal(short.logits, full.logits)
    _assert_equal(short.kl_per_group, full.kl_per_group)


def test_examples_do_not_see_each_other_in_inference():
    x, eps = _inputs()
    both = _model()(x, eps=eps)
    alone = _model()(x[1:], eps=[e[1:] for e in eps])
    _assert_equal(alone.logits, both.logits[1:], 1e-5)
    _assert_equal(alone.kl_per_group, both.kl_per_group[1:], 1e-4)


# --- noise -------------------------------------------------------------------


def test_given_noise_is_the_noise_of_every_draw():
    config = model_cases.CONFIGS["equal_groups"]
    x, eps = _inputs(config)
    latents = _model("equal_groups")(x, eps=eps, with_latents=True).latents
    for z, mean, scale, noise in zip(*latents, eps, strict=True):
        drawn = (z - mean) / scale
        np.testing.assert_allclose(drawn, noise, rtol=1e-3, atol=1e-4)


def test_noise_follows_from_the_seed():
    x, _ = _inputs()
    model = _model()
    first, again, other = (
        model(x, seed=seed).kl_per_group.numpy()
        for seed in (_SEED, _SEED, _SEED + 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()


def test_noise_of_a_seed_is_standard_normal_and_differs_by_group():
    config = model_cases.CONFIGS["equal_groups"]
    out = _model("equal_groups").decode(
        seed=_SEED, batch_size=200, with_latents=True
    )
    latents = out.latents
    drawn = [
        ((z - mean) / scale).numpy()
        for z, mean, scale in zip(*latents, strict=True)
    ]
    for noise, shape in zip(drawn, config.latent_shapes, strict=True):
        assert noise.shape[1:] == tuple(shape)
        assert abs(noise.mean()) < 0.06
        assert abs(noise.std() - 1) < 0.05
        assert len(np.unique(noise[:, 0, 0, 0])) == 200
    for i, a in enumerate(drawn):
        for b in drawn[:i]:
            values = [noise.ravel()[: 200 * 12] for noise in (a, b)]
            assert abs(np.corrcoef(values)[0, 1]) < 0.08


def test_temperature_zero_gives_the_mean_path():
    config = model_cases.CONFIGS["three_scales"]
    model = _model("three_scales")
    cold = model.decode(
        model_cases.noise(config), temperature=0.0, with_latents=True
    )
    _assert_equal(cold.latents.z, cold.latents.mean)
    other = model_cases.noise(config, seed=9)
    _assert_equal(model.sample_logits(other, 0.0), cold.logits)
    by_latents = model.decode(latents=cold.latents.mean).logits
    _assert_equal(by_latents, cold.logits, 1e-6)
    assert np.any(model.sample_logits(other, 0.5) != cold.logits)


def test_temperature_may_differ_by_example_and_group():
    config = model_cases.CONFIGS["equal_groups"]
    model, eps = _model("equal_groups"), model_cases.noise(config)
    default = model.sample_logits(eps)
    _assert_equal(default, model.sample_logits(eps, 1.0))
    _assert_equal(default, model.decode(eps).logits, 1e-6)
    cold, warm = (model.sample_logits(eps, t) for t in (0.2, 0.9))
    by_image = tf.constant([[0.2], [0.9]])
    whole = tf.repeat(by_image, config.num_groups, axis=1)
    for t in (by_image, whole):
        mixed = model.sample_logits(eps, t)
        _assert_equal(mixed, tf.stack([cold[0], warm[1]]), 1e-5)
    # The same for all examples; only the last group is drawn at all.
    last = np.float32([0.0] * (config.num_groups - 1) + [1.0])
    for t in (last, last[None]):
        latents = model.decode(eps, temperature=t, with_latents=True).latents
        moved = [np.any(z != m) for z, m in zip(*latents[:2], strict=True)]
        assert moved == [False] * (config.num_groups - 1) + [True]


def test_one_axis_of_temperatures_is_of_groups_however_many_images():
    config = model_cases.small(num_latent_scales=1, num_groups_per_scale=3)
    groups = config.num_groups
    model = model_cases.random_model(config)
    eps = model_cases.noise(config, batch=groups)
    t = np.linspace(0.2, 0.9, groups).astype(np.float32)
    expected = model.sample_logits(eps, np.tile(t, [groups, 1]))
    by_image = model.sample_logits(eps, t[:, None])
    assert np.abs(by_image - expected).max() > 0.01
    _assert_equal(model.sample_logits(eps, t), expected, 1e-5)

    def traced(shape):
        return tf.function(
            lambda t: model.sample_logits(eps, t),
            input_signature=[tf.TensorSpec(shape)],
            autograph=False,
        )

    for shape in ([groups], [None]):
        _assert_equal(traced(shape)(t), expected, 1e-5)
    for shape in ([None, 1], [None, None]):
        _assert_equal(traced(shape)(t[:, None]), by_image, 1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="shape"):
        traced([None])(t[:-1])


@pytest.mark.parametrize("name", ["two_flows", "plain_vae", "three_scales"])
def test_latents_of_a_pass_decode_to_its_image(name):
    x, eps = _inputs(model_cases.CONFIGS[name])
    out = _model(name)(x, eps=eps, with_latents=True)
    decoded = _model(name).decode(latents=out.latents.z)
    _assert_equal(decoded.logits, out.logits, 1e-5)


# --- graphs ------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [pytest.param("three_scales", marks=pytest.mark.long), "plain_vae_flows"],
)
def test_graph_takes_any_batch_size(name):
    config = model_cases.CONFIGS[name]
    model = _model(name)
    size = config.padded_size
    shape = [None, size, size, config.image_channels]

    @tf.function(input_signature=[tf.TensorSpec(shape)], autograph=False)
    def run(x):
        out = model(x, seed=_SEED)
        return out.logits, out.kl_per_group

    sample = tf.function(
        lambda n: model.sample_logits(seed=_SEED, batch_size=n),
        input_signature=[tf.TensorSpec([], tf.int32)],
    )
    for batch in (1, 3):
        x = model_cases.images(config, batch)
        eager = model(x, seed=_SEED)
        _assert_equal(run(x), (eager.logits, eager.kl_per_group), 1e-4)
        expected = model.sample_logits(seed=_SEED, batch_size=batch)
        _assert_equal(sample(batch), expected, 1e-4)


def test_loop_unrolled_and_eager_passes_agree_with_their_gradients():
    config = model_cases.small(
        num_latent_scales=1,
        num_groups_per_scale=3,
        num_flow_pairs=1,
    )
    models = [model_cases.random_model(config, unroll=u) for u in (False, True)]
    x, eps = _inputs(config)

    def run(model):
        variables = [v.value for v in model.trainable_variables]
        with tf.GradientTape() as tape:
            out = model(x, eps=eps, training=True)
            loss = tf.reduce_sum(out.logits**2) + tf.reduce_sum(
                out.kl_per_group
            )
        results = out._replace(latents=())
        return results, tape.gradient(loss, variables)

    eager = run(models[0])
    graphs = [tf.function(run, autograph=False) for _ in models]
    for model, graph in zip(models, graphs, strict=True):
        out, gradients = graph(model)
        _assert_equal(out, eager[0], 1e-4)
        for actual, expected in zip(gradients, eager[1], strict=True):
            error = np.linalg.norm(actual - expected)
            assert error <= 1e-3 * np.linalg.norm(expected) + 1e-3
    counts = [
        str(graph.get_concrete_function(model).graph.as_graph_def()).count(
            "While"
        )
        > 0
        for model, graph in zip(models, graphs, strict=True)
    ]
    assert counts == [True, False]


def test_models_recompute_what_configurations_do_by_default():
    assert (
        NVAE(model_cases.CONFIGS["plain_vae"]).recompute == Config().recompute
    )


# Its convolutions have gradients of their own on CPUs.
_DEPTHWISE = model_cases.small(
    num_latent_scales=1, num_groups_per_scale=1, architecture="res_mbconv"
)


@pytest.mark.parametrize("device", ["CPU", "GPU"])
def test_gradients_are_those_of_the_device_a_model_is_made_for(device):
    """Whatever the devices of the machine that traces it."""
    model = NVAE(_DEPTHWISE, device=device)
    model = type(model).from_config(model.get_config())
    operations = _operations_of_gradients(model)
    native = {
        "DepthwiseConv2dNativeBackpropInput",
        "DepthwiseConv2dNativeBackpropFilter",
    }
    assert (native & operations) == (native if device == "GPU" else set())


def test_a_model_is_made_for_the_devices_of_its_strategy(monkeypatch):
    native = "DepthwiseConv2dNativeBackpropInput"
    assert native not in _operations_of_gradients(NVAE(_DEPTHWISE))
    monkeypatch.setattr(replicas, "device_kind", lambda: "GPU")
    assert native in _operations_of_gradients(NVAE(_DEPTHWISE))


def _operations_of_gradients(model: NVAE) -> set[str]:
    """Kinds of operations in the graph of a pass and its gradient."""
    x = model_cases.images(model.config, 2)

    @tf.function(autograph=False)
    def run(x):
        with tf.GradientTape() as tape:
            output = model(x, seed=tf.constant([0, 0]), training=True)
            loss = tf.reduce_sum(output.logits)
        return tape.gradient(loss, model.trainable_variables)

    graph = run.get_concrete_function(tf.TensorSpec(x.shape)).graph
    definition = graph.as_graph_def()
    nodes = [*definition.node]
    for function in definition.library.function:
        nodes.extend(function.node_def)
    return {node.op for node in nodes}
