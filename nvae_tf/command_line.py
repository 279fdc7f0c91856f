"""What all commands share: the `--config` flag and how errors are shown."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from nvae_tf import runtime
from nvae_tf.config import Config, config_from_dict
from nvae_tf.errors import ConfigError, UserError

__all__ = ["USER_ERROR_STATUS", "config_from_flags", "define_config", "run"]

# Commands import this before TensorFlow, whose start-up notes would bury what
# they say.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

USER_ERROR_STATUS = 2
_INTERRUPTED_STATUS = 130
_NAME_ONE = "Name a configuration, such as --{}=configs/mnist_demo.py."


def define_config(name: str = "config") -> None:
    """Defines `--config=FILE.py[:VARIANT]` and `--config.KEY=VALUE`.

    The file has a `get_config()` that returns an `ml_collections.ConfigDict`;
    it is locked, so that flags can change its keys but add none.
    """
    if name not in flags.FLAGS:
        config_flags.DEFINE_config_file(
            name,
            help_string="Configuration file, such as configs/mnist_demo.py.",
            lock_config=True,
        )


def config_from_flags(name: str = "config") -> Config:
    """The configuration that `--config` and its overrides describe.

    Raises:
      ConfigError: if the flag is missing, the file cannot be loaded or its
        content is not a valid configuration.
    """
    values = flags.FLAGS[name].value
    if values is None:
        raise ConfigError(_NAME_ONE.format(name))
    return config_from_dict(_loaded(values, name, sys.argv))


def run(main: Callable[[Sequence[str]], Any]) -> NoReturn:
    """Runs a command: `command_line.run(main)` in place of `app.run(main)`.

    A `UserError`, a wrong flag or an unknown config key is printed to stderr
    as one line, and the process exits with status 2.

    Args:
      main: takes the command line without its flags.
    """

    def guarded(argv: Sequence[str]):
        try:
            if len(argv) > 1:
                raise ConfigError(
                    f"Unexpected argument {argv[1]!r}; flags look like "
                    "--name=value."
                )
            return main(argv)
        except UserError as error:
            _fail(error)
        except KeyboardInterrupt:
            print("Interrupted.", file=sys.stderr)
            sys.exit(_INTERRUPTED_STATUS)

    runtime.prepare()
    app.run(guarded, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        # A config file that raises comes as its whole traceback.
        text = str(error).strip()
        if "Traceback" in text:
            text = f"{text.splitlines()[0]} {text.splitlines()[-1]}"
            text = text.replace("Traceback (most recent call last):", "")
        if "Unknown command line flag 'config." in text:
            text = _NAME_ONE.format("config")
        _fail(text, error)
    except Exception as error:
        # ml_collections raises many kinds for a key that its config lacks.
        problem = _config_problem(argv)
        if problem is None:
            raise
        _fail(problem, error)


def _fail(problem: object, cause: Exception | None = None) -> NoReturn:
    print("error: " + " ".join(str(problem).split()), file=sys.stderr)
    raise SystemExit(USER_ERROR_STATUS) from cause


def _config_problem(argv: Sequence[str], name: str = "config") -> str | None:
    """What is wrong with the file or the keys of `--config`, if anything."""
    given = _given(name, argv)
    if name not in flags.FLAGS or given is None:
        return None
    try:
        config = _loaded(flags.FLAGS[name].parser.parse(given), name, argv)
    except ConfigError as error:
        return str(error)
    for argument in argv[1:]:
        flag = argument.lstrip("-").partition("=")[0]
        if not flag.startswith(f"{name}."):
            continue
        group, path = config, flag.split(".")[1:]
        for depth, key in enumerate(path):
            if not hasattr(group, "items") or key not in group:
                return _unknown_key(path[:depth], key)
            group = group[key]
    return None


def _loaded(values: Any, name: str, argv: Sequence[str]) -> ConfigDict:
    """`values` if they are a config; ml_collections defers its errors."""
    if isinstance(values, ConfigDict):
        return values
    file = (_given(name, argv) or "").partition(":")[0]
    if not os.path.exists(file):
        raise ConfigError(f"There is no configuration file {file!r}.")
    raise ConfigError(
        f"{file} is not a configuration file: its get_config() must return "
        "an ml_collections.ConfigDict."
    )


def _given(name: str, argv: Sequence[str]) -> str | None:
    """The value of `--name=value` or `--name value`."""
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        flag, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and flag == name:
            return value if equals else following
    return None


def _unknown_key(prefix: list[str], key: str) -> str:
    values: dict[str, Any] = {key: None}
    for part in reversed(prefix):
        values = {part: values}
    try:
        config_from_dict(values)
    except ConfigError as error:
        if str(error).startswith("Unknown config key"):
            return str(error)
    return f"Unknown config key {'.'.join([*prefix, key])}."
