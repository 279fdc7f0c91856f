"""Pictures: rows of their own, levels of the data, temperature, truncation."""

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.core.errors import ConfigError, UserError
from nvae_tf.export.onnx import export_onnx
from nvae_tf.export.onnx_sampler import Sampler, noise_rows
from nvae_tf.model import noise
from nvae_tf.sampling import exploration
from nvae_tf.sampling.illustrator import Illustrator
from nvae_tf.sampling.temperatures import parse_temperatures
from tests.support.arrays import assert_rounded_alike
from tests.support.export_cases import source
from tests.support.model_cases import CONFIGS, images, random_model, small

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def colour():
    """Three groups at two scales, 5 bits, mixture."""
    return Illustrator(random_model(CONFIGS["mixture_5_bits"]))


def _all(batches):
    return np.concatenate([*batches]).astype(int)


def test_image_depends_on_its_seed_and_not_on_the_batch(colour):
    together = _all(colour.draw(5, 0.8, seed=3, batch_size=5))
    for size in (2, 3):
        other = _all(colour.draw(5, 0.8, seed=3, batch_size=size))
        assert np.abs(together - other).max() <= 1
    later = _all(colour.draw(2, 0.8, seed=6, batch_size=2))
    assert np.abs(together[3:] - later).max() <= 1
    assert np.abs(together[0] - together[1]).max() > 5


def test_mean_and_drawn_images_are_those_of_the_exported_sampler(tmp_path):
    exported = source("mixture_5_bits")
    export_onnx(exported, tmp_path / "nvae.onnx", graphs=["sample"])
    sampler = Sampler(tmp_path / "nvae.onnx")
    illustrator = Illustrator(exported.model)
    seeds = range(7, 10)
    for pixels, output, tolerance in (
        ("mean", "mean", 1.0),
        # The exported draw is continuous: it is at most half a level away.
        ("sample", "images_float", 255 / 31 / 2 + 1),
        # What either draws unless told otherwise.
        ("auto", "images_float", 255 / 31 / 2 + 1),
    ):
        ours = _all(illustrator.draw(3, 0.7, 7, 3, pixels=pixels))
        theirs = 255 * sampler.sample(seeds, 0.7, output=output)
        np.testing.assert_allclose(ours, theirs, atol=tolerance)


def test_noise_is_that_of_exports(colour):
    seeds = [4, 2**40]
    shapes = colour.model.config.latent_shapes
    for stream, ours in enumerate(colour.noise(seeds)):
        other = noise_rows(seeds, "normal", stream, shapes[stream])
        # Logarithm, root, an angle and its cosine; no draw is over 7.
        assert_rounded_alike(ours, other, 8, size=7)


def test_drawn_pixels_lie_on_the_levels_of_the_data(colour):
    drawn = colour.draw_seeds([1, 2, 3, 4], 1.0, pixels="sample")
    levels = np.rint(np.arange(32) * 255 / 31)
    assert set(np.unique(drawn)) <= set(levels)
    assert len(np.unique(drawn)) > 10
    mean = colour.draw_seeds([1, 2, 3, 4], 1.0, pixels="mean")
    assert not set(np.unique(mean)) <= set(levels)


@pytest.mark.parametrize(
    ("name", "choice"),
    [("padded", "mean"), ("normal", "sample"), ("mixture_5_bits", "sample")],
)
def test_binary_draws_show_the_mean_and_others_are_drawn(name, choice):
    illustrator = Illustrator(random_model(CONFIGS[name]))
    expected, other = (
        illustrator.draw_seeds([1, 2], 0.7, pixels=p)
        for p in (choice, "mean" if choice == "sample" else "sample")
    )
    assert np.any(expected != other)
    for drawn in (
        illustrator.draw_seeds([1, 2], 0.7),
        np.concatenate([*illustrator.draw(2, 0.7, seed=1, batch_size=2)]),
    ):
        np.testing.assert_array_equal(drawn, expected)
    with pytest.raises(ValueError, match="pixels must be one of"):
        illustrator.draw_seeds([1], 0.7, pixels="all")


@pytest.mark.parametrize("name", ["padded", "normal"])
def test_drawn_pixels_scatter_around_the_mean_image(name):
    illustrator = Illustrator(random_model(CONFIGS[name]))
    size = CONFIGS[name].image_size
    seeds = np.arange(400)
    # One set of latents, whose pixels are drawn again and again.
    eps = [np.repeat(e, 400, axis=0) for e in illustrator.noise([0])]
    drawn = illustrator.from_noise(eps, 1.0, seeds, pixels="sample")
    mean = illustrator.from_noise(eps, 1.0)
    assert drawn.shape[1:3] == mean.shape[1:3] == (size, size)
    if name == "padded":
        assert set(np.unique(drawn)) == {0, 255}
        np.testing.assert_allclose(drawn.mean(axis=0), mean[0], atol=40)
    else:
        middle = np.abs(np.median(drawn, axis=0) - mean[0])
        assert np.median(middle) < 10
    assert np.any(drawn[0] != drawn[1])


def test_fixed_upper_groups_have_the_same_latents(colour):
    model = colour.model
    seeds = np.arange(4)
    top = colour.noise(np.zeros(4, int))
    eps = [*top[:2], *colour.noise(seeds)[2:]]
    z = model.decode(eps=eps, with_latents=True).latents.z
    for group in (0, 1):
        np.testing.assert_allclose(
            z[group], np.repeat(z[group][:1], 4, axis=0), atol=1e-6
        )
    assert np.std(z[2], axis=0).max() > 0.1
    drawn = colour.draw_seeds(
        seeds, 1.0, pixels="mean", fix_groups=2, top_seeds=0 * seeds
    )
    np.testing.assert_array_equal(drawn, colour.from_noise(eps, 1.0))


def test_figure_of_levels_varies_less_the_more_is_fixed(colour):
    rows = exploration.levels(
        colour, [0, 1, 2, 3], 4, 1.0, seed=5, pixels="mean"
    )
    in_parts = exploration.levels(
        colour, [0, 1, 2, 3], 4, 1.0, seed=5, batch_size=3, pixels="mean"
    )
    assert np.abs(in_parts.astype(int) - rows).max() <= 1
    assert rows.shape == (4, 4, 8, 8, 3)
    np.testing.assert_array_equal(rows[:, 0], rows[:1, 0].repeat(4, axis=0))
    free = colour.draw_seeds(range(5, 9), 1.0, pixels="mean")
    np.testing.assert_array_equal(rows[0], free)
    spread = rows.std(axis=1).mean(axis=(1, 2, 3))
    assert spread[0] > spread[2] > spread[3] == 0


def test_temperature_of_each_group_scales_its_own_noise(colour):
    seeds = [3, 4]
    eps = colour.noise(seeds)
    hot = colour.from_noise([2 * eps[0], 0.5 * eps[1], 0 * eps[2]], 1.0)
    drawn = colour.draw_seeds(seeds, [2.0, 0.5, 0.0], pixels="mean")
    assert np.abs(drawn.astype(int) - hot).max() <= 1
    np.testing.assert_array_equal(
        colour.draw_seeds(seeds, [0.7] * 3), colour.draw_seeds(seeds, 0.7)
    )


def test_temperature_of_each_image_is_its_own_in_any_batch(colour):
    groups = colour.model.config.num_groups
    t = np.linspace(0.2, 1.0, groups)
    # As many images as groups: one axis means groups all the same.
    by_image = _all(colour.draw(groups, t[:, None], batch_size=2))
    for i in range(groups):
        alone = colour.draw_seeds([i], t[i])[0].astype(int)
        assert np.abs(by_image[i] - alone).max() <= 1
    by_group = _all(colour.draw(groups, t, batch_size=2))
    rows = np.tile(t, [groups, 1])
    whole = _all(colour.draw(groups, rows, batch_size=groups))
    assert np.abs(by_group - whole).max() <= 1
    assert np.abs(by_group - by_image).max() > 5
    eps = colour.noise(range(groups))
    for temperature in (t, t[:, None]):
        drawn = exploration.images_of(colour, eps, 2, temperature).astype(int)
        expected = colour.from_noise(eps, temperature)
        assert np.abs(drawn - expected).max() <= 1


@pytest.mark.parametrize(
    "temperature", [[0.7], [0.7] * 2, [[0.7]] * 3, [[[0.7]]], -0.5, np.nan]
)
def test_temperature_that_does_not_fit_is_refused(colour, temperature):
    # Three groups, two images.
    for draw in (
        lambda: [*colour.draw(2, temperature)],
        lambda: colour.draw_seeds([1, 2], temperature),
        lambda: colour.from_noise(colour.noise([1, 2]), temperature),
    ):
        with pytest.raises(ConfigError, match="temperature"):
            draw()


def test_truncated_noise_is_the_normal_restricted():
    eps = tf.constant(np.random.default_rng(0).normal(size=20_000), tf.float32)
    order = np.argsort(eps)
    for bound in (0.5, 1.0, 2.0):
        t = noise.truncated(eps, bound).numpy()
        assert np.abs(t).max() <= bound
        assert np.all(np.diff(t[order]) >= 0)
        inside = eps.numpy()[np.abs(eps) <= bound]
        assert t.std() == pytest.approx(inside.std(), rel=0.03)
    extreme = tf.constant([-30.0, -6.0, 0.0, 6.0, 30.0])
    np.testing.assert_allclose(
        noise.truncated(extreme, 1.5), [-1.5, -1.5, 0, 1.5, 1.5], atol=1e-6
    )
    np.testing.assert_allclose(noise.truncated(eps, 9.0), eps, atol=1e-4)


def test_truncated_draws_follow_from_truncated_noise(colour):
    eps = [noise.truncated(e, 0.5) for e in colour.noise([3, 4])]
    np.testing.assert_array_equal(
        colour.draw_seeds([3, 4], 1.0, pixels="mean", truncation=0.5),
        colour.from_noise(eps, 1.0),
    )


def test_drawn_images_are_seen_by_the_model_at_its_levels(colour):
    x = images(colour.model.config)
    shown = np.rint(255 * x).astype(np.uint8)
    np.testing.assert_allclose(colour.to_model(shown), x, atol=1e-7)
    config = CONFIGS["padded"]
    padded = Illustrator.__new__(Illustrator)
    padded.model = type("Model", (), {"config": config})
    drawn = np.full((1, 12, 12, 1), 255, np.uint8)
    assert padded.to_model(drawn).shape == (1, 16, 16, 1)
    assert padded.to_model(drawn).sum() == 12 * 12


def test_reconstruction_depends_on_its_own_row(colour):
    x = images(colour.model.config, batch=3)
    together = colour.reconstruct(x, seed=2)
    alone = colour.reconstruct(x[1:], seed=3)
    assert np.abs(together[1:].astype(int) - alone).max() <= 1
    assert colour.grid_of_pairs(together, per_row=2).shape == (18, 38, 3)


def test_images_that_are_not_finite_are_refused():
    model = random_model(small(num_latent_scales=1, num_groups_per_scale=1))
    bias = model.parts["image"].parts["head"].bias
    bias.assign(np.full(bias.shape, np.nan, np.float32))
    with pytest.raises(UserError, match="not finite"):
        Illustrator(model).draw_seeds([0], 1.0)


def test_temperatures_are_given_per_group_or_scale():
    config = CONFIGS["three_scales"]
    groups = config.groups_top_down
    assert parse_temperatures(config, ["0.7"]) == 0.7
    by_scale = parse_temperatures(config, ["0.7"], ["1", "0.8", "0.6"])
    assert by_scale.tolist() == pytest.approx(
        [1.0] * groups[0] + [0.8] * groups[1] + [0.6] * groups[2]
    )
    same = parse_temperatures(config, (), ["0.5"] * 3)
    assert same == 0.5
    each = [str(0.1 * i) for i in range(config.num_groups)]
    assert parse_temperatures(config, each).shape == (config.num_groups,)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((["1", "0.5"], []), "--temperature has 2 numbers.*9"),
        ((["hot"], []), "--temperature holds 'hot'"),
        ((["-1"], []), "from 0 up"),
        ((["nan"], []), "'nan'"),
        ((["1"], ["1", "0.5"]), "--scale_temperature has 2.*3 scales"),
    ],
)
def test_temperatures_that_do_not_fit_are_refused(flags, expected):
    with pytest.raises(ConfigError, match=expected):
        parse_temperatures(CONFIGS["three_scales"], *flags)
