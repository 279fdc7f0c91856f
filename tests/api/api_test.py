"""The functions of `import nvae_tf`: what they give, and what they refuse."""

import dataclasses
import doctest
import gc
import inspect
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import types
import typing
import weakref

import numpy as np
import pytest
from PIL import Image

import nvae_tf
import nvae_tf.api
from nvae_tf.core.errors import ConfigError, UserError
from nvae_tf.datasets import pipeline
from nvae_tf.runs.workdir import Workdir
from nvae_tf.training import trainer
from tests.support import in_process
from tests.support.api_runs import digits_config, write_demo
from tests.support.golden_files import HERE, Golden
from tests.support.model_cases import CONFIGS, random_model

_FUNCTIONS = sorted(name for name in nvae_tf.api.__all__ if name.islower())
_ROOT = pathlib.Path(__file__).resolve().parents[2]
_README = re.findall(
    r"^```python\n(.*?)^```", (_ROOT / "README.md").read_text(), re.M | re.S
)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with `runs/demo`."""
    folder = tmp_path_factory.mktemp("here")
    write_demo(folder / "runs" / "demo")
    return folder


@pytest.fixture(scope="module")
def workdir(here):
    return here / "runs" / "demo"


@pytest.fixture(scope="module")
def model(workdir):
    return nvae_tf.load(workdir)


@pytest.fixture(scope="module")
def digits():
    """The first held-out digits, as the commands take them."""
    source = pipeline.open_source(digits_config(), "test")
    return np.stack([source[i] for i in range(5)])


def _tiles(path, gap=2, size=28):
    """Gray images of one row, `[N, size, size, 1]`."""
    with Image.open(path) as file:
        sheet = np.asarray(file)
    starts = range(0, sheet.shape[1], size + gap)
    return np.stack([sheet[:size, s : s + size, None] for s in starts])


# --- the front door ----------------------------------------------------------


def test_import_is_light():
    code = """
import sys
import nvae_tf
dir(nvae_tf), nvae_tf.__version__
print(sorted({name.partition(".")[0] for name in sys.modules}))
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(result.stdout.replace("'", "").strip("[]\n").split(", "))
    assert "nvae_tf" in loaded
    heavy = {"tensorflow", "tensorflow_probability", "keras", "tf_keras"}
    assert not loaded & (heavy | {"numpy", "absl", "ml_collections"})


def test_memory_of_a_gpu_is_taken_as_it_is_needed():
    name = "TF_FORCE_GPU_ALLOW_GROWTH"
    code = f"import os, nvae_tf; print(os.environ[{name!r}])"
    for given, expected in ((None, "true"), ("false", "false")):
        environment = {k: v for k, v in os.environ.items() if k != name}
        if given:
            environment[name] = given
        result = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        assert result.stdout.strip() == expected


def test_public_names_are_there_and_listed():
    for name in nvae_tf.__all__:
        assert getattr(nvae_tf, name).__doc__
        assert name in dir(nvae_tf)
    assert set(nvae_tf.api.__all__) < set(nvae_tf.__all__)
    with pytest.raises(AttributeError, match="no attribute 'smaple'"):
        nvae_tf.smaple  # noqa: B018


def test_modules_by_the_names_of_before():
    from nvae_tf import losses, reference_export, reference_import

    for module in (losses, reference_export, reference_import):
        assert isinstance(module, types.ModuleType)


@pytest.mark.parametrize("name", _FUNCTIONS)
def test_functions_are_typed_and_document_every_argument(name):
    function = getattr(nvae_tf, name)
    hints = typing.get_type_hints(function)
    for argument in inspect.signature(function).parameters:
        assert argument in hints
        assert f"\n  {argument}: " in inspect.getdoc(function)
    assert "return" in hints


@pytest.mark.parametrize("name", [*_FUNCTIONS, "the package"])
def test_examples_of_docstrings_run(here, model, digits, monkeypatch, name):
    monkeypatch.chdir(here)
    documented = getattr(nvae_tf, name, nvae_tf)
    globs = {"nvae_tf": nvae_tf, "model": model, "images": digits[:4]}
    finder = doctest.DocTestFinder(recurse=False)
    (examples,) = finder.find(documented, name, globs=globs)
    report = []
    result = doctest.DocTestRunner().run(examples, out=report.append)
    assert result.attempted
    assert not result.failed, "".join(report)


def test_readme_has_python():
    assert _README


@pytest.mark.parametrize("block", _README)
def test_python_of_the_readme_runs(here, monkeypatch, block):
    monkeypatch.chdir(here)
    shutil.copy(HERE / "bernoulli_two_scales.pt", "ckpt.pt")
    golden = Golden(HERE / "bernoulli_two_scales.npz")
    exec(block, {"x": golden.x, "eps": golden.eps})


# --- the numbers of the commands ---------------------------------------------


def test_sample_draws_what_the_command_draws(workdir, model, tmp_path):
    path = tmp_path / "s.png"
    in_process.run(
        "sample",
        f"--workdir={workdir}",
        "--num=5",
        "--columns=5",
        "--temperature=0.9",
        "--seed=3",
        f"--output={path}",
    )
    drawn = nvae_tf.sample(model, 5, temperature=0.9, seed=3)
    np.testing.assert_array_equal(drawn, _tiles(path))


def test_encode_gives_what_the_command_writes(workdir, model, digits, tmp_path):
    path = tmp_path / "l.npz"
    in_process.run(
        "encode",
        f"--workdir={workdir}",
        "--num=5",
        "--seed=7",
        f"--output={path}",
    )
    code = nvae_tf.encode(model, digits, seed=7)
    with np.load(path) as written:
        for name, arrays in (
            ("z", code.latents),
            ("mean", code.mean),
            ("sigma", code.sigma),
        ):
            for group, array in enumerate(arrays):
                np.testing.assert_allclose(
                    array, written[f"{name}_{group:02d}"], rtol=1e-4, atol=1e-5
                )
        for name in ("nelbo", "kl_per_group", "bits_per_dim"):
            # The command's graph also gives the noise: another rounding.
            np.testing.assert_allclose(
                getattr(code, name), written[name], rtol=1e-5
            )


@pytest.mark.long
def test_mean_score_is_what_the_evaluation_says(workdir, model, digits):
    in_process.run(
        "eval likelihood",
        f"--workdir={workdir}",
        "--num=5",
        "--num_importance_samples=3",
        "--seed=4",
        "--noplot",
    )
    record = json.loads((workdir / "evaluation.json").read_text())
    scores = nvae_tf.score(model, digits, 3, seed=4, batch_size=2)
    for name in scores._fields:
        values = getattr(scores, name)
        assert values.shape == (5,)
        assert values.mean() == pytest.approx(record[name], rel=1e-5)


def test_reconstructions_are_the_decoded_latents(model, digits):
    code = nvae_tf.encode(model, digits, seed=2)
    logits = model.decode(latents=code.latents).logits
    mean = model.likelihood(logits).mean().numpy()[:, 2:-2, 2:-2]
    shown = nvae_tf.reconstruct(model, digits, seed=2)
    # Rounded to bytes, after arithmetic in another order.
    assert np.abs(shown - 255 * mean).max() < 0.51


def test_ways_begin_and_end_at_reconstructions_of_the_mean(model, digits):
    way = nvae_tf.interpolate(model, digits[1], digits[4, ..., 0], 4)
    assert way.shape == (4, 28, 28, 1)
    ends = nvae_tf.reconstruct(model, digits[[1, 4]], latents="mean")
    # Through noise and back: the same but for rounding.
    assert np.abs(way[[0, -1]].astype(int) - ends).max() <= 1
    straight = nvae_tf.interpolate(
        model, digits[1], digits[4], 4, path="linear"
    )
    assert (straight[1:-1] != way[1:-1]).any()


# --- arguments ---------------------------------------------------------------


def test_batches_change_nothing(model, digits):
    np.testing.assert_array_equal(
        nvae_tf.sample(model, 5, seed=9, batch_size=2),
        nvae_tf.sample(model, 5, seed=9),
    )
    whole = nvae_tf.encode(model, digits)
    parts = nvae_tf.encode(model, digits, batch_size=2)
    for a, b in zip(whole.latents, parts.latents, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(whole.nelbo, parts.nelbo, rtol=1e-5)


def test_latents_of_the_mean_are_the_mean(model, digits):
    code = nvae_tf.encode(model, digits, latents="mean")
    for z, mean in zip(code.latents, code.mean, strict=True):
        np.testing.assert_array_equal(z, mean)
    drawn = nvae_tf.encode(model, digits)
    assert np.abs(drawn.latents[0] - code.latents[0]).max() > 1e-3
    # Bounds are of a draw all the same.
    np.testing.assert_allclose(code.nelbo, drawn.nelbo, rtol=1e-6)


def test_temperature_may_differ_between_groups(model):
    low = nvae_tf.sample(model, 2, temperature=0.2)
    np.testing.assert_array_equal(
        nvae_tf.sample(model, 2, temperature=[0.2, 0.2]), low
    )
    assert (nvae_tf.sample(model, 2, temperature=[0.2, 1.0]) != low).any()
    each = nvae_tf.sample(model, 3, temperature=[[0.2], [1.0], [0.2]])
    np.testing.assert_array_equal(each[:1], low[:1])
    assert (each[1] != low[1]).any()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, x: nvae_tf.sample(m, 0), "num is 0.*from 1"),
        (lambda m, x: nvae_tf.sample(m, 1.5), "num is 1.5.*whole"),
        (lambda m, x: nvae_tf.sample(m, seed=-1), "seed is -1"),
        (lambda m, x: nvae_tf.sample(m, temperature=-1), "temperature.*negat"),
        (lambda m, x: nvae_tf.sample(m, temperature="hot"), "'hot'"),
        (lambda m, x: nvae_tf.sample(m, temperature=[1, 1, 1]), "2 latent gr"),
        (lambda m, x: nvae_tf.sample(m, pixels="best"), "auto, mean, sample"),
        (lambda m, x: nvae_tf.sample(m, truncation=0), "truncation is 0"),
        (
            lambda m, x: nvae_tf.sample("runs/demo"),
            r"str, not an nvae_tf\.NVAE",
        ),
        (
            lambda m, x: nvae_tf.encode(m, x[0]),
            r"\[28, 28, 1\].*images\[None\]",
        ),
        (lambda m, x: nvae_tf.encode(m, x, batch_size=0), "batch_size is 0"),
        (lambda m, x: nvae_tf.encode(m, x, latents="x"), "sample, mean"),
        (lambda m, x: nvae_tf.score(m, x, 0), "num_samples is 0"),
        (lambda m, x: nvae_tf.reconstruct(m, x[:, 1:]), r"takes \[N, 28, 28"),
        (lambda m, x: nvae_tf.interpolate(m, x, x), "takes"),
        (lambda m, x: nvae_tf.interpolate(m, x[0], x[1], 1), "steps is 1"),
        (
            lambda m, x: nvae_tf.interpolate(m, x[0], x[1], batch_size=0),
            "batch_size is 0",
        ),
        (
            lambda m, x: nvae_tf.interpolate(m, x[0], x[1], path="up"),
            "spherical, linear",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_named(model, digits, call, words):
    with pytest.raises(UserError, match=words):
        call(model, digits)


# --- models and folders ------------------------------------------------------


def _same_weights(a, b) -> bool:
    ours, theirs = (m.named_variables("model/") for m in (a, b))
    return ours.keys() == theirs.keys() and all(
        np.array_equal(value, theirs[name]) for name, value in ours.items()
    )


def test_saved_model_loads_and_keeps_its_configuration(model, tmp_path):
    nvae_tf.save(model, tmp_path / "again")
    assert _same_weights(nvae_tf.load(tmp_path / "again"), model)
    config = Workdir(tmp_path / "again").read_config()
    assert config == digits_config()


def test_training_begins_with_what_was_saved(model, tmp_path):
    config = digits_config()
    train = dataclasses.replace(config.train, ema_decay=0.9)
    config = dataclasses.replace(config, train=train)
    nvae_tf.save(model, tmp_path, config)
    run = trainer.Trainer(config, Workdir(tmp_path))
    assert run.state.restore().step == 0
    assert _same_weights(run.state.model, model)
    # As is the average; the optimiser is new.
    averaged = nvae_tf.load(tmp_path)
    assert _same_weights(averaged, model)
    assert not np.any(run.state.train_step.optimizer.u)


def test_model_without_a_run_says_where_its_images_are_missing(tmp_path):
    model = random_model(CONFIGS["plain_vae"])
    blank = np.zeros((1, 8, 8), bool)
    assert nvae_tf.reconstruct(model, blank).shape == (1, 8, 8, 1)
    nvae_tf.save(model, tmp_path)
    assert _same_weights(nvae_tf.load(tmp_path), model)
    with pytest.raises(UserError, match=r"data\.path"):
        in_process.run("encode", f"--workdir={tmp_path}")


def test_save_refuses_what_would_be_lost_or_wrong(model, workdir, tmp_path):
    with pytest.raises(UserError, match="holds a run already"):
        nvae_tf.save(model, workdir)
    with pytest.raises(ConfigError, match=r"model\.image_size"):
        nvae_tf.save(model, tmp_path / "a", nvae_tf.load_config("tiny"))
    config = dataclasses.replace(digits_config(), precision="mixed_bfloat16")
    with pytest.raises(ConfigError, match="precision"):
        nvae_tf.save(model, tmp_path / "a", config)
    assert not (tmp_path / "a").exists()


def test_checkpoint_of_the_authors_loads(tmp_path):
    path = HERE / "bernoulli_two_scales.pt"
    from nvae_tf import reference_import

    model = nvae_tf.load(path)
    assert _same_weights(model, reference_import.load(path)[0])
    with pytest.raises(UserError, match="one set of weights"):
        nvae_tf.load(path, ema=True)
    with pytest.raises(UserError, match="nothing"):
        nvae_tf.load(tmp_path / "nothing")


def test_graphs_are_built_once_and_go_with_their_model():
    model = random_model(CONFIGS["plain_vae"])
    nvae_tf.sample(model, 2)
    drawing = model._nvae_tf_companion.illustrator._decode
    traced = drawing.experimental_get_tracing_count()
    nvae_tf.sample(model, 2, seed=3, temperature=[0.5])
    assert drawing.experimental_get_tracing_count() == traced
    gone = weakref.ref(model)
    del model, drawing
    gc.collect()
    assert gone() is None
