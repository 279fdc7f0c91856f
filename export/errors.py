"""The error that a user's mistake in exporting or serving raises."""

from nvae_tf.errors import UserError

__all__ = ["ExportError"]


class ExportError(UserError):
    """An export that cannot be written, or is not what it should be."""
