"""A short run in each precision comes to the same end."""

import json

import pytest

from nvae_tf.training import trainer
from tests.support.run_helpers import SMALLEST, make_config, write_images

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "blobs.npy", 400)


def _train(images, folder, precision):
    config = make_config(
        images,
        precision=precision,
        model=SMALLEST,
        train={"epochs": 20},
        evaluation={"every_epochs": 20, "final_importance_samples": 20},
    )
    evaluation = trainer.train(config, folder)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return evaluation.nelbo, [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def expected(images, tmp_path_factory):
    nelbo, records = _train(images, tmp_path_factory.mktemp("w"), "float32")
    # Something was learned that could be learned less well.
    assert nelbo < 0.7 * records[0]["nelbo"]
    return nelbo


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_ends_where_float32_does(
    images, tmp_path, expected, precision
):
    nelbo, records = _train(images, tmp_path, precision)
    assert nelbo == pytest.approx(expected, rel=0.01)
    scale = 1024 if precision == "mixed_float16" else 1
    assert {r["loss_scale"] for r in records if r["kind"] == "train"} == {scale}
