"""What the benchmarks should come to, and what they came to.

    python -m benchmarks.targets

compares the results that other benchmarks left with the project's targets.
"""

import dataclasses
from collections.abc import Callable

from benchmarks import cases, results
from benchmarks.train_step import name_of

__all__ = ["TARGETS", "Target", "compare"]

# MFU that the paper's CIFAR-10 model is to reach in float32.
_CIFAR_MFU = 0.55


@dataclasses.dataclass(frozen=True)
class Target:
    """A bound on what was measured.

    Attributes:
      what: is bounded.
      benchmark: that measures it.
      value: from the benchmark's results by name; None where they lack it.
      bound: what the value should be at most, or at least.
      at_least: which of the two.
      form: of the value, as `str.format` takes it.
    """

    what: str
    benchmark: str
    value: Callable[[dict[str, dict]], float | None]
    bound: float
    at_least: bool = False
    form: str = "{:.2f}"

    def is_met(self, value: float) -> bool:
        """Whether a value keeps to the bound."""
        return value >= self.bound if self.at_least else value <= self.bound


def _entry(name: str, key: str, convert=lambda x: x):
    """The function that finds one entry of one result."""

    def value(found: dict[str, dict]) -> float | None:
        entry = found.get(name, {}).get(key)
        return None if entry is None else convert(entry)

    return value


def _mfu(case: str, bound: float) -> Target:
    return Target(
        f"MFU, {case}",
        "train_step",
        _entry(name_of(case), "mfu"),
        bound,
        at_least=True,
        form="{:.1%}",
    )


def _memory(
    case: str, bound: float, recompute: str = cases.RECOMPUTE
) -> Target:
    how = "" if recompute == cases.RECOMPUTE else f", recompute={recompute}"
    return Target(
        f"peak memory, {case}{how}",
        "train_step",
        _entry(name_of(case, recompute=recompute), "peak_gb"),
        bound,
        form="{:.2f} GB",
    )


def _start(case: str, bound: float) -> Target:
    return Target(
        f"process start to end of first step, {case}",
        "train_step",
        _entry(name_of(case), "start_seconds"),
        bound,
        form="{:.0f} s",
    )


def _nodes_per_group(found: dict[str, dict]) -> float | None:
    """Between the smallest and the largest number of groups."""
    nodes = {
        result["value"]: result["nodes"]
        for name, result in found.items()
        if name.startswith("groups ")
        and name.endswith(f" float32 {cases.RECOMPUTE}")
        and "nodes" in result
    }
    if len(nodes) < 2:
        return None
    few, many = min(nodes), max(nodes)
    return (nodes[many] - nodes[few]) / (many - few)


def _step_over_peer(case: str, bound: float) -> Target:
    return Target(
        f"step over the PyTorch peer's, {case}",
        "compare_peer",
        _entry(f"{case} step float32", "ratio"),
        bound,
    )


def _sampling_over_peer(program: str, bound: float) -> Target:
    return Target(
        f"images/s sampled over the PyTorch peer's, small, {program}",
        "compare_peer",
        _entry(f"small {program}", "ratio"),
        bound,
        at_least=True,
    )


TARGETS = (
    _mfu("small", 0.33),
    _mfu("mnist", 0.54),
    _mfu("deep", 0.20),
    _mfu("cifar", _CIFAR_MFU),
    Target(
        "bfloat16 step over the float32 target's, cifar",
        "train_step",
        _entry(
            name_of("cifar", "mixed_bfloat16"),
            "mfu",
            lambda mfu: _CIFAR_MFU / mfu,
        ),
        0.5 / 0.8,
    ),
    _start("deep", 20),
    _start("cifar", 50),
    _memory("small", 1.0),
    _memory("mnist", 3.0),
    _memory("deep", 1.2),
    _memory("small", 0.9, "cell"),
    _memory("mnist", 2.0, "cell"),
    _memory("deep", 1.0, "cell"),
    _memory("cifar", 9.0),
    _memory("celeba_hq256", 12.0, "cell"),
    Target(
        "graph nodes, deep",
        "train_step",
        _entry(name_of("deep"), "nodes"),
        15_000,
        form="{:,}",
    ),
    Target(
        "graph nodes per further group",
        "growth",
        _nodes_per_group,
        300,
        form="{:.1f}",
    ),
    _step_over_peer("small", 0.33),
    _step_over_peer("mnist", 0.50),
    _step_over_peer("deep", 0.45),
    _step_over_peer("cifar", 0.65),
    _sampling_over_peer("SavedModel", 2.5),
    _sampling_over_peer("ONNX Runtime", 4.0),
)


def compare(store: results.Results, with_times: bool = True) -> str:
    """A table of all targets, with what was measured where it was.

    Args:
      store: of the results.
      with_times: print times in seconds, which are of one machine, instead of
        their ratios to the bound.
    """
    rows = []
    for target in TARGETS:
        value = target.value(store.read(target.benchmark))
        sign = ">=" if target.at_least else "<="
        bound = target.form.format(target.bound)
        measured, met = "not measured", ""
        if value is not None:
            measured = target.form.format(value)
            met = "yes" if target.is_met(value) else "no"
        if target.form.endswith(" s") and not with_times:
            bound = "the bound"
            if value is not None:
                measured = f"{value / target.bound:.2f} of it"
        rows.append([target.what, f"{sign} {bound}", measured, met])
    return results.table(["target", "bound", "measured", "met"], rows)


def _main(_) -> None:
    print(compare(results.from_flags()))


if __name__ == "__main__":
    from nvae_tf.commands import command_line

    results.define_folder()
    command_line.run(_main)
