"""The flags of the commands that talk to a server."""

from __future__ import annotations

import contextlib
import logging
import pathlib
from collections.abc import Iterator

import numpy as np
from absl import flags

from nvae_tf.commands.flags import define_resize
from nvae_tf.commands.values import whole_numbers
from nvae_tf.core.errors import ClientError, UserError

__all__ = [
    "ClassFlag",
    "PhotoFlags",
    "ServerFlags",
    "check_output",
    "write_images",
]

# `--help` of a command shows its own flags: these are to count as such.
flags.disclaim_key_flags()


class ServerFlags:
    """`--target` or `--rest`, and how requests are made."""

    def __init__(self):
        """Defines the flags."""
        self._target = flags.DEFINE_string(
            "target", "", "HOST:PORT of the server's gRPC, such as HOST:8500."
        )
        self._rest = flags.DEFINE_string(
            "rest", "", "In its place the REST URL, such as http://HOST:8501."
        )
        self._model = flags.DEFINE_string(
            "model", "nvae", "Name that the model is served by."
        )
        self._version = flags.DEFINE_integer(
            "version",
            None,
            "Version of the model; by default the latest.",
            lower_bound=0,
        )
        self._label = flags.DEFINE_string(
            "label",
            "",
            "In place of the version the name that the server's configuration "
            "gives it, such as stable.",
        )
        self._tls = flags.DEFINE_bool(
            "tls", False, "Encrypt; with --rest, https:// says so."
        )
        self._ca_file = flags.DEFINE_string(
            "ca_file",
            "",
            "Certificates (PEM) that the server's is signed with; by default "
            "those of the well-known authorities.",
        )
        self._cert_file = flags.DEFINE_string(
            "cert_file", "", "The client's certificate (PEM), if one is wanted."
        )
        self._key_file = flags.DEFINE_string(
            "key_file", "", "The key (PEM) of --cert_file."
        )
        self._token_file = flags.DEFINE_string(
            "token_file",
            "",
            "File with a token, sent as 'Authorization: Bearer'; only over "
            "TLS.",
        )
        self._timeout = flags.DEFINE_float(
            "timeout",
            60.0,
            "Seconds for a request, retries included.",
            lower_bound=0.001,
            upper_bound=86_400.0,
        )
        self._retries = flags.DEFINE_integer(
            "retries",
            4,
            "Retries of a request where the server is busy or away.",
            lower_bound=0,
            upper_bound=4,
        )
        self._batch_size = flags.DEFINE_integer(
            "batch_size", 16, "Images per request.", lower_bound=1
        )

    @contextlib.contextmanager
    def connect(self) -> Iterator:
        """The `nvae_tf.serving.client.Client`, while it is needed.

        Raises:
          ClientError: if no server is named, or it does not answer.
        """
        from nvae_tf.serving.client import Client
        from nvae_tf.serving.credentials import Credentials
        from nvae_tf.serving.predictor import Place

        if bool(self._target.value) == bool(self._rest.value):
            raise ClientError(
                "Name the server with --target=HOST:8500 (gRPC) or "
                "--rest=http://HOST:8501, one of them."
            )
        # It would tell of every attempt that failed.
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        rest = self._rest.value
        credentials = Credentials(
            tls=rest.startswith("https:") if rest else self._tls.value,
            ca_file=self._ca_file.value,
            cert_file=self._cert_file.value,
            key_file=self._key_file.value,
            token_file=self._token_file.value,
        )
        if rest and self._tls.value and not credentials.tls:
            raise ClientError(f"--tls asks for https:// in --rest={rest}.")
        place = Place(self._model.value, self._version.value, self._label.value)
        if rest:
            from nvae_tf.serving import rest_predictor

            kind = rest_predictor.RestPredictor
        else:
            from nvae_tf.serving import grpc_predictor

            kind = grpc_predictor.GrpcPredictor
        predictor = kind(
            rest or self._target.value,
            place,
            credentials=credentials,
            timeout=self._timeout.value,
            retries=self._retries.value,
        )
        with contextlib.closing(predictor):
            yield Client(predictor, self._batch_size.value)


class ClassFlag:
    """`--labels`: the classes of the images."""

    def __init__(self):
        """Defines the flag."""
        self._labels = flags.DEFINE_list(
            "labels",
            "",
            "Of a model that is told classes: that of all images, 7, or of "
            "each, 7,2,1.",
        )

    def read(self) -> int | list[int] | None:
        """The classes; None where the flag is not given.

        Raises:
          UserError: if they are no whole numbers.
        """
        labels = whole_numbers("labels", self._labels.value)
        if not labels:
            return None
        return labels[0] if len(labels) == 1 else labels


class PhotoFlags:
    """`--images` and how they get the model's size and channels."""

    def __init__(self):
        """Defines the flags."""
        self._images = flags.DEFINE_list(
            "images", "", "Image files and folders of them."
        )
        self._resize = define_resize()
        self._alpha = flags.DEFINE_enum(
            "alpha",
            "drop",
            ["drop", "white", "black"],
            "What is made of transparency; data.alpha of the run's "
            "configuration.",
        )

    def read(self, shape: tuple[int, int, int]):
        """Reads the images as training does.

        Args:
          shape: `(H, W, C)` of the model's images.

        Returns:
          `(paths, images)`: uint8 `[N, H, W, C]`.

        Raises:
          UserError: if there are none, or one cannot be read.
        """
        from nvae_tf.datasets.folder import decode_image
        from nvae_tf.datasets.geometry import match_channels, match_size
        from nvae_tf.datasets.image_files import find_images

        size, _, channels = shape
        paths = find_images(self._images.value)
        images = []
        for path in paths:
            image = match_channels(
                decode_image(path),
                channels,
                alpha=self._alpha.value,
                convert_colors=True,
                where=str(path),
            )
            images.append(
                match_size(image, size, self._resize.value, where=str(path))
            )
        return paths, np.stack(images)


def check_output(output: str) -> None:
    """Raises UserError for what `write_images` writes nothing to.

    Before a server is asked: what it answered would be lost.
    """
    if not output.endswith("/") and not output.lower().endswith(".png"):
        raise UserError(
            f"--output={output} must end in .png, for one grid, or in /, for "
            "a folder of images."
        )


def write_images(output: str, images: np.ndarray, names) -> None:
    """A grid if `output` ends in .png; in a folder, ending in /, a file each.

    Args:
      output: that passed `check_output`.
      images: uint8 `[N, H, W, C]`.
      names: of the files in a folder, without their suffix.

    Raises:
      UserError: if a file cannot be written.
    """
    from nvae_tf.sampling.images import grid, write_png

    if output.lower().endswith(".png"):
        write_png(output, grid(images, gap=2))
        return
    for image, name in zip(images, names, strict=True):
        write_png(pathlib.Path(output) / f"{name}.png", image)
