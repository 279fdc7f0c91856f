"""Writing a SavedModel for TF Serving."""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Sequence

import tensorflow as tf

from nvae_tf.core.errors import ExportError
from nvae_tf.core.files import new_folder, require_replaceable
from nvae_tf.export.model_card import describe, signature_table, write_card
from nvae_tf.export.parity import Reference
from nvae_tf.export.runners import SavedModelRunner, check
from nvae_tf.export.serving import ServedModel
from nvae_tf.export.serving_files import (
    check_model_folder,
    held_versions,
    versions,
    write_serving_files,
)
from nvae_tf.export.source import Source
from nvae_tf.export.warmup import require_protos, write_warmup

__all__ = ["export_saved_model"]


def export_saved_model(
    source: Source,
    output: str | os.PathLike,
    *,
    version: int | None = None,
    temperature: float = 0.7,
    overwrite: bool = False,
    warmup_batch_sizes: Sequence[int] = (1, 8),
) -> pathlib.Path:
    """Writes a version into a Serving folder, whole or not at all.

    Args:
      source: what to export.
      output: the folder of the model, with a sub-folder per version.
      version: positive; None for one more than the latest there.
      temperature: what the model is meant to be sampled at.
      overwrite: take the place of an existing version, unless a server may
        hold it; never of another folder.
      warmup_batch_sizes: rows of the requests that a server answers before it
        takes others; empty for none.

    Returns:
      The version's folder.

    Raises:
      ExportError: if a package is missing, the version exists, cannot be
        written, or differs from the live model.
    """
    if warmup_batch_sizes:
        # They are written last.
        require_protos()
    facts = describe(source, temperature)
    if version is None:
        version = max(versions(output), default=0) + 1
    if version < 1:
        raise ExportError(f"The version is {version}; it must be positive.")
    output = pathlib.Path(output)
    name = output.resolve().name
    check_model_folder(output)
    path = output / str(version)
    if overwrite and version in held_versions(output):
        raise ExportError(
            f"{path} may be what a server holds, which would go on with the "
            "old weights or read half of each: leave out --version and "
            "--overwrite for a version of its own, or remove the folder once "
            "no server uses it."
        )
    require_replaceable(
        path,
        lambda folder: (folder / "saved_model.pb").is_file(),
        "a SavedModel",
        overwrite=overwrite,
        error=ExportError,
    )
    with new_folder(path, overwrite=overwrite, error=ExportError) as folder:
        with _explaining(path):
            ServedModel(source).save(str(folder))
        runner = SavedModelRunner(folder)
        check(runner, Reference(source, temperature=temperature))
        if warmup_batch_sizes:
            with _explaining(path):
                write_warmup(
                    folder,
                    runner,
                    warmup_batch_sizes,
                    facts["image_shape"],
                    name,
                )
        write_card(folder, facts, signature_table(runner))
        # Before the version appears: a disk without room leaves none.
        write_serving_files(output)
    return path


@contextlib.contextmanager
def _explaining(path: pathlib.Path) -> Iterator[None]:
    """Within, TensorFlow's errors are those of a disk that it writes to."""
    try:
        yield
    except tf.errors.OpError as error:
        raise ExportError(f"Cannot write {path}: {error.message}.") from error
