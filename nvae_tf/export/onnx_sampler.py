"""Draws images with an exported `nvae.onnx`, without TensorFlow.

    python onnx_sampler.py nvae.onnx --num=64 --seed=0 --output=grid.png

A single file that needs NumPy and ONNX Runtime, and Pillow to write PNG.  As a
module:

    sampler = Sampler("nvae.onnx")
    images = sampler.sample(seeds=range(64), temperature=0.7)

The graph has no random operations: noise comes in, drawn here.  An image
depends on its own seed and on the temperature, not on the batch around it:
row i of `--seed=S` has the seed S + i.
"""

import argparse
import json
import math
import os
import sys

import numpy as np

from nvae_tf.export.onnx_file import read_metadata, whole

__all__ = ["Sampler", "grid", "noise_rows"]

_MOST_NOISE = 2**28  # Numbers that an image may take.
_MOST_IMAGES = 10_000  # Of a grid.

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def _philox(seeds, stream, count):
    """Philox4x32-10: uint32 `[B, count]`, a function of seed and stream.

    Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011): the
    key is the seed, the counter's upper half the stream.
    """
    key = np.asarray(seeds, np.int64).view(np.uint64)[:, None]
    index = np.arange(-(-count // 4), dtype=np.uint64)[None]
    index = np.broadcast_to(index, (len(key), index.size))
    a, b = index & _LOW, index >> _HALF
    c = np.full_like(a, np.uint64(stream) & _LOW)
    d = np.full_like(a, np.uint64(stream) >> _HALF)
    k, m = key & _LOW, key >> _HALF
    for step in range(10):
        if step:
            k = (k + np.uint64(0x9E3779B9)) & _LOW
            m = (m + np.uint64(0xBB67AE85)) & _LOW
        p, q = np.uint64(0xD2511F53) * a, np.uint64(0xCD9E8D57) * c
        a, b, c, d = (
            (q >> _HALF) ^ b ^ k,
            q & _LOW,
            (p >> _HALF) ^ d ^ m,
            p & _LOW,
        )
    words = np.stack([a, b, c, d], axis=-1)  # [B, count / 4, 4]
    words = words.reshape(len(key), 4 * index.shape[1])
    return words[:, :count].astype(np.uint32)


def _uniform(seeds, stream, count):
    """Float32 `[B, count]` on [0, 1): 23 random bits each."""
    words = _philox(seeds, stream, count) & np.uint32(0x7FFFFF)
    return (words | np.uint32(0x3F800000)).view(np.float32) - np.float32(1)


def _normal(seeds, stream, count):
    """Float32 `[B, count]`, standard Normal, by Box and Muller.

    Functions are computed in float64 and rounded: in float32, their last digits
    differ between processors and between languages.
    """
    half = -(-count // 2)
    pairs = _uniform(seeds, stream, 2 * half).reshape(len(seeds), half, 2)
    radius = np.maximum(pairs[..., :1], np.float32(1e-7))
    logarithm = np.log(radius.astype(np.float64)).astype(np.float32)
    radius = np.sqrt(np.float32(-2) * logarithm)
    angle = np.float32(2 * math.pi) * pairs[..., 1:]
    angle = angle.astype(np.float64)
    normal = np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)
    normal = normal.astype(np.float32) * radius
    return normal.reshape(len(seeds), 2 * half)[:, :count]


def noise_rows(seeds, kind, stream, shape):
    """Noise that each row draws from its own seed.

    Args:
      seeds: integers `[B]`.
      kind: "normal" (standard) or "uniform" (on [0, 1)).
      stream: number of the tensor: latent groups count from 0.
      shape: of a row.

    Returns:
      float32 `[B, *shape]`.
    """
    draw = {"normal": _normal, "uniform": _uniform}[kind]
    seeds = np.asarray(seeds, np.int64).reshape(-1)
    rows = draw(seeds, stream, math.prod(shape))
    return rows.reshape(len(seeds), *shape)


class Sampler:
    """An exported sampler in ONNX Runtime.

    Args:
      path: the `.onnx` file of the sample graph.
      providers: of ONNX Runtime; by default CUDA where it is installed, and
        the CPU.

    Attributes:
      session: the `onnxruntime.InferenceSession`.
      noise: what the graph takes: dicts of name, kind, stream, shape.
      num_groups: L, latent groups.

    Raises:
      ValueError: if the file is not such a graph.
    """

    def __init__(self, path, providers=None):
        import onnxruntime

        metadata = read_metadata(path)
        if metadata.get("nvae_graph") != "sample":
            raise ValueError(
                f"{path} is not an exported NVAE sampler; name the file that "
                "`nvae export onnx --output=` was given."
            )
        try:
            self.noise = _noise(metadata["nvae_noise"])
            self.num_groups = whole(metadata["nvae_num_groups"])
            self.fixed_batch = whole(metadata.get("nvae_fixed_batch", "0"))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"{path} does not tell what noise it takes "
                f"({str(error)[:80]}); export it again."
            ) from error
        try:
            self.session = onnxruntime.InferenceSession(
                os.fspath(path),
                providers=providers or _providers(onnxruntime),
            )
        except Exception as error:
            # ONNX Runtime has a dozen kinds, with nothing in common.
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"{path} is not an ONNX file that loads: {reason}"
            ) from error
        taken = {value.name for value in self.session.get_inputs()}
        if taken != {"temperature", *(spec["name"] for spec in self.noise)}:
            raise ValueError(
                f"{path} takes other noise than it tells; export it again."
            )

    def draw_noise(self, seeds):
        """The noise that belongs to these seeds: name -> float32 array."""
        return {
            spec["name"]: noise_rows(
                seeds, spec["kind"], spec["stream"], spec["shape"]
            )
            for spec in self.noise
        }

    def sample(self, seeds, temperature=0.7, *, output="images", batch_size=16):
        """Draws an image for every seed.

        Args:
          seeds: integers `[N]`.
          temperature: scales the noise of the latent groups: a number, `[L]`
            for one per group, top-down, `[N, L]`, or `[N, 1]` for one per
            image.  One axis always means groups.
          output: "images" (uint8), "images_float" or "mean" (float32 in
            [0, 1]; the mean image of the same latents).
          batch_size: images at a time.

        Returns:
          `[N, H, W, C]`.

        Raises:
          ValueError: if the temperature or a seed does not fit, or the graph
            does not run.
        """
        try:
            seeds = np.asarray(list(seeds), np.int64)
        except OverflowError as error:
            raise ValueError("Seeds must be integers of 64 bits.") from error
        temperature = self._temperature(temperature, len(seeds))
        batch_size = self.fixed_batch or batch_size
        results = []
        for start in range(0, len(seeds), batch_size):
            rows = np.arange(start, start + batch_size)
            # A last, smaller batch is filled up where the graph's is fixed.
            valid = rows < len(seeds)
            if self.fixed_batch:
                rows = np.minimum(rows, len(seeds) - 1)
            else:
                rows = rows[valid]
            feed = self.draw_noise(seeds[rows])
            feed["temperature"] = temperature[rows]
            results.append(self._run(output, feed)[: valid.sum()])
        return np.concatenate(results)

    def _run(self, output, feed):
        try:
            (images,) = self.session.run([output], feed)
        except Exception as error:
            reason = str(error).strip().partition("\n")[0][:200]
            raise ValueError(f"The graph does not run: {reason}") from error
        rows = len(feed["temperature"])
        if np.ndim(images) != 4 or len(images) != rows:
            raise ValueError(f"The graph made no {rows} images.")
        return images

    def _temperature(self, temperature, count):
        t = np.asarray(temperature, np.float32)
        groups = self.num_groups
        fits = t.shape in ((), (groups,)) or (
            t.ndim == 2
            and t.shape[0] in (1, count)
            and t.shape[1] in (1, groups)
        )
        if not fits:
            raise ValueError(
                f"temperature must be a number, [{groups}] for one per latent "
                f"group, [{count}, 1] for one per image, or "
                f"[{count}, {groups}], not of shape {list(t.shape)}."
            )
        t = np.ascontiguousarray(np.broadcast_to(t, (count, groups)))
        if not np.all(np.isfinite(t) & (t >= 0)):
            raise ValueError("temperature must be finite and not negative.")
        return t


def _noise(text):
    """What a graph takes, from its properties."""
    specs = json.loads(text)
    for spec in specs:
        numbers = [spec["stream"], *spec["shape"]]
        if (
            spec["kind"] not in ("normal", "uniform")
            or not isinstance(spec["name"], str)
            or len(numbers) > 8
            or not all(
                isinstance(n, int) and 0 <= n <= _MOST_NOISE for n in numbers
            )
        ):
            raise ValueError("a description of noise is none")
    if sum(math.prod(spec["shape"]) for spec in specs) > _MOST_NOISE:
        raise ValueError("it takes more noise than any image")
    return specs


def _providers(onnxruntime):
    known = ("CUDAExecutionProvider", "CPUExecutionProvider")
    available = onnxruntime.get_available_providers()
    return [provider for provider in known if provider in available]


def grid(images):
    """uint8 `[N, H, W, C]` -> `[rows * H, columns * W, C]`, about square."""
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    sheet = np.full((rows * columns, *images.shape[1:]), 255, np.uint8)
    sheet[:count] = images
    sheet = sheet.reshape(rows, columns, height, width, channels)
    sheet = sheet.transpose(0, 2, 1, 3, 4)
    return sheet.reshape(rows * height, columns * width, channels)


def _write_png(path, image):
    from PIL import Image

    if image.shape[-1] == 1:
        image = image[..., 0]
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        Image.fromarray(image).save(temporary, "PNG")
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def _number(text):
    """A whole number of the command line."""
    try:
        return int(text)
    except ValueError:
        # Also for one of thousands of digits, which Python does not convert.
        raise argparse.ArgumentTypeError(
            f"{text[:20]!r} is no whole number of a sensible size"
        ) from None


def main(argv=None):
    """The command.

    Args:
      argv: arguments, by default the command line's.

    Returns:
      Exit status: 0, or 2 after a message.
    """
    parser = argparse.ArgumentParser(
        description="Draws images with an exported NVAE."
    )
    parser.add_argument("model", help="the exported .onnx file")
    parser.add_argument("--num", type=_number, default=64, help="images")
    parser.add_argument("--seed", type=_number, default=0, help="of the first")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--batch_size", type=_number, default=16)
    parser.add_argument("--output", default="grid.png", help="a PNG file")
    options = parser.parse_args(argv)
    try:
        if options.num < 1 or options.batch_size < 1:
            raise ValueError("--num and --batch_size must be positive.")
        if max(options.num, options.batch_size) > _MOST_IMAGES:
            raise ValueError(
                f"--num and --batch_size must be at most {_MOST_IMAGES}: the "
                "images make one grid."
            )
        images = Sampler(options.model).sample(
            range(options.seed, options.seed + options.num),
            options.temperature,
            batch_size=options.batch_size,
        )
        _write_png(options.output, grid(images))
    except ImportError as error:
        print(f"error: {error}; pip install it.", file=sys.stderr)
        return 2
    except (ValueError, OSError, MemoryError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        print(f"error: {text[:1000]}", file=sys.stderr)
        return 2
    print(f"Wrote {options.num} images to {options.output}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
