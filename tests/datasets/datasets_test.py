import contextlib
import json
import threading
import time

import numpy as np
import pytest

from nvae_tf.core.errors import DataError
from nvae_tf.datasets import pipeline
from nvae_tf.datasets.pipeline import (
    Position,
    batches,
    epoch_order,
    num_batches,
)
from nvae_tf.datasets.sources import ArraySource
from tests.support.data_helpers import (
    NumberedSource,
    binary_model,
    make_config,
    numbers,
)


def read(source, config, count, **arguments):
    """The first `count` training batches, as (images, position)."""
    arguments = {"batch_size": 4, "seed": 7} | arguments
    iterator = batches(source, config, training=True, **arguments)
    with contextlib.closing(iterator):
        return [
            (np.asarray(batch.images), batch.position)
            for batch in (next(iterator) for _ in range(count))
        ]


def evaluate(source, config, **arguments):
    arguments = {"batch_size": 4, "seed": 7} | arguments
    return [
        (np.asarray(batch.images), np.asarray(batch.weights))
        for batch in batches(source, config, training=False, **arguments)
    ]


def noisy_source(count=24, size=8, channels=1):
    rng = np.random.default_rng(0)
    shape = (count, size, size, channels)
    return ArraySource("noise", rng.integers(0, 256, shape, np.uint8))


def test_an_epoch_takes_every_image_once():
    seen = [
        n
        for images, _ in read(NumberedSource(24), make_config(), 6)
        for n in numbers(images)
    ]
    assert sorted(seen) == list(range(24))


def test_epochs_and_seeds_differ_in_order_but_repeat_themselves():
    orders = {
        (seed, epoch): tuple(epoch_order(50, seed, epoch))
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(set(orders.values())) == 4
    assert orders[0, 1] == tuple(epoch_order(50, 0, 1))


def test_order_never_changes_between_versions():
    # A run must be able to resume with another version of NumPy.
    assert epoch_order(8, 0, 0).tolist() == [2, 0, 1, 4, 5, 6, 7, 3]


def test_incomplete_last_batch_of_training_is_dropped():
    source = NumberedSource(11)
    result = read(source, make_config(), 5)
    positions = [position for _, position in result]
    assert positions == [(0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    first = [n for images, _ in result[:2] for n in numbers(images)]
    assert first == epoch_order(11, 7, 0)[:8].tolist()


@pytest.mark.parametrize("threads", [0, 3])
@pytest.mark.parametrize("at", [0, 2, 5, 6, 13])
def test_any_position_resumes_bit_exactly(threads, at):
    source = noisy_source()
    config = make_config(
        model=binary_model(padding=2),
        binarize=True,
        flip=True,
        num_workers=threads,
    )
    whole = read(source, config, 16)
    stored = json.loads(json.dumps(whole[at][1]))
    rest = read(source, config, 2, position=Position(*stored))
    for (images, position), (again, position_again) in zip(
        whole[at + 1 :], rest, strict=False
    ):
        np.testing.assert_array_equal(images, again)
        assert position == position_again


def test_resuming_reads_nothing_that_came_before():
    source = NumberedSource(24)
    read(source, make_config(), 1, position=Position(3, 4))
    assert source.reads == epoch_order(24, 7, 3)[16:20].tolist()


def test_position_at_the_end_of_an_epoch_is_the_next_epochs_start():
    source, config = NumberedSource(24), make_config()
    end = read(source, config, 1, position=Position(0, 6))
    start = read(source, config, 1, position=Position(1, 0))
    np.testing.assert_array_equal(end[0][0], start[0][0])


@pytest.mark.parametrize("shards", [2, 3])
def test_shards_together_see_what_one_sees_alone(shards):
    source = noisy_source(26, size=12)
    config = make_config(
        model=binary_model(), binarize=True, flip=True, resize="random_crop"
    )
    alone = read(source, config, 5, batch_size=2 * shards)
    parts = [
        read(
            source,
            config,
            5,
            batch_size=2,
            shard_index=shard,
            num_shards=shards,
        )
        for shard in range(shards)
    ]
    for step, (images, position) in enumerate(alone):
        together = np.concatenate([part[step][0] for part in parts])
        np.testing.assert_array_equal(images, together)
        assert all(part[step][1] == position for part in parts)


def test_evaluation_pads_its_last_batch_with_weight_zero():
    result = evaluate(NumberedSource(10), make_config())
    assert [images.shape for images, _ in result] == [(4, 8, 8, 3)] * 3
    assert result[-1][1].tolist() == [1, 1, 0, 0]
    seen = [n for images, w in result for n in numbers(images[w > 0])]
    assert seen == list(range(10))


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16])
def test_evaluation_shards_have_equal_batches_and_count_each_image_once(count):
    source = NumberedSource(count)
    parts = [
        evaluate(
            source, make_config(), batch_size=2, shard_index=i, num_shards=4
        )
        for i in range(4)
    ]
    expected = num_batches(source, training=False, batch_size=2, num_shards=4)
    assert {len(part) for part in parts} == {expected}
    seen = [
        n
        for part in parts
        for images, weights in part
        for n in numbers(images[weights > 0])
    ]
    assert sorted(seen) == list(range(count))


def test_evaluation_draws_do_not_depend_on_batch_size_or_threads():
    source = noisy_source(10)
    config = make_config(model=binary_model(), binarize=True)
    threaded = make_config(model=binary_model(), binarize=True, num_workers=2)
    small = np.concatenate([x for x, _ in evaluate(source, config)])[:10]
    large = evaluate(source, threaded, batch_size=16)[0][0][:10]
    np.testing.assert_array_equal(small, large)


def test_binarisation_is_dynamic_and_follows_the_intensity():
    images = np.full((4, 64, 64, 1), 51, np.uint8)  # One fifth.
    source = ArraySource("gray", images)
    config = make_config(model=binary_model(64), binarize=True)
    first, second = (x for x, _ in read(source, config, 2))
    assert set(np.unique(first)) == {0.0, 1.0}
    assert abs(first.mean() - 0.2) < 0.01
    assert 0.1 < np.mean(first != second) < 0.5


def test_flips_happen_in_training_only_and_to_about_half():
    ramp = np.tile(np.arange(8, dtype=np.uint8), (8, 1))[..., None]
    images = np.repeat(ramp[None], 200, 0)
    config = make_config(model={"image_channels": 1}, flip=True)
    source = ArraySource("ramp", images)
    (trained, _) = read(source, config, 1, batch_size=200)[0]
    flipped = trained[:, 0, 0, 0] > 0
    assert 70 < flipped.sum() < 130
    np.testing.assert_array_equal(
        trained[flipped], trained[~flipped][:1, :, ::-1][[0] * flipped.sum()]
    )
    assert all((x[:, 0, 0] == 0).all() for x, _ in evaluate(source, config))


def test_random_crops_are_random_in_training_and_central_in_evaluation():
    wide = np.tile(np.arange(20, dtype=np.uint8), (8, 1))[..., None]
    source = ArraySource("wide", np.repeat(wide[None], 64, 0))
    config = make_config(model={"image_channels": 1}, resize="random_crop")
    first, second = (
        numbers(x) for x, _ in read(source, config, 2, batch_size=64)
    )
    assert set(first) == set(range(13))
    assert first != second
    assert {n for x, _ in evaluate(source, config) for n in numbers(x)} == {6}


def test_threads_keep_the_order():
    class Slow(NumberedSource):
        def __getitem__(self, index):
            time.sleep(0.002 * (index % 3))
            return super().__getitem__(index)

    config = make_config(num_workers=4)
    threaded = read(Slow(24), config, 12)
    plain = read(NumberedSource(24), make_config(), 12)
    for (a, position_a), (b, position_b) in zip(threaded, plain, strict=True):
        np.testing.assert_array_equal(a, b)
        assert position_a == position_b


def reading_threads():
    return [
        thread
        for thread in threading.enumerate()
        if thread.name.startswith("nvae_tf_data")
    ]


@pytest.mark.parametrize("stop", ["close", "drop"])
def test_closing_or_dropping_stops_the_threads(stop):
    iterator = batches(
        NumberedSource(24),
        make_config(num_workers=3),
        training=True,
        batch_size=4,
        seed=0,
    )
    next(iterator)
    assert reading_threads()
    if stop == "close":
        iterator.close()
    else:
        del iterator
    deadline = time.monotonic() + 10
    while reading_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not reading_threads()


@pytest.mark.parametrize("threads", [0, 2])
def test_errors_of_reading_reach_the_caller(threads):
    config = make_config(num_workers=threads)
    with pytest.raises(DataError, match="image 5 of numbered is corrupt"):
        read(NumberedSource(8, bad=[5]), config, 2)


def test_failing_files_are_data_errors():
    class Unplugged(NumberedSource):
        def __getitem__(self, index):
            raise OSError("device not ready")

    with pytest.raises(DataError, match=r"numbered .* device not ready"):
        read(Unplugged(8), make_config(), 1)


def test_skip_corrupt_puts_a_readable_image_in_its_place(caplog):
    source = NumberedSource(8, bad=[2, 3])
    config = make_config(skip_corrupt=True)
    seen = [n for x, _ in read(source, config, 2) for n in numbers(x)]
    assert sorted(seen) == [0, 1, 4, 4, 4, 5, 6, 7]
    assert source.corrupt == {2, 3}
    assert "Skipped (2 so far)" in caplog.text


def test_skip_corrupt_gives_weight_zero_in_evaluation():
    source = NumberedSource(8, bad=[2])
    result = evaluate(source, make_config(skip_corrupt=True))
    assert [w.tolist() for _, w in result] == [[1, 1, 0, 1], [1] * 4]
    assert source.corrupt == {2}


def test_a_source_without_one_readable_image_is_an_error():
    source = NumberedSource(8, bad=range(8))
    with pytest.raises(DataError, match="cannot be read"):
        read(source, make_config(skip_corrupt=True), 1)


def test_too_few_images_for_a_batch_says_what_to_do():
    with pytest.raises(
        DataError, match=r"3 images, too few .* of 4; lower train.batch_size"
    ):
        read(NumberedSource(3), make_config(), 1)
    with pytest.raises(DataError, match="of 2 on each of 2 workers"):
        read(NumberedSource(3), make_config(), 1, batch_size=2, num_shards=2)


def test_negative_seeds_are_seeds_too():
    orders = {tuple(epoch_order(50, seed, 0)) for seed in (-1, 1, 0)}
    assert len(orders) == 3


def test_no_images_at_all_is_an_error():
    with pytest.raises(DataError, match="numbered has no images"):
        evaluate(NumberedSource(0), make_config())


def test_a_position_beyond_the_epoch_is_an_error():
    with pytest.raises(DataError, match=r"batch 9 .* epoch has 6"):
        read(NumberedSource(24), make_config(), 1, position=Position(0, 9))


def test_images_of_another_size_are_an_error_that_names_the_image():
    source = NumberedSource(8, shape=(9, 8, 3))
    with pytest.raises(DataError, match=r"image \d of numbered is \[9, 8, 3"):
        read(source, make_config(), 1)


def test_values_beyond_the_stated_bits_are_an_error():
    images = np.full((8, 8, 8, 3), 16, np.uint8)
    source = ArraySource("deep", images, bits=4)
    with pytest.raises(DataError, match=r"value 16, .* data.bits=4"):
        read(source, make_config(), 1)


def test_unknown_split_is_an_error():
    with pytest.raises(DataError, match="no split 'dev'"):
        pipeline.open_source(make_config(), "dev")
