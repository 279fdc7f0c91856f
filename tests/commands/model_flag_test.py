"""`--model`: a pretrained model wherever a run's is taken."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from absl import flags

from nvae_tf.authors import reference_import
from nvae_tf.config import config_from_dict
from nvae_tf.core.errors import DataError, UserError
from nvae_tf.runs import model_places, pretrained, pretrained_folder
from nvae_tf.runs.results import write_result
from nvae_tf.runs.workdir import Workdir, load_model, read_tensors
from nvae_tf.web import kept
from tests.support.in_process import run
from tests.support.model_cases import random_model
from tests.support.pretrained_cases import read_header
from tests.support.run_helpers import SMALLEST, make_config, write_images

# Of whoever measured it, for the run below.
_EVALUATION = {
    "step": 3,
    "ema": False,
    "split": "test",
    "num_importance_samples": 100,
    "num_images": 40,
    "nelbo": 12.5,
    "bits_per_dim": 0.28,
    "nll": 12.25,
    "nll_bits_per_dim": 0.276,
}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with a run in `w`, its images, and its model in `m`."""
    folder = tmp_path_factory.mktemp("here")
    config = make_config(
        write_images(folder / "blobs.npy"),
        model=SMALLEST,
        data={"validation_fraction": 0.5},
    )
    model = random_model(config.model)
    workdir = Workdir(folder / "w")
    workdir.write_config(config)
    tensors = read_tensors(model.named_variables("model/"))
    workdir.checkpoints().save(3, tensors, {})
    write_result(folder / "w" / "evaluation.json", _EVALUATION)
    run(
        "export pretrained",
        f"--workdir={folder / 'w'}",
        f"--output={folder / 'm'}",
    )
    return folder


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Far from the images, which the model's configuration names only."""
    monkeypatch.chdir(tmp_path)
    before = set(flags.FLAGS)
    yield
    assert set(flags.FLAGS) == before


_DATA = "--data_path={here}/blobs.npy"


@pytest.mark.parametrize(
    ("command", "options", "output"),
    [
        ("sample", ["--num=4"], "a.png"),
        ("reconstruct", ["--num=4", _DATA], "a.png"),
        ("interpolate", ["--seeds=1,2", "--steps=3"], "a.png"),
        ("traverse", [], "a.png"),
        ("encode", ["--num=4", _DATA], "a.npz"),
        ("nearest", ["--num=2", _DATA], "a.png"),
        ("outliers", [_DATA], "a.csv"),
    ],
)
def test_model_gives_what_its_run_gives(
    here, tmp_path, capsys, command, options, output
):
    options = [option.format(here=here) for option in options]
    made = []
    for place in ("--workdir=w", "--model=m"):
        flag, _, name = place.partition("=")
        target = tmp_path / name / output
        run(command, f"{flag}={here / name}", *options, f"--output={target}")
        assert str(here / name) in capsys.readouterr().out
        made.append(target)
    if output.endswith(".npz"):
        with np.load(made[0]) as ours, np.load(made[1]) as theirs:
            assert set(ours) == set(theirs)
            for key in ours:
                np.testing.assert_array_equal(ours[key], theirs[key])
    else:
        assert made[0].read_bytes() == made[1].read_bytes()


def test_one_place_is_named(here):
    both = [f"--workdir={here / 'w'}", f"--model={here / 'm'}"]
    for command in ("sample", "eval likelihood", "export onnx", "play"):
        for given in ([], both):
            with pytest.raises(UserError, match=r"--workdir=.*--model="):
                run(command, *given)
    with pytest.raises(UserError, match="one of --workdir and --model"):
        run("verify", "export", *both)


@pytest.mark.parametrize("flag", ["--ema", "--noema", "--checkpoint=best"])
def test_flags_of_runs_are_not_passed_over(here, flag):
    for command in ("sample", "export onnx"):
        with pytest.raises(UserError, match="one set of"):
            run(command, f"--model={here / 'm'}", flag)


def test_images_that_are_elsewhere_are_asked_for(here):
    with pytest.raises(DataError, match="--data_path"):
        run("reconstruct", f"--model={here / 'm'}")


def test_data_path_is_refused_where_data_has_none(here, tmp_path):
    config = Workdir(here / "w").read_config().to_dict()
    config["data"] = {"source": "mnist_5k", "binarize": True}
    model, _, _ = load_model(here / "w")
    pretrained.save(model, config_from_dict(config), tmp_path / "m", {})
    with pytest.raises(UserError, match="mnist_5k"):
        run("reconstruct", f"--model={tmp_path / 'm'}", "--data_path=x")


def test_readjusted_statistics_of_a_model_are_not_kept(
    here, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "nvae_tf.sampling.readjust.readjust_batch_norm", lambda *_, **__: None
    )
    before = sorted((here / "m").iterdir())
    run("sample", f"--model={here / 'm'}", "--num=1", "--readjust_bn")
    assert sorted((here / "m").iterdir()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["samples.png"]


def test_samples_of_two_models_do_not_mix(here, tmp_path):
    config = Workdir(here / "w").read_config()
    pretrained.save(
        random_model(config.model, seed=5), config, tmp_path / "other", {}
    )
    options = ["--num=2", f"--output={tmp_path / 'many'}/"]
    run("sample", f"--model={here / 'm'}", *options)
    run("sample", f"--model={here / 'm'}", *options)
    with pytest.raises(UserError, match=r"drawn otherwise: .*weights"):
        run("sample", f"--model={tmp_path / 'other'}", *options)


# --- evaluating --------------------------------------------------------------


def test_likelihood_goes_to_the_screen_or_where_it_is_sent(
    here, tmp_path, capsys
):
    options = [_DATA.format(here=here), "--num_importance_samples=2"]
    options += ["--batch_size=8", "--noplot"]
    before = sorted((here / "m").iterdir())
    run("eval likelihood", f"--model={here / 'm'}", *options)
    assert "--output" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert sorted((here / "m").iterdir()) == before
    for place, name in (("--model", "m"), ("--workdir", "w")):
        run(
            "eval likelihood",
            f"{place}={here / name}",
            *options,
            f"--output={tmp_path / name}",
        )
    ours, theirs = (
        json.loads((tmp_path / name / "evaluation.json").read_text())
        for name in ("m", "w")
    )
    assert ours == theirs
    assert ours["num_importance_samples"] == 2
    latest = json.loads((here / "w" / "evaluation.json").read_text())
    assert latest == _EVALUATION


# --- shipping ----------------------------------------------------------------


def test_card_has_what_the_run_measured(here, tmp_path, capsys):
    card = tmp_path / "card.json"
    card.write_text('{"name": "spots", "license": "mit", "datasets": ["x"]}')
    run(
        "export pretrained",
        f"--workdir={here / 'w'}",
        f"--output={tmp_path / 'half'}",
        "--dtype=float16",
        f"--card={card}",
    )
    assert "licence" not in capsys.readouterr().out
    stored = pretrained_folder.describe(tmp_path / "half")
    assert stored.facts["precision"] == "float16"
    assert stored.facts["step"] == 3
    header = read_header((tmp_path / "half" / "README.md").read_text())
    (index,) = header["model-index"]
    assert index["name"] == "spots"
    metrics = index["results"][0]["metrics"]
    assert {m["type"]: m["value"] for m in metrics} == {
        key: _EVALUATION[key]
        for key in ("nelbo", "bits_per_dim", "nll", "nll_bits_per_dim")
    }
    # And goes on with the model, whatever it becomes.
    run(
        "export pretrained",
        f"--model={tmp_path / 'half'}",
        f"--output={tmp_path / 'again'}",
    )
    again = pretrained_folder.describe(tmp_path / "again").facts
    for key in ("name", "license", "datasets", "metrics", "step"):
        assert again[key] == stored.facts[key]


def test_pretrained_export_asks_before_it_loads(here, tmp_path):
    with pytest.raises(UserError, match="--output"):
        run("export pretrained", f"--workdir={here / 'w'}")
    with pytest.raises(UserError, match=r"none\.json"):
        run(
            "export pretrained",
            f"--workdir={here / 'w'}",
            f"--output={tmp_path / 'm'}",
            "--card=none.json",
        )
    with pytest.raises(UserError, match="exists already"):
        run(
            "export pretrained",
            f"--workdir={here / 'w'}",
            f"--output={here / 'm'}",
        )


def test_export_of_a_model_verifies_against_it(here, tmp_path, capsys):
    output = tmp_path / "nvae.onnx"
    run(
        "export onnx",
        f"--model={here / 'm'}",
        f"--output={output}",
        "--graphs=sample",
    )
    assert run("verify", str(output), f"--model={here / 'm'}") == 0
    config = Workdir(here / "w").read_config()
    pretrained.save(
        random_model(config.model, seed=5), config, tmp_path / "other", {}
    )
    assert run("verify", str(output), f"--model={tmp_path / 'other'}") == 1
    assert "Differs" in capsys.readouterr().out


def test_authors_checkpoint_of_a_model_has_its_weights(here, tmp_path):
    model = pretrained.load(here / "m")[0]
    config = config_from_dict(
        {
            "model": {
                **dataclasses.asdict(model.config),
                "image_size": 28,
                "padding": 2,
            },
            "data": {"source": "mnist_5k", "binarize": True},
        }
    )
    model = random_model(config.model)
    pretrained.save(model, config, tmp_path / "digits", {})
    path = tmp_path / "theirs.pt"
    place = f"--model={tmp_path / 'digits'}"
    run("export checkpoint", place, f"--output={path}")
    theirs = reference_import.load(path)[0].named_variables("model/")
    for name, value in read_tensors(model.named_variables("model/")).items():
        np.testing.assert_array_equal(theirs[name], value, err_msg=name)


class BegunError(Exception):
    """Work has begun."""


def test_page_of_a_model_is_kept_where_it_is_sent(here, tmp_path, monkeypatch):
    places = []

    def begin(folder, weights, chosen, make):
        assert folder.parent.is_dir()
        places.append((folder, weights, chosen["model"]))
        raise BegunError

    monkeypatch.setattr(kept, "kept_page", begin)
    for options in ([], [f"--output={tmp_path / 'page'}"]):
        with pytest.raises(BegunError):
            run("play", f"--model={here / 'm'}", *options)
    (scratch, weights, model), (page, same, _) = places
    assert not scratch.parent.exists()
    assert page == tmp_path / "page"
    assert weights == same == pretrained_folder.weights_state(here / "m")
    assert model == str(here / "m")
    with pytest.raises(BegunError):
        run("play", f"--workdir={here / 'w'}")
    assert places[-1][:2] == (
        here / "w" / "web",
        kept.saved_state(here / "w", "latest"),
    )


def test_list_of_models_says_what_they_are(here, monkeypatch, capsys):
    monkeypatch.setattr(model_places, "shipped_folder", lambda: here)
    run("models")
    title, row = capsys.readouterr().out.splitlines()
    assert title.split()[0] == "model"
    assert row.split()[0] == "m"
    stored = pretrained_folder.describe(here / "m")
    for text in (f"{stored.parameters:,}", "8x8x1", "K = 100", "12.25", "(40 "):
        assert text in row
    nowhere = pathlib.Path("none")
    monkeypatch.setattr(model_places, "shipped_folder", lambda: nowhere)
    run("models")
    assert len(capsys.readouterr().out.splitlines()) == 1
