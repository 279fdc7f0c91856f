"""What a run records: nothing is lost in silence."""

import signal

import numpy as np
import pytest

from nvae_tf.core.errors import UserError
from nvae_tf.core.json_files import read_json_lines
from nvae_tf.runs.workdir import Workdir
from nvae_tf.training.metrics import MetricsWriter
from tests.support import faults


def test_checkpoint_before_the_next_record_knows_where_the_file_ends(tmp_path):
    workdir = Workdir(tmp_path)
    first = MetricsWriter(workdir)
    first.event(1, "a")
    kept = first.offset()
    first.event(2, "b", more="x" * 100)
    first.close()
    again = MetricsWriter(workdir, kept)
    assert again.offset() == kept == workdir.metrics_path.stat().st_size
    again.event(2, "c")
    again.close()
    records = [*read_json_lines(workdir.metrics_path)]
    assert [r["kind"] for r in records] == ["a", "c"]


def test_offset_beyond_the_end_makes_no_room(tmp_path):
    """As earlier versions kept, and files that somebody has cut."""
    metrics = MetricsWriter(Workdir(tmp_path))
    metrics.event(1, "a")
    metrics.rewind(1000)
    metrics.event(2, "b")
    metrics.close()
    content = (tmp_path / "metrics.jsonl").read_bytes()
    assert b"\0" not in content
    assert len(content.splitlines()) == 2


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
