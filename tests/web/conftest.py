"""Pages of small models, each written once for all tests."""

import dataclasses

import pytest

from tests.support.web_engine import fetch_engine

# This is read by the process, too, that hands the tests out: TensorFlow, which
# it has no use for, is loaded by what makes a page.

_CONTRAST = 25


@pytest.fixture(scope="session")
def real_engine(tmp_path_factory):
    """A folder with ONNX Runtime Web."""
    return fetch_engine(tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="session")
def page_of(tmp_path_factory, real_engine):
    """Gives the page of a model, written when first asked for.

    "digits" is gray and binary, with two scales; "readjusted" one whose draws
    have statistics of their own.
    """
    from nvae_tf.web.export import export_web

    folder = tmp_path_factory.mktemp("pages")

    def get(name):
        path = folder / name
        if not path.exists():
            export_web(_source(name), path, runtime_place=str(real_engine))
        return path

    return get


def _source(name):
    from tests.support.export_cases import source

    if name == "digits":
        # The checkpoint's pictures are gray all over.
        base = source("bernoulli_two_scales")
        image = base.params["image"]
        head = image["head"]
        head = {**head, "kernel": _CONTRAST * head["kernel"]}
        params = {**base.params, "image": {**image, "head": head}}
        return dataclasses.replace(base, params=params, draw_params=None)
    if name == "readjusted":
        import tensorflow as tf

        base = source("plain_vae")
        draws = tf.nest.map_structure(lambda x: 0.9 * x, base.params)
        return dataclasses.replace(base, draw_params=draws)
    return source(name)
