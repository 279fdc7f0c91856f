"""The errors that a user's mistake raises, and exit statuses of commands."""

__all__ = [
    "INTERRUPTED_STATUS",
    "PIPE_STATUS",
    "RESUME_STATUS",
    "USER_ERROR_STATUS",
    "CheckpointError",
    "ClientError",
    "ConfigError",
    "DataError",
    "ExportError",
    "UserError",
    "one_line",
]

# A mistake of the user's, told in one sentence.
USER_ERROR_STATUS = 2
# EX_TEMPFAIL of <sysexits.h>: start the same command again, it goes on.
RESUME_STATUS = 75
# 128 + SIGINT, as shells have it.
INTERRUPTED_STATUS = 130
# 128 + SIGPIPE, likewise.
PIPE_STATUS = 141


class UserError(Exception):
    """A mistake of the user's that one sentence explains.

    Commands print it and exit with `USER_ERROR_STATUS`.
    """


class CheckpointError(UserError):
    """A checkpoint that is missing, foreign, damaged or does not fit."""


class ConfigError(UserError):
    """A configuration that names an unknown key or cannot exist."""


class DataError(UserError):
    """Images that cannot be had or are not what the model needs."""


class ExportError(UserError):
    """An export that cannot be written, or is not what it should be."""


class ClientError(ExportError):
    """A request that a server refused, or that never reached one."""


def one_line(problem: object, most: int = 1000) -> str:
    """A message as one line of bounded length.

    Values from files and flags may be of any length and hold what would steer
    a terminal.

    Args:
      problem: an error or a text.
      most: characters; beyond them the middle is left out, since names stand
        first in a message and ways out last.
    """
    text = " ".join(str(problem).split())
    if len(text) > most:
        end = most // 3
        text = f"{text[: most - end - 5]} ... {text[-end:]}"
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode()
        for c in text
    )
