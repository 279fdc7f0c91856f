r"""Writes the folder that `run` measures on a machine with an accelerator.

    python -m benchmarks.accelerator.prepare --folder=gpu
    python -m benchmarks.accelerator.prepare --folder=gpu \
        --programs=step-tiny-2-float32-bn_swish,sample-tiny-2-float32

A program is KIND-CASE-BATCH-PRECISION, of a step with -RECOMPUTE; -unrolled has
the groups of a scale as copies instead of a loop, and -masked the update
without a branch.  Kinds: `step`; `check`, a step that
is given its noise and compared with TensorFlow's on this machine; `sample`.
What the folder holds already is not lowered again.

Needs JAX, which the extra `dev` has.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import pathlib
import shutil
import time
from typing import Any

from absl import flags

from benchmarks import cases, train_step
from benchmarks.accelerator import orders
from nvae_tf.core.errors import UserError
from nvae_tf.core.files import write_bytes

__all__ = ["CHECKED_STEPS", "Spec", "prepare"]

CHECKED_STEPS = 3
# What a check compares.
_CHECKED = ("total_loss", "reconstruction_nll", "kl", "gradient_norm")
_ROOT = pathlib.Path(__file__).resolve().parents[2]
# What measures there, ours and the PyTorch peer's.
_SOURCES = (
    "benchmarks/__init__.py",
    *(
        f"benchmarks/accelerator/{name}.py"
        for name in (
            "__init__",
            "artifact",
            "measuring",
            "orders",
            "program",
            "rows",
            "run",
            "table",
            "values",
        )
    ),
    "benchmarks/processes.py",
    "benchmarks/results.py",
    "benchmarks/torch_peer/*.py",
    "nvae_tf/*.py",
    "nvae_tf/config/*.py",
    "nvae_tf/core/*.py",
    "nvae_tf/export/__init__.py",
    "nvae_tf/export/beside/*.py",
    "nvae_tf/export/stablehlo/__init__.py",
    "nvae_tf/export/stablehlo/portable.py",
    "nvae_tf/export/stablehlo/program.py",
)
_KINDS = ("check", "sample", "step")
# Other ways to build a program, in the order of its label.
_OPTIONS = ("unrolled", "masked")
_PRECISIONS = {
    "float32": "float32",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}


@dataclasses.dataclass(frozen=True)
class Spec:
    """What to lower; see above."""

    kind: str
    case: str
    batch_size: int
    precision: str
    recompute: str = ""
    unrolled: bool = False
    masked: bool = False

    @classmethod
    def parse(cls, label: str) -> Spec:
        """The program of a label.

        Raises:
          UserError: if there is no such program.
        """
        parts = label.split("-")
        options = dict.fromkeys(_OPTIONS, False)
        while parts and parts[-1] in options:
            options[parts.pop()] = True
        kind = parts[0]
        if kind not in _KINDS or len(parts) != (4 if kind == "sample" else 5):
            raise UserError(
                f"--programs: {label!r} is not KIND-CASE-BATCH-PRECISION with "
                f"a KIND of {', '.join(_KINDS)}, and -RECOMPUTE of a step."
            )
        if kind == "sample" and options["masked"]:
            raise UserError(f"--programs: {label!r}: only steps are masked.")
        _, case, batch_size, precision, *recompute = parts
        cases.case(case)
        if not batch_size.isdecimal() or int(batch_size) < 1:
            raise UserError(f"--programs: {label!r} has no number of images.")
        for value, known in (
            (precision, _PRECISIONS),
            (*recompute, ("none", "bn_swish", "cell")),
        )[: 1 + len(recompute)]:
            if value not in known:
                raise UserError(
                    f"--programs: {value!r} in {label!r} is none of "
                    f"{', '.join(known)}."
                )
        return cls(
            kind, case, int(batch_size), precision, *recompute, **options
        )

    @property
    def label(self) -> str:
        """Its name, and its file's."""
        parts = [self.kind, self.case, str(self.batch_size), self.precision]
        parts += [self.recompute] if self.recompute else []
        parts += [option for option in _OPTIONS if getattr(self, option)]
        return "-".join(parts)


def prepare(folder: pathlib.Path, labels: list[str] | None = None) -> None:
    """Writes, or completes, a folder.

    Args:
      folder: of `programs/`, `order.txt`, `expected.json` and of what `run`
        needs of this package.
      labels: of programs; None for those of `orders.ORDER`.
    """
    order = orders.ORDER if labels is None else "\n".join(labels)
    specs = [Spec.parse(label) for label in orders.programs(order)]
    (folder / "programs").mkdir(parents=True, exist_ok=True)
    _copy_sources(folder)
    write_bytes(folder / "order.txt", order.encode())
    for spec in specs:
        path = folder / "programs" / f"{spec.label}.program"
        if path.exists():
            continue
        began = time.monotonic()
        content, expected = _lower(spec)
        if expected is not None:
            _expect(folder / "expected.json", spec.label, expected)
        write_bytes(path, content)
        seconds = time.monotonic() - began
        print(
            f"{spec.label}: {len(content):,} bytes, {seconds:.0f} s", flush=True
        )
        gc.collect()


def _copy_sources(folder: pathlib.Path) -> None:
    """Copies what runs there, and the cases for the peer."""
    for pattern in _SOURCES:
        for source in _ROOT.glob(pattern):
            path = folder / source.relative_to(_ROOT)
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, path)
    shutil.copyfile(
        _ROOT / "benchmarks/accelerator/device.sh", folder / "device.sh"
    )
    models = {name: cases.as_json(c) for name, c in cases.CASES.items()}
    write_bytes(folder / "models.json", json.dumps(models).encode())


def _expect(path: pathlib.Path, label: str, expected: list) -> None:
    known = json.loads(path.read_text()) if path.exists() else {}
    write_bytes(path, json.dumps({**known, label: expected}, indent=1).encode())


def _lower(spec: Spec) -> tuple[bytes, list | None]:
    """The file of a program, and what it is expected to give."""
    # After the flags: `--help` and mistakes need no TensorFlow.
    from benchmarks import flops
    from benchmarks.accelerator import artifact, lower, masked
    from nvae_tf.model.nvae import NVAE

    case = cases.case(spec.case, spec.batch_size)
    precision = _PRECISIONS[spec.precision]
    options = {"device": "GPU", "unroll": spec.unrolled}
    step = None
    if spec.kind == "sample":
        model = NVAE(case.model, dtype=precision, **options)
    else:
        step = train_step.build_step(case, precision, spec.recompute, **options)
        model = step.model
    with masked.by_mask(step if spec.masked else None):
        if step is None:
            lowered = lower.lower_sampler(model, spec.batch_size)
        else:
            lowered = lower.lower_step(
                step, spec.batch_size, with_noise=spec.kind == "check"
            )
    variables = lower.variables_by_name((step or model).named_variables())
    for described in lowered.description["inputs"]:
        described["values"] = _values(
            described["name"], variables, 2**case.model.num_bits
        )
    expected = None
    if spec.kind == "check":
        expected = _expected(case, lowered.description["inputs"])
    return (
        artifact.pack(
            lowered.module,
            {
                **lowered.description,
                **dataclasses.asdict(spec),
                "groups": case.model.num_groups,
                "parameters": sum(
                    v.shape.num_elements() for v in model.trainable_variables
                ),
                "forward_flop": flops.forward_flop(model),
            },
        ),
        expected,
    )


def _values(name: str, variables: dict, levels: int) -> list:
    """See `values.make`."""
    from benchmarks.accelerator import values

    arguments = {
        "x": ["levels", levels],
        "beta": ["constant", 0.4],
        "regularization": ["constant", 1e-2],
        "learning_rate": ["constant", 1e-4],
        "seed": ["seed"],
        "temperature": ["constant", 0.7],
    }
    if name in arguments:
        return arguments[name]
    if name.startswith("eps_"):
        return ["normal", 0.0, 1.0]
    if name.startswith("spectral/"):
        return ["unit_rows"]
    return values.describe(variables[name].numpy())


def _expected(case: cases.Case, inputs: list[dict[str, Any]]) -> list:
    """What TensorFlow's steps give on this machine, a dictionary for each."""
    import tensorflow as tf

    from benchmarks.accelerator import lower, values
    from nvae_tf.config.schedules import Coefficients

    step = train_step.build_step(case)
    variables = lower.variables_by_name(step.named_variables())
    arguments = {}
    for described in inputs:
        value = values.make(case.name, described)
        if described["name"] in variables:
            variables[described["name"]].assign(value)
        else:
            arguments[described["name"]] = tf.constant(value)
    coefficients = Coefficients(
        *[arguments[name] for name in Coefficients._fields]
    )
    eps = [arguments[f"eps_{i}"] for i in range(case.model.num_groups)]
    expected = []
    for _ in range(CHECKED_STEPS):
        results = step(arguments["x"], coefficients, eps=eps)
        expected.append(
            {name: float(getattr(results, name)) for name in _CHECKED}
        )
    return expected


def _main(_) -> None:
    labels = flags.FLAGS.programs
    prepare(pathlib.Path(flags.FLAGS.folder), labels or None)


if __name__ == "__main__":
    from nvae_tf.commands import command_line

    flags.DEFINE_string("folder", "runs/accelerator", "To write.")
    flags.DEFINE_list("programs", [], "Other ones than usual.")
    command_line.run(_main)
