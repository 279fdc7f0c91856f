"""The commands that explore a model, on what they mean and what they refuse."""

import collections
import csv
import importlib.util
import json
import subprocess
import sys

import av
import numpy as np
import pytest
from absl import flags
from PIL import Image

from nvae_tf.core.errors import UserError
from nvae_tf.runs.workdir import Workdir, load_model, read_tensors
from nvae_tf.sampling import images
from nvae_tf.sampling.illustrator import Illustrator
from tests.support.in_process import MODULES, defined_flags, run
from tests.support.model_cases import random_model
from tests.support.run_helpers import make_config

pytestmark = pytest.mark.early

_PLANTED = 9


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run on binary images, whose model likes them dark.

    Its training images hold a copy of the model's draw of seed 2; its test
    images are dark but for one of noise.
    """
    folder = tmp_path_factory.mktemp("run")
    data = folder / "data"
    config = make_config(data)
    model = random_model(config.model)
    head = model.parts["image"].parts["head"]
    head.bias.assign(np.full(head.bias.shape, -2.0, np.float32))
    rng = np.random.default_rng(0)
    train = 255 * rng.integers(0, 2, (20, 8, 8, 1)).astype(np.uint8)
    train[_PLANTED] = Illustrator(model).draw_seeds([2], 0.7, pixels="sample")
    test = np.zeros((7, 8, 8, 1), np.uint8)
    test[:, 0, :3] = 255
    for i in range(7):
        test[i, 7, i] = 255
    test[4] = train[0]
    data.mkdir()
    np.save(data / "train.npy", train)
    np.save(data / "test.npy", test)
    run_ = Workdir(folder / "w")
    run_.write_config(config)
    tensors = read_tensors(model.named_variables("model/"))
    run_.checkpoints().save(3, tensors, {})
    return folder / "w"


@pytest.fixture(autouse=True)
def _no_flags_are_left():
    before = set(flags.FLAGS)
    yield
    assert set(flags.FLAGS) == before


@pytest.fixture(scope="module")
def illustrator(workdir):
    return Illustrator(load_model(workdir)[0])


def _png(path):
    with Image.open(path) as file:
        return np.asarray(file)


def _tiles(sheet, size=8, gap=2):
    """`[rows, columns, size, size]` of a grid of gray images."""
    rows, columns = ((side + gap) // (size + gap) for side in sheet.shape[:2])
    padded = np.pad(sheet, [[0, gap], [0, gap]])
    tiles = padded.reshape(rows, size + gap, columns, size + gap)
    return tiles.transpose(0, 2, 1, 3)[..., :size, :size]


def test_sample_writes_the_same_images_to_a_grid_and_a_folder(
    workdir, illustrator, tmp_path, capsys
):
    options = [f"--workdir={workdir}", "--seed=3", "--temperature=1,0.5,0.8"]
    run("sample", *options, "--num=5", f"--output={tmp_path / 'a.png'}")
    grid = _tiles(_png(tmp_path / "a.png")).reshape(-1, 8, 8)[:5].astype(int)
    expected = illustrator.draw_seeds(range(3, 8), [1.0, 0.5, 0.8])[..., 0]
    assert np.abs(grid - expected).max() <= 1
    folder = tmp_path / "many"
    for num in (2, 5):
        run("sample", *options, f"--num={num}", f"--output={folder}/")
    assert "3 samples drawn, 2 were there already" in capsys.readouterr().out
    for seed in range(3, 8):
        image = _png(folder / f"{seed:08d}.png")
        assert np.abs(image.astype(int) - grid[seed - 3]).max() <= 1
    with pytest.raises(UserError, match="drawn otherwise: temperature"):
        run("sample", f"--workdir={workdir}", f"--output={folder}/")


def test_folder_of_samples_is_of_one_run(workdir, tmp_path):
    model, config, _ = load_model(workdir)
    other = Workdir(tmp_path / "other")
    other.write_config(config)
    head = model.parts["image"].parts["head"]
    head.bias.assign(head.bias + 1.0)
    tensors = read_tensors(model.named_variables("model/"))
    other.checkpoints().save(3, tensors, {})
    folder = tmp_path / "samples"
    options = (f"--output={folder}/", "--num=2")
    run("sample", f"--workdir={workdir}", *options)
    with pytest.raises(UserError, match="drawn otherwise: run_weights"):
        run("sample", f"--workdir={other.path}", *options)
    # Folders of before do not say which run they are of.
    settings = json.loads((folder / "sampling.json").read_text())
    del settings["run_weights"]
    (folder / "sampling.json").write_text(json.dumps(settings))
    run("sample", f"--workdir={workdir}", *options)


@pytest.mark.long
def test_sample_makes_the_figure_of_scales(workdir, illustrator, tmp_path):
    path = tmp_path / "scales.png"
    run(
        "sample",
        f"--workdir={workdir}",
        "--fix_groups=scales",
        "--num=4",
        "--pixels=sample",
        "--scale_temperature=1,0.9",
        f"--output={path}",
    )
    sheet = _png(path)[:, -(4 * 34 - 2) :]
    tiles = _tiles(sheet, 32)[..., ::4, ::4]
    np.testing.assert_array_equal(tiles[0, 0], tiles[1, 0])
    top = illustrator.model.config.groups_top_down[0]
    fixed = illustrator.draw_seeds(
        range(4),
        [1.0] * top + [0.9] * (3 - top),
        pixels="sample",
        fix_groups=top,
        top_seeds=[0] * 4,
    )
    np.testing.assert_array_equal(tiles[1], fixed[..., 0])


@pytest.mark.long
def test_readjusted_statistics_are_kept_and_change_the_draws(
    workdir, tmp_path, monkeypatch
):
    from nvae_tf.sampling import readjust

    calls = []
    original = readjust.readjust_batch_norm

    def fewer_steps(model, temperature, *, steps, **options):
        calls.append(np.shape(temperature))
        original(model, temperature, steps=20, **options)

    monkeypatch.setattr(readjust, "readjust_batch_norm", fewer_steps)
    options = [f"--workdir={workdir}", "--num=4", "--temperature=1,0.5,0.8"]
    pictures = []
    for flag in ("--readjust_bn", "--readjust_bn", "--noreadjust_bn"):
        path = tmp_path / "x.png"
        run("sample", *options, flag, f"--output={path}")
        pictures.append(_png(path))
    assert calls == [(3,)]
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert np.any(pictures[0] != pictures[2])


def test_encoded_latents_decode_to_the_shown_reconstructions(
    workdir, illustrator, tmp_path
):
    options = [f"--workdir={workdir}", "--seed=5", "--latents=sample"]
    run("encode", *options, "--num=6", f"--output={tmp_path / 'z.npz'}")
    with np.load(tmp_path / "z.npz") as file:
        arrays = dict(file)
    assert arrays["mean_02"].shape == (6, 4, 4, 2)
    assert arrays["names"][3].startswith("image 3 of ")
    np.testing.assert_allclose(
        arrays["bits_per_dim"], arrays["nelbo"] / np.log(2) / 64, rtol=1e-5
    )
    assert arrays["kl_per_group"].shape == (6, 3)
    z = [arrays[f"z_{group:02d}"] for group in range(3)]
    decoded = illustrator.from_latents(z)[..., 0].astype(int)
    run(
        "reconstruct",
        *options,
        "--num=6",
        "--nonelbo",
        "--per_row=6",
        "--batch_size=4",
        f"--output={tmp_path / 'r.png'}",
    )
    shown = _tiles(_png(tmp_path / "r.png"))[0, 1::2]
    assert np.abs(decoded - shown).max() <= 1
    eps = [arrays[f"eps_{group:02d}"] for group in range(3)]
    again = illustrator.from_noise(eps)[..., 0]
    assert np.abs(decoded - again).max() <= 1


@pytest.mark.long
def test_reconstruct_from_no_group_shows_the_priors_mean(
    workdir, illustrator, tmp_path
):
    mean = illustrator.draw_seeds([0], 0.0)[0, ..., 0]
    path = tmp_path / "r.png"
    run(
        "reconstruct",
        f"--workdir={workdir}",
        "--top_groups=0",
        "--nonelbo",
        f"--output={path}",
    )
    tiles = _tiles(_png(path))
    np.testing.assert_array_equal(tiles[0, 1::2], [mean] * 4)
    run(
        "reconstruct",
        f"--workdir={workdir}",
        "--top_groups=1",
        "--lower_groups=sample",
        "--num=2",
        f"--output={path}",
    )
    # Captions make it taller than two images.
    assert _png(path).shape[0] > 34


@pytest.mark.long
def test_images_that_are_chosen_keep_their_numbers(workdir, tmp_path):
    whole = ["--num=6", f"--output={tmp_path / 'all.npz'}"]
    run("encode", f"--workdir={workdir}", *whole)
    options = [f"--workdir={workdir}", "--indices=5,2"]
    run("encode", *options, f"--output={tmp_path / 'z.npz'}")
    with (
        np.load(tmp_path / "z.npz") as file,
        np.load(tmp_path / "all.npz") as whole,
    ):
        assert file["indices"].tolist() == [5, 2]
        names = file["names"].tolist()
        # Binarised as among all, and with the same noise.
        np.testing.assert_allclose(
            file["nelbo"], whole["nelbo"][[5, 2]], rtol=1e-5
        )
    run("outliers", *options, f"--output={tmp_path / 'o.json'}")
    records = json.loads((tmp_path / "o.json").read_text())
    assert {r["index"]: r["image"] for r in records} == dict(
        zip([5, 2], names, strict=True)
    )


def test_way_between_images_shows_them_at_its_ends(workdir, tmp_path):
    data = np.load(workdir.parent / "data" / "test.npy")
    np.save(tmp_path / "two.npy", data[[4, 1]])
    run(
        "interpolate",
        f"--workdir={workdir}",
        f"--images={tmp_path / 'two.npy'}",
        "--steps=3",
        f"--output={tmp_path / 'way.png'}",
    )
    (tiles,) = _tiles(_png(tmp_path / "way.png"))
    assert len(tiles) == 5
    np.testing.assert_array_equal(tiles[[0, 4]], data[[4, 1], ..., 0])
    run(
        "reconstruct",
        f"--workdir={workdir}",
        "--indices=4,1",
        "--latents=mean",
        "--nonelbo",
        f"--output={tmp_path / 'r.png'}",
    )
    ends = _tiles(_png(tmp_path / "r.png"))[0, 1::2].astype(int)
    assert np.abs(tiles[[1, 3]] - ends).max() <= 1


@pytest.mark.long
def test_way_between_draws_goes_there_and_back(workdir, illustrator, tmp_path):
    options = [f"--workdir={workdir}", "--seeds=4,9,2", "--steps=3"]
    run("interpolate", *options, f"--output={tmp_path}/frames/")
    frames = [_png(p) for p in sorted((tmp_path / "frames").iterdir())]
    assert len(frames) == 5
    stations = illustrator.draw_seeds([4, 9, 2], 0.7)[..., 0].astype(int)
    assert np.abs(np.stack(frames[::2]) - stations).max() <= 1
    run("interpolate", *options, f"--output={tmp_path / 'way.gif'}")
    with Image.open(tmp_path / "way.gif") as file:
        assert file.n_frames == 8
        assert file.size == (128, 128)
    run("interpolate", *options, f"--output={tmp_path / 'way.mp4'}")
    with av.open(str(tmp_path / "way.mp4")) as container:
        frames = [
            frame.to_ndarray(format="gray")
            for frame in container.decode(video=0)
        ]
    assert len(frames) == 8
    # Away from the edges of the enlarged pixels.
    middles = np.stack(frames[::2])[:3, 8::16, 8::16].astype(int)
    assert np.abs(middles - stations).mean() < 12


@pytest.mark.long
def test_traversal_puts_the_strongest_channel_first(workdir, tmp_path, capsys):
    path = tmp_path / "t.png"
    options = [f"--workdir={workdir}", "--steps=3", f"--output={path}"]
    run("traverse", *options, "--group=1", "--seed=6")
    tiles = _tiles(_png(path)[:, -(3 * 34 - 2) :], 32).astype(int)
    np.testing.assert_array_equal(tiles[0, 1], tiles[1, 1])
    effects = np.abs(tiles[:, 2] - tiles[:, 0]).mean(axis=(1, 2))
    assert effects[0] >= effects[1]
    assert "2 channels of group 1" in capsys.readouterr().out
    run("traverse", *options, "--indices=4", "--channels=1")
    assert _png(path).shape[0] == 32


def test_nearest_finds_the_copy_that_the_training_images_hold(
    workdir, tmp_path, capsys
):
    path = tmp_path / "nearest.png"
    options = [f"--workdir={workdir}", "--num=4", "--k=2", "--batch_size=8"]
    run("nearest", *options, "--pixels=sample", f"--output={path}")
    printed = capsys.readouterr().out
    assert f"least 0 (row 2, training image {_PLANTED})" in printed
    # One of the held-out images is a training image too.
    assert "4 held-out images" in printed
    sheet = _png(path)
    height = (sheet.shape[0] + 6) // 4
    row = sheet[2 * height :][:64]
    np.testing.assert_array_equal(row[:, :64], row[:, 70:134])
    run(
        "nearest",
        f"--workdir={workdir}",
        "--indices=4",
        "--space=features",
        f"--output={path}",
    )
    assert "training image 0)" in capsys.readouterr().out


def test_pixels_and_weights_have_one_default_in_all_commands():
    defaults = {"pixels": "auto", "ema": None, "resize": "crop"}
    seen = collections.defaultdict(set)
    for name, module in MODULES.items():
        if importlib.util.find_spec(f"nvae_tf.commands.{module}"):
            found = defined_flags(name)
            for flag in defaults.keys() & found.keys():
                seen[flag].add(found[flag])
    for flag, default in defaults.items():
        # One help as well: it means the same.
        assert [d for d, _ in seen[flag]] == [default], flag


def test_outliers_puts_noise_first(workdir, tmp_path):
    run("outliers", f"--workdir={workdir}", f"--output={tmp_path / 'o.csv'}")
    with open(tmp_path / "o.csv", newline="") as file:
        records = list(csv.DictReader(file))
    assert len(records) == 7
    assert records[0]["index"] == "4"
    bits = [float(r["bits_per_dim"]) for r in records]
    assert bits == sorted(bits, reverse=True)
    assert bits[0] > 1.5 * bits[1]
    assert _png(tmp_path / "o.png").shape[1] == 7 * 64 + 6 * 6
    run(
        "outliers",
        f"--workdir={workdir}",
        "--num_importance_samples=3",
        "--num_shown=1",
        f"--output={tmp_path / 'o.json'}",
    )
    records = json.loads((tmp_path / "o.json").read_text())
    assert [records[0]["index"], records[0]["rank"]] == [4, 0]


@pytest.mark.parametrize(
    ("command", "options", "expected"),
    [
        ("sample", ["--output=x.jpg"], r"must end in \.png.*or in /"),
        ("sample", ["--fix_groups=scales", "--output=x/"], "one figure"),
        ("sample", ["--fix_groups=9"], "has 3 latent groups"),
        ("sample", ["--fix_groups=most"], "holds 'most'"),
        ("sample", ["--truncation=0"], "--temperature=0"),
        ("sample", ["--temperature=1,2"], "has 3 latent groups, top-down"),
        ("reconstruct", ["--top_groups=4"], "has 3 latent groups"),
        ("reconstruct", ["--indices=99"], "no image 99"),
        ("encode", ["--arrays=q"], "takes z, mean, sigma, eps"),
        ("encode", ["--output=x"], r"must end in \.npz"),
        ("interpolate", ["--output=x.avi"], r"\.gif or \.mp4"),
        ("interpolate", ["--seeds=1"], "two are needed"),
        ("interpolate", ["--seeds=1,2", "--indices=1,2"], "give one of them"),
        ("interpolate", ["--indices=1,2", "--temperature=1"], "for draws"),
        ("traverse", ["--group=3"], "groups 0 to 2"),
        ("traverse", ["--channels=2"], "channels 0 to 1"),
        ("nearest", ["--indices=1", "--readjust_bn"], "leave it out"),
        ("outliers", ["--output=x.txt"], r"\.csv or \.json"),
    ],
)
def test_flags_that_do_not_fit_are_refused(
    workdir, tmp_path, monkeypatch, command, options, expected
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=expected):
        run(command, f"--workdir={workdir}", *options)
    assert not list(tmp_path.iterdir())


def test_frames_of_a_longer_way_are_not_left_behind_others(workdir, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    # The last frame of this way may be replaced; what is no frame may stay.
    for name in ("00004.png", "12.png", "00099.jpg"):
        (folder / name).touch()
    way = [f"--workdir={workdir}", "--seeds=4,9,2", "--steps=3"]
    run("interpolate", *way, f"--output={folder}/")
    assert len(list(folder.iterdir())) == 7
    (folder / "00005.png").touch()
    (folder / "00004.png").write_bytes(b"kept")
    with pytest.raises(UserError, match=r"has 00005\.png, but .* 5 frames"):
        run("interpolate", *way, f"--output={folder}/")
    assert (folder / "00004.png").read_bytes() == b"kept"


@pytest.mark.parametrize(
    "command",
    [
        "sample",
        "reconstruct",
        "encode",
        "interpolate",
        "traverse",
        "nearest",
        "outliers",
    ],
)
def test_help_teaches_and_is_quick(command):
    result = subprocess.run(
        [
            sys.executable,
            "-X",
            "importtime",
            "-m",
            "nvae_tf",
            command,
            "--help",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    for word in (f"nvae {command}", "--workdir", "--output"):
        assert word in result.stdout
    assert " tensorflow" not in result.stderr


@pytest.mark.long
def test_scores_and_pictures_do_not_depend_on_the_batch(workdir, tmp_path):
    orders = []
    for size in (3, 7):
        path = tmp_path / "o.json"
        run(
            "outliers",
            f"--workdir={workdir}",
            f"--batch_size={size}",
            f"--output={path}",
        )
        orders.append(json.loads(path.read_text()))
    for a, b in zip(*orders, strict=True):
        assert a["index"] == b["index"]
        assert a["nats"] == pytest.approx(b["nats"], rel=1e-5)


def test_grid_has_the_columns_asked_for(workdir, tmp_path):
    path = tmp_path / "x.png"
    run(
        "sample",
        f"--workdir={workdir}",
        "--num=6",
        "--columns=2",
        f"--output={path}",
    )
    assert _tiles(_png(path)).shape[:2] == (3, 2)
    assert images.grid(np.zeros((1, 8, 8, 1), np.uint8)).shape == (8, 8, 1)
