"""Dependencies between modules point one way."""

import ast
import functools
import pathlib

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_PACKAGES = ("nvae_tf", "export", "configs", "benchmarks")

# A module of the model may import what stands before it here, nothing else of
# the project.
_CORE = [
    "errors",
    "model_config",
    "config",
    "replicas",
    "flat",
    "masks",
    "ops",
    "batch_norm",
    "scan",
    "pixel_distributions",
    "logistic_mixture",
    "residual_normal",
    "distributions",
    "pure_layer",
    "layers",
    "recompute",
    "composite",
    "cell_operations",
    "cells",
    "encoder",
    "latent_group",
    "decoder",
    "image_decoder",
    "model",
    "losses",
    "regularizers",
    "optimizer",
    "averaging",
    "schedules",
    "objective",
    "train_step",
]
_LEAVES = [
    "errors",
    "masks",
    "replicas",
    "flat",
    "scan",
    "pixel_distributions",
    "residual_normal",
]


def _files():
    for package in _PACKAGES:
        for path in sorted((_ROOT / package).rglob("*.py")):
            parts = path.relative_to(_ROOT).with_suffix("").parts
            yield ".".join(parts).removesuffix(".__init__"), path
    yield "train", _ROOT / "train.py"


_MODULES = {name: path for name, path in _files() if path.exists()}


@functools.cache
def _imports(module):
    """Full names of all that a module imports, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(_MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports relatively"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & _MODULES.keys()) or {node.module}
    return found


def _project_imports(module):
    return _imports(module) & _MODULES.keys()


def _reachable(module):
    found, todo = set(), [module]
    while todo:
        new = _project_imports(todo.pop()) - found
        found |= new
        todo += new
    return found


def _external(modules):
    return {name.split(".")[0] for m in modules for name in _imports(m)}


def test_there_are_modules_to_look_at():
    assert {"nvae_tf.model.nvae", "nvae_tf.training.trainer"} <= _MODULES.keys()
    assert "nvae_tf.config.model" in _project_imports("nvae_tf.model.nvae")
    assert "nvae_tf.model.ops" in _reachable("nvae_tf.training.train_step")


def test_no_module_imports_itself_by_way_of_others():
    circular = [m for m in _MODULES if m in _reachable(m)]
    assert not circular


@pytest.mark.parametrize("name", _CORE)
def test_modules_of_the_model_import_only_those_before_them(name):
    before = {f"nvae_tf.{other}" for other in _CORE[: _CORE.index(name)]}
    assert _project_imports(f"nvae_tf.{name}") <= before


@pytest.mark.parametrize("name", _LEAVES)
def test_leaves_import_nothing_of_the_project(name):
    assert not _project_imports(f"nvae_tf.{name}")


def test_losses_know_neither_layers_nor_the_training():
    allowed = {"model_config", "model", "distributions", "replicas"}
    names = {
        m.removeprefix("nvae_tf.")
        for m in _project_imports("nvae_tf.model.losses")
    }
    assert names <= allowed


def test_exported_programs_do_not_need_the_training():
    training = {
        "trainer",
        "train_step",
        "objective",
        "optimizer",
        "regularizers",
    }
    for module in _MODULES:
        if module.startswith("export"):
            reached = {m.removeprefix("nvae_tf.") for m in _reachable(module)}
            assert not reached & training, module


def test_package_imports_no_other_part_of_the_project():
    others = {"export", "configs", "benchmarks", "train"}
    for module in _MODULES:
        if module.startswith("nvae_tf"):
            assert not _external([module]) & others, module


def test_data_modules_do_not_import_the_model():
    for module in _MODULES:
        if (
            module.startswith("nvae_tf.data_")
            or module == "nvae_tf.datasets.pipeline"
        ):
            assert "nvae_tf.model.nvae" not in _reachable(module), module


def test_neither_torch_nor_the_old_keras_is_imported():
    for module in _MODULES:
        assert not _external([module]) & {"torch", "tf_keras"}, module


def test_checkpoints_are_read_without_tensorflow():
    modules = [
        "nvae_tf.authors.torch_file",
        *_reachable("nvae_tf.authors.torch_file"),
    ]
    assert len(modules) > 2
    assert not _external(modules) & {"tensorflow", "keras"}


def test_importing_the_package_imports_nothing_else():
    assert not _imports("nvae_tf")
