"""The errors that a user's mistake raises."""

__all__ = ["CheckpointError", "ConfigError", "DataError", "UserError"]


class UserError(Exception):
    """A mistake of the user's that one sentence explains.

    Commands print it and exit with status 2.
    """


class CheckpointError(UserError):
    """A checkpoint that is missing, foreign, damaged or does not fit."""


class ConfigError(UserError):
    """A configuration that names an unknown key or cannot exist."""


class DataError(UserError):
    """Images that cannot be had or are not what the model needs."""
