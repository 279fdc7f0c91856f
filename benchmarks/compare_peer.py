"""This project and the PyTorch peer side by side: one run, one machine.

    python -m benchmarks.compare_peer --cases=small,deep --rounds=3

Every measurement has a process of its own, and the two programs take turns, so
that a machine which slows down or is disturbed does so for both.  A ratio is
the median of those of the rounds.  Where PyTorch is not installed beside
TensorFlow, `--peer_python` names another environment's interpreter.

    python -m benchmarks.compare_peer --write_models=models.json

writes the cases for `python -m benchmarks.torch_peer --models=models.json` on a
machine with PyTorch alone.
"""

import itertools
import json
import statistics
import tempfile

from absl import flags

from benchmarks import cases, results
from benchmarks.processes import measured
from nvae_tf.core.errors import UserError
from nvae_tf.core.files import write_bytes

__all__ = [
    "PEER_PRECISIONS",
    "SAMPLERS",
    "compare_samples",
    "compare_steps",
    "run",
]

# What the peer calls our precisions.
PEER_PRECISIONS = {
    "float32": "float32",
    "mixed_bfloat16": "bfloat16",
    "mixed_float16": "float16",
}
# Programs of `benchmarks.sampling` that draw their own noise, as the peer does.
SAMPLERS = ("live model", "SavedModel", "ONNX Runtime")
_HEADINGS = (
    *("ours over the peer", "ratio", "lowest", "highest"),
    *("start", "peak memory"),
)
_PEER = "benchmarks.torch_peer.measure:measure"


def compare_steps(
    case: cases.Case,
    precision: str = "float32",
    *,
    rounds: int = 3,
    seconds: float = 10.0,
    **peer,
) -> dict:
    """Our training step and the peer's, in turn.

    Args:
      case: what to train.
      precision: ours, a key of `PEER_PRECISIONS`.
      rounds: how often each.
      seconds: how long to take steps, each time.
      **peer: see `_measure_peer`.

    Returns:
      Medians over the rounds of `ours` and `peer`, and of the ratios ours over
      the peer's: `ratio` of the step, `start_ratio` of a process's start to the
      end of its first step, `peak_ratio` of memory.
    """
    pairs = []
    for _ in range(rounds):
        ours = measured(
            "benchmarks.train_step:measure",
            name=case.name,
            precision=precision,
            seconds=seconds,
            batch_size=case.batch_size,
        )
        pairs.append(
            (ours, _measure_peer(case, "step", precision, seconds, **peer))
        )
    return _compared(
        pairs,
        {
            "ratio": "step_seconds",
            "start_ratio": "start_seconds",
            "peak_ratio": "peak_gb",
        },
    )


def compare_samples(
    case: cases.Case,
    batch_size: int = 32,
    *,
    rounds: int = 3,
    seconds: float = 6.0,
    **peer,
) -> dict[str, dict]:
    """Our samplers and the peer's, in turn.

    Args:
      case: what to draw from.
      batch_size: images at once.
      rounds: how often each.
      seconds: how long to draw, each time.
      **peer: see `_measure_peer`.

    Returns:
      By sampler: medians over the rounds, and of the ratios ours over the
      peer's, `ratio` of images/s and `peak_ratio` of memory.
    """
    pairs = {program: [] for program in SAMPLERS}
    with tempfile.TemporaryDirectory() as folder:
        exported = measured(
            "benchmarks.sampling:export", name=case.name, folder=folder
        )
        for _ in range(rounds):
            theirs = _measure_peer(
                case, "sample", "float32", seconds, batch_size, **peer
            )
            for program, found in pairs.items():
                ours = exported
                if "error" not in exported or program == SAMPLERS[0]:
                    ours = measured(
                        "benchmarks.sampling:draw",
                        name=case.name,
                        program=program,
                        folder=folder,
                        batch_size=batch_size,
                        seconds=seconds,
                    )
                found.append((ours, theirs))
    keys = {"ratio": "images_per_second", "peak_ratio": "peak_gb"}
    return {name: _compared(found, keys) for name, found in pairs.items()}


def _measure_peer(
    case: cases.Case,
    what: str,
    precision: str,
    seconds: float,
    batch_size: int | None = None,
    python: str | None = None,
    layout: str = "contiguous",
    compiled: bool = False,
) -> dict:
    """The peer in a process of its own.

    Args:
      case: of which it measures.
      what: "step" or "sample".
      precision: ours, a key of `PEER_PRECISIONS`.
      seconds: how long.
      batch_size: images at once; None for the case's.
      python: the interpreter; None for this one.
      layout: of its tensors.
      compiled: whether by `torch.compile`.
    """
    return measured(
        _PEER,
        interpreter=python,
        what=what,
        batch_size=batch_size or case.batch_size,
        model=cases.as_json(case)["model"],
        precision=PEER_PRECISIONS[precision],
        layout=layout,
        compiled=compiled,
        seconds=seconds,
    )


def _compared(pairs: list[tuple[dict, dict]], ratios: dict[str, str]) -> dict:
    for pair in pairs:
        for who, result in zip(("ours", "the peer"), pair, strict=True):
            if "error" in result:
                return {"error": f"{who}: {result['error']}"}
    compared = {"rounds": len(pairs), "batch_size": pairs[0][0]["batch_size"]}
    for i, who in enumerate(("ours", "peer")):
        compared[who] = {
            key: statistics.median(pair[i][key] for pair in pairs)
            for key in ratios.values()
        }
    for name, key in ratios.items():
        of_rounds = [ours[key] / theirs[key] for ours, theirs in pairs]
        compared[name] = statistics.median(of_rounds)
        compared[f"{name}s"] = of_rounds
    return compared


def run(
    store: results.Results,
    names,
    precisions=("float32",),
    *,
    rounds: int = 3,
    seconds: float = 8.0,
    sample_batch_size: int = 32,
    **peer,
) -> None:
    """Compares steps and samplers, and prints and keeps the results.

    Args:
      store: where to keep them; names are "CASE step PRECISION" and "CASE
        PROGRAM".
      names: of cases.
      precisions: of steps, keys of `PEER_PRECISIONS`.
      rounds: how often each.
      seconds: how long to measure each time.
      sample_batch_size: images drawn at once; 0 for no samplers.
      **peer: see `_measure_peer`.

    Raises:
      UserError: for names that are not known.
    """
    chosen = [cases.case(name) for name in names]
    for precision in precisions:
        if precision not in PEER_PRECISIONS:
            raise UserError(
                f"--precision={precision} is none of "
                f"{', '.join(PEER_PRECISIONS)}."
            )
    often = {"rounds": rounds, "seconds": seconds}
    rows = []

    def add(name: str, result: dict) -> None:
        store.add("compare_peer", name, result)
        rows.append(_row(name, result))
        print(*rows[-1], flush=True)

    for case, precision in itertools.product(chosen, precisions):
        add(
            f"{case.name} step {precision}",
            compare_steps(case, precision, **often, **peer),
        )
    for case in chosen if sample_batch_size else ():
        compared = compare_samples(case, sample_batch_size, **often, **peer)
        for program, result in compared.items():
            add(f"{case.name} {program}", result)
    print(results.table(_HEADINGS, rows))


def _row(name: str, result: dict) -> list[str]:
    if "error" in result:
        return [name, result["error"], "", "", "", ""]
    start = result.get("start_ratio")
    return [
        name,
        f"{result['ratio']:.2f}",
        f"{min(result['ratios']):.2f}",
        f"{max(result['ratios']):.2f}",
        f"{start:.1f}" if start else "",
        f"{result['peak_ratio']:.2f}",
    ]


def _main(_) -> None:
    values = flags.FLAGS
    if values.write_models:
        models = {name: cases.as_json(c) for name, c in cases.CASES.items()}
        write_bytes(values.write_models, json.dumps(models, indent=1).encode())
        return
    run(
        results.from_flags(),
        values.cases,
        values.precision,
        rounds=values.rounds,
        seconds=values.seconds,
        sample_batch_size=values.sample_batch_size,
        python=values.peer_python or None,
        layout=values.layout,
        compiled=values.compile,
    )


if __name__ == "__main__":
    from nvae_tf.commands import command_line

    flags.DEFINE_list("cases", ["small", "mnist", "deep"], "What to measure.")
    flags.DEFINE_list(
        "precision", ["float32"], f"Of steps: {', '.join(PEER_PRECISIONS)}."
    )
    flags.DEFINE_integer("rounds", 3, "How often each.", lower_bound=1)
    flags.DEFINE_float("seconds", 8.0, "How long to measure each time.")
    flags.DEFINE_integer(
        "sample_batch_size",
        32,
        "Images drawn at once; 0 compares no samplers.",
        lower_bound=0,
    )
    flags.DEFINE_string("peer_python", "", "The peer's interpreter.")
    flags.DEFINE_enum(
        "layout",
        "contiguous",
        ["contiguous", "channels_last"],
        "Of the peer's tensors.",
    )
    flags.DEFINE_bool("compile", False, "The peer by torch.compile.")
    flags.DEFINE_string("write_models", "", "Write the cases here, and end.")
    results.define_folder()
    command_line.run(_main)
