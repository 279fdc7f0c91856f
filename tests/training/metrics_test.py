"""What a run records: nothing is lost in silence."""

import signal

import numpy as np
import pytest

from nvae_tf.core.errors import UserError
from nvae_tf.runs.workdir import Workdir
from nvae_tf.training.metrics import MetricsWriter
from tests.support import faults


@pytest.mark.parametrize("room", [0, 1000])
def test_picture_that_does_not_fit_on_the_disk_is_told_of(tmp_path, room):
    """TensorFlow itself says nothing, whatever of it was written."""
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    metrics = MetricsWriter(Workdir(tmp_path))
    metrics.image(1, "a", picture)
    (file,) = (tmp_path / "tensorboard").iterdir()
    size = file.stat().st_size
    assert size > picture.size
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with (
            faults.file_limit(size + room),
            pytest.raises(UserError, match="No space left"),
        ):
            metrics.image(2, "b", picture)
    finally:
        signal.signal(signal.SIGXFSZ, before)
    metrics.close()
