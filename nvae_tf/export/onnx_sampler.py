"""Draws images with an exported `nvae.onnx`, without TensorFlow.

    python onnx_sampler.py nvae.onnx --num=64 --seed=0 --output=grid.png

A single file that needs NumPy and ONNX Runtime, and Pillow to write PNG.  As a
module:

    sampler = Sampler("nvae.onnx")
    images = sampler.sample(seeds=range(64), temperature=0.7)

Of a model that was trained with labels, `--labels=7` or `labels=7` says which
class is drawn, by default all of them in turn.

The graph has no random operations: noise comes in, drawn here.  An image
depends on its own seed, class and temperature, not on the batch around it:
row i of `--seed=S` has the seed S + i.
"""

import argparse
import json
import os
import sys

import numpy as np

from nvae_tf.export.beside.class_labels import add_labels, label_rows
from nvae_tf.export.beside.noise_streams import check_noise, noise_rows
from nvae_tf.export.beside.picture_grid import grid, write_png
from nvae_tf.export.onnx_file import read_metadata, whole

__all__ = ["Sampler", "grid", "noise_rows"]

_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_MOST_IMAGES = 10_000  # Of a grid.


class Sampler:
    """An exported sampler in ONNX Runtime.

    Args:
      path: the `.onnx` file of the sample graph.
      providers: of ONNX Runtime, names or pairs of a name and options; by
        default CUDA where it is installed, and the CPU.  On CUDA products are
        computed in float32, unless `use_tf32` says otherwise.

    Attributes:
      session: the `onnxruntime.InferenceSession`.
      noise: what the graph takes: dicts of name, kind, stream, shape.
      num_groups: L, latent groups.
      num_classes: that the model is told; 0 for none.

    Raises:
      ValueError: if the file is not such a graph, or a provider that was asked
        for is missing.
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
            self.noise = json.loads(metadata["nvae_noise"])
            check_noise(self.noise)
            self.num_groups = whole(metadata["nvae_num_groups"])
            self.fixed_batch = whole(metadata.get("nvae_fixed_batch", "0"))
            self.num_classes = whole(metadata.get("nvae_num_classes", "0"))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"{path} does not tell what noise it takes "
                f"({str(error)[:80]}); export it again."
            ) from error
        asked = [_provider(p) for p in providers or ()]
        _require(asked, onnxruntime.get_available_providers())
        try:
            self.session = onnxruntime.InferenceSession(
                os.fspath(path), providers=asked or _providers(onnxruntime)
            )
        except Exception as error:
            # ONNX Runtime has a dozen kinds, with nothing in common.
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"{path} is not an ONNX file that loads: {reason}"
            ) from error
        # What is installed may still find no device.
        _require(asked, self.session.get_providers())
        taken = {value.name for value in self.session.get_inputs()}
        told = {"temperature", *(spec["name"] for spec in self.noise)}
        if self.num_classes:
            told.add("label")
        if taken != told:
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

    def sample(
        self,
        seeds,
        temperature=0.7,
        *,
        labels=None,
        output="images",
        batch_size=16,
    ):
        """Draws an image for every seed.

        Args:
          seeds: integers `[N]`.
          temperature: scales the noise of the latent groups: a number, `[L]`
            for one per group, top-down, `[N, L]`, or `[N, 1]` for one per
            image.  One axis always means groups.
          labels: of a model of classes, one of them for all images, or
            integers `[N]`; by default all classes in turn.
          output: "images" (uint8), "images_float" or "mean" (float32 in
            [0, 1]; the mean image of the same latents).
          batch_size: images at a time.

        Returns:
          `[N, H, W, C]`.

        Raises:
          ValueError: if the temperature, a label or a seed does not fit, or the
            graph does not run.
        """
        try:
            seeds = np.asarray(list(seeds), np.int64)
        except OverflowError as error:
            raise ValueError("Seeds must be integers of 64 bits.") from error
        temperature = self._temperature(temperature, len(seeds))
        labels = label_rows(labels, self.num_classes, len(seeds))
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
            if labels is not None:
                feed["label"] = labels[rows]
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


def _providers(onnxruntime):
    available = onnxruntime.get_available_providers()
    return [_provider(name) for name in (_CUDA, _CPU) if name in available]


def _provider(asked):
    """A name and its options."""
    name, options = (asked, {}) if isinstance(asked, str) else asked
    if name == _CUDA:
        # TF32 has 10 bits of mantissa: images would not be those of the CPU.
        options = {"use_tf32": "0", **options}
    return name, options


def _require(asked, there):
    """Refuses what ONNX Runtime would only warn of, and go on on the CPU."""
    missing = [name for name, _ in asked if name not in there]
    if missing:
        raise ValueError(
            f"{missing[0]} was asked for and is not there, but "
            f"{', '.join(there)}: install the ONNX Runtime that has it, or "
            "check the device."
        )


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
    add_labels(parser)
    parser.add_argument("--batch_size", type=_number, default=16)
    parser.add_argument("--output", default="grid.png", help="a PNG file")
    parser.add_argument(
        "--provider",
        help=f"of ONNX Runtime, such as {_CUDA}; by default CUDA or the CPU, "
        "whichever is there",
    )
    options = parser.parse_args(argv)
    try:
        if options.num < 1 or options.batch_size < 1:
            raise ValueError("--num and --batch_size must be positive.")
        if max(options.num, options.batch_size) > _MOST_IMAGES:
            raise ValueError(
                f"--num and --batch_size must be at most {_MOST_IMAGES}: the "
                "images make one grid."
            )
        providers = [options.provider] if options.provider else None
        images = Sampler(options.model, providers).sample(
            range(options.seed, options.seed + options.num),
            options.temperature,
            labels=options.labels,
            batch_size=options.batch_size,
        )
        write_png(options.output, grid(images))
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
