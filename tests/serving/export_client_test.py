"""The client, against servers with TF Serving's protocols."""

import contextlib
import csv
import os
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from nvae_tf.core.errors import ClientError, UserError
from nvae_tf.datasets import image_input
from nvae_tf.datasets.folder import decode_image
from nvae_tf.export.parity import Reference
from nvae_tf.export.runners import SavedModelRunner
from nvae_tf.export.served.row_status import OUTPUT
from nvae_tf.serving.client import Client
from nvae_tf.serving.grpc_predictor import GrpcPredictor
from nvae_tf.serving.predictor import Place
from nvae_tf.serving.rest_predictor import RestPredictor
from tests.support.export_cases import source
from tests.support.export_servers import Backend, serve_grpc, serve_rest
from tests.support.in_process import run as nvae
from tests.support.shared_exports import saved_model

AWAY = tf.errors.UnavailableError
BUSY = tf.errors.ResourceExhaustedError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved_model("served", tmp_path_factory)


@pytest.fixture(scope="module")
def runner(folder):
    return SavedModelRunner(folder)


@pytest.fixture(scope="module")
def shared_backend(folder):
    return Backend(folder)


@pytest.fixture(scope="module")
def servers(shared_backend):
    with (
        serve_grpc(shared_backend) as target,
        serve_rest(shared_backend) as url,
    ):
        yield {"grpc": target, "rest": url}


@pytest.fixture
def backend(shared_backend):
    yield shared_backend
    shared_backend.failures.clear()
    shared_backend.delay = 0.0


@pytest.fixture(params=["grpc", "rest"])
def predictor(request, servers):
    kind = {"grpc": GrpcPredictor, "rest": RestPredictor}[request.param]
    made = kind(servers[request.param], timeout=30)
    yield made
    made.close()


def _expected_draw(runner, seeds, temperature=0.7):
    _, groups = runner.inputs("sample")["temperature"][1]
    temperature = np.full([len(seeds), groups], temperature)
    given = {"seed": np.array(seeds), "temperature": temperature}
    return runner.run("sample", given)["images"]


def test_metadata_describes_every_signature(predictor, runner):
    signatures = predictor.signatures()
    assert set(signatures) - {"serving_default"} == set(runner.names)
    for name in runner.names:
        assert signatures[name]["inputs"] == runner.inputs(name)
        assert signatures[name]["outputs"] == runner.outputs(name)


def test_every_signature_answers_as_in_this_process(predictor, runner):
    reference = Reference(source("served"))
    for name in runner.names:
        inputs, _ = reference.ask(name)
        given = {key: inputs[key] for key in runner.inputs(name)}
        actual = predictor.predict(name, given)
        for key, value in runner.run(name, given).items():
            assert actual[key].dtype == value.dtype
            np.testing.assert_array_equal(actual[key], value, err_msg=key)


def test_client_splits_requests_and_keeps_their_order(predictor, runner):
    client = Client(predictor, batch_size=3)
    assert client.image_shape == (8, 8, 3)
    images = client.sample(range(10), 0.7)
    np.testing.assert_array_equal(images, _expected_draw(runner, range(10)))
    for same in ([0.7] * client.num_groups, [[0.7], [0.7]]):
        np.testing.assert_array_equal(client.sample([1, 2], same), images[1:3])
    scores = client.score(images, np.arange(10))
    given = {"images": images, "seed": np.arange(10)}
    expected = runner.run("score", given)
    assert set(scores) == set(expected) - {OUTPUT}
    for name, value in scores.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5)
    np.testing.assert_array_equal(
        client.reconstruct(images, np.arange(10)),
        runner.run("reconstruct", given)["images"],
    )


def test_one_axis_of_temperatures_is_of_groups(predictor, runner):
    client = Client(predictor, batch_size=2)
    groups = client.num_groups
    t = np.linspace(0.2, 0.9, groups, dtype=np.float32)
    given = {"seed": np.arange(groups), "temperature": np.tile(t, [groups, 1])}
    np.testing.assert_array_equal(
        client.sample(range(groups), t), runner.run("sample", given)["images"]
    )
    given["temperature"] = np.repeat(t[:, None], groups, axis=1)
    np.testing.assert_array_equal(
        client.sample(range(groups), t[:, None]),
        runner.run("sample", given)["images"],
    )


@pytest.mark.parametrize("further", [-1, 1])
def test_temperature_of_another_length_is_refused(predictor, further):
    client = Client(predictor)
    temperature = [0.5] * (client.num_groups + further)
    for wrong in (temperature, [[0.5]] * 2):
        with pytest.raises(ClientError, match="one per latent group"):
            client.sample([1], wrong)


@pytest.mark.parametrize("failure", [AWAY, BUSY])
def test_busy_server_is_asked_again(predictor, backend, runner, failure):
    client = Client(predictor)
    backend.failures += [failure, failure]
    np.testing.assert_array_equal(
        client.sample([3]), _expected_draw(runner, [3])
    )
    assert not backend.failures


def test_server_that_stays_busy_is_given_up(servers, backend):
    backend.failures += [AWAY] * 9
    predictor = GrpcPredictor(servers["grpc"], retries=2)
    with pytest.raises(ClientError, match="told to fail"):
        predictor.signatures()
    predictor.close()
    assert len(backend.failures) == 6


@pytest.mark.parametrize("failure", [AWAY, BUSY])
def test_busy_server_is_told_from_an_absent_one(servers, backend, failure):
    for kind, name in ((GrpcPredictor, "grpc"), (RestPredictor, "rest")):
        backend.failures.append(failure)
        predictor = kind(servers[name], retries=0)
        with pytest.raises(ClientError, match=r"is busy .*told to fail"):
            predictor.signatures()
        predictor.close()


@pytest.mark.parametrize("kind", [GrpcPredictor, RestPredictor])
def test_slow_server_is_given_up_in_time(servers, backend, kind):
    address = servers["grpc" if kind is GrpcPredictor else "rest"]
    backend.delay = 2.0
    predictor = kind(address, timeout=0.5)
    start = time.monotonic()
    with pytest.raises(ClientError, match=r"within 0\.5 s"):
        predictor.signatures()
    predictor.close()
    assert time.monotonic() - start < 1.5


@pytest.mark.parametrize(
    ("kind", "address"),
    [(GrpcPredictor, "127.0.0.1:1"), (RestPredictor, "http://127.0.0.1:1")],
)
def test_absent_server_is_named(kind, address):
    predictor = kind(address, timeout=2, retries=1)
    with pytest.raises(ClientError, match=f"No server answers at {address}"):
        predictor.signatures()
    predictor.close()


def test_unknown_model_is_named(servers):
    for kind, key in ((GrpcPredictor, "grpc"), (RestPredictor, "rest")):
        predictor = kind(servers[key], Place("nave"))
        with pytest.raises(ClientError, match="nave"):
            predictor.signatures()
        predictor.close()


def test_wrong_request_is_explained_and_the_server_stays_up(
    predictor, runner, backend
):
    for name, inputs, message in (
        (
            "sample",
            {"seed": np.array([1]), "temperature": np.float32([1])},
            "not compatible with expected shape",
        ),
        ("sampel", {"seed": np.array([1])}, "sampel"),
    ):
        asked = backend.requests
        with pytest.raises(ClientError, match=message):
            predictor.predict(name, inputs)
        # Once, besides for the metadata: it will not get better.
        assert backend.requests <= asked + 2
    np.testing.assert_array_equal(
        Client(predictor).sample([3]), _expected_draw(runner, [3])
    )


def test_row_that_was_not_served_is_an_error(predictor, monkeypatch):
    # Ours would not send it.
    monkeypatch.setattr(
        "nvae_tf.serving.client.as_rows", lambda t, *_: np.float32(t)
    )
    asking = Client(predictor, batch_size=2)
    with pytest.raises(
        ClientError, match=r"did not serve row 2 \(status 1\): the temperature"
    ):
        asking.sample([1, 2, 3], [[1.0], [1.0], [-1.0]])
    assert asking.sample([1, 2], [[1.0], [1.0]]).shape == (2, 8, 8, 3)


def test_outputs_that_nobody_wants_do_not_travel(predictor, backend):
    asking = Client(predictor)
    images = asking.sample([1, 2])
    backend.filters.clear()
    asking.reconstruct(images, [1, 2])
    asking.score(images, [1, 2])
    is_grpc = isinstance(predictor, GrpcPredictor)
    # REST has no filter; and who wants all outputs has the queue of all.
    assert backend.filters == [("images", "status") if is_grpc else (), ()]
    answer = predictor.predict("sample_float", _GIVEN, ["mean", "status"])
    assert sorted(answer) == ["mean", "status"]


_GIVEN = {"seed": np.arange(2), "temperature": np.ones([2, 2], np.float32)}


@pytest.mark.parametrize("kind", ["grpc", "rest"])
def test_version_may_have_a_label(folder, kind):
    backend = Backend(folder, labels={"stable": 1, "next": 2})
    serve, make = {
        "grpc": (serve_grpc, GrpcPredictor),
        "rest": (serve_rest, RestPredictor),
    }[kind]
    with serve(backend) as address:
        for place, message in (
            (Place(version=1), None),
            (Place(label="stable"), None),
            (Place(version=2), "Servable not found"),
            (Place(label="next"), "Servable not found"),
            (Place(label="no/such"), "version label: no"),
        ):
            with contextlib.closing(make(address, place)) as predictor:
                if message is None:
                    assert Client(predictor).sample([1]).shape == (1, 8, 8, 3)
                    continue
                with pytest.raises(ClientError, match=message):
                    predictor.signatures()
    with pytest.raises(ClientError, match="one of them"):
        Place(version=1, label="stable")


def _command(servers, kind, name, *arguments):
    flag = {"grpc": "--target", "rest": "--rest"}[kind]
    nvae(f"client {name}", f"{flag}={servers[kind]}", *arguments)


@pytest.mark.parametrize("kind", ["grpc", "rest"])
def test_commands_sample_reconstruct_and_score(
    servers, runner, tmp_path, capsys, kind
):
    folder = tmp_path / "drawn"
    _command(
        servers, kind, "sample", "--num=3", "--seed=5", f"--output={folder}/"
    )
    names = [f"seed_{seed}.png" for seed in (5, 6, 7)]
    assert sorted(p.name for p in folder.iterdir()) == names
    images = np.stack([decode_image(folder / n) for n in names])
    np.testing.assert_array_equal(images, _expected_draw(runner, [5, 6, 7]))

    grid = tmp_path / "grid.png"
    _command(servers, kind, "sample", "--num=4", f"--output={grid}")
    with Image.open(grid) as image:
        assert image.size == (18, 18)

    pairs = tmp_path / "pairs"
    _command(
        servers,
        kind,
        "reconstruct",
        f"--images={folder}",
        f"--output={pairs}/",
    )
    assert sorted(p.name for p in pairs.iterdir()) == names

    table = tmp_path / "scores.csv"
    _command(servers, kind, "score", f"--images={folder}", f"--output={table}")
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    expected = runner.run(
        "score", {"images": images, "seed": np.zeros(3, np.int64)}
    )
    np.testing.assert_allclose(
        [float(row["nelbo"]) for row in rows], expected["nelbo"], rtol=1e-4
    )
    assert "mean of 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["score", "--images=absent.png"], "absent.png, which does not exist"),
        (["score", "--images=empty"], "no images in empty"),
        (["score", "--images=bad.png"], "bad.png cannot be read as an image"),
        (["score", "--images=large.png", "--resize=none"], "resize"),
        (["score"], "--images"),
        (["sample", "--temperature=-1", "--num=1"], "not negative"),
        (["sample", "--temperature=cold"], "--temperature holds 'cold'"),
    ],
)
def test_commands_explain_mistakes(
    servers, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.png").write_bytes(b"no image")
    Image.new("L", (9, 7)).save(tmp_path / "large.png")
    with pytest.raises(UserError, match=message):
        _command(servers, "grpc", *arguments)


def test_photos_are_scored_as_they_are_encoded_elsewhere(
    servers, runner, tmp_path, capsys
):
    # Lying on its side by EXIF, transparent, and no square.
    pixels = np.random.default_rng(0).integers(0, 256, (9, 14, 4), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path, exif=exif)
    config = image_input.fit_own(source("served").config)
    photo = image_input.open_images(config, [str(path)])[0]
    expected = runner.run(
        "score", {"images": photo[None], "seed": np.zeros(1, np.int64)}
    )
    _command(servers, "grpc", "score", f"--images={path}")
    printed = float(capsys.readouterr().out.splitlines()[1].split()[0])
    assert printed == pytest.approx(expected["nelbo"][0], abs=0.01)


@pytest.mark.skipif(
    "TF_SERVING_TARGET" not in os.environ, reason="needs a server"
)
def test_real_server_serves_the_same_rows_in_any_batch():
    model = os.environ.get("TF_SERVING_MODEL", "nvae")
    predictor = GrpcPredictor(os.environ["TF_SERVING_TARGET"], Place(model))
    asking = Client(predictor, batch_size=4)
    images = asking.sample(range(6), 0.7)
    alone = asking.sample([5], 0.7)
    scores = asking.score(images, np.arange(6))
    predictor.close()
    assert np.mean(np.abs(images[5:].astype(int) - alone) > 1) < 1e-3
    assert np.all(np.isfinite(scores["nelbo"]))
