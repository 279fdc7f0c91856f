"""The peer in PyTorch is the same model, and so a fair one to compare with."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import cases, compare_peer, results
from nvae_tf.authors import reference_import
from nvae_tf.authors.reference_config import config_from_reference
from nvae_tf.config import TrainConfig
from nvae_tf.config.schedules import Coefficients
from nvae_tf.core.errors import UserError
from nvae_tf.model.nvae import NVAE
from nvae_tf.model.pure_layer import Mode
from nvae_tf.model.regularizers import SpectralRegularizer
from nvae_tf.training import new_run
from nvae_tf.training.optimizer import Adamax
from nvae_tf.training.train_step import TrainStep
from tests.support import golden_files, model_cases

torch = pytest.importorskip(
    "torch", reason='PyTorch is missing: pip install ".[peer]"'
)

from benchmarks.torch_peer import (  # noqa: E402, after the check for PyTorch.
    distributions,
    layers,
    learn,
    measure,
    training,
)
from benchmarks.torch_peer import model as peer  # noqa: E402

# PyTorch built for CUDA says so where there is no driver.
pytestmark = pytest.mark.filterwarnings(
    "ignore:CUDA initialization:UserWarning"
)
_TOLERANCE = 1e-4
_IGNORED = reference_import.IGNORED_SUFFIXES
_MODELS = model_cases.CONFIGS | {
    name: cases.case(name).model for name in ("tiny", "small", "deep")
}


def _state(net) -> dict:
    """The `state_dict` without what says nothing about the model."""
    return {
        key: value
        for key, value in net.state_dict().items()
        if not key.endswith(_IGNORED)
    }


def _load(net, state) -> None:
    """Loads all weights and statistics; none may be missing or left over."""
    missing, unexpected = net.load_state_dict(
        {
            key: torch.from_numpy(np.array(a))
            for key, a in state.items()
            if not key.endswith(_IGNORED)
        },
        strict=False,
    )
    assert not unexpected
    assert all(key.endswith(_IGNORED) for key in missing)


def _nchw(arrays) -> list:
    return [
        torch.from_numpy(np.ascontiguousarray(np.moveaxis(a, -1, 1)))
        for a in arrays
    ]


def _assert_close(name, actual, expected, tolerance=_TOLERANCE):
    """As the parity test of our own model has it."""
    floor = 1e-6 * np.max(np.abs(expected), initial=0.0)
    np.testing.assert_allclose(
        actual.detach().double().numpy(),
        expected,
        rtol=tolerance,
        atol=tolerance if name.startswith("logits") else floor,
        err_msg=name,
    )


@pytest.mark.parametrize("name", _MODELS)
def test_parameters_are_ours_by_name_and_shape(name):
    net = peer.NVAE(_MODELS[name])
    ours = NVAE(_MODELS[name], seed=None)
    slots = reference_import.reference_slots(ours)
    assert {key: tuple(value.shape) for key, value in _state(net).items()} == {
        key: slot.shape for key, slot in slots.items()
    }
    assert measure.count_parameters(net) == sum(
        v.shape.num_elements() for v in ours.trainable_variables
    )


class _Golden:
    """A file of the authors' program's results, and the peer it belongs to."""

    def __init__(self, path):
        with np.load(path) as file:
            self.arrays = {key: file[key] for key in file.files}
        checkpoint = reference_import.read(path.with_suffix(".pt"))
        self.state = checkpoint.state_dict
        self.config = config_from_reference(
            checkpoint.args, checkpoint.state_dict, path
        ).model
        self.x = torch.from_numpy(self.arrays["x"])
        eps = self.group("eps")
        self.eps = [torch.from_numpy(eps[key]) for key in sorted(eps)]

    def group(self, prefix):
        start = f"{prefix}/"
        return {
            key.removeprefix(start): array
            for key, array in self.arrays.items()
            if key.startswith(start) and not key.endswith(_IGNORED)
        }

    def net(self):
        net = peer.NVAE(self.config)
        _load(net, self.state)
        return net

    def train_step(self):
        """In the state that the file's first step met."""
        step = training.TrainStep(
            self.net().train(),
            learning_rate=golden_files.LEARNING_RATE,
            weight_decay=golden_files.WEIGHT_DECAY,
            regularization=golden_files.REGULARIZATION,
            first_rounds=training.ROUNDS,
        )
        names = {
            id(module): name for name, module in step.model.named_modules()
        }
        order = [
            name.removesuffix(".weight")
            for name in json.loads(str(self.arrays["spectral_order"]))
        ]
        for (c_out, fan_in), convs in step.spectral.groups.items():
            members = [names[id(conv)] for conv in convs]
            rows = sorted(members, key=order.index)
            vectors = self.group("spectral_u0")[f"{c_out}x{fan_in}"]
            assert len(vectors) == len(members)
            step.spectral.u[c_out, fan_in] = torch.from_numpy(
                vectors[[rows.index(name) for name in members]][:, None]
            )
        return step


@pytest.fixture(
    scope="module", params=golden_files.pairs(), ids=lambda p: p.stem
)
def golden(request):
    return _Golden(request.param)


def test_inference_agrees_with_the_authors(golden):
    net = golden.net().eval()
    with torch.no_grad():
        output = net(golden.x, golden.eps, with_densities=True)
    likelihood = distributions.likelihood(golden.config, output.logits)
    nll = likelihood.nll(golden.x)
    results = {
        "logits": output.logits,
        "kl_per_group": output.kl.sum(dim=2),
        "kl_diag": output.kl.mean(dim=0),
        "log_q": output.log_q,
        "log_p": output.log_p,
        "reconstruction_nll": nll,
        "log_importance_weight": -nll + output.log_p - output.log_q,
        "output_mean": likelihood.mean(),
    }
    expected = golden.group("eval")
    assert expected.keys() <= results.keys()
    for name, value in expected.items():
        _assert_close(name, results[name], value)


def test_sampling_agrees_with_the_authors(golden):
    net = golden.net().eval()
    with torch.no_grad():
        for frozen in (False, True):
            if frozen:
                layers.freeze(net)
            logits = net.sample_logits(len(golden.x), 0.7, golden.eps)
            _assert_close(
                "logits", logits, golden.group("sample")["logits_t0.7"]
            )


def test_training_agrees_with_the_authors(golden):
    step = golden.train_step()
    for i in range(2):
        expected = golden.group(f"train{i}")
        beta = float(expected.pop("kl_coeff"))
        loss = step(golden.x, beta, golden.eps)
        results = {
            "kl_per_group": loss.kl.sum(dim=2),
            "kl_diag": loss.kl.mean(dim=0),
            "kl_balance_coeffs": loss.balance_coefficients,
            "balanced_kl": loss.balanced_kl,
            "reconstruction_nll": loss.reconstruction_nll,
            "spectral_loss": loss.spectral,
            "bn_loss": loss.batch_norm,
            "total_loss": loss.total,
        }
        for name, value in results.items():
            _assert_close(name, value, expected[name])
        if i == 0:
            golden_files.assert_gradients_agree(
                golden.group("grad0"),
                {
                    name: None if p.grad is None else p.grad.numpy()
                    for name, p in step.model.named_parameters()
                },
            )
    golden_files.assert_states_agree(
        golden.group("grad0"),
        golden.group("state2"),
        {key: value.numpy() for key, value in _state(step.model).items()},
    )


@pytest.fixture(scope="module")
def likelihoods():
    with np.load(golden_files.likelihoods()) as file:
        return {key: file[key] for key in file.files}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mixture8", {"likelihood": "mixture", "num_bits": 8}),
        ("mixture5", {"likelihood": "mixture", "num_bits": 5}),
        ("normal", {"likelihood": "normal", "num_bits": 8}),
    ],
)
def test_likelihoods_agree_with_the_authors(likelihoods, name, changes):
    config = model_cases.small(image_channels=3, **changes)
    held = {
        key.removeprefix(f"{name}/"): array
        for key, array in likelihoods.items()
        if key.startswith(f"{name}/")
    }
    likelihood = distributions.likelihood(
        config, torch.from_numpy(held["params"])
    )
    nll = likelihood.nll(torch.from_numpy(held["x"]))
    log_prob = held["log_prob"]
    _assert_close("log_prob", -nll, log_prob.reshape(len(nll), -1).sum(axis=1))
    if "mean" in held:
        _assert_close("mean", likelihood.mean(), held["mean"])


def test_balancing_reckons_with_the_groups_of_every_scale(golden):
    _assert_close(
        "kl_alpha",
        torch.tensor(training.balance_alphas(golden.config)),
        golden.group("train")["kl_alpha"],
    )


def _share_vectors(spectral, ours, slots, their_step) -> None:
    """Starts their power iterations from our vectors."""
    by_path = dict(ours.leaves())
    vectors = {}
    for group in spectral.groups.values():
        places = [
            (id(by_path[path].v), index)
            for path, stack in group.paths
            for index in range(stack)
        ]
        vectors |= zip(places, group.u.numpy(), strict=True)
    names = {id(m): name for name, m in their_step.model.named_modules()}
    for shape, convs in their_step.spectral.groups.items():
        found = [slots[f"{names[id(conv)]}.weight"] for conv in convs]
        rows = [vectors.pop((id(s.variable), s.index or 0)) for s in found]
        their_step.spectral.u[shape] = torch.from_numpy(np.stack(rows))[:, None]
    assert not vectors


@pytest.mark.parametrize(("name", "beta"), [("tiny", 0.4), ("res_elu", 1.0)])
def test_steps_are_ours(name, beta):
    """Of training from the same weights, images and noise."""
    config = _MODELS[name]
    ours = model_cases.random_model(config)
    x, eps = model_cases.images(config), model_cases.noise(config)
    slots = reference_import.reference_slots(ours)
    net = peer.NVAE(config).train()
    _load(net, {k: slot.of(slot.variable) for k, slot in slots.items()})
    if name == "res_elu":
        output = ours(x, eps=eps, mode=Mode.INITIALIZATION)
        ours.apply_updates(output.updates)

    spectral = SpectralRegularizer(ours)
    our_step = TrainStep(ours, Adamax(ours.trainable_variables), spectral)
    their_step = training.TrainStep(net)  # Warms up by itself.
    _share_vectors(spectral, ours, slots, their_step)
    new_run.warm_up(our_step)
    for i in range(3):
        # As their schedules would.
        rate, weight = 1e-2 / (i + 1), 1e-2 * (i + 1)
        their_step.set_coefficients(rate, weight)
        coefficients = Coefficients(
            beta=tf.constant(beta),
            regularization=tf.constant(weight),
            learning_rate=tf.constant(rate),
        )
        metrics = our_step(x, coefficients, eps=eps)
        loss = their_step(*_nchw([x]), beta, _nchw(eps))
        results = {
            "reconstruction_nll": loss.reconstruction_nll.mean(),
            "kl_per_group": loss.kl.sum(dim=2).mean(dim=0),
            "balance_coefficients": loss.balance_coefficients,
            "spectral": loss.spectral,
            "batch_norm": loss.batch_norm,
            "total_loss": loss.total,
        }
        for name, value in results.items():
            # Adamax makes steps of gradients that are nothing but noise.
            tolerance = _TOLERANCE if i == 0 else 1e-3
            _assert_close(
                name, value, getattr(metrics, name).numpy(), tolerance
            )


# The command where there is neither TensorFlow nor a reader of configurations.
_ALONE = """
import runpy, sys
for name in ("tensorflow", "keras", "tensorflow_probability", "ml_collections"):
    sys.modules[name] = None
runpy.run_module("benchmarks.torch_peer", run_name="__main__", alter_sys=True)
"""


def _run_alone(*arguments):
    return subprocess.run(
        [sys.executable, "-c", _ALONE, *arguments],
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A file of cases, the first of which the peer cannot build."""
    tiny = cases.as_json(cases.case("tiny"))
    gray = tiny | {"model": tiny["model"] | {"likelihood": "normal"}}
    path = tmp_path_factory.mktemp("models") / "models.json"
    path.write_text(json.dumps({"gray": gray, "tiny": tiny}))
    return path


def test_rows_are_measured_without_tensorflow(models, tmp_path):
    out = tmp_path / "rows.jsonl"
    result = _run_alone(
        "--cases=gray,tiny",
        "--batch_sizes=2,3",
        "--what=step,sample",
        "--layouts=channels_last",
        "--precisions=float32,bfloat16",
        "--seconds=0.01",
        f"--models={models}",
        f"--out={out}",
    )
    assert result.returncode == 0, result.stderr
    lines = out.read_text().splitlines()
    assert result.stdout.splitlines() == lines
    rows = [json.loads(line) for line in lines]
    assert [(r["what"], r["case"], r["precision"]) for r in rows] == [
        (what, case, precision)
        for what in ("step", "sample")
        for case in ("gray", "tiny")
        for precision in ("float32", "bfloat16")
    ]
    for row in rows:
        if row["case"] == "gray":
            assert "3 channels" in row["error"]
            continue
        assert row["images_per_second"] == 3 / row["queued_seconds"]
        assert row["step_seconds"] > 0
        assert row["peak_gb"] > 0
        assert row["parameters"] == 12246
        # On CPUs there is no TF32.
        assert not any(row["rounds_to_tf32"].values())


def test_spent_budget_begins_no_more(models):
    result = _run_alone("--cases=tiny", "--budget=-1", f"--models={models}")
    assert (result.returncode, result.stdout) == (0, "")
    assert "budget" in result.stderr


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--cases=huge", "no case 'huge'"),
        ("--precisions=float64", "--precisions=float64 is none of float32"),
        ("--batch_sizes=2,3", "--batch_sizes=2,3 must be"),
        ("--out=/nowhere/rows", "--out=/nowhere/rows: No such file"),
        ("--models=/nowhere/models", "--models=/nowhere/models: "),
    ],
)
def test_mistakes_are_one_sentence(models, flag, sentence):
    result = _run_alone("--cases=tiny", f"--models={models}", flag)
    assert result.returncode == 2
    assert sentence in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_lower_precision_changes_little():
    values = {
        precision: measure.measure(
            cases.as_json(cases.case("tiny"))["model"],
            2,
            precision=precision,
            seconds=0.0,
        )["first_value"]
        for precision in ("float32", "bfloat16", "float16")
    }
    for name in ("bfloat16", "float16"):
        assert values[name] != values["float32"]
        assert values[name] == pytest.approx(values["float32"], rel=1e-3)


def test_programs_are_compared_in_turn(monkeypatch):
    """Medians are of ratios round by round."""
    calls = []

    def measured(function, *, interpreter=None, **arguments):
        theirs = "torch_peer" in function
        calls.append((theirs, interpreter, arguments["batch_size"]))
        n = len(calls)
        return {
            "step_seconds": 4.0 if theirs else float(n),
            "start_seconds": 2.0,
            "peak_gb": 1.0,
            "batch_size": 5,
        }

    monkeypatch.setattr(compare_peer, "measured", measured)
    result = compare_peer.compare_steps(
        cases.case("tiny", 5), rounds=3, python="other"
    )
    assert calls == [(False, None, 5), (True, "other", 5)] * 3
    assert result["ratios"] == [1 / 4, 3 / 4, 5 / 4]
    assert result["ratio"] == 3 / 4
    assert result["start_ratio"] == 1
    assert result["ours"]["step_seconds"] == 3


def test_comparisons_are_kept_and_printed(monkeypatch, tmp_path, capsys):
    def measured(function, *, interpreter=None, **arguments):
        ours = "torch_peer" not in function
        keys = ("step_seconds", "start_seconds", "peak_gb", "batch_size")
        found = dict.fromkeys((*keys, "images_per_second"), 2.0)
        return found | ({"images_per_second": 6.0} if ours else {})

    monkeypatch.setattr(compare_peer, "measured", measured)
    store = results.Results(tmp_path)
    compare_peer.run(store, ["tiny"], ["float32", "mixed_bfloat16"], rounds=2)
    kept = store.read("compare_peer")
    assert list(kept) == [
        "tiny step float32",
        "tiny step mixed_bfloat16",
        *(f"tiny {program}" for program in compare_peer.SAMPLERS),
    ]
    assert kept["tiny step float32"]["ratio"] == 1
    assert kept["tiny SavedModel"]["ratio"] == 3
    printed = capsys.readouterr().out
    assert all(name in printed for name in kept)
    with pytest.raises(UserError, match="float64"):
        compare_peer.run(store, ["tiny"], ["float64"])


def test_failure_of_either_program_is_told(monkeypatch):
    monkeypatch.setattr(
        compare_peer,
        "measured",
        lambda function, **_: (
            {"error": "no memory"} if "torch_peer" in function else {}
        ),
    )
    result = compare_peer.compare_steps(cases.case("tiny"), rounds=1)
    assert result == {"error": "the peer: no memory"}
    found = compare_peer.compare_samples(cases.case("tiny"), rounds=1)
    assert set(found) == set(compare_peer.SAMPLERS)
    assert all("the peer" in r["error"] for r in found.values())


def test_peer_learns_by_our_schedules(tmp_path):
    images = tmp_path / "images.npz"
    blobs = np.zeros((60, 8, 8, 1), np.uint8)
    blobs[:, 2:6, 2:6] = 255
    np.savez(images, train=blobs[:40], held_out=blobs[40:])
    config = model_cases.small(num_latent_scales=1, num_groups_per_scale=2)
    train = TrainConfig(epochs=24, batch_size=8, warmup_epochs=1, seed=3)
    points = [
        learn.learn(
            dataclasses.asdict(config), dataclasses.asdict(train), str(images)
        )["points"]
        for _ in range(2)
    ]
    assert points[0] == points[1]
    assert [point["step"] for point in points[0]] == [*range(5, 125, 5)]
    assert points[0][-1]["nelbo"] < 0.5 * points[0][0]["nelbo"]
    assert len(points[0][0]["kl_per_group"]) == config.num_groups
    assert all(0 <= n <= 3 for n in points[0][-1]["active"])
