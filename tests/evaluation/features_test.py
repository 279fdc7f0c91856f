"""Feature networks of every kind, and how images are brought to them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from nvae_tf.core.errors import ConfigError, DataError
from nvae_tf.evaluation.features import FeatureNetwork, load_features
from tests.support.feature_graphs import write_inception_graph

# Keras reads its own variables in a way that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)
_IMAGES = np.random.default_rng(0).integers(
    0, 256, (5, 8, 8, 1), dtype=np.uint8
)


class _Module(tf.Module):
    """Mean and weighted mean of every image, in several outputs."""

    def __init__(self, shape, dtype):
        super().__init__()
        self.weight = tf.Variable(2.0)
        spec = tf.TensorSpec(shape, dtype, name="images")
        self.run = tf.function(self._run, input_signature=[spec])

    def _run(self, images):
        x = tf.cast(images, tf.float32)
        return {
            "map": tf.concat([x, self.weight * x], axis=-1),
            "vector": tf.reduce_mean(x, axis=[1, 2]),
        }


def _save(path, shape, dtype=tf.float32):
    module = _Module(shape, dtype)
    tf.saved_model.save(module, str(path), signatures=module.run)
    return str(path)


@pytest.fixture(scope="module")
def float_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("float")
    return _save(folder, [None, 8, 8, 3])


def test_saved_model_gets_floats_from_0_to_1_and_its_channels(float_model):
    network = load_features(float_model, "vector")
    features = network.extract([_IMAGES[:3], _IMAGES[3:]])
    means = _IMAGES.mean(axis=(1, 2)) / 255
    np.testing.assert_allclose(features, np.repeat(means, 3, axis=1), 1e-5)
    assert features.dtype == np.float32


def test_feature_maps_are_averaged_over_space(float_model):
    features = load_features(float_model, "map").extract([_IMAGES])
    assert features.shape == (5, 6)
    np.testing.assert_allclose(features[:, 3:], 2 * features[:, :3], 1e-5)


def test_output_has_to_be_named_where_there_are_several(float_model):
    for output in ("", "logits"):
        with pytest.raises(ConfigError, match="map, vector"):
            load_features(float_model, output)


def test_saved_model_of_bytes_gets_the_bytes(tmp_path):
    path = _save(tmp_path / "m", [None, None, None, 1], tf.uint8)
    features = load_features(path, "vector").extract([_IMAGES])
    np.testing.assert_allclose(features, _IMAGES.mean(axis=(1, 2)), 1e-5)


def test_colours_do_not_go_through_a_gray_network(tmp_path):
    path = _save(tmp_path / "m", [None, None, None, 1], tf.uint8)
    colours = np.repeat(_IMAGES, 3, axis=-1)
    with pytest.raises(DataError, match="images of 1 channels, but these have"):
        load_features(path, "vector").extract([colours])
    with pytest.raises(DataError, match="no images"):
        load_features(path, "vector").extract([])


@pytest.fixture(scope="module")
def keras_file(tmp_path_factory):
    x = images = keras.Input((4, 4, 1))
    x = keras.layers.Conv2D(6, 3, name="convolution")(x)
    x = keras.layers.Flatten(name="flat")(x)
    x = keras.layers.Dense(3, name="logits")(x)
    path = tmp_path_factory.mktemp("keras") / "network.keras"
    keras.Model(images, x).save(path)
    return str(path)


def test_images_are_scaled_with_antialiasing_to_a_fixed_size(keras_file):
    network = load_features(keras_file, "flat")
    features = network.extract([_IMAGES])
    assert features.shape == (5, 24)
    scaled = [
        np.asarray(
            Image.fromarray(image[..., 0].astype(np.float32)).resize(
                (4, 4), Image.Resampling.BILINEAR
            )
        )[..., None]
        for image in _IMAGES
    ]
    direct = keras.saving.load_model(keras_file)
    inner = keras.Model(direct.inputs[0], direct.get_layer("flat").output)
    expected = inner(np.stack(scaled) / 255)
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-4)


def test_layers_of_a_keras_network_tell_different_networks(keras_file):
    whole, part = load_features(keras_file), load_features(keras_file, "flat")
    assert whole.extract([_IMAGES]).shape == (5, 3)
    assert whole.fingerprint == load_features(keras_file).fingerprint
    assert whole.fingerprint != part.fingerprint
    with pytest.raises(ConfigError, match="convolution, flat, logits"):
        load_features(keras_file, "pool")


def test_frozen_inception_graph_gets_images_as_they_are(tmp_path):
    path = write_inception_graph(tmp_path / "graph.pb")
    features = load_features(str(path)).extract([_IMAGES, _IMAGES[:2]])
    assert features.shape == (7, 3)
    resized = tf.compat.v1.image.resize_bilinear(
        tf.constant(_IMAGES, tf.float32), [6, 6]
    )
    expected = (resized.numpy().mean(axis=(1, 2)) - 128) / 128
    np.testing.assert_allclose(
        features[:5], np.repeat(expected, 3, axis=1), rtol=1e-4, atol=1e-6
    )
    path.write_bytes(b"not a graph")
    with pytest.raises(DataError, match="frozen graph"):
        load_features(str(path))


@pytest.mark.parametrize("layers", [(), ("softmax",), ("mixed_10/join",)])
def test_other_frozen_graphs_give_no_fid(tmp_path, layers):
    whole = write_inception_graph(tmp_path / "whole.pb")
    assert load_features(str(whole)).gives_fid
    # The name of the file says nothing.
    path = tmp_path / "classify_image_graph_def.pb"
    write_inception_graph(path, layers)
    assert not load_features(str(path)).gives_fid


def test_other_networks_give_no_fid(keras_file, float_model):
    assert not load_features(keras_file).gives_fid
    assert not load_features(float_model, "vector").gives_fid


def test_inception_that_cannot_be_downloaded_says_what_to_do(monkeypatch):
    def refuse(**_):
        raise Exception("URL fetch failure: no network")

    monkeypatch.setattr(keras.applications, "InceptionV3", refuse)
    with pytest.raises(DataError, match=r"URL fetch failure.*FILE\.h5"):
        load_features("inception")


def test_inception_sees_299_pixels_from_minus_1_to_1(monkeypatch, tmp_path):
    made = {}

    def small(include_top, weights, pooling):
        made.update(top=include_top, weights=weights, pooling=pooling)
        images = keras.Input((None, None, 3))
        corner = keras.layers.Lambda(lambda x: x[:, 0, 0])(images)
        return keras.Model(images, corner)

    monkeypatch.setattr(keras.applications, "InceptionV3", small)
    weights = tmp_path / "inception_notop.h5"
    weights.touch()
    network = load_features(str(weights))
    assert made == {"top": False, "weights": str(weights), "pooling": "avg"}
    assert (network.height, network.width) == (299, 299)
    # Its weights are not those of published FIDs.
    assert not network.gives_fid
    levels = np.zeros((2, 8, 8, 1), np.uint8)
    levels[1] = 255
    features = network.extract([levels])
    np.testing.assert_allclose(features, [[-1] * 3, [1] * 3], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "no such file or folder"),
        ("nothing.h5", "no such file"),
        ("text.txt", "neither a folder nor"),
        ("text.keras", "cannot be loaded"),
        ("folder", "cannot be loaded"),
    ],
)
def test_what_is_no_network_is_named(tmp_path, name, message):
    (tmp_path / "folder").mkdir()
    for file in ("text.txt", "text.keras"):
        (tmp_path / file).write_text("text")
    path = tmp_path / name
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        load_features(str(path))
    assert f"--features={path}" in str(caught.value)


def test_features_are_those_of_float32_whatever_is_drawn_in():
    experimental = tf.config.experimental
    seen = []

    def function(images):
        seen.append(experimental.tensor_float_32_execution_enabled())
        return tf.reduce_mean(images, axis=[1, 2])

    network = FeatureNetwork("test", "fingerprint", function)
    experimental.enable_tensor_float_32_execution(True)
    try:
        network.extract([np.zeros((2, 4, 4, 3), np.uint8)])
        assert experimental.tensor_float_32_execution_enabled()
    finally:
        experimental.enable_tensor_float_32_execution(False)
    assert seen == [False]
