"""Uses a model on a TF Serving server.

python -m export.client --target=HOST:8500 sample --output=grid.png
python -m export.client --rest=http://HOST:8501 reconstruct a.png b.png
python -m export.client --target=HOST:8500 score photos/
"""

import argparse
import concurrent.futures
import csv
import io
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from PIL import Image

from export.client_grpc import GrpcPredictor
from export.client_rest import RestPredictor
from export.retry import ClientError
from nvae_tf.data_files import write_bytes
from nvae_tf.errors import UserError
from nvae_tf.images import grid, write_png

__all__ = ["Client", "Predictor", "main", "read_image"]

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class Predictor(Protocol):
    """A served model, however it is reached."""

    def signatures(self) -> dict[str, dict[str, dict[str, tuple]]]:
        """Signature -> "inputs" or "outputs" -> name -> (dtype, shape)."""

    def predict(
        self, signature: str, inputs: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Runs a signature; arrays by name."""

    def close(self) -> None:
        """Closes the connection."""


class Client:
    """What one does with a served model.

    Args:
      predictor: reaches the model.
      batch_size: images per request.
      concurrency: requests under way at a time; a server that batches answers
        them together.

    Attributes:
      image_shape: `(H, W, C)` of the model's images.
      num_groups: L, its latent groups.

    Raises:
      ClientError: if the server does not answer, or its model is no NVAE.
    """

    def __init__(
        self, predictor: Predictor, batch_size: int = 16, concurrency: int = 2
    ):
        self._predictor = predictor
        self._batch_size = batch_size
        self._concurrency = concurrency
        signatures = predictor.signatures()
        try:
            shape = signatures["reconstruct"]["inputs"]["images"][1]
            self.num_groups = len(signatures["decode"]["inputs"])
        except KeyError as error:
            raise ClientError(
                "The served model is not an export of nvae_tf: it has the "
                f"signatures {', '.join(sorted(signatures))}."
            ) from error
        self.image_shape = tuple(shape[1:])

    def sample(
        self, seeds: Iterable[int], temperature: float | Sequence = 0.7
    ) -> np.ndarray:
        """Draws an image for every seed.

        Args:
          seeds: N integers.
          temperature: a number, `[L]` for one per latent group, or `[N, L]`.

        Returns:
          uint8 `[N, H, W, C]`.

        Raises:
          ClientError: if the server refuses the request.
        """
        seeds = np.asarray(list(seeds), np.int64)
        # One form for all requests: those that a server merges must agree.
        shape = (len(seeds), self.num_groups)
        try:
            temperature = np.broadcast_to(np.float32(temperature), shape)
        except ValueError as error:
            raise ClientError(
                "The temperature must be a number or one per latent group, "
                f"of which there are {self.num_groups}."
            ) from error
        inputs = {"seed": seeds, "temperature": temperature}
        return self._run("sample", inputs)["images"]

    def reconstruct(self, images, seeds) -> np.ndarray:
        """Encodes and decodes.

        Args:
          images: uint8 `[N, H, W, C]`.
          seeds: N integers, of the posterior draws.

        Returns:
          uint8 `[N, H, W, C]`.

        Raises:
          ClientError: if the server refuses the request.
        """
        inputs = {"images": images, "seed": np.asarray(seeds, np.int64)}
        return self._run("reconstruct", inputs)["images"]

    def score(self, images, seeds) -> dict[str, np.ndarray]:
        """Bounds on the images' likelihood.

        Args:
          images: uint8 `[N, H, W, C]`.
          seeds: N integers, of the posterior draws.

        Returns:
          float32 `nelbo` `[N]` in nats, `kl_per_group` `[N, L]`,
          `bits_per_dim` `[N]`.

        Raises:
          ClientError: if the server refuses the request.
        """
        inputs = {"images": images, "seed": np.asarray(seeds, np.int64)}
        return self._run("score", inputs)

    def _run(self, signature, inputs) -> dict[str, np.ndarray]:
        count = len(next(iter(inputs.values())))
        starts = range(0, count, self._batch_size)

        def request(start):
            rows = slice(start, start + self._batch_size)
            return self._predictor.predict(
                signature, {name: x[rows] for name, x in inputs.items()}
            )

        with concurrent.futures.ThreadPoolExecutor(self._concurrency) as pool:
            parts = list(pool.map(request, starts))
        return {
            name: np.concatenate([part[name] for part in parts])
            for name in parts[0]
        }


def read_image(
    path: pathlib.Path, shape: tuple[int, int, int], resize: bool = False
) -> np.ndarray:
    """Reads an image file as a model takes it.

    Args:
      path: of the file.
      shape: `(H, W, C)`.
      resize: scale images of another size.

    Returns:
      uint8 `[H, W, C]`.

    Raises:
      ClientError: if it cannot be read, or is of another size.
    """
    height, width, channels = shape
    try:
        with Image.open(path) as image:
            image = image.convert(_MODES[channels])
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ClientError(f"{path} is not a readable image: {error}") from error
    if image.size != (width, height):
        if not resize:
            raise ClientError(
                f"{path} has {image.width} x {image.height} pixels, but the "
                f"model takes {width} x {height}; scale it with --resize."
            )
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(shape)


def _find_images(paths: Sequence[str]) -> list[pathlib.Path]:
    found: list[pathlib.Path] = []
    for path in map(pathlib.Path, paths):
        if path.is_dir():
            inside = sorted(
                p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES
            )
            if not inside:
                raise ClientError(f"There are no images in {path}.")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise ClientError(f"There is no file {path}.")
    return found


def _write_images(output: str, images: np.ndarray, names: Sequence[str]):
    """A grid if `output` ends in .png, else a file each in that folder."""
    if output.endswith(".png"):
        write_png(output, grid(images, gap=2))
        return
    for image, name in zip(images, names, strict=True):
        write_png(pathlib.Path(output) / f"{name}.png", image)


def _sample(client: Client, options) -> str:
    if options.num < 1:
        raise ClientError("--num must be positive.")
    seeds = range(options.seed, options.seed + options.num)
    temperature = options.temperature
    images = client.sample(
        seeds, temperature[0] if len(temperature) == 1 else temperature
    )
    _write_images(options.output, images, [f"seed_{seed}" for seed in seeds])
    return f"Wrote {len(images)} images to {options.output}."


def _read_inputs(client: Client, options):
    paths = _find_images(options.images)
    images = np.stack(
        [read_image(p, client.image_shape, options.resize) for p in paths]
    )
    return paths, images, np.full(len(paths), options.seed)


def _reconstruct(client: Client, options) -> str:
    paths, images, seeds = _read_inputs(client, options)
    results = client.reconstruct(images, seeds)
    if options.output.endswith(".png"):
        # Each beside its original.
        results = np.concatenate([images, results], axis=2)
    _write_images(options.output, results, [path.stem for path in paths])
    return f"Wrote {len(paths)} reconstructions to {options.output}."


def _score(client: Client, options) -> str:
    paths, images, seeds = _read_inputs(client, options)
    scores = client.score(images, seeds)
    rows = list(
        zip(paths, scores["nelbo"], scores["bits_per_dim"], strict=True)
    )
    lines = [f"{'nats':>12} {'bits/dim':>9}  file"]
    lines += [f"{n:12.2f} {b:9.4f}  {path}" for path, n, b in rows]
    nelbo, bits = (scores[k].mean() for k in ("nelbo", "bits_per_dim"))
    lines.append(f"{nelbo:12.2f} {bits:9.4f}  mean of {len(paths)}")
    if options.output:
        _write_csv(options.output, rows)
    return "\n".join(lines)


def _write_csv(path: str, rows: Iterable) -> None:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["file", "nelbo", "bits_per_dim"])
    writer.writerows(rows)
    write_bytes(path, table.getvalue().encode())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Uses a model on a TF Serving server."
    )
    server = parser.add_mutually_exclusive_group(required=True)
    server.add_argument("--target", help="HOST:PORT of gRPC")
    server.add_argument("--rest", help="URL, such as http://HOST:8501")
    parser.add_argument("--model", default="nvae", help="name it is served by")
    parser.add_argument("--version", type=int, help="by default the latest")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds")
    parser.add_argument("--retries", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=16)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    sample = commands.add_parser("sample", help="draw images")
    sample.add_argument("--num", type=int, default=64)
    sample.add_argument("--seed", type=int, default=0, help="of the first")
    sample.add_argument(
        "--temperature",
        type=lambda text: [float(t) for t in text.split(",")],
        default=[0.7],
        help="a number, or one per latent group with commas between",
    )
    sample.add_argument(
        "--output", default="grid.png", help="a .png for a grid, or a folder"
    )
    sample.set_defaults(run=_sample)
    for name, run, output, text in (
        ("reconstruct", _reconstruct, "reconstructions.png", "a .png, folder"),
        ("score", _score, "", "a .csv"),
    ):
        command = commands.add_parser(name, help=f"{name} image files")
        command.add_argument("images", nargs="+", help="files and folders")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--resize", action="store_true")
        command.add_argument("--output", default=output, help=text)
        command.set_defaults(run=run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command.

    Args:
      argv: arguments, by default the command line's.

    Returns:
      Exit status: 0, or 2 after a message.
    """
    options = _parser().parse_args(argv)
    kind = GrpcPredictor if options.target else RestPredictor
    try:
        if options.batch_size < 1:
            raise ClientError("--batch_size must be positive.")
        predictor = kind(
            options.target or options.rest,
            options.model,
            options.version,
            timeout=options.timeout,
            retries=options.retries,
        )
        try:
            client = Client(predictor, options.batch_size)
            print(options.run(client, options))
        finally:
            predictor.close()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
