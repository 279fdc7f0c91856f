"""The demo: runs commands, then says where everything is."""

import json
import shlex

import pytest

from nvae_tf.core import progress
from tests.support.in_process import MODULES, run


@pytest.mark.parametrize("nelbo", [1.0, None])
def test_demo_ends_with_the_command_that_opens_the_model(
    tmp_path, monkeypatch, capsys, nelbo
):
    ran = []

    def note(command):
        ran.append(command)
        return 0

    monkeypatch.setattr(progress, "run_command", note)
    record = {"nelbo": nelbo, "bits_per_dim": nelbo, "num_images": 5}
    (tmp_path / "evaluation.json").write_text(json.dumps(record))
    monkeypatch.chdir(tmp_path.parent)
    run("demo", f"--workdir={tmp_path}")
    lines = capsys.readouterr().out.splitlines()
    held_out = "1.00" if nelbo else "not finite"
    assert any(f"NELBO {held_out} nats" in line for line in lines)
    # Each command is shown as it is run.
    shown = [line.removeprefix("$ ") for line in lines if line[:2] == "$ "]
    assert len(shown) == len(ran) > 5
    for line, command in zip(shown, ran, strict=True):
        assert shlex.split(line)[1:] == command[-len(shlex.split(line)) + 1 :]
    _, _, last = lines[-1].partition(": ")
    assert last == f"nvae play --workdir={tmp_path.name}"
    assert "play" in MODULES
