"""Requests of strangers that a server merges, some of them hostile."""

import base64
import concurrent.futures
import contextlib
import http.client
import json
import urllib.parse

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.core.errors import ClientError
from nvae_tf.export.runners import SavedModelRunner
from nvae_tf.export.served.row_status import OUTPUT, RowStatus
from nvae_tf.sampling.images import encode_png
from nvae_tf.serving.client import Client
from nvae_tf.serving.grpc_predictor import GrpcPredictor
from nvae_tf.serving.rest_predictor import RestPredictor
from tests.support.export_servers import Backend, serve_grpc, serve_rest
from tests.support.shared_exports import saved_model

_KINDS = {"grpc": GrpcPredictor, "rest": RestPredictor}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved_model("served", tmp_path_factory)


@pytest.fixture(scope="module")
def runner(folder):
    return SavedModelRunner(folder)


@pytest.fixture(scope="module")
def groups(runner):
    return runner.inputs("sample")["temperature"][1][1]


@contextlib.contextmanager
def _serving(folder, **options):
    backend = Backend(folder, **options)
    with serve_grpc(backend) as target, serve_rest(backend) as url:
        yield backend, {"grpc": target, "rest": url}


def _alone(runner, groups, seed):
    """The image of a seed, drawn by itself."""
    given = {"seed": [seed], "temperature": np.full([1, groups], 0.7)}
    return runner.run("sample", given)["images"][0]


def _at_once(jobs):
    """What functions return or raise that are called side by side."""
    with concurrent.futures.ThreadPoolExecutor(len(jobs)) as pool:
        futures = [pool.submit(job) for job in jobs]
        concurrent.futures.wait(futures)
    return [f.exception() or f.result() for f in futures]


@pytest.mark.parametrize("kind", ["grpc", "rest"])
def test_bad_row_fails_nobody_else_in_its_batch(folder, runner, groups, kind):
    temperatures = [0.7, -1.0, 0.7, np.nan, 0.7, np.inf, 0.7, 3e38]
    with _serving(folder, window=0.5) as (backend, addresses):
        with contextlib.closing(_KINDS[kind](addresses[kind])) as predictor:
            predictor.signatures()

            def ask(seed, temperature):
                t = np.full([1, groups], temperature, np.float32)
                given = {"seed": np.array([seed]), "temperature": t}
                return lambda: predictor.predict("sample", given)

            answers = _at_once(
                [ask(seed, t) for seed, t in enumerate(temperatures)]
            )
    assert max(backend.merged) > 1
    bad = [RowStatus.BAD_TEMPERATURE] * 3 + [RowStatus.OVERFLOW]
    assert [a[OUTPUT].tolist() for a in answers[1::2]] == [[b] for b in bad]
    for seed, answer in enumerate(answers):
        if seed % 2 == 0:
            assert answer[OUTPUT].tolist() == [RowStatus.SERVED]
            np.testing.assert_array_equal(
                answer["images"][0], _alone(runner, groups, seed)
            )


def test_bad_png_fails_nobody_else_in_its_batch(folder, runner, groups):
    image = _alone(runner, groups, 1)
    expected = runner.run("encode", {"images": image[None]})
    with _serving(folder, window=0.5) as (backend, addresses):
        with contextlib.closing(GrpcPredictor(addresses["grpc"])) as predictor:

            def ask(content):
                given = {"png_bytes": np.array([content], object)}
                return lambda: predictor.predict("encode_png", given)

            contents = [encode_png(image), b"no image", encode_png(image[:4])]
            good, *bad = _at_once([ask(content) for content in contents])
    assert max(backend.merged) > 1
    codes = [RowStatus.NOT_PNG, RowStatus.WRONG_SIZE]
    assert [answer[OUTPUT].tolist() for answer in bad] == [[c] for c in codes]
    assert good[OUTPUT].tolist() == [RowStatus.SERVED]
    for name, value in expected.items():
        np.testing.assert_allclose(good[name], value, atol=1e-5)


def test_clients_of_a_batching_server_get_their_own_images(folder, runner):
    seeds = np.arange(64).reshape(8, 4, 2)
    with _serving(folder, window=0.02) as (backend, addresses):

        def work(requests):
            with contextlib.closing(GrpcPredictor(addresses["grpc"])) as p:
                client = Client(p)
                return [client.sample(pair, 0.7) for pair in requests]

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            drawn = np.array(list(pool.map(work, seeds)))
    assert max(backend.merged) > 1
    groups = runner.inputs("sample")["temperature"][1][1]
    given = {"seed": seeds.ravel(), "temperature": np.full([64, groups], 0.7)}
    expected = runner.run("sample", given)["images"].reshape(drawn.shape)
    np.testing.assert_array_equal(drawn, expected)
    # Those of any other client would not do.
    assert np.mean(drawn[::-1] != expected) > 0.5


def test_request_that_fails_for_anothers_sake_is_sent_again(
    folder, runner, groups
):
    """One of another shape fails the whole batch, in the server's own code."""
    with _serving(folder, window=0.3) as (backend, addresses):
        with contextlib.closing(GrpcPredictor(addresses["grpc"])) as predictor:
            client = Client(predictor)
            wrong = {
                "seed": np.array([1]),
                "temperature": np.ones([1, groups + 1], np.float32),
            }
            image, refusal = _at_once(
                [
                    lambda: client.sample([5]),
                    lambda: predictor.predict("sample", wrong),
                ]
            )
    assert backend.merged[0] == 2
    assert isinstance(refusal, ClientError)
    np.testing.assert_array_equal(image[0], _alone(runner, groups, 5))


@pytest.mark.parametrize("kind", ["grpc", "rest"])
def test_full_queue_is_told_from_an_absent_server(folder, kind):
    with _serving(folder, window=2.0, max_rows=2, max_batches=1) as (
        _,
        addresses,
    ):
        predictor = _KINDS[kind](addresses[kind], retries=0, timeout=60)
        with contextlib.closing(predictor):
            client = Client(predictor, batch_size=2)
            answers = _at_once([lambda: client.sample([1, 2])] * 6)
    refused = [a for a in answers if isinstance(a, ClientError)]
    assert 0 < len(refused) < 6
    for error in refused:
        assert "is busy" in str(error)
        assert "queue" in str(error)


def test_request_larger_than_any_batch_is_refused_by_itself(folder):
    with _serving(folder, window=0.01, max_rows=4) as (_, addresses):
        with contextlib.closing(GrpcPredictor(addresses["grpc"])) as predictor:
            with pytest.raises(ClientError, match="larger than maximum"):
                Client(predictor, batch_size=8).sample(range(8))
            assert len(Client(predictor, batch_size=4).sample(range(8))) == 8


def _hostile(predictors, url, groups):
    """Functions that send what no client of ours would."""
    seed = np.array([1, 2])
    fine = np.full([2, groups], 0.7, np.float32)
    broken = fine.copy()
    broken[1, 0] = np.nan
    requests = [
        ("sample", {"seed": seed, "temperature": broken}),
        ("sample", {"seed": seed, "temperature": -fine}),
        ("sample", {"seed": seed, "temperature": fine[:1]}),
        ("sample", {"seed": seed, "temperature": fine[0]}),
        ("sample", {"seed": seed, "temperature": np.float32(1)}),
        ("sample", {"seed": seed, "temperature": np.tile(fine, 3)}),
        ("sample", {"seed": seed}),
        ("sample", {"seed": np.float32([1]), "temperature": fine[:1]}),
        ("sample", {"seed": np.arange(64), "temperature": fine}),
        ("encode_png", {"png_bytes": np.array([b"\x89PNG"], object)}),
        ("no_such", {"seed": seed}),
    ]
    jobs = [
        lambda p=predictor, r=request: p.predict(*r)
        for request in requests
        for predictor in predictors
        if isinstance(predictor, GrpcPredictor) or request[0] != "no_such"
    ]
    host = urllib.parse.urlsplit(url).netloc

    def post(body):
        connection = http.client.HTTPConnection(host, timeout=30)
        with contextlib.closing(connection):
            connection.request("POST", "/v1/models/nvae:predict", body)
            return connection.getresponse().read()

    junk = {"b64": base64.b64encode(bytes(99)).decode()}
    for body in (
        b"",
        b"\xff" * 99,
        b"[" * 9999,
        json.dumps({"inputs": {"seed": [1e99], "temperature": [[1]]}}),
        json.dumps({"inputs": {"seed": [[1], [1, 2]], "temperature": [1]}}),
        json.dumps({"signature_name": "encode_png", "inputs": {"x": [junk]}}),
    ):
        jobs.append(lambda body=body: post(body))
    return jobs


def test_a_fifth_of_hostile_requests_loses_no_good_one(folder, runner, groups):
    good, rows = 80, 2
    with _serving(folder, window=0.02, max_batches=4) as (backend, addresses):
        with contextlib.ExitStack() as stack:
            predictors = [
                stack.enter_context(
                    contextlib.closing(kind(addresses[name], timeout=120))
                )
                for name, kind in _KINDS.items()
            ]
            clients = [Client(predictor) for predictor in predictors]
            # The queue is found full now and then, too.
            backend.failures += [tf.errors.ResourceExhaustedError] * 6
            hostile = _hostile(predictors, addresses["rest"], groups)
            jobs = []
            for i in range(good):
                seeds = range(rows * i, rows * (i + 1))
                client = clients[i % 2]
                jobs.append(lambda c=client, s=seeds: c.sample(s))
                if i % 4 == 3:
                    jobs.append(hostile[i // 4 % len(hostile)])
            with concurrent.futures.ThreadPoolExecutor(12) as pool:
                futures = [pool.submit(job) for job in jobs]
                concurrent.futures.wait(futures)
    assert len(jobs) == good * 5 // 4
    answers = [f for i, f in enumerate(futures) if i % 5 != 4]
    drawn = np.concatenate([answer.result() for answer in answers])
    assert max(backend.merged) > 1
    for seed, image in enumerate(drawn):
        np.testing.assert_array_equal(image, _alone(runner, groups, seed))
    for future in futures[4::5]:
        error = future.exception()
        assert error is None or isinstance(error, ClientError), error
