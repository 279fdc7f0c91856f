"""What all commands share: the `--config` flag and how errors are shown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import app, flags
from ml_collections import config_flags

from nvae_tf.config import Config, config_from_dict
from nvae_tf.errors import ConfigError, UserError

__all__ = ["USER_ERROR_STATUS", "config_from_flags", "define_config", "run"]

USER_ERROR_STATUS = 2
_INTERRUPTED_STATUS = 130


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
        raise ConfigError(
            f"Name a configuration, such as --{name}=configs/mnist_demo.py."
        )
    if not hasattr(values, "items"):
        raise ConfigError(_load_problem(name, sys.argv))
    return config_from_dict(values)


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

    app.run(guarded, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        _fail(error)
    except (AttributeError, KeyError, TypeError) as error:
        # What ml_collections raises for a key that its config lacks.
        unknown = _unknown_key(argv)
        if unknown is None:
            raise
        _fail(ConfigError(unknown), cause=error)


def _fail(error: Exception, cause: Exception | None = None) -> NoReturn:
    print("error: " + " ".join(str(error).split()), file=sys.stderr)
    raise SystemExit(USER_ERROR_STATUS) from cause


def _unknown_key(argv: Sequence[str], name: str = "config") -> str | None:
    """Describes the first `--config.KEY` that the config does not have."""
    config = flags.FLAGS[name].value if name in flags.FLAGS else None
    for argument in argv[1:]:
        flag = argument.lstrip("-").partition("=")[0]
        if not flag.startswith(f"{name}."):
            continue
        if config is None or not hasattr(config, "items"):
            return _load_problem(name, argv)
        group, path = config, flag.split(".")[1:]
        for depth, key in enumerate(path):
            if not hasattr(group, "items") or key not in group:
                return _describe(group, key, ".".join(path[:depth]))
            group = group[key]
    return None


def _describe(group, key: str, prefix: str) -> str:
    try:
        config_from_dict(_nested(prefix, {key: None}))
    except ConfigError as error:
        if str(error).startswith("Unknown config key"):
            return str(error)
    full = f"{prefix}.{key}" if prefix else key
    return f"The configuration has no key {full}."


def _nested(prefix: str, values: dict) -> dict:
    for part in reversed(prefix.split(".") if prefix else []):
        values = {part: values}
    return values


def _load_problem(name: str, argv: Sequence[str]) -> str:
    given = [
        argument.partition("=")[2]
        for argument in argv
        if argument.lstrip("-").startswith(f"{name}=")
    ]
    if not given:
        return (
            f"Name a configuration before its overrides, such as "
            f"--{name}=configs/mnist_demo.py."
        )
    return f"There is no configuration file {given[0].partition(':')[0]}."
