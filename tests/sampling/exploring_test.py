"""Latent codes, ways through noise space, neighbours, ranking, own images."""

import gzip
import math

import numpy as np
import pytest
from PIL import Image

from nvae_tf.core.errors import DataError, UserError
from nvae_tf.datasets import image_input
from nvae_tf.datasets.labels import LabelledSource
from nvae_tf.evaluation.neighbours import NeighbourSearch
from nvae_tf.evaluation.ranking import Ranking
from nvae_tf.sampling import captions, exploration, images
from nvae_tf.sampling.illustrator import Illustrator
from nvae_tf.sampling.inference import Inference
from nvae_tf.sampling.sample_folder import SETTINGS, write_samples
from tests.support import model_cases
from tests.support.model_cases import CONFIGS, random_model, small
from tests.support.run_helpers import make_config

pytestmark = pytest.mark.long

_MODELS = {
    "padded": CONFIGS["padded"],
    "flows": small(
        num_latent_scales=1, num_groups_per_scale=2, num_flow_pairs=1
    ),
}


@pytest.fixture(scope="module", params=list(_MODELS))
def model(request):
    return random_model(_MODELS[request.param])


@pytest.fixture(scope="module")
def coded(model):
    """A model's pictures, images, and their codes: drawn ones, then means."""
    x = model_cases.images(model.config, batch=3)
    inference = Inference(model)
    drawn = inference(x, [5, 6, 7], with_bounds=True)
    means = inference(x, [5, 6, 7], draw=False, with_bounds=True)
    return Illustrator(model), inference, x, drawn, means


def test_code_decodes_to_the_reconstruction_in_every_form(coded):
    illustrator, _, x, drawn, means = coded
    for code in (drawn, means):
        reconstruction = illustrator.from_logits(code.logits).astype(int)
        for other in (
            illustrator.from_latents(code.z),
            illustrator.from_noise(code.eps),
        ):
            assert np.abs(reconstruction - other).max() <= 1
    pairs = illustrator.reconstruct(x, seed=5)
    reconstruction = illustrator.from_logits(drawn.logits)
    assert np.abs(pairs[:, 1].astype(int) - reconstruction).max() <= 1


def test_draws_scatter_about_the_posterior_mean_and_means_do_not(coded):
    illustrator, inference, x, drawn, means = coded
    again = inference(x, [5, 6, 7], with_noise=False)
    other = inference(x, [8, 9, 10], with_noise=False)
    assert again.eps is None
    assert again.nelbo is None
    for group, z in enumerate(drawn.z):
        np.testing.assert_array_equal(z, again.z[group])
        assert np.abs(z - other.z[group]).max() > 0.01
    eps = illustrator.noise([5, 6, 7])[0]
    if not illustrator.model.config.num_flow_pairs:
        np.testing.assert_allclose(
            drawn.z[0], drawn.mean[0] + drawn.sigma[0] * eps, atol=1e-5
        )
        np.testing.assert_array_equal(means.z[0], means.mean[0])
    # The top group's posterior sees the image alone.
    np.testing.assert_allclose(means.mean[0], drawn.mean[0], atol=1e-6)


def test_bounds_are_of_draws_whatever_is_shown(coded):
    _, inference, x, drawn, means = coded
    np.testing.assert_allclose(means.nelbo, drawn.nelbo, rtol=1e-5)
    np.testing.assert_allclose(
        inference.bounds(x, [5, 6, 7]), drawn.nelbo, rtol=1e-5
    )
    nll = inference.bounds(x, [5, 6, 7], num_samples=30)
    assert nll.shape == (3,)
    # More samples tighten the bound.
    mean = np.mean([inference.bounds(x, [s] * 3) for s in range(20)], axis=0)
    assert np.all(nll < mean)


def test_features_compare_directions(coded):
    _, inference, x, *_ = coded
    features = inference.features(x).numpy()
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    assert np.linalg.norm(features[0] - features[1]) > 1e-3


def test_interpolation_begins_and_ends_at_the_reconstructions(coded):
    illustrator, _, _, _, means = coded
    eps = [e.numpy() for e in means.eps]
    ends = illustrator.from_noise(eps).astype(int)
    for path in exploration.PATHS:
        way = exploration.interpolated(eps, 4, path)
        for e, w in zip(eps, way, strict=True):
            np.testing.assert_array_equal(w[[0, 3, 4, 7]], e[[0, 1, 1, 2]])
        frames = exploration.images_of(illustrator, way, batch_size=3)
        assert np.abs(frames[[0, 3, 7]].astype(int) - ends).max() <= 1


def test_upper_groups_alone_leave_the_rest_to_the_prior(coded):
    illustrator, _, _, drawn, _ = coded
    model = illustrator.model
    eps = [e.numpy() for e in drawn.eps]
    top = exploration.top_groups_only(eps, 1)
    out = model.decode(eps=top, with_latents=True).latents
    np.testing.assert_allclose(out.z[0], drawn.z[0], atol=1e-4)
    for group in range(1, model.config.num_groups):
        np.testing.assert_array_equal(out.z[group], out.mean[group])
    other = [np.ones_like(e) for e in eps]
    assert exploration.top_groups_only(eps, 1, other)[1:] == other[1:]


def test_great_circle_keeps_the_length_of_noise():
    rng = np.random.default_rng(0)
    eps = [rng.normal(size=(2, 4, 4, 50))]
    (way,) = exploration.interpolated(eps, 7)
    lengths = np.linalg.norm(way.reshape(7, -1), axis=1)
    np.testing.assert_allclose(lengths, lengths[0], rtol=0.05)
    # Even steps: neighbours are equally far apart.
    steps = np.linalg.norm(np.diff(way.reshape(7, -1), axis=0), axis=1)
    np.testing.assert_allclose(steps, steps[0], rtol=0.05)
    (straight,) = exploration.interpolated(eps, 7, "linear")
    assert np.linalg.norm(straight[3]) < 0.8 * lengths[3]


@pytest.mark.parametrize(
    ("start", "end"), [(0.0, 1.0), (2.0, 2.0), (1.0, -1.0)]
)
def test_great_circle_between_parallel_noise_is_straight(start, end):
    eps = [np.stack([np.full((2, 2, 3), start), np.full((2, 2, 3), end)])]
    (way,) = exploration.interpolated(eps, 3)
    np.testing.assert_allclose(way[1], (start + end) / 2, atol=1e-6)


def test_traversal_moves_one_channel_and_passes_through_the_image():
    rng = np.random.default_rng(0)
    eps = [rng.normal(size=(1, 2, 2, 3)), rng.normal(size=(1, 4, 4, 3))]
    rows = exploration.shifted(eps, 1, 2.0, 5)
    # Of a large model, all latents of all rows would take gigabytes.
    assert np.shares_memory(rows[0], eps[0])
    assert not np.shares_memory(rows[1], eps[1])
    assert [len(r) for r in rows] == [15, 15]
    moved = rows[1].reshape(3, 5, 4, 4, 3) - eps[1]
    for channel in range(3):
        for step, offset in enumerate([-2, -1, 0, 1, 2]):
            expected = np.zeros(3)
            expected[channel] = offset
            expected = np.broadcast_to(expected, (4, 4, 3))
            np.testing.assert_allclose(moved[channel, step], expected)
    np.testing.assert_array_equal(rows[0], eps[0].repeat(15, axis=0))


def test_search_finds_the_nearest_of_all_batches():
    rng = np.random.default_rng(0)
    seen = rng.integers(0, 256, (40, 4, 4, 3)).astype(np.uint8)
    queries = np.stack([seen[33], seen[5]]).astype(np.float32)
    queries[1, 0, 0, 0] += 3
    search = NeighbourSearch(queries, 4)
    for start in range(0, 40, 7):
        part = seen[start : start + 7]
        search.add(part, start + np.arange(len(part)), part)
    found = search.result()
    exact = np.sqrt(
        ((queries[:, None] - seen.astype(float)) ** 2).sum(axis=(2, 3, 4))
    )
    np.testing.assert_array_equal(found.indices, np.argsort(exact)[:, :4])
    np.testing.assert_allclose(found.distances[:, 0], [0, 3])
    np.testing.assert_allclose(found.distances, np.sort(exact)[:, :4])
    np.testing.assert_array_equal(found.images, seen[found.indices])


def test_search_with_fewer_images_than_wanted_gives_all():
    search = NeighbourSearch(np.zeros((1, 2)), 9)
    seen = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1)
    search.add(np.ones((3, 2)), np.arange(3), seen)
    assert search.result().images.shape == (1, 3, 1, 1, 1)


def test_ranking_keeps_both_ends_of_all_batches():
    bounds = np.random.default_rng(0).permutation(20).astype(np.float32)
    pictures = bounds.astype(np.uint8)[:, None, None, None]
    ranking = Ranking(3)
    for start in range(0, 20, 6):
        part = slice(start, start + 6)
        ranking.add(bounds[part], np.arange(20)[part], pictures[part])
    shown, values = ranking.shown()
    assert values.tolist() == [19, 18, 17, 0, 1, 2]
    assert shown.ravel().tolist() == values.tolist()
    config = CONFIGS["padded"]
    source = type("Source", (), {"describe": lambda _, i: f"image {i}"})()
    records = ranking.records(source, config)
    assert [r["nats"] for r in records] == list(range(19, -1, -1))
    assert records[0]["image"] == f"image {bounds.argmax()}"
    assert records[0]["bits_per_dim"] == pytest.approx(19 / math.log(2) / 144)
    with pytest.raises(UserError, match="not finite"):
        ranking.add(np.array([np.nan]), np.array([20]), pictures[:1])


def test_folder_is_filled_up_and_never_with_two_kinds(tmp_path):
    asked = []

    def draw(seeds):
        asked.extend(seeds.tolist())
        shape = (len(seeds), 2, 2, 1)
        return np.broadcast_to(seeds[:, None, None, None], shape).astype(
            np.uint8
        )

    settings = {"temperature": 0.7}
    write = lambda seeds: write_samples(draw, tmp_path, seeds, 3, settings)  # noqa: E731
    assert write(range(4)) == 4
    (tmp_path / "00000002.png").unlink()
    asked.clear()
    assert write(range(6)) == 3
    assert set(asked) == {2, 4, 5}
    assert write(range(6)) == 0
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == [*(f"{s:08d}.png" for s in range(6)), SETTINGS]
    for seed in range(6):
        with Image.open(tmp_path / f"{seed:08d}.png") as file:
            assert np.all(np.asarray(file) == seed)
    settings = {"temperature": 0.8}
    with pytest.raises(UserError, match=r"temperature \(0\.7 there, 0\.8"):
        write(range(9))


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"7", b"[" * 100_000])
def test_settings_that_cannot_be_read_are_told_of(tmp_path, content):
    (tmp_path / SETTINGS).write_bytes(content)
    with pytest.raises(UserError, match=r"sampling\.json.*name another folder"):
        write_samples(None, tmp_path, range(2), 1, {})
    assert [p.name for p in tmp_path.iterdir()] == [SETTINGS]


def test_own_folder_is_read_as_the_model_sees_images(tmp_path):
    config = make_config(tmp_path)
    # As high as the model's images: cropped, and nothing blurs the edge.
    bright = np.zeros((8, 12, 3), np.uint8)
    bright[:, 6:] = [255, 255, 254]
    folder = tmp_path / "pictures" / "deep"
    folder.mkdir(parents=True)
    Image.fromarray(bright).save(folder / "b.png")
    Image.fromarray(bright[:, ::-1]).save(tmp_path / "a.png")
    own = image_input.fit_own(config)
    source = image_input.open_images(
        own, [str(tmp_path / "pictures"), str(tmp_path / "a.png")]
    )
    x, _, numbers, *_ = image_input.read(source, own)
    assert x.shape == (2, 8, 8, 1)
    assert numbers.tolist() == [0, 1]
    assert source.describe(0).endswith("b.png")
    np.testing.assert_array_equal(x[0, :, :4], 0)
    np.testing.assert_array_equal(x[0, :, 4:], 1)
    np.testing.assert_array_equal(x[1], x[0, :, ::-1])


@pytest.mark.parametrize("kind", ["npy", "npz", "idx"])
def test_own_arrays_are_read_whole_and_in_order(tmp_path, kind):
    config = image_input.fit_own(make_config(tmp_path))
    array = np.zeros((30, 8, 8), np.uint8)
    for i in range(30):
        array[i].flat[i] = 255
    path = tmp_path / f"x.{kind}"
    if kind == "npy":
        np.save(path, array)
    elif kind == "npz":
        np.savez(path, array)
    else:
        path = tmp_path / "x-idx3-ubyte.gz"
        header = bytes([0, 0, 8, 3, *[0, 0, 0, 30], *[0, 0, 0, 8] * 2])
        path.write_bytes(gzip.compress(header + array.tobytes()))
    source = image_input.open_images(config, [str(path)])
    x = image_input.read(source, config).images
    np.testing.assert_array_equal(x[..., 0], array / 255)
    chosen = image_input.select(source, [7, 2])
    x = image_input.read(chosen, config).images
    np.testing.assert_array_equal(x[..., 0], array[[7, 2]] / 255)
    assert len(image_input.select(source, num=4)) == 4
    with pytest.raises(DataError, match=r"no image 30 .*--indices"):
        image_input.select(source, [30])


def test_images_that_are_chosen_look_as_among_all(tmp_path):
    config = make_config(tmp_path, data={"binarize": True})
    config = image_input.fit_own(config)
    np.save(tmp_path / "x.npy", np.full((6, 8, 8), 128, np.uint8))
    source = image_input.open_images(config, [str(tmp_path / "x.npy")])
    whole = image_input.read(source, config, seed=3).images
    # Gray: what each pixel becomes is drawn, for every image anew.
    assert len(np.unique(whole.reshape(6, -1), axis=0)) == 6
    for chosen in (
        image_input.select(source, [5, 2, 5]),
        LabelledSource(image_input.select(source, [5, 2, 5]), np.arange(3)),
        image_input.select(image_input.select(source, [2, 5]), [1, 0, 1]),
    ):
        batch = image_input.read(chosen, config, seed=3)
        assert batch.numbers.tolist() == [5, 2, 5]
        assert batch.places.tolist() == [0, 1, 2]
        np.testing.assert_array_equal(batch.images, whole[[5, 2, 5]])


def test_unreadable_own_images_are_left_out_where_the_run_allows_it(tmp_path):
    data = {"binarize": True, "skip_corrupt": True}
    config = image_input.fit_own(make_config(tmp_path, data=data))
    for name in "abc":
        Image.new("L", (8, 8)).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    source = image_input.open_images(config, [str(tmp_path)])
    (batch,) = image_input.stream(source, config, 4)
    assert batch.valid.tolist() == [True, False, True, False]
    numbers = image_input.read(source, config).numbers
    assert numbers.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["absent"], "absent, which does not exist"),
        (["notes.txt"], r"neither a folder nor a file.*\.png"),
        (["x.npy", "notes.txt"], "must be the only one"),
    ],
)
def test_own_images_that_are_none_are_refused(tmp_path, names, expected):
    (tmp_path / "notes.txt").write_text("no image")
    np.save(tmp_path / "x.npy", np.zeros((2, 8, 8), np.uint8))
    config = make_config(tmp_path)
    with pytest.raises(DataError, match=expected):
        image_input.open_images(config, [str(tmp_path / n) for n in names])


def test_batches_of_constant_size_leave_nothing_out():
    sizes = []

    def double(batch):
        sizes.append(len(batch))
        return 2 * batch

    result = image_input.in_batches(double, np.arange(7), 3)
    assert result.tolist() == [0, 2, 4, 6, 8, 10, 12]
    assert sizes == [3, 3, 3]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_words_stand_beside_images_and_leave_them_alone(channels):
    black = np.zeros((6, 40, 40, channels), np.uint8)
    sheet = captions.captioned_grid(black, list("abcdef"), columns=3)
    assert sheet.shape[1:] == (3 * 80 + 2 * 6, channels)
    np.testing.assert_array_equal(sheet[:80, :80], 0)
    below = sheet[80:90, :80, 0]
    assert below.min() < 128 < below.max()
    wide = captions.captioned_grid(black, ["a" * 40, *"bcdef"], columns=6)
    assert wide.shape[1] > 6 * 150
    pairs = captions.captioned_grid(black, list("abc"), 3, group=2)
    np.testing.assert_array_equal(pairs[:40, :80], 0)
    rows = captions.labelled_grid(black.reshape(2, 3, 40, 40, -1), ["x", "yy"])
    height, width = rows.shape[:2]
    assert height == 82
    np.testing.assert_array_equal(rows[:40, width - 40 :], 0)
    assert rows[:40, : width - 3 * 42, 0].min() < 128


def test_bounds_are_captioned_in_their_usual_unit():
    binary, colour = CONFIGS["padded"], CONFIGS["mixture"]
    assert captions.describe_bound(80.04, binary) == "80.0 nats"
    nats = 3.0 * math.log(2) * 192
    assert captions.describe_bound(nats, colour) == "3.00 bits/dim"


@pytest.mark.parametrize("channels", [1, 3])
def test_animation_shows_every_frame_without_end(tmp_path, channels):
    frames = np.zeros((3, 20, 20, channels), np.uint8)
    for i in range(3):
        frames[i, 5 * i : 5 * i + 5] = 255
    images.write_gif(tmp_path / "x.gif", frames, 10)
    with Image.open(tmp_path / "x.gif") as file:
        assert file.n_frames == 3
        assert file.info["loop"] == 0
        assert file.info["duration"] == 100
        for i in range(3):
            file.seek(i)
            shown = np.asarray(file.convert("L"))
            np.testing.assert_array_equal(shown, frames[i, ..., 0])


def test_enlarging_repeats_pixels():
    little = np.arange(6, dtype=np.uint8).reshape(1, 2, 3, 1)
    large = images.enlarged(little, 7)
    assert large.shape == (1, 6, 9, 1)
    np.testing.assert_array_equal(large[:, ::3, ::3], little)
    np.testing.assert_array_equal(images.enlarged(little, 3), little)
