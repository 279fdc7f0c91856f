r"""Measures the PyTorch peer, one JSON row a line.

    python -m benchmarks.torch_peer --cases=small --what=step,sample
    python -m benchmarks.torch_peer --cases=cifar,mnist,deep,small \
        --batch_sizes=32,32,4,32 --device=cuda \
        --precisions=float32,tf32,bfloat16 --seconds=1.5 --out=rows.jsonl

All in one process, in the order given, what first: steps before samples, then
layouts, cases and precisions.  A row that fails has an error.  Where this
project's configurations cannot be read, `--models` names a file of cases, which
`python -m benchmarks.compare_peer --write_models=FILE` makes.
"""

import itertools
import json
import pathlib
import sys
import time

from absl import app, flags

from nvae_tf.core.errors import USER_ERROR_STATUS, UserError

_FLAGS = flags.FLAGS


def _measure_all() -> None:
    # Only now: `--help` and mistakes need no PyTorch.
    from benchmarks.torch_peer import measure
    from benchmarks.torch_peer.training import PRECISIONS

    for flag, known in (
        ("what", measure.WHATS),
        ("precisions", PRECISIONS),
        ("layouts", measure.LAYOUTS),
    ):
        for value in _FLAGS[flag].value:
            if value not in known:
                raise UserError(
                    f"--{flag}={value} is none of {', '.join(known)}."
                )
    models = _models()
    sizes = _batch_sizes(models)
    out = _openable(_FLAGS.out)
    began = time.monotonic()
    for what, layout, name, precision in itertools.product(
        _FLAGS.what, _FLAGS.layouts, _FLAGS.cases, _FLAGS.precisions
    ):
        if time.monotonic() - began > _FLAGS.budget:
            print("The budget is spent.", file=sys.stderr)
            break
        row = {
            "program": "torch_peer",
            "case": name,
            "what": what,
            "precision": precision,
            "layout": layout,
            "compiled": _FLAGS.compile,
        }
        try:
            row |= measure.measure(
                models[name]["model"],
                sizes[name],
                what,
                device=_FLAGS.device,
                precision=precision,
                layout=layout,
                compiled=_FLAGS.compile,
                seconds=_FLAGS.seconds,
            )
        except Exception as error:  # One failure shall not end the others.
            row["error"] = f"{type(error).__name__}: {error}"[:500]
        row["elapsed"] = time.monotonic() - began
        line = json.dumps(row)
        print(line, flush=True)
        if out:
            with out.open("a") as file:
                file.write(line + "\n")


def _openable(name: str) -> pathlib.Path | None:
    """The file of `--out`, before minutes of measuring for nothing."""
    if not name:
        return None
    try:
        pathlib.Path(name).open("a").close()
    except OSError as error:
        raise UserError(f"--out={name}: {error.strerror}.") from error
    return pathlib.Path(name)


def _models() -> dict:
    if _FLAGS.models:
        path = pathlib.Path(_FLAGS.models)
        try:
            models = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"--models={path}: {error}.") from error
    else:
        from benchmarks import cases

        models = {name: cases.as_json(c) for name, c in cases.CASES.items()}
    for name in _FLAGS.cases:
        if name not in models:
            raise UserError(
                f"There is no case {name!r}; choose from {', '.join(models)}."
            )
    return models


def _batch_sizes(models: dict) -> dict[str, int]:
    given = _FLAGS.batch_sizes or [
        models[name]["batch_size"] for name in _FLAGS.cases
    ]
    try:
        sizes = [int(size) for size in given]
    except ValueError:
        sizes = []
    if len(sizes) != len(_FLAGS.cases) or min(sizes) < 1:
        raise UserError(
            f"--batch_sizes={','.join(map(str, given))} must be a number of "
            "images for each of --cases."
        )
    return dict(zip(_FLAGS.cases, sizes, strict=True))


def _main(_) -> None:
    try:
        _measure_all()
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR_STATUS)


if __name__ == "__main__":
    flags.DEFINE_list("cases", ["small"], "What to measure.")
    flags.DEFINE_list("batch_sizes", [], "Of each case; its own if empty.")
    flags.DEFINE_list("what", ["step"], "step, sample.")
    flags.DEFINE_list(
        "precisions", ["float32"], "float32, tf32, bfloat16, float16."
    )
    flags.DEFINE_list("layouts", ["contiguous"], "contiguous, channels_last.")
    flags.DEFINE_string("device", "cpu", "cpu, cuda, cuda:1.")
    flags.DEFINE_bool("compile", False, "By torch.compile.")
    flags.DEFINE_float("seconds", 2.0, "How long to measure each.")
    flags.DEFINE_float("budget", 1e9, "Seconds after which none is begun.")
    flags.DEFINE_string("models", "", "JSON file of the cases.")
    flags.DEFINE_string("out", "", "File to add the rows to.")
    app.run(_main)
