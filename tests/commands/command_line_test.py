import errno
import os
import subprocess
import sys

import pytest

from nvae_tf.core import errors
from nvae_tf.core.streams import printing_may_fail

COMMAND = """
from nvae_tf.commands import command_line
from nvae_tf.core import errors

def main(_):
    config = command_line.config_from_flags()
    if config.name == "broken":
        raise errors.UserError("one\\nsentence")
    print(config.data.source, config.train.batch_size)

command_line.define_config()
command_line.run(main)
"""
CONFIG = """
import ml_collections
from nvae_tf.config import Config

def get_config(variant=""):
    if variant:
        raise ValueError(f"there is no variant {variant}")
    return ml_collections.ConfigDict(Config().to_dict())
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "command.py").write_text(COMMAND)
    (tmp_path / "good.py").write_text(CONFIG)
    (tmp_path / "other.py").write_text("def get_config():\n    return 3\n")

    def run(*arguments):
        result = subprocess.run(
            [sys.executable, "-c", COMMAND, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
        )
        return result.returncode, result.stdout, result.stderr

    return run


def test_flags_override_the_file(run, tmp_path):
    status, out, _ = run(
        f"--config={tmp_path}/good.py", "--config.train.batch_size=7"
    )
    assert (status, out) == (0, "mnist_5k 7\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=@/good.py", "--config.name=broken"], "one sentence"),
        (["--config=@/good.py", "--config.data.foo=1"], "key data.foo."),
        (
            ["--config", "@/good.py", "--config.data.pat=1"],
            "key data.pat. Did you mean data.path?",
        ),
        (["--config=@/good.py", "--config.no.such=1"], "config key no."),
        (["--config=@/good.py", "--config.name.x=1"], "config key name.x."),
        (
            ["--config=@/good.py", "--config.train.batch_size=x"],
            "--config.train.batch_size=x",
        ),
        (["--config=@/good.py", "--config.data.source=x"], "data.source is"),
        (["--config=@/good.py:big"], "there is no variant big"),
        (["--config=@/good.py", "--confg=1"], "flag 'confg'"),
        (["--config=@/good.py", "word"], "Unexpected argument 'word'"),
        (["--config=@/none.py"], "no preset '@/none.py'"),
        (
            ["--config=@/none.py", "--config.name=x"],
            "no preset '@/none.py'",
        ),
        (["--config=@/other.py"], "@/other.py is not a configuration file"),
        ([], "Name a configuration, such as --config="),
        (["--config.name=x"], "Name a configuration, such as --config="),
    ],
)
def test_mistakes_are_one_line_and_status_2(run, tmp_path, arguments, message):
    arguments = [a.replace("@", str(tmp_path)) for a in arguments]
    status, out, err = run(*arguments)
    assert status == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message.replace("@", str(tmp_path)) in err


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        ("sample", "--num=1" + "0" * 30),
        ("sample", "--num=20000000"),
        ("sample", "--seed=2147483648"),
        ("sample", "--truncation=nan"),
        ("sample", "--columns=3000000000"),
        ("report", "--num=1" + "0" * 5000),
        ("reconstruct", "--temperature=nan"),
        ("traverse", "--range=inf"),
        ("client sample", "--retries=-1"),
        ("client sample", "--retries=99"),
        ("client sample", "--timeout=nan"),
        ("client sample", "--timeout=1e300"),
        ("client sample", "--seed=9223372036854775808"),
        ("client sample", "--version=-1"),
        ("client score", "--batch_size=99999999999"),
    ],
)
def test_numbers_out_of_range_are_refused_by_their_flag(words, flag):
    result = subprocess.run(
        [sys.executable, "-m", "nvae_tf", *words.split(), flag],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert flag.partition("=")[0].strip("-") in result.stderr
    assert len(result.stderr) < 1200


def test_long_and_wild_values_are_cut_and_escaped():
    text = errors.one_line(f"run\n{'x' * 5000}\x1b[2J\udc80\N{BELL}: do this")
    assert text.startswith("run xxx")
    assert text.endswith("\\x1b[2J\\udc80\N{BELL}: do this")
    assert len(text) < 1100
    assert errors.one_line("short", 9) == "short"


def test_help_of_a_program_has_its_own_flags():
    own = 'from absl import flags\nflags.DEFINE_string("x", "", "Mine.")\n'
    program = own + COMMAND
    result = subprocess.run(
        [sys.executable, "-c", program, "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0
    assert "--x" in result.stdout
    assert "Mine." in result.stdout


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "arguments", [[], ["models"], ["sample", "--help"]], ids=str
)
def test_a_reader_that_leaves_ends_the_command_quietly(arguments, unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = subprocess.run(
            [sys.executable, "-m", "nvae_tf", *arguments],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    finally:
        os.close(writer)
    assert result.returncode == errors.PIPE_STATUS
    assert not result.stderr


@pytest.mark.skipif(
    not os.path.exists("/dev/full"), reason="the system has no full device"
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_results_that_cannot_be_printed_end_in_a_sentence(unbuffered):
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "nvae_tf", "models"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    assert result.returncode == errors.USER_ERROR_STATUS
    assert result.stderr == (
        "error: Standard output, where the results go, cannot be written: "
        "No space left on device.\n"
    )


def test_a_full_disk_of_another_file_is_not_blamed_on_the_output():
    with pytest.raises(OSError, match="a checkpoint"), printing_may_fail():
        raise OSError(errno.ENOSPC, "a checkpoint")


def test_another_broken_pipe_is_no_reader_of_the_command():
    with pytest.raises(BrokenPipeError), printing_may_fail():
        raise BrokenPipeError
