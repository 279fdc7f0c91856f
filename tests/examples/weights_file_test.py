"""Weights in few bytes come back nearly as they were."""

import numpy as np
import pytest

from examples.accelerator_training import weights_file


def test_averages_are_rounded_to_fifteen_bits_of_their_mantissa():
    values = np.random.default_rng(0).standard_normal(10_000)
    values = (values * 10.0 ** np.arange(-5, 5).repeat(1000)).astype(np.float32)
    back = weights_file.widened(weights_file.narrow(values))
    assert back.dtype == np.float32
    assert np.abs(back / values - 1).max() <= 1.01 * 2.0**-16


def test_zeros_and_signs_are_kept():
    values = np.array([0.0, -1.5, 2.0], np.float32)
    back = weights_file.widened(weights_file.narrow(values))
    np.testing.assert_array_equal(back, values)


def test_files_give_back_what_was_packed(tmp_path):
    arrays = {"a/b": np.arange(6).reshape(2, 3), "c": np.array(1.5)}
    path = tmp_path / "x.npz"
    path.write_bytes(weights_file.packed(arrays))
    back = weights_file.unpacked(path)
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)


def test_a_cut_file_is_refused(tmp_path):
    content = weights_file.packed({"a": np.arange(1000)})
    path = tmp_path / "x.npz"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="damaged"):
        weights_file.unpacked(path)
