"""A folder of graphs that take their noise, and the command that draws.

Becomes part of the programs that lie beside exports.
"""

import argparse
import hashlib
import json
import math
import pathlib
import re
import sys

import numpy as np

from nvae_tf.export.beside.class_labels import add_labels, label_rows
from nvae_tf.export.beside.noise_streams import check_noise, noise_rows
from nvae_tf.export.beside.picture_grid import grid, write_png

__all__ = ["DESCRIPTION", "GraphFolder", "draw_images"]

DESCRIPTION = "graphs.json"
_DTYPES = ("float32", "uint8", "int32")
_MOST_ROWS = 2**16
_MOST_GROUPS = 2**12
_MOST_CLASSES = 2**16
_MOST_NUMBERS = 2**31  # That a graph takes or gives.
_MOST_BYTES = 2**26  # Of the description.
_MOST_IMAGES = 10_000  # Of a grid.


class GraphFolder:
    """The graphs of an export.

    Args:
      folder: what `--output=` of the export was given.

    Attributes:
      FORMAT: of the graphs.
      SIDES: what of a graph is described.
      names: of the graphs.
      batch: N, rows that they take.
      num_groups: L, latent groups.
      num_classes: that the model is told; 0 for none.

    Raises:
      OSError: if a file cannot be read.
      ValueError: if there is no such export.
    """

    FORMAT = ""
    SIDES = ("inputs", "outputs")

    def __init__(self, folder):
        self._folder = pathlib.Path(folder)
        self._digests = None
        try:
            found = json.loads(self._read(DESCRIPTION, _MOST_BYTES))
            self._check(found)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"{self._folder / DESCRIPTION} tells of no {self.FORMAT} "
                f"graphs ({str(error)[:80]}); export them again."
            ) from error
        self._graphs, self._digests = found["graphs"], found["sha256"]
        self.names = sorted(self._graphs)
        self.batch = found["batch"]
        self.num_groups = found["num_groups"]
        self.num_classes = found.get("num_classes", 0)

    def _check(self, found):
        """Raises ValueError for a description that no export has."""
        if not isinstance(found, dict):
            raise ValueError("it describes nothing")
        if found.get("format") != self.FORMAT:
            raise ValueError("they are of another format")
        if not isinstance(found.get("sha256"), dict):
            raise ValueError("it has no checksums")
        graphs, batch = found.get("graphs"), found.get("batch")
        if not isinstance(graphs, dict) or not graphs:
            raise ValueError("it has no graphs")
        if type(batch) is not int or not 1 <= batch <= _MOST_ROWS:
            raise ValueError("it has no number of rows")
        groups = found.get("num_groups")
        if type(groups) is not int or not 1 <= groups <= _MOST_GROUPS:
            raise ValueError("it has no number of groups")
        classes = found.get("num_classes", 0)
        if type(classes) is not int or not 0 <= classes <= _MOST_CLASSES:
            raise ValueError("it has no number of classes")
        for name, graph in graphs.items():
            if not re.fullmatch("[a-z_]{1,20}", name):
                raise ValueError("a graph has no name")
            if not isinstance(graph, dict):
                raise ValueError(f"{name} is not described")
            for side in self.SIDES:
                if not _are_specs(graph.get(side)):
                    raise ValueError(f"{name} has no {side}")
            check_noise(graph["noise"])
            taken = {spec["name"]: spec["shape"] for spec in graph["inputs"]}
            if bool(classes) != ("label" in taken):
                raise ValueError(f"{name} takes other classes than it tells")
            for spec in graph["noise"]:
                if taken.get(spec["name"]) != [batch, *spec["shape"]]:
                    raise ValueError(f"{name} takes other noise than it tells")

    def _read(self, name, most):
        """The content of one of the files, as it was exported."""
        path = self._folder / name
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} is no regular file")
        if path.stat().st_size > most:
            raise ValueError(f"{path} is larger than any export's")
        content = path.read_bytes()
        if self._digests is not None and (
            hashlib.sha256(content).hexdigest() != self._digests.get(name)
        ):
            raise ValueError(f"{path} is damaged: its SHA-256 is another")
        return content

    def describe(self, name):
        """What a graph takes and gives.

        Args:
          name: of the graph.

        Returns:
          A dict: of each of `SIDES` a list of dicts of name, shape and dtype;
          "noise", which of the inputs are, a list of dicts of name, kind,
          stream and shape.
        """
        return self._graphs[name]

    def run(self, name, inputs):
        """Runs a graph.

        Args:
          name: of the graph.
          inputs: arrays by name, of `batch` rows.

        Returns:
          Arrays by name.
        """
        raise NotImplementedError

    def _given(self, name, inputs):
        """The inputs of a graph by name, in order, as it takes them."""
        given = {}
        for spec in self._graphs[name]["inputs"]:
            value = np.asarray(inputs[spec["name"]], spec["dtype"])
            if list(value.shape) != list(spec["shape"]):
                raise ValueError(
                    f"{spec['name']} must have the shape {spec['shape']}, not "
                    f"{list(value.shape)}."
                )
            given[spec["name"]] = value
        return given

    def draw_noise(self, name, seeds):
        """The noise of a graph that belongs to seeds: name -> array."""
        return {
            spec["name"]: noise_rows(
                seeds, spec["kind"], spec["stream"], spec["shape"]
            )
            for spec in self._graphs[name]["noise"]
        }

    def sample(self, seeds, temperature=0.7, *, labels=None, output="images"):
        """Draws an image for every seed.

        Args:
          seeds: integers `[M]`; any number of them.
          temperature: scales the noise of the latent groups: a number, or
            `[L]`, top-down.
          labels: of a model of classes, one of them for all images, or
            integers `[M]`; by default all classes in turn.
          output: "images" (uint8), "images_float" or "mean" (float32 in
            [0, 1]).

        Returns:
          `[M, H, W, C]`.

        Raises:
          ValueError: if the temperature or a label does not fit.
        """
        temperature = np.broadcast_to(
            np.asarray(temperature, np.float32), [self.batch, self.num_groups]
        )
        if not np.all(np.isfinite(temperature) & (temperature >= 0)):
            raise ValueError("temperature must be finite and not negative.")
        seeds = np.asarray(list(seeds), np.int64)
        labels = label_rows(labels, self.num_classes, len(seeds))
        images = []
        for start in range(0, len(seeds), self.batch):
            rows = np.arange(start, start + self.batch)
            # The last batch is filled up.
            rows = np.minimum(rows, len(seeds) - 1)
            given = self.draw_noise("sample", seeds[rows])
            given["temperature"] = temperature
            if labels is not None:
                given["label"] = labels[rows]
            drawn = self.run("sample", given)
            images.append(drawn[output][: len(seeds) - start])
        return np.concatenate(images)


def _are_specs(specs):
    """Whether these tell of arrays."""
    if not isinstance(specs, list):
        return False
    for spec in specs:
        if not (
            isinstance(spec, dict)
            and isinstance(spec.get("name"), str)
            and spec.get("dtype") in _DTYPES
            and isinstance(spec.get("shape"), list)
            and len(spec["shape"]) <= 8
            and all(type(n) is int and 0 <= n < 2**24 for n in spec["shape"])
        ):
            return False
    return sum(math.prod(spec["shape"]) for spec in specs) <= _MOST_NUMBERS


def draw_images(graphs_type, argv=None):
    """The command of the programs beside exports: draws a picture of images.

    Args:
      graphs_type: the `GraphFolder` that runs them.
      argv: arguments, by default the command line's.

    Returns:
      Exit status: 0, or 2 after a message.
    """
    parser = argparse.ArgumentParser(
        description="Draws images with an NVAE that was exported as "
        f"{graphs_type.FORMAT}."
    )
    parser.add_argument("folder", help="the export")
    parser.add_argument("--num", type=int, default=64, help="images")
    parser.add_argument("--seed", type=int, default=0, help="of the first")
    parser.add_argument("--temperature", type=float, default=0.7)
    add_labels(parser)
    parser.add_argument("--output", default="grid.png", help="a PNG file")
    options = parser.parse_args(argv)
    try:
        if not 1 <= options.num <= _MOST_IMAGES:
            raise ValueError(
                f"--num must be 1 to {_MOST_IMAGES}: the images make one grid."
            )
        seeds = range(options.seed, options.seed + options.num)
        images = graphs_type(options.folder).sample(
            seeds, options.temperature, labels=options.labels
        )
        write_png(options.output, grid(images))
    except ImportError as error:
        print(f"error: {error}; pip install it.", file=sys.stderr)
        return 2
    except Exception as error:
        # The engines have kinds of their own.
        text = " ".join(str(error).split()) or type(error).__name__
        print(f"error: {text[:1000]}", file=sys.stderr)
        return 2
    print(f"Wrote {options.num} images to {options.output}.")
    return 0
