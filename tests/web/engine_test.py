"""The page's model in Node.js draws and scores what Python does."""

import numpy as np
import pytest

from nvae_tf.export.onnx_runner import OnnxRunner
from nvae_tf.export.onnx_sampler import Sampler, noise_rows
from nvae_tf.sampling import exploration
from tests.support.node import CHECKS, call, needs_node

pytestmark = [needs_node, pytest.mark.long]

# Gray and binary; colours; a mixture of several, with flows; re-adjusted
# statistics.
_CASES = ("digits", "served", "tiny", "readjusted")


def _call(site, *calls):
    (results,) = call(CHECKS, "run", (str(site), calls))
    return results


def _rows(seeds, temperature, groups):
    return [
        {"source": {"seed": int(seed)}, "temperature": [temperature] * groups}
        for seed in seeds
    ]


def _pictures(pixels, like):
    return np.asarray(pixels).reshape(-1, *like.shape[1:])


@pytest.mark.parametrize("name", _CASES)
def test_seeds_draw_the_same_pictures(page_of, name):
    folder = page_of(name)
    sampler = Sampler(folder / "model" / "nvae.onnx")
    seeds, groups = [0, 7, 2**31 - 1], sampler.num_groups
    rows = _rows(seeds, 0.8, groups)
    images, mean = _call(
        folder, ("draw", [rows, "images"]), ("draw", [rows, "mean", True])
    )
    expected = sampler.sample(seeds, 0.8)
    difference = np.abs(_pictures(images, expected).astype(int) - expected)
    # Components of a mixture may tie, and levels be halves.
    assert np.mean(difference > 0) <= 1e-3
    assert name == "tiny" or difference.max() <= 1
    assert expected.std() > 3
    expected = sampler.sample(seeds, 0.8, output="mean")
    np.testing.assert_allclose(_pictures(mean, expected), expected, atol=1e-5)


def test_every_scale_has_its_temperature(page_of):
    folder = page_of("digits")
    sampler = Sampler(folder / "model" / "nvae.onnx")
    temperature = np.linspace(0.3, 1.1, sampler.num_groups)
    rows = [{"source": {"seed": 5}, "temperature": temperature.tolist()}]
    (mean,) = _call(folder, ("draw", [rows, "mean", True]))
    expected = sampler.sample([5], temperature, output="mean")
    np.testing.assert_allclose(_pictures(mean, expected), expected, atol=1e-5)


def test_pictures_are_of_the_classes_that_rows_say(page_of):
    folder = page_of("classes")
    sampler = Sampler(folder / "model" / "nvae.onnx")
    seeds, labels = [4, 4, 9], [2, 0, 1]
    rows = [
        {**row, "label": label}
        for row, label in zip(
            _rows(seeds, 0.8, sampler.num_groups), labels, strict=True
        )
    ]
    (mean,) = _call(folder, ("draw", [rows, "mean", True]))
    expected = sampler.sample(seeds, 0.8, labels=labels, output="mean")
    found = _pictures(mean, expected)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_own_images_are_looked_at_under_their_class(page_of):
    folder = page_of("classes")
    python = _Python(folder)
    image = np.random.default_rng(1).integers(0, 256, python.shape)
    image = image.astype(np.uint8)
    row = {
        "source": {"image": "key"},
        "temperature": [0.5] * len(python.specs),
    }
    asked = []
    for label in (2, 0):
        asked.append(("infer", ["key", image.ravel(), label]))
        asked.append(("draw", [[{**row, "label": label}], "mean", True]))
    # What was known of it under another class stays what it was.
    asked.append(("draw", [[{**row, "label": 2}], "mean", True]))
    first, mean, second, other, again = _call(folder, *asked)
    for label, scores, shown in ((2, first, mean), (0, second, other)):
        expected = python.infer(image, python.noise(0), label)
        np.testing.assert_allclose(
            scores["nelbo"], expected["nelbo"][0], rtol=1e-4
        )
        zeros = [np.zeros_like(e) for e in python.noise(0)]
        whole = python.infer(image, zeros, label)["mean"][0]
        np.testing.assert_allclose(
            np.reshape(shown, python.shape), whole, atol=1e-4
        )
    assert first["nelbo"] != second["nelbo"]
    np.testing.assert_array_equal(again, mean)


class _Python:
    """The same through the ONNX files, in Python."""

    def __init__(self, site):
        self.runner = OnnxRunner(site / "model" / "nvae.onnx")
        self.specs = self.runner.noise("infer")
        self.shape = self.runner.inputs("infer")["images"][1][1:]

    def noise(self, seed):
        return [
            noise_rows([seed], "normal", spec["stream"], spec["shape"])
            for spec in self.specs
        ]

    def mean(self, eps, temperature=1.0):
        names = set(self.runner.names) & {"from_noise"}
        graph = names.pop() if names else "sample"
        rows = len(eps[0])
        feeds = {f"eps_{i}": np.float32(e) for i, e in enumerate(eps)}
        feeds["temperature"] = np.full(
            [rows, len(eps)], temperature, np.float32
        )
        for spec in self.runner.noise(graph):
            feeds.setdefault(
                spec["name"],
                noise_rows([0] * rows, spec["kind"], 99, spec["shape"]),
            )
        return self.runner.run(graph, feeds)["mean"]

    def infer(self, image, eps, label=0):
        feeds = {f"eps_{i}": e for i, e in enumerate(eps)}
        feeds["label"] = np.array([label], np.int32)
        return self.runner.run("infer", {**feeds, "images": image[None]})

    def still(self, image):
        """The noise of an image's posterior mean."""
        eps = [np.zeros([1, *spec["shape"]], np.float32) for spec in self.specs]
        found = self.infer(image, eps)
        return [found[f"noise_{i}"] for i in range(len(eps))]


@pytest.mark.parametrize("name", _CASES)
def test_own_images_are_scored_and_reconstructed_by_scale(page_of, name):
    folder = page_of(name)
    python = _Python(folder)
    image = np.random.default_rng(1).integers(0, 256, python.shape)
    image = image.astype(np.uint8)
    groups = len(python.specs)
    own = {"image": "key"}
    row = {"source": own, "temperature": [0.5] * groups}
    rows = [{**row, "groups": count} for count in range(groups + 1)]
    scores, means = _call(
        folder,
        ("infer", ["key", image.ravel()]),
        ("draw", [rows, "mean", True]),
    )
    expected = python.infer(image, python.noise(0))
    for ours, theirs in (
        ("nelbo", "nelbo"),
        ("bitsPerDim", "bits_per_dim"),
        ("klPerGroup", "kl_per_group"),
    ):
        np.testing.assert_allclose(scores[ours], expected[theirs][0], rtol=1e-4)
    noise = python.still(image)
    for count, mean in enumerate(np.reshape(means, [-1, *python.shape])):
        upper = exploration.top_groups_only(noise, count)
        # Images are at temperature 1, whatever that of seeds is.
        np.testing.assert_allclose(mean, python.mean(upper)[0], atol=1e-4)
    # From all groups: the reconstruction of the posterior's mean.
    zeros = [np.zeros_like(e) for e in noise]
    whole = python.infer(image, zeros)["mean"][0]
    np.testing.assert_allclose(mean, whole, atol=1e-4)


def test_rows_join_ways_and_shifts(page_of):
    folder = page_of("digits")
    python = _Python(folder)
    groups = len(python.specs)
    base = {"source": {"seed": 3}, "temperature": [0.6] * groups}
    image = np.zeros(python.shape, np.uint8)
    image[2:-2, 4:7] = 255
    own = {"image": "key"}
    keep = {"source": {"seed": 9}, "groups": 2}
    three, nine, still = python.noise(3), python.noise(9), python.still(image)
    moved = [e.copy() for e in three]
    moved[1][..., 2] += np.float32(1.5)
    way = exploration.interpolated(
        [np.concatenate(pair) for pair in zip(three, nine, strict=True)], 3
    )
    mixed = exploration.interpolated(
        [
            np.concatenate([np.float32(0.6) * e, s])
            for e, s in zip(three, still, strict=True)
        ],
        5,
    )
    cold = np.float32([0.6] * groups)
    cases = [
        ({"keep": {**keep, "side": "coarse"}}, nine[:2] + three[2:], 0.6),
        ({"keep": {**keep, "side": "fine"}}, three[:2] + nine[2:], 0.6),
        (
            {"keep": {"source": own, "groups": 1, "side": "coarse"}},
            still[:1] + three[1:],
            np.concatenate([[1], cold[1:]]),
        ),
        (
            {"shift": {"group": 1, "channel": 2, "amount": 1.5}},
            moved,
            0.6,
        ),
        ({"other": {"seed": 9}, "t": 0.5}, [e[1:2] for e in way], 0.6),
        ({"other": own, "t": 0.25}, [e[1:2] for e in mixed], 1.0),
    ]
    rows = [{**base, **more} for more, _, _ in cases]
    *_, means = _call(
        folder,
        ("infer", ["key", image.ravel()]),
        ("draw", [rows, "mean", True]),
    )
    for mean, (more, eps, temperature) in zip(
        np.reshape(means, [-1, *python.shape]), cases, strict=True
    ):
        np.testing.assert_allclose(
            mean,
            python.mean(eps, temperature)[0],
            atol=1e-5,
            err_msg=str(more),
        )
