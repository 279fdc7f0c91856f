"""Checks this machine: packages, devices, memory, data, and one step.

    nvae doctor
    nvae doctor --json > doctor.json

Tells what TensorFlow sees, and the GPUs that it does not see though their
driver does; where data sets are looked for; which extras are installed; and
whether a small model trains and draws. Exit status: 1 if there is a problem, 0
if not. With --json, for reports of problems: the same as JSON.
"""

import dataclasses
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import shutil
import tempfile
import textwrap
import time
from collections.abc import Callable
from typing import Any

from absl import flags

import nvae_tf
from nvae_tf.core import extras
from nvae_tf.core.errors import one_line

_JSON = flags.DEFINE_bool("json", False, "Print JSON.")
_STEP = flags.DEFINE_bool(
    "step", True, "Also train a small model for one step, and draw from it."
)

_SHOWN_PACKAGES = (
    "tensorflow",
    "keras",
    "tensorflow-probability",
    "numpy",
)
_WIDTH, _INDENT = 80, 19


@dataclasses.dataclass(frozen=True)
class Check:
    """What was found.

    Attributes:
      name: of what was looked at.
      status: "ok", "note" for what limits some commands, or "problem".
      text: for people, with the way out.
      facts: for programs.
    """

    name: str
    status: str
    text: str
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)


def main(argv) -> int:
    """Looks, and prints."""
    del argv
    looks: list[tuple[str, Callable[[], Check]]] = [
        ("Packages", _packages),
        ("Devices", _devices),
        ("GPUs", _gpus),
        ("Machine", _machine),
        ("Data", _data),
        ("Extras", _extras),
    ]
    if _STEP.value:
        looks.append(("Step", _step))
    checks = [_looked(name, look) for name, look in looks]
    problems = [check.name for check in checks if check.status == "problem"]
    if _JSON.value:
        report = {
            "nvae_tf": nvae_tf.__version__,
            "problems": problems,
            "checks": [dataclasses.asdict(check) for check in checks],
        }
        print(json.dumps(report, indent=2))
    else:
        print(_page(checks, problems))
    return int(bool(problems))


def _looked(name: str, look: Callable[[], Check]) -> Check:
    try:
        return look()
    except Exception as error:
        # Whatever a broken installation raises is what is to be told.
        kind = type(error).__name__
        return Check(name, "problem", f"{kind}: {one_line(error, 300)}")


def _page(checks: list[Check], problems: list[str]) -> str:
    lines = [f"nvae_tf {nvae_tf.__version__} on {platform.platform()}", ""]
    for check in checks:
        lines += textwrap.wrap(
            check.text,
            _WIDTH,
            initial_indent=f"{check.status:8} {check.name:10}",
            subsequent_indent=" " * _INDENT,
            break_long_words=False,
            break_on_hyphens=False,
        )
    verdict = "This machine can train."
    if problems:
        verdict = f"To be mended: {', '.join(problems)}."
    return "\n".join([*lines, "", verdict])


def _packages() -> Check:
    """Versions, and whether they are those that this package needs."""
    versions = {"python": platform.python_version()}
    for name in _SHOWN_PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    wrong = _unmet()
    text = ", ".join(f"{k} {v}" for k, v in versions.items() if v)
    absent = [name for name, version in versions.items() if version is None]
    wrong += [f"{name} is not installed" for name in absent if not wrong]
    if wrong:
        text += f"; {'; '.join(wrong)}: pip install . in a clone of nvae_tf"
    return Check("Packages", "problem" if wrong else "ok", text, versions)


def _unmet() -> list[str]:
    """The requirements of this package that the environment does not meet."""
    try:
        from packaging.requirements import Requirement

        required = importlib.metadata.requires("nvae_tf") or []
    except (ImportError, importlib.metadata.PackageNotFoundError):
        return []  # Run from a clone that is not installed.
    unmet = []
    for text in required:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate(
            {"extra": ""}
        ):
            continue
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            unmet.append(f"{requirement.name} is not installed")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            unmet.append(
                f"{requirement.name} {found} is not {requirement.specifier}"
            )
    return unmet


def _devices() -> Check:
    """What TensorFlow would compute on."""
    import tensorflow as tf

    found = tf.config.list_physical_devices()
    names = [f"{d.device_type}:{d.name.rpartition(':')[2]}" for d in found]
    return Check(
        "Devices",
        "ok" if found else "problem",
        f"TensorFlow sees {', '.join(names) or 'none'}",
        {"devices": names},
    )


def _gpus() -> Check:
    """The GPUs of the driver, and why TensorFlow may not see them."""
    import tensorflow as tf

    from nvae_tf.distribute import machine

    seen = len(tf.config.list_physical_devices("GPU"))
    facts: dict[str, Any] = {
        "seen": seen,
        "cuda_build": tf.test.is_built_with_cuda(),
    }
    try:
        gpus = machine.driver_gpus()
    except FileNotFoundError:
        text = "no nvidia-smi: no NVIDIA driver is installed here"
        return Check("GPUs", "ok", text, facts)
    except OSError as error:
        text = (
            f"nvidia-smi fails ({one_line(error, 200)}): install the driver "
            "anew, or restart the machine after an update"
        )
        return Check("GPUs", "note" if seen else "problem", text, facts)
    facts["driver"] = [gpu._asdict() for gpu in gpus]
    listed = ", ".join(sorted({gpu.name for gpu in gpus}))
    listed = f"nvidia-smi lists {len(gpus)} ({listed})"
    if seen >= len(gpus):
        return Check("GPUs", "ok", f"{listed}, TensorFlow sees {seen}", facts)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        facts["CUDA_VISIBLE_DEVICES"] = visible
        text = f"{listed}; CUDA_VISIBLE_DEVICES={visible!r} leaves {seen}"
        return Check("GPUs", "note", text, facts)
    text = f"{listed}, but TensorFlow sees {seen}: {_how_to_see_gpus(tf)}"
    return Check("GPUs", "problem", text, facts)


def _how_to_see_gpus(tf) -> str:
    """What to install."""
    if platform.system() == "Linux" and tf.test.is_built_with_cuda():
        return (
            f'pip install "tensorflow[and-cuda]=={tf.__version__}" brings the '
            "CUDA libraries; the driver must be as new as they are"
        )
    return (
        "this build of TensorFlow has no CUDA; on Linux, or in WSL, use the "
        "one from PyPI: "
        f'pip install "tensorflow[and-cuda]=={tf.__version__}"'
    )


def _machine() -> Check:
    """Cores and memory."""
    from nvae_tf.distribute import cores, machine

    count, memory = cores.available_cores(), machine.memory_bytes()
    facts = {"cores": count, "memory": memory, "system": platform.platform()}
    known = "unknown memory" if memory is None else f"{memory / 1e9:,.1f} GB"
    return Check(
        "Machine", "ok", f"{count} cores, {known}, {platform.machine()}", facts
    )


def _data() -> Check:
    """Where TFDS looks for data sets."""
    from nvae_tf.datasets.sources import tfds_folder

    folder = tfds_folder()
    variable = os.environ.get("TFDS_DATA_DIR")
    origin = "TFDS_DATA_DIR" if variable else "by default; or set TFDS_DATA_DIR"
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    free = shutil.disk_usage(existing).free
    facts = {
        "folder": str(folder),
        "TFDS_DATA_DIR": variable,
        "exists": folder.exists(),
        "writable": writable,
        "free": free,
        "datasets": _prepared(folder),
    }
    text = f"{folder} ({origin}), {free / 1e9:,.1f} GB free"
    if not writable:
        text += f"; {existing} cannot be written to: nothing can be prepared"
        return Check("Data", "note", text, facts)
    if not folder.exists():
        return Check("Data", "note", f"{text}; made when needed", facts)
    names = ", ".join(facts["datasets"]) or "nothing yet"
    return Check("Data", "ok", f"{text}; holds {names}", facts)


def _prepared(folder: pathlib.Path) -> list[str]:
    """The data sets in TFDS's folder."""
    from nvae_tf.datasets.sources import tfds_is_prepared

    try:
        return sorted(p.name for p in folder.iterdir() if tfds_is_prepared(p))
    except OSError:
        return []


def _extras() -> Check:
    """Which extras are installed."""
    missing = {name: extras.missing(name) for name in extras.EXTRAS}
    absent = [name for name, packages in missing.items() if packages]
    text = ", ".join(n for n in missing if n not in absent) or "none"
    if absent:
        how = extras.how_to_install(",".join(absent))
        text += f"; without {', '.join(absent)}: {how}"
    return Check("Extras", "note" if absent else "ok", text, missing)


def _step() -> Check:
    """Whether a small model trains and draws."""
    import tensorflow as tf

    from nvae_tf.config import config_from_dict, presets, schedules
    from nvae_tf.distribute.devices import open_devices
    from nvae_tf.runs.workdir import Workdir
    from nvae_tf.sampling.illustrator import Illustrator
    from nvae_tf.training import attempts
    from nvae_tf.training.run_state import RunState
    from nvae_tf.training.train_batches import TrainBatches

    begin = time.monotonic()
    values = presets.read("tiny")
    # Fewer groups are as much of a check, and sooner there.
    values.model.num_groups_per_scale = 2
    config = config_from_dict(values)
    devices = open_devices()
    data = TrainBatches(config, devices)
    with tempfile.TemporaryDirectory() as folder:
        state = RunState(config, Workdir(folder), devices, data.steps_per_epoch)
    batches = data.from_step(0, config.train.seed)
    images = next(batches).inputs
    batches.close()
    before = [v.numpy() for v in state.model.trainable_variables]
    result = attempts.take(
        state.train_step,
        devices,
        [images],
        # After the warm-up, which begins with a learning rate of 0.
        schedules.coefficients(
            config.train,
            data.steps_per_epoch * config.train.warmup_epochs,
            data.steps_per_epoch,
        ),
        [tf.constant([0, 0])],
        stop=False,
    ).result
    nelbo, device = float(result.nelbo), result.nelbo.device
    moved = any(
        (v.numpy() != old).any()
        for v, old in zip(state.model.trainable_variables, before, strict=True)
    )
    drawn = Illustrator(state.model).draw_seeds(range(4), 0.7)
    seconds = time.monotonic() - begin
    facts = {
        "nelbo": nelbo if math.isfinite(nelbo) else None,
        "changed": moved,
        "device": device,
        "seconds": round(seconds, 3),
    }
    where = device.rpartition("device:")[2] or "one device"
    text = (
        f"a small model on {where}: NELBO {nelbo:,.1f} nats, "
        f"{'' if moved else 'no '}weights changed, {len(drawn)} images drawn; "
        f"{seconds:.1f} s with building"
    )
    fine = math.isfinite(nelbo) and moved
    return Check("Step", "ok" if fine else "problem", text, facts)
