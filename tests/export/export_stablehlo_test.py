"""StableHLO exports: in JAX they do what the SavedModel does."""

import math
import shutil

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.core.errors import ExportError
from nvae_tf.export.beside.noise_streams import noise_rows
from nvae_tf.export.parity import difference
from nvae_tf.export.runners import SavedModelRunner
from nvae_tf.export.source import Source
from nvae_tf.export.verify import open_export
from nvae_tf.export.warmup import example_inputs
from tests.support.export_cases import source, write_run
from tests.support.graph_folders import (
    change_description,
    draw_without_tensorflow,
    replace_file,
)
from tests.support.in_process import run as nvae
from tests.support.shared_exports import saved_model

pytest.importorskip("jax", reason='JAX is missing: pip install ".[stablehlo]"')

from nvae_tf.export.stablehlo import portable
from nvae_tf.export.stablehlo.export import export_stablehlo
from nvae_tf.export.stablehlo.program import Graphs
from nvae_tf.export.stablehlo.runner import StableHloRunner

pytestmark = pytest.mark.early

_ROWS = 3


@pytest.fixture(scope="module", autouse=True)
def _compiled_in_a_moment():
    """As compilers go that optimise little: these programs run once."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of a case's export, written when first asked for."""
    folder = tmp_path_factory.mktemp("stablehlo")

    def get(name):
        if not (folder / name).exists():
            export_stablehlo(source(name), folder / name, _ROWS)
        return folder / name

    return get


@pytest.mark.parametrize(
    "name",
    [
        "plain_vae",
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in ("served", "tiny", "normal")
        ),
    ],
)
def test_graphs_agree_with_the_saved_model_in_jax(
    exported, name, tmp_path_factory
):
    graphs = Graphs(exported(name))
    served = SavedModelRunner(saved_model(name, tmp_path_factory))
    seeds, groups = np.arange(20, 20 + _ROWS), graphs.num_groups
    temperature = np.full([_ROWS, groups], 0.9, np.float32)
    given = {"seed": seeds, "temperature": temperature}
    expected = served.run("sample_float", given)
    drawn = graphs.run(
        "sample",
        {**graphs.draw_noise("sample", seeds), "temperature": temperature},
    )
    assert difference({"mean": drawn["mean"]}, expected, 0) < 1e-4
    images = {"images": drawn["images_float"]}
    assert difference(images, expected, 1e-3) < 1e-4
    levels = served.run("sample", given)["images"]
    assert np.mean(drawn["images"] != levels) < 1e-3

    noise = graphs.draw_noise("encode", np.zeros(_ROWS, np.int64))
    encoded = graphs.run("encode", {"images": levels, **noise})
    expected = served.run("encode", {"images": levels})
    assert set(encoded) == {f"z_{i}" for i in range(groups)}
    assert difference(encoded, expected, 0) < 1e-4

    decoded = graphs.run("decode", encoded)
    assert difference(decoded, served.run("decode", encoded), 0) < 1e-4


def test_other_compilers_take_it_as_it_is(exported):
    compiler = pytest.importorskip(
        "iree.compiler",
        reason="needs IREE: pip install iree-base-compiler iree-base-runtime",
    )
    import iree.runtime
    from safetensors.numpy import load_file

    folder = exported("plain_vae")
    graphs = Graphs(folder)
    weights = load_file(folder / "weights.safetensors")
    for name in graphs.names:
        described = graphs.describe(name)
        specs = {
            i["name"]: (i["dtype"], i["shape"]) for i in described["inputs"]
        }
        given = example_inputs(specs, _ROWS, (8, 8, 1))
        program = compiler.compile_str(
            graphs.artifact(name),
            target_backends=["llvm-cpu"],
            input_type="stablehlo",
            extra_args=["--iree-llvmcpu-target-cpu=generic"],
        )
        config = iree.runtime.Config("local-sync")
        context = iree.runtime.SystemContext(config=config)
        module = iree.runtime.VmModule.copy_buffer(context.instance, program)
        context.add_vm_module(module)
        arguments = [given[i["name"]] for i in described["inputs"]]
        arguments += [weights[i["name"]] for i in described["weights"]]
        outputs = context.modules[module.name]["main"](*arguments)
        if not isinstance(outputs, tuple | list):
            outputs = [outputs]
        found = {
            spec["name"]: output.to_host()
            for spec, output in zip(described["outputs"], outputs, strict=True)
        }
        assert difference(found, graphs.run(name, given), 1e-3) < 1e-4


@pytest.mark.long
def test_all_graphs_can_be_had(tmp_path):
    names = ["reconstruct", "score", "from_noise", "infer"]
    path = export_stablehlo(
        source("plain_vae"), tmp_path / "all", 2, graphs=names
    )
    # Each was compared with the live model.
    assert StableHloRunner(path).names == sorted(names)


def test_program_beside_it_draws_without_tensorflow(exported, tmp_path):
    folder = exported("plain_vae")
    program = folder / "stablehlo_program.py"
    sheet = draw_without_tensorflow(program, folder, tmp_path, num=4, seed=7)
    assert sheet.shape == (16, 16)
    expected = Graphs(folder).sample(range(7, 11))
    np.testing.assert_array_equal(sheet[:8, 8:], expected[1, ..., 0])
    np.testing.assert_array_equal(sheet[8:, :8], expected[2, ..., 0])


def test_any_number_of_images_is_drawn_in_batches(exported):
    graphs = Graphs(exported("plain_vae"))
    images = graphs.sample(range(5))
    assert len(images) == 5
    assert len(np.unique(images, axis=0)) == 5
    np.testing.assert_array_equal(graphs.sample([4]), images[4:])
    with pytest.raises(ValueError, match="not negative"):
        graphs.sample([1], -1.0)


def test_products_are_computed_in_full_precision(exported):
    kinds = []

    def visit(op):
        if op.name in ("stablehlo.convolution", "stablehlo.dot_general"):
            kinds.append(str(op.attributes["precision_config"]))

    artifact = Graphs(exported("plain_vae")).artifact("sample")
    portable.edit(artifact, visit)
    assert kinds
    assert all(text.count("HIGHEST") == 2 for text in kinds)


def test_weights_are_stored_once_and_only_those_that_are_used(exported):
    from safetensors.numpy import load_file

    folder = exported("plain_vae")
    stored = load_file(folder / "weights.safetensors")
    graphs = Graphs(folder)
    taken = {
        name: {spec["name"] for spec in graphs.describe(name)["weights"]}
        for name in graphs.names
    }
    assert set(stored) == set.union(*taken.values())
    assert taken["sample"] == taken["decode"]
    assert not any(name.startswith("encoder/") for name in taken["sample"])


@pytest.mark.long
def test_draws_have_their_own_statistics(tmp_path):
    base = source("plain_vae")
    params = tf.nest.map_structure(lambda t: 0.8 * t, base.model.read_params())
    other = Source(base.model, base.config, draw_params=params)
    path = export_stablehlo(other, tmp_path / "hlo", _ROWS)
    names = {s["name"] for s in Graphs(path).describe("sample")["weights"]}
    assert all(name.startswith("draw/") for name in names)
    # It has been compared with the live model, which differs.
    plain = export_stablehlo(base, tmp_path / "plain", _ROWS)
    seeds = range(_ROWS)
    assert np.any(Graphs(path).sample(seeds) != Graphs(plain).sample(seeds))


def test_verify_covers_it(exported, tmp_path, capsys):
    run = write_run(tmp_path / "run", "plain_vae")
    folder = tmp_path / "hlo"
    nvae(
        "export stablehlo",
        f"--workdir={run}",
        "--batch=2",
        f"--output={folder}",
    )
    capsys.readouterr()
    assert nvae("verify", str(folder), f"--workdir={run}") == 0
    report = capsys.readouterr().out
    assert "StableHLO of plain_vae, step 9" in report
    assert report.count(" ok") == 3
    with pytest.raises(ExportError, match="exists already"):
        nvae(
            "export stablehlo",
            f"--workdir={run}",
            "--batch=2",
            f"--output={folder}",
        )


_CALLING = """\
module {
  func.func public @main(%arg0: tensor<2xf32>) -> tensor<2xf32> {
    %0 = stablehlo.custom_call @xla_python_cpu_callback(%arg0)
        : (tensor<2xf32>) -> tensor<2xf32>
    return %0 : tensor<2xf32>
  }
}
"""


def _calling():
    from jax._src.interpreters import mlir
    from jaxlib.mlir import ir
    from jaxlib.mlir.dialects import stablehlo

    with mlir.make_ir_context(), ir.Location.unknown():
        module = ir.Module.parse(_CALLING)
        version = stablehlo.get_current_version()
        return stablehlo.serialize_portable_artifact(module, version)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "sample.stablehlo").write_bytes(b"junk"), "damaged"),
        (lambda p: replace_file(p, "sample.stablehlo", b"junk"), "no Stable"),
        (lambda p: (p / "sample.stablehlo").unlink(), "sample"),
        (
            lambda p: replace_file(p, "sample.stablehlo", _calling()),
            "calls what is not in it",
        ),
        (lambda p: (p / "graphs.json").write_text("[]"), "dict is needed"),
        (
            lambda p: change_description(p, lambda c: c.pop("format")),
            "no format",
        ),
        (
            lambda p: change_description(p, lambda c: c.update(format="x")),
            "a format x",
        ),
        (
            lambda p: change_description(p, lambda c: c.pop("graphs")),
            "no graphs",
        ),
        (
            lambda p: change_description(p, lambda c: c.update(batch=0)),
            "of rows",
        ),
        (
            lambda p: change_description(p, lambda c: c.update(facts=3)),
            "what it is",
        ),
        (
            lambda p: change_description(p, lambda c: c.update(facts={})),
            "not tell what",
        ),
        (
            lambda p: change_description(
                p, lambda c: c["graphs"].update({"../x": c["graphs"]["sample"]})
            ),
            "no name",
        ),
        (
            lambda p: change_description(
                p, lambda c: c["graphs"]["sample"].update(weights=[1])
            ),
            "no weights",
        ),
    ],
)
def test_damaged_export_is_refused(exported, tmp_path, damage, message):
    path = tmp_path / "hlo"
    shutil.copytree(exported("plain_vae"), path)
    damage(path)
    with pytest.raises(ExportError, match=message):
        open_export(path)


def test_weights_that_lack_something_are_a_problem(exported, tmp_path):
    from safetensors.numpy import load_file, save

    path = tmp_path / "hlo"
    shutil.copytree(exported("plain_vae"), path)
    weights = load_file(path / "weights.safetensors")
    weights.popitem()
    replace_file(path, "weights.safetensors", save(weights))
    assert nvae("verify", str(path)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "must be positive"),
        ({"batch": 2, "graphs": ["sampel"]}, "no graph sampel"),
        ({"batch": 2, "graphs": []}, "no graph to write"),
        ({"batch": 2, "temperature": -1.0}, "finite and not negative"),
        ({"batch": 2, "temperature": math.inf}, "finite and not negative"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, options, message):
    with pytest.raises(ExportError, match=message):
        export_stablehlo(source("plain_vae"), tmp_path / "hlo", **options)
    assert not (tmp_path / "hlo").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("thesis.tex", ""),
        ("graphs.json", '{"graphs": []}'),
        ("graphs.json", ""),
    ],
)
def test_folder_of_other_things_is_not_replaced(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(ExportError, match="not a StableHLO or LiteRT export"):
        export_stablehlo(source("plain_vae"), tmp_path, 2, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_noise_is_that_of_every_other_export(exported):
    graphs = Graphs(exported("plain_vae"))
    drawn = graphs.draw_noise("sample", [5, 6])
    first = graphs.describe("sample")["noise"][0]
    np.testing.assert_array_equal(
        drawn["eps_0"], noise_rows([5, 6], "normal", 0, first["shape"])
    )
