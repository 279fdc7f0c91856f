"""What commands and functions do with a model that is told classes."""

import numpy as np
import pytest
from PIL import Image

import nvae_tf
from nvae_tf.core.errors import UserError
from nvae_tf.datasets import pipeline
from nvae_tf.runs.workdir import load_model
from nvae_tf.sampling import images
from nvae_tf.sampling.illustrator import Illustrator
from tests.support.api_runs import digits_config
from tests.support.in_process import run
from tests.support.model_cases import random_model

pytestmark = pytest.mark.early

_CLASSES = 10


def _write(path, **changes):
    config = nvae_tf.load_config(
        "mnist_demo",
        **{
            f"model__{key}": value
            for key, value in digits_config().model.to_dict().items()
        },
        **changes,
    )
    nvae_tf.save(random_model(config.model), path, config)
    return path


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run on the 5,000 digits that is told which digit each is."""
    return _write(
        tmp_path_factory.mktemp("told") / "run",
        model__num_classes=_CLASSES,
        data__labels=True,
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return _write(tmp_path_factory.mktemp("untold") / "run")


@pytest.fixture(scope="module")
def model(workdir):
    return nvae_tf.load(workdir)


@pytest.fixture(scope="module")
def digits(workdir):
    """The first held-out digits, and which they are."""
    source = pipeline.open_source(load_model(workdir)[1], "test")
    chosen = np.arange(5)
    return (
        np.stack([source[i] for i in chosen]),
        source.read_labels(chosen).tolist(),
    )


def _tiles(path, columns, gap=2):
    """Gray images of a grid, `[N, 28, 28]`."""
    sheet = np.asarray(Image.open(path))
    sheet = np.pad(sheet, [[0, gap], [0, gap]])
    rows = sheet.shape[0] // (28 + gap)
    cells = sheet.reshape(rows, 28 + gap, columns, 28 + gap)
    return cells.transpose(0, 2, 1, 3)[:, :, :28, :28].reshape(-1, 28, 28)


def _draw(model, seeds, labels):
    drawn = Illustrator(model).draw_seeds(seeds, 0.7, labels=labels)
    return drawn[..., 0]


# --- commands ---------------------------------------------------------------


def test_classes_are_drawn_in_turn_in_columns_of_their_own(
    workdir, model, tmp_path
):
    path = tmp_path / "x.png"
    run("sample", f"--workdir={workdir}", "--num=20", f"--output={path}")
    expected = _draw(model, range(20), [*range(10)] * 2)
    np.testing.assert_array_equal(_tiles(path, 10), expected)


def test_one_class_is_drawn_throughout(workdir, model, tmp_path):
    path = tmp_path / "x.png"
    run(
        "sample",
        f"--workdir={workdir}",
        "--labels=7",
        "--num=4",
        f"--output={path}",
    )
    np.testing.assert_array_equal(
        _tiles(path, 2), _draw(model, range(4), [7] * 4)
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("text", "labels"), [("3,1", [3, 1]), ("all", list(range(10)))]
)
def test_several_classes_have_a_row_each(
    workdir, model, tmp_path, text, labels
):
    path = tmp_path / "x.png"
    run(
        "sample",
        f"--workdir={workdir}",
        f"--labels={text}",
        "--num=2",
        f"--output={path}",
    )
    sheet = np.asarray(Image.open(path))
    # Enlarged to twice their size, after a margin with words.
    height = 58
    assert sheet.shape[0] == height * len(labels) - 2
    for row, label in enumerate(labels):
        strip = sheet[row * height :][: height - 2 : 2, -(2 * 58 - 2) :: 2]
        expected = _draw(model, [0, 1], [label] * 2)
        np.testing.assert_array_equal(strip[:, :28], expected[0])
        np.testing.assert_array_equal(strip[:, -28:], expected[1])


@pytest.mark.long
def test_a_folder_is_gone_on_with_in_the_same_classes(workdir, model, tmp_path):
    options = [f"--workdir={workdir}", "--labels=4,5", "--seed=3"]
    folder = f"--output={tmp_path}/x/"
    run("sample", *options, "--num=3", folder)
    (tmp_path / "x" / "00000004.png").unlink()
    run("sample", *options, "--num=4", folder)
    paths = sorted((tmp_path / "x").glob("*.png"))
    found = np.stack([np.asarray(Image.open(path)) for path in paths])
    np.testing.assert_array_equal(
        found, _draw(model, range(3, 7), [4, 5, 4, 5])
    )
    with pytest.raises(UserError, match="labels"):
        run("sample", f"--workdir={workdir}", "--seed=3", "--num=4", folder)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ("10", "--labels=10: There is no class 10; the model knows 0 to 9"),
        ("-1", "not a whole number"),
        ("seven", "not a whole number"),
    ],
)
def test_other_classes_are_refused(workdir, tmp_path, labels, words):
    with pytest.raises(UserError, match=words):
        run("sample", f"--workdir={workdir}", f"--labels={labels}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("labels", ["7", "all"])
def test_unconditional_models_refuse_classes(plain, labels):
    with pytest.raises(UserError, match="no classes"):
        run("sample", f"--workdir={plain}", f"--labels={labels}")
    with pytest.raises(UserError, match="no classes"):
        run("encode", f"--workdir={plain}", "--num=2", "--labels=7")


@pytest.mark.long
def test_images_of_the_run_are_encoded_under_their_classes(
    workdir, model, digits, tmp_path
):
    path = tmp_path / "x.npz"
    options = [f"--workdir={workdir}", f"--output={path}"]
    run("encode", *options, "--num=5")
    x, labels = digits
    expected = nvae_tf.encode(model, x, labels=labels)
    with np.load(path) as found:
        np.testing.assert_allclose(found["nelbo"], expected.nelbo, rtol=1e-5)
    run("encode", *options, "--num=5", "--labels=0")
    expected = nvae_tf.encode(model, x, labels=0)
    with np.load(path) as found:
        np.testing.assert_allclose(found["nelbo"], expected.nelbo, rtol=1e-5)


@pytest.mark.long
def test_own_images_need_a_class(workdir, digits, tmp_path):
    x, labels = digits
    for number in range(2):
        images.write_png(tmp_path / f"{number}.png", x[number])
    options = [
        f"--workdir={workdir}",
        f"--images={tmp_path}/0.png,{tmp_path}/1.png",
    ]
    for name, output in (
        ("reconstruct", "r.png"),
        ("outliers", "o.csv"),
        ("interpolate", "i.png"),
    ):
        output = f"--output={tmp_path}/{output}"
        with pytest.raises(UserError, match=r"--labels which of 0 to 9"):
            run(name, *options, output)
        run(name, *options, output, f"--labels={labels[0]},{labels[1]}")
    with pytest.raises(UserError, match=r"shape \[3\]"):
        run("reconstruct", *options, "--labels=1,2,3")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("traverse", ["--labels=3", "--num_channels=1"]),
        ("interpolate", ["--seeds=1,2", "--labels=3,4"]),
        ("reconstruct", ["--num=3", "--top_groups=1"]),
        *(
            pytest.param(*case, marks=pytest.mark.long)
            for case in (
                ("traverse", ["--indices=2", "--num_channels=1"]),
                ("interpolate", ["--seeds=1,2"]),
                ("sample", ["--fix_groups=scales", "--num=3"]),
                ("nearest", ["--num=2", "--labels=1"]),
                ("nearest", ["--indices=0"]),
            )
        ),
    ],
)
def test_pictures_of_classes_are_written(workdir, tmp_path, name, arguments):
    path = tmp_path / "x.png"
    run(name, f"--workdir={workdir}", f"--output={path}", *arguments)
    assert np.asarray(Image.open(path)).std() > 0


@pytest.mark.long
def test_likelihood_is_that_given_the_classes(workdir, model, digits, capsys):
    x, labels = digits
    run(
        "eval likelihood",
        f"--workdir={workdir}",
        "--num=5",
        "--num_importance_samples=2",
        "--noplot",
        f"--output={workdir.parent}",
    )
    record = nvae_tf.score(model, x, 2, labels=labels)
    text = capsys.readouterr().out
    assert f"{record.nll.mean():.3f}" in text


# --- functions --------------------------------------------------------------


@pytest.mark.long
def test_functions_draw_classes(model):
    np.testing.assert_array_equal(
        nvae_tf.sample(model, 3, labels=7)[..., 0],
        _draw(model, range(3), [7] * 3),
    )
    np.testing.assert_array_equal(
        nvae_tf.sample(model, 12)[..., 0],
        _draw(model, range(12), [*range(10), 0, 1]),
    )
    with pytest.raises(UserError, match="no class 10"):
        nvae_tf.sample(model, 3, labels=10)


@pytest.mark.long
def test_functions_want_the_classes_of_images(model, digits):
    x, labels = digits
    for function in (nvae_tf.score, nvae_tf.encode, nvae_tf.reconstruct):
        with pytest.raises(UserError, match="class of every image"):
            function(model, x)
        function(model, x, labels=labels)
    way = nvae_tf.interpolate(model, x[0], x[1], 5, labels=labels[:2])
    ends = nvae_tf.reconstruct(model, x[:2], labels=labels[:2], latents="mean")
    for frame, end in ((0, 0), (-1, 1)):
        off = np.abs(way[frame].astype(int) - ends[end])
        assert off.max() <= 1
    with pytest.raises(UserError, match="class of every image"):
        nvae_tf.interpolate(model, x[0], x[1])


def test_functions_refuse_classes_of_a_model_without(plain, digits):
    model = nvae_tf.load(plain)
    with pytest.raises(UserError, match="no classes"):
        nvae_tf.sample(model, 2, labels=1)
    with pytest.raises(UserError, match="no classes"):
        nvae_tf.score(model, digits[0], labels=1)


@pytest.mark.long
def test_classes_go_with_a_model_that_is_handed_on(model, tmp_path):
    nvae_tf.save_pretrained(model, tmp_path / "shared")
    shared = nvae_tf.from_pretrained(tmp_path / "shared")
    assert shared.config == model.config
    np.testing.assert_array_equal(
        nvae_tf.sample(shared, 2, labels=5), nvae_tf.sample(model, 2, labels=5)
    )
    page = (tmp_path / "shared" / "README.md").read_text()
    assert "class-conditional" in page
    assert "| classes | 10" in page
    nvae_tf.save(shared, tmp_path / "run")
    again = nvae_tf.load(tmp_path / "run")
    np.testing.assert_array_equal(
        nvae_tf.sample(again, 2, labels=5), nvae_tf.sample(model, 2, labels=5)
    )
