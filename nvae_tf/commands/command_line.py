"""What all commands share: `--config`, `--help`, how errors are shown."""

from __future__ import annotations

import io
import math
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from nvae_tf.config import Config, config_from_dict, presets
from nvae_tf.core.errors import (
    INTERRUPTED_STATUS,
    USER_ERROR_STATUS,
    ConfigError,
    UserError,
    one_line,
)
from nvae_tf.core.streams import printing_may_fail
from nvae_tf.distribute.cores import share_heaps

__all__ = ["config_from_flags", "define_config", "run"]

# Commands import this before TensorFlow, whose start-up notes would bury what
# they say.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_NAME_ONE = "Name a configuration, such as --{}=mnist_demo."
_HELP = ("--help", "-help", "-h", "--helpshort")
_WIDTH = 80
_INDENT = 26
_LARGEST = 2**31 - 1


def define_config(name: str = "config") -> None:
    """Defines `--config=PRESET[:VARIANT]` and `--config.KEY=VALUE`.

    A preset is a name, such as cifar10, or a file with a `get_config()` that
    returns an `ml_collections.ConfigDict`; it is locked, so that flags can
    change its keys but add none.
    """
    if name not in flags.FLAGS:
        config_flags.DEFINE_config_file(
            name,
            help_string="A preset, such as mnist_demo or cifar10:no_flow, or "
            "a configuration file; --config.KEY=VALUE changes a value.",
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


def run(
    main: Callable[[Sequence[str]], Any],
    description: str | None = None,
    positional: str | None = None,
) -> NoReturn:
    """Runs a command with the arguments in `sys.argv`.

    A `UserError`, a wrong flag or an unknown config key is printed to stderr
    as one line, and the process exits with status 2.

    Args:
      main: takes the command line without its flags, and may return an exit
        status.
      description: what `--help` says above the flags; by default the
        docstring of the program.
      positional: name of an argument that is no flag.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Names of files may be no text that could be written.
            stream.reconfigure(errors="backslashreplace")
    if any(argument in _HELP for argument in sys.argv[1:]):
        with printing_may_fail():
            print(_help(description or sys.modules["__main__"].__doc__ or ""))
        sys.exit(0)

    def guarded(argv: Sequence[str]):
        try:
            if len(argv) > (1 if positional is None else 2):
                raise ConfigError(
                    f"Unexpected argument {argv[-1]!r}; flags look like "
                    "--name=value."
                )
            if positional and len(argv) < 2:
                raise ConfigError(
                    f"Name a {positional}: {argv[0]} {positional}."
                )
            return main(argv)
        except UserError as error:
            _fail(error)
        except KeyboardInterrupt:
            print("Interrupted.", file=sys.stderr)
            sys.exit(INTERRUPTED_STATUS)

    share_heaps()
    with printing_may_fail():
        app.run(guarded, flags_parser=_parse)


def _help(description: str) -> str:
    """The command's description and its flags, a screen of text."""
    lines = [description.strip(), "", "Flags:"]
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        # absl calls the program itself by the name it was started by.
        if not (module.startswith("nvae_tf") or module == sys.argv[0]):
            continue
        for flag in defined:
            if "." in flag.name:
                continue
            lines += _describe(flag)
    return "\n".join(lines)


def _describe(flag: flags.Flag) -> list[str]:
    head = f"  --{'[no]' if flag.boolean else ''}{flag.name}"
    if not flag.boolean and flag.default not in (None, "", []):
        head += f"={flag.default_as_str.strip(chr(39))}"
    values = getattr(flag.parser, "enum_values", None)
    text = flag.help or ""
    if values:
        # absl puts them before the text, in angle brackets.
        text = text.replace(f"<{'|'.join(values)}>:", f"{'|'.join(values)}:")
    body = textwrap.wrap(text, _WIDTH - _INDENT) or [""]
    if len(head) >= _INDENT - 1:
        return [head, *(" " * _INDENT + line for line in body)]
    return [
        head.ljust(_INDENT) + body[0],
        *(" " * _INDENT + line for line in body[1:]),
    ]


def _parse(argv: list[str]) -> list[str]:
    try:
        rest = flags.FLAGS(_with_presets(argv))
        _require_sensible_numbers()
        return rest
    except UserError as error:
        _fail(error)
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


def _require_sensible_numbers() -> None:
    """Raises ConfigError for numbers that no command could count with."""
    for name in flags.FLAGS:
        parser, value = flags.FLAGS[name].parser, flags.FLAGS[name].value
        if value is None:
            continue
        if isinstance(parser, flags.FloatParser) and not math.isfinite(value):
            raise ConfigError(f"--{name}={value} must be finite.")
        if isinstance(parser, flags.IntegerParser) and abs(value) > _LARGEST:
            raise ConfigError(
                f"--{name}={value} is out of range: the largest is "
                f"{_LARGEST:,}."
            )


def _with_presets(argv: Sequence[str], name: str = "config") -> list[str]:
    """The arguments with the names of presets replaced by their files."""
    found = list(argv)
    for i, argument in enumerate(argv):
        flag, equals, value = argument.lstrip("-").partition("=")
        if name not in flags.FLAGS or flag != name or argument == flag:
            continue
        if equals:
            found[i] = f"--{name}={presets.find(value)}"
        elif i + 1 < len(argv):
            found[i + 1] = presets.find(argv[i + 1])
    return found


def _fail(problem: object, cause: Exception | None = None) -> NoReturn:
    print(f"error: {one_line(problem)}", file=sys.stderr)
    raise SystemExit(USER_ERROR_STATUS) from cause


def _config_problem(argv: Sequence[str], name: str = "config") -> str | None:
    """What is wrong with the file or the keys of `--config`, if anything."""
    given = _given(name, argv)
    if name not in flags.FLAGS or given is None:
        return None
    try:
        config = presets.read(given)
    except UserError as error:
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
    return presets.read(_given(name, argv) or "")


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
    except UserError as error:
        if str(error).startswith("Unknown config key"):
            return str(error)
    return f"Unknown config key {'.'.join([*prefix, key])}."
