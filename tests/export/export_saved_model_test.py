"""SavedModels: what is written, and that it does what the live model does."""

import errno
import functools
import json
import math
import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from nvae_tf.config import Config
from nvae_tf.core.errors import ExportError
from nvae_tf.distributions.likelihoods import pixel_distribution
from nvae_tf.export import parity, saved_model, serving_files
from nvae_tf.export.parity import Reference, difference
from nvae_tf.export.runners import SavedModelRunner
from nvae_tf.export.saved_model import export_saved_model
from nvae_tf.export.serving import ServedModel
from nvae_tf.export.source import Source
from nvae_tf.export.warmup import example_inputs, read_warmup
from tests.support import faults
from tests.support.export_cases import MODELS, REFERENCE, each_model, source
from tests.support.model_cases import random_model, small

pytestmark = pytest.mark.early

SIGNATURES = {
    "sample",
    "sample_float",
    "sample_png",
    "decode",
    "decode_noise",
    "interpolate",
    "encode",
    "encode_png",
    "reconstruct",
    "score",
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of a case's export, written when first asked for."""
    folder = tmp_path_factory.mktemp("models")

    def get(name: str) -> pathlib.Path:
        path = folder / name
        if not path.exists():
            export_saved_model(source(name), path, version=3)
        return path / "3"

    return get


@pytest.fixture
def traced_once(monkeypatch):
    """For tests of files: the plain VAE's graphs are the same every time."""
    monkeypatch.setattr(saved_model, "ServedModel", lambda _: _plain())


@functools.cache
def _plain():
    return ServedModel(source("plain_vae"))


@pytest.fixture(scope="module")
def served(exported):
    return SavedModelRunner(exported("served"))


def _draw(runner, seeds, temperature, name="sample_float"):
    """Draws at a temperature per image, or per image and group."""
    temperature = np.asarray(temperature, np.float32)
    if temperature.ndim == 1:
        _, groups = runner.inputs(name)["temperature"][1]
        temperature = np.repeat(temperature[:, None], groups, axis=1)
    given = {"seed": np.asarray(seeds), "temperature": temperature}
    return runner.run(name, given)


@each_model
def test_every_signature_agrees_with_the_live_model(exported, name):
    # Seeds and a temperature that the export did not check itself with.
    reference = Reference(source(name), (11, 12, 13), temperature=0.9)
    runner = SavedModelRunner(exported(name))
    assert set(runner.names) == SIGNATURES
    for signature in runner.names:
        inputs, expected = reference.ask(signature)
        taken = {k: inputs[k] for k in runner.inputs(signature)}
        outputs = runner.run(signature, taken)
        assert difference(outputs, expected, 1e-3) < 1e-4, signature


@pytest.mark.long
def test_samples_agree_with_the_authors_program(exported):
    name = "dmol_flow_one_scale"
    stored = np.load(REFERENCE / f"{name}.npz")
    config = source(name).config.model

    def nhwc(key):
        return stored[key].transpose(0, 2, 3, 1)

    eps = {f"eps_{i}": nhwc(f"eps/{i:02d}") for i in range(config.num_groups)}
    runner = SavedModelRunner(exported(name))
    given = {**eps, "temperature": np.full([2, config.num_groups], 0.7)}
    actual = runner.run("decode_noise", given)["mean"]
    inside = slice(config.padding, config.padding + config.image_size)
    expected = pixel_distribution(
        config.likelihood,
        nhwc("sample/logits_t0.7")[:, inside, inside],
        config.image_channels,
        config.num_bits,
    ).mean()
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_only_the_batch_which_comes_first_is_open(served):
    for name in served.names:
        for specs in (served.inputs(name), served.outputs(name)):
            for key, (_, shape) in specs.items():
                assert shape[0] is None, (name, key)
                assert None not in shape[1:], (name, key)


def test_default_signature_is_sample(exported, served):
    signatures = tf.saved_model.load(str(exported("served"))).signatures
    _, groups = served.inputs("sample")["temperature"][1]
    given = {
        "seed": tf.constant([4], tf.int64),
        "temperature": tf.fill([1, groups], 0.7),
    }
    np.testing.assert_array_equal(
        signatures["serving_default"](**given)["images"],
        signatures["sample"](**given)["images"],
    )


def test_row_is_the_same_in_any_order_and_batch(served):
    seeds, temperature = np.arange(16), np.linspace(0, 1, 16)
    images = _draw(served, seeds, temperature, "sample")["images"]
    order = np.random.default_rng(0).permutation(16)
    shuffled = _draw(served, seeds[order], temperature[order], "sample")
    np.testing.assert_array_equal(shuffled["images"], images[order])
    for rows in (slice(3, 4), slice(5, 8)):
        part = _draw(served, seeds[rows], temperature[rows], "sample")["images"]
        assert np.abs(part.astype(int) - images[rows]).max() <= 1


def test_seeds_draw_different_images(served):
    images = _draw(served, [1, 2, -1, 2**40], [1.0] * 4)["images"]
    assert len(np.unique(images.reshape(4, -1), axis=0)) == 4


def test_temperature_per_group_is_that_of_all_groups_when_equal(served):
    groups = source("served").config.model.num_groups
    one = _draw(served, [1, 2], [0.5, 0.8])
    each = _draw(served, [1, 2], np.repeat([[0.5], [0.8]], groups, axis=1))
    np.testing.assert_array_equal(one["images"], each["images"])
    first_only = np.ones([2, groups])
    first_only[:, 0] = 0.1
    other = _draw(served, [1, 2], first_only)["mean"]
    assert not np.allclose(other, _draw(served, [1, 2], [1, 1])["mean"])


def test_interpolation_ends_at_its_draws(served):
    groups = source("served").config.model.num_groups
    ends = served.run(
        "interpolate",
        {
            "seed_a": np.array([5, 5]),
            "seed_b": np.array([6, 6]),
            "t": np.array([0.0, 1.0]),
            "temperature": np.full([2, groups], 0.7),
        },
    )["mean"]
    draws = _draw(served, [5, 6], [0.7, 0.7])["mean"]
    np.testing.assert_allclose(ends, draws, atol=1e-5)


def test_decoding_what_was_encoded_reconstructs(served):
    images = _draw(served, [1, 2], [1.0, 1.0], "sample")["images"]
    encoded = served.run("encode", {"images": images})
    latents = {k: v for k, v in encoded.items() if k.startswith("z_")}
    decoded = served.run("decode", latents)["mean"]
    # The sample in `encode` is that of seed 0.
    given = {"images": images, "seed": np.zeros(2, np.int64)}
    np.testing.assert_allclose(
        decoded, served.run("reconstruct", given)["mean"], atol=1e-5
    )


@pytest.mark.parametrize("shape", [(2,), (2, 1), (2, 9), (2, 2, 1), (1, 2)])
def test_temperature_of_another_shape_is_refused(served, shape):
    given = {"seed": np.arange(2), "temperature": np.ones(shape)}
    with pytest.raises((tf.errors.InvalidArgumentError, TypeError)):
        served.run("sample", given)


@pytest.mark.parametrize("name", sorted(SIGNATURES))
def test_inputs_of_different_lengths_are_an_invalid_argument(served, name):
    inputs = example_inputs(served.inputs(name), 3, (8, 8, 3))
    for key in inputs if len(inputs) > 1 else ():
        shorter = {**inputs, key: inputs[key][:1]}
        with pytest.raises(
            tf.errors.InvalidArgumentError, match="same number of rows"
        ):
            served.run(name, shorter)


def test_warmup_requests_run(exported, served):
    requests = read_warmup(exported("served"))
    names = [name for name, _ in requests]
    assert sorted(names) == sorted([*SIGNATURES] * 2)
    rows = set()
    for name, inputs in requests:
        outputs = served.run(name, inputs)
        rows |= {len(value) for value in outputs.values()}
    assert rows == {1, 8}


def test_metadata_and_card_describe_the_export(exported):
    folder = exported("served")
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["step"] == 7
    assert metadata["temperature"] == 0.7
    dimensions = 8 * 8 * 3
    assert metadata["bits_per_dim"] == pytest.approx(
        123.4 / np.log(2) / dimensions
    )
    assert set(metadata["signatures"]) == SIGNATURES
    card = (folder / "README.md").read_text()
    for word in ("123.40 nats", "bias", "Licence", "0.7", "moving averages"):
        assert word in card


def test_serving_files_name_the_model(exported):
    folder = exported("served").parent
    config = text_format.Parse(
        (folder / "models.config").read_text(),
        model_server_config_pb2.ModelServerConfig(),
    )
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path) == ("served", "/models/served")
    compose = (folder / "docker-compose.yml").read_text()
    for path in re.findall(r"=/models/served/(\S+)", compose):
        assert (folder / path).is_file()
    batching = (folder / "batching_parameters.txt").read_text()
    assert re.search(r"^max_batch_size \{ value: \d+ \}$", batching, re.M)


@pytest.mark.usefixtures("traced_once")
def test_versions_count_up_and_adapted_files_stay(tmp_path):
    output = tmp_path / "nvae"
    (output / "12").mkdir(parents=True)
    (output / "models.config").write_text("mine")
    path = export_saved_model(
        source("plain_vae"), output, warmup_batch_sizes=()
    )
    assert path == output / "13"
    assert (output / "models.config").read_text() == "mine"
    assert not (path / "assets.extra").exists()


@pytest.mark.parametrize("error_number", [errno.ENOSPC, errno.EROFS])
def test_serving_files_are_whole_or_absent_and_then_made_up_for(
    tmp_path, error_number
):
    def write():
        return serving_files.write_serving_files(tmp_path / "nvae")

    (tmp_path / "nvae").mkdir()
    whole = {}
    numbers = faults.numbers_of_calls(
        lambda: whole.update((p.name, p.read_bytes()) for p in write())
    )
    assert len(whole) == 4
    for number in numbers:
        for path in (tmp_path / "nvae").iterdir():
            path.unlink()
        with faults.disk(number, error_number):
            with pytest.raises(ExportError, match="Cannot write"):
                write()
        for path in (tmp_path / "nvae").iterdir():
            assert path.read_bytes() == whole[path.name]
        write()
        assert {
            p.name: p.read_bytes() for p in (tmp_path / "nvae").iterdir()
        } == whole


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_serving_file_that_breaks_off_is_no_adapted_one(tmp_path, share):
    first = serving_files.write_serving_files(tmp_path)
    for path in first:
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
    assert serving_files.write_serving_files(tmp_path) == first
    assert serving_files.write_serving_files(tmp_path) == []
    first[0].write_text("# mine")
    assert serving_files.write_serving_files(tmp_path) == []


@pytest.mark.usefixtures("traced_once")
# Room for the serving files, or not even for the smallest.
@pytest.mark.parametrize("size", [20_000, 100])
def test_disk_without_room_leaves_no_version(tmp_path, size):
    output = tmp_path / "nvae"
    with faults.file_limit(size):
        with pytest.raises(ExportError, match=r"Cannot write .*too large"):
            export_saved_model(
                source("plain_vae"), output, warmup_batch_sizes=()
            )
    assert not [*output.iterdir()]


@pytest.mark.usefixtures("traced_once")
def test_existing_version_is_refused_or_replaced_whole(tmp_path):
    output = tmp_path / "nvae"
    (output / "3").mkdir(parents=True)
    (output / "4").mkdir()
    (output / "3" / "precious").touch()
    with pytest.raises(ExportError, match="exists already"):
        export_saved_model(source("plain_vae"), output, version=3)
    with pytest.raises(ExportError, match="not a SavedModel, so it is not"):
        export_saved_model(
            source("plain_vae"), output, version=3, overwrite=True
        )
    assert [p.name for p in (output / "3").iterdir()] == ["precious"]
    (output / "3" / "saved_model.pb").touch()
    export_saved_model(source("plain_vae"), output, version=3, overwrite=True)
    assert not (output / "3" / "precious").exists()
    assert (output / "3" / "saved_model.pb").stat().st_size


@pytest.mark.usefixtures("traced_once")
@pytest.mark.parametrize("overwrite", [False, True])
def test_failed_export_leaves_everything_as_it_was(
    tmp_path, monkeypatch, overwrite
):
    output = tmp_path / "nvae"
    if overwrite:
        (output / "2").mkdir(parents=True)
        (output / "1").mkdir(parents=True)
        (output / "1" / "saved_model.pb").touch()

    def fail(*_):
        raise ExportError("differs")

    monkeypatch.setattr(saved_model, "check", fail)
    with pytest.raises(ExportError, match="differs"):
        export_saved_model(
            source("plain_vae"), output, version=1, overwrite=overwrite
        )
    left = [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")]
    before = ["nvae", "nvae/1", "nvae/1/saved_model.pb", "nvae/2"]
    assert sorted(left) == (before if overwrite else ["nvae"])


@pytest.mark.usefixtures("traced_once")
def test_export_that_differs_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(parity, "_levels", lambda x: np.uint8(x < 0.5))
    with pytest.raises(ExportError, match="differs from the live model"):
        export_saved_model(source("plain_vae"), tmp_path / "nvae")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 0}, "must be positive"),
        ({"temperature": -1.0}, "finite and not negative"),
        ({"temperature": math.inf}, "finite and not negative"),
        ({"temperature": math.nan}, "finite and not negative"),
        ({"output": "a b"}, "letters"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, changes, message):
    output = tmp_path / changes.pop("output", "nvae")
    with pytest.raises(ExportError, match=message):
        export_saved_model(source("plain_vae"), output, **changes)
    assert not output.exists()


def test_folder_of_a_run_takes_no_versions(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ExportError, match="a run or of a pretrained model"):
        export_saved_model(source("plain_vae"), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.long
def test_given_parameters_are_what_is_exported(tmp_path):
    base = source("plain_vae")
    params = tf.nest.map_structure(lambda t: 0.5 * t, base.model.read_params())
    halved = Source(base.model, base.config, params=params)
    path = export_saved_model(halved, tmp_path / "nvae", warmup_batch_sizes=())
    runner = SavedModelRunner(path)
    inputs, expected = Reference(halved).ask("decode")
    mean = runner.run("decode", inputs)["mean"]
    np.testing.assert_allclose(mean, expected["mean"], atol=1e-5)
    other = Reference(base).ask("decode")[1]["mean"]
    assert not np.allclose(mean, other, atol=1e-2)


@pytest.mark.long
def test_half_precision_model_is_exported_in_float32(tmp_path):
    config = source("plain_vae").config
    model = random_model(MODELS["plain_vae"], dtype="mixed_bfloat16")
    path = export_saved_model(Source(model, config), tmp_path / "nvae")
    inputs, expected = Reference(source("plain_vae")).ask("decode")
    mean = SavedModelRunner(path).run("decode", inputs)["mean"]
    np.testing.assert_allclose(mean, expected["mean"], atol=1e-5)


def test_large_weights_become_variables_that_compute_the_same(tmp_path):
    base = source("plain_vae")
    served = ServedModel(base, max_constant_bytes=0)
    served.save(str(tmp_path / "1"))
    assert served.module.weights
    assert not _plain().module.weights
    inputs, expected = Reference(base).ask("sample_float")
    outputs = _draw(
        SavedModelRunner(tmp_path / "1"), inputs["seed"], inputs["temperature"]
    )
    assert difference(outputs, expected, 0) < 1e-5


def test_graph_has_no_trace_of_weight_normalisation():
    base = source("plain_vae")
    graph = ServedModel(base).signatures["sample"].graph
    functions = graph.as_graph_def().library.function
    kinds = {n.op for f in functions for n in f.node_def}
    assert "Conv2D" in kinds
    assert not kinds & {"FusedBatchNormV3", "Rsqrt", "Norm"}


def test_images_that_png_does_not_know_have_no_png_signatures():
    config = small(
        num_latent_scales=1,
        num_groups_per_scale=1,
        image_channels=2,
        likelihood="normal",
        num_bits=8,
    )
    base = Source(random_model(config), Config(model=config))
    names = set(ServedModel(base).signatures) - {"serving_default"}
    assert names == SIGNATURES - {"sample_png", "encode_png"}
