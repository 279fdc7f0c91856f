"""What commands compute in: float32, unless `--precision` says otherwise."""

import pytest

import nvae_tf
from nvae_tf.core.errors import UserError
from nvae_tf.export.source import load_source
from nvae_tf.report import pictures
from nvae_tf.runs import pretrained
from nvae_tf.runs.workdir import Workdir, load_model, read_tensors
from nvae_tf.sampling import readjust, sample_folder
from tests.support.in_process import MODULES, defined_flags, run
from tests.support.model_cases import random_model
from tests.support.run_helpers import SMALLEST, make_config


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run that trained in half precision."""
    folder = tmp_path_factory.mktemp("run")
    config = make_config(folder, "mixed_bfloat16", model=SMALLEST)
    folder = Workdir(folder / "w")
    folder.write_config(config)
    model = random_model(config.model)
    tensors = read_tensors(model.named_variables("model/"))
    folder.checkpoints().save(3, tensors, {})
    return folder.path


@pytest.mark.parametrize("words", MODULES)
def test_command_that_loads_a_model_has_the_flag_or_computes_in_float32(words):
    flags = defined_flags(words)
    if "ema" not in flags:
        return
    if "precision" in flags:
        assert flags["precision"][0] == "float32"
    else:
        # These take the model as it is loaded, see below.
        assert words.startswith("export ") or words == "play"


def test_model_is_loaded_in_float32_whatever_it_trained_in(workdir, tmp_path):
    model, config, info = load_model(workdir)
    pretrained.save(model, config, tmp_path / "m", info)
    again, kept, _ = pretrained.load(tmp_path / "m")
    assert kept.precision == config.precision == "mixed_bfloat16"
    exported = load_source(workdir).model
    for each in (model, again, exported):
        assert each.dtype_policy.name == "float32"


def test_model_of_the_library_goes_on_as_the_run_did(workdir, tmp_path):
    model = nvae_tf.load(workdir)
    assert model.dtype_policy.name == "mixed_bfloat16"
    nvae_tf.save(model, tmp_path / "copy")
    nvae_tf.save_pretrained(model, tmp_path / "m")
    again = nvae_tf.from_pretrained(tmp_path / "m")
    assert again.dtype_policy.name == "mixed_bfloat16"


@pytest.mark.parametrize("precision", [None, "mixed_float16"])
def test_report_draws_in_the_precision_that_is_asked_for(
    workdir, monkeypatch, precision
):
    def draw(model, config, seed):
        raise UserError(f"It computes in {model.dtype_policy.name}.")

    monkeypatch.setattr(pictures, "Pictures", draw)
    asked = [f"--precision={precision}"] if precision else []
    with pytest.raises(UserError, match=f"in {precision or 'float32'}"):
        run("report", f"--workdir={workdir}", *asked)


def test_readjusted_statistics_are_kept_by_what_they_were_computed_in(
    workdir, tmp_path, monkeypatch
):
    model, _, _ = load_model(workdir)
    settled = []

    def settle(model, *arguments, **options):
        settled.append(model.dtype_policy.name)

    monkeypatch.setattr(readjust, "readjust_batch_norm", settle)
    for precision in ("float32", "mixed_bfloat16", "tf32"):
        for _ in range(2):
            with model.computing_in(precision):
                readjust.readjust_cached(model, tmp_path, "step3", 0.7)
    assert settled == ["float32", "mixed_bfloat16", "float32"]
    names = sorted(p.name for p in (tmp_path / readjust.FOLDER).iterdir())
    # That of float32 is called as it always was.
    assert [n.partition("_passes500x16")[2] for n in names] == [
        ".npz",
        "_mixed_bfloat16.npz",
        "_tf32.npz",
    ]


def test_folder_of_samples_is_of_one_precision(workdir, tmp_path, monkeypatch):
    def draw(draw, folder, seeds, batch_size, settings, progress):
        sample_folder._check_settings(
            tmp_path / sample_folder.SETTINGS, settings
        )
        return 0

    monkeypatch.setattr(sample_folder, "write_samples", draw)
    options = (f"--workdir={workdir}", f"--output={tmp_path}/", "--num=2")
    run("sample", *options)
    text = (tmp_path / sample_folder.SETTINGS).read_text()
    # As in folders of before, which can be gone on with.
    assert "precision" not in text
    with pytest.raises(UserError, match="drawn otherwise: precision"):
        run("sample", *options, "--precision=mixed_bfloat16")
