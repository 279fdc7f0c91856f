"""Starting several processes, without TensorFlow: what is quickly tested."""

import sys

from nvae_tf.core.errors import RESUME_STATUS
from nvae_tf.distribute import launcher


def test_first_process_that_saves_is_waited_for_when_others_have_stopped(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(launcher, "_GRACE_SECONDS", 0.05)
    program = """
import json, os, pathlib, sys, time
if json.loads(os.environ["TF_CONFIG"])["task"]["index"] == 0:
    time.sleep(1.5)
    pathlib.Path(%r, "saved").touch()
sys.exit(75)
"""
    command = [sys.executable, "-c", program % str(tmp_path)]
    assert launcher.launch(2, tmp_path, command) == RESUME_STATUS
    assert (tmp_path / "saved").exists()


def test_process_that_hangs_when_the_first_has_stopped_is_ended(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(launcher, "_GRACE_SECONDS", 0.05)
    program = """
import json, os, sys, time
if json.loads(os.environ["TF_CONFIG"])["task"]["index"]:
    time.sleep(600)
sys.exit(75)
"""
    command = [sys.executable, "-c", program]
    assert launcher.launch(2, tmp_path, command) == RESUME_STATUS
