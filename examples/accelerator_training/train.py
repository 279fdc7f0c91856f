"""Trains what `prepare` made, where there are JAX and NumPy alone.

    python -m examples.accelerator_training.train --folder=mnist \
        --output=out --name=mnist --seconds=400 --evaluation_seconds=80

It ends by time: how long a step takes is measured first, and the number of
epochs follows from that, so that all schedules end where the training does.
Of several trainings that share a device each takes the folder --meeting: they
measure when all are ready.

Writes NAME_average.npz (the averaged weights), NAME_run.npz (what the last ones
differ by, metrics, bounds and samples), for `collect`; now and then on the way,
too.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pathlib
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import jax
import numpy as np

from examples.accelerator_training import weights_file
from examples.accelerator_training.bounds import curve
from examples.accelerator_training.measuring import Measuring
from examples.accelerator_training.stored_run import Compiler, StoredRun
from nvae_tf.config import schedules
from nvae_tf.core.files import write_bytes
from nvae_tf.datasets.order import epoch_order

_MEASURED_STEPS = 200
# Of the time there is, to plan with.
_SHARE = 0.95
_EVALUATIONS = 12
_EVALUATED_IMAGES = 2000
_TEMPERATURES = (0.6, 0.7, 0.8, 0.9, 1.0)
# Results that are not looked at yet: the host is no further ahead.
_BEHIND = 3


class Training:
    """One training.

    Args:
      args: of the command line.
    """

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.started = time.time()
        self.end = args.until or self.started + args.seconds
        self.records: list[dict] = []
        self.pictures: dict[str, np.ndarray] = {}
        self.bounds: dict[str, np.ndarray] = {}
        self.run = StoredRun(pathlib.Path(args.folder))
        self.config = self.run.config
        self.test_order = np.random.default_rng(0).permutation(
            len(self.run.test)
        )
        self.seed = self.config.train.seed
        self.key = jax.random.key(self.seed)
        self.step = 0
        self.writer = ThreadPoolExecutor(1)
        self.saved = self.writer.submit(lambda: None)
        self.compiler = Compiler()
        self._compile()
        self.state = self._begin()
        self._choose()
        self._note(
            "compiled",
            jax=jax.__version__,
            device=jax.devices()[0].device_kind,
            parameters=self._count(),
        )

    def _compile(self) -> None:
        """Starts to compile what the training needs."""
        first = self.run.first_state()
        initialize = self.run.programs["initialize"]

        def begin(state, zero):
            _, assigned = initialize({**state, "zero": zero})
            return {**state, **assigned}

        average = jax.jit(self.run.averaged)
        self.model = jax.eval_shape(average, first)
        self.futures = {
            "begin": self.compiler(jax.jit(begin), first, np.int32(0)),
            **{
                name: self.compiler(
                    jax.jit(self._advance_by(name), donate_argnums=0),
                    first,
                    self.run.train,
                    np.zeros(self.run.batch_size, np.int32),
                    np.zeros(3, np.float32),
                    np.zeros(2, np.int32),
                )
                for name in self._variants()
            },
            "average": self.compiler(average, first),
            "vectors": self.compiler(jax.jit(self.run.vectors), first),
            "copy": self.compiler(
                jax.jit(lambda s: {k: v.copy() for k, v in s.items()}), first
            ),
        }

    def _variants(self) -> list[str]:
        """Programs of the step that do the same in different ways."""
        return [n for n in self.run.programs if n.startswith("step")]

    def _advance_by(self, name: str):
        program = self.run.programs[name]

        def advance(state, images, indices, coefficients, numbers):
            key = jax.random.fold_in(self.key, numbers[1])
            x = self.run.batch(images[indices], key)
            beta, regularization, rate = coefficients
            results, assigned = program(
                {
                    **state,
                    "x": x,
                    "beta": beta,
                    "regularization": regularization,
                    "learning_rate": rate,
                    "seed": numbers,
                }
            )
            return {**state, **assigned}, results

        return advance

    def function(self, name: str):
        """A compiled function, when it is."""
        return self.futures[name].result()

    def _begin(self) -> dict:
        """The state before the first step."""
        return self.function("begin")(self.run.first_state(), np.int32(0))

    def _choose(self) -> None:
        """The fastest way to take a step, of those that are compiled."""
        variants = {name: self.futures[name] for name in self._variants()}
        wait(variants.values(), return_when=FIRST_COMPLETED)
        wait(variants.values(), timeout=self.args.compile_patience)
        seconds = {}
        for name, future in variants.items():
            if not future.done():
                self._note("not_compiled", variant=name)
            elif future.exception():
                self._note("failed", variant=name, why=repr(future.exception()))
            else:
                self.futures["advance"] = future
                try:
                    seconds[name] = self._seconds_per_step(
                        self.args.measured_steps // 4
                    )
                except jax.errors.JaxRuntimeError as error:
                    self._note("failed", variant=name, why=repr(error))
                self.step, self.state = 0, self._begin()
        if not seconds:
            raise SystemExit("No way to take a step works here.")
        best = min(seconds, key=seconds.get)
        self.futures["advance"] = self.futures[best]
        suffix = best.removeprefix("step")
        self._note(
            "variants",
            chosen=best,
            **{f"seconds_of_{name}": s for name, s in seconds.items()},
        )
        self.measuring = Measuring(self.run, suffix)
        self.futures |= {
            name: self.compiler(function, *arguments)
            for name, (function, arguments) in self.measuring.arguments(
                self.model
            ).items()
        }

    def _count(self) -> int:
        return sum(
            int(np.prod(self.state[name].shape))
            for name in self.run.names("weights")
        )

    def train(self) -> None:
        """Measures, plans and trains."""
        self._meet("compiled")
        seconds = self._measure()
        self._plan(seconds)
        self.state = self._begin()
        self.step = 0
        total = self.config.train.epochs * self.run.steps_per_epoch
        evaluated = {
            round(total * (i + 1) / _EVALUATIONS)
            for i in range(_EVALUATIONS - 1)
        }
        kept, waiting = (0, self.function("copy")(self.state)), []
        rollbacks = 0
        began = time.time()
        stop_at = self.end - self.args.evaluation_seconds
        while self.step < total:
            results, coefficients = self._advance()
            if self.step % self.config.train.log_every == 0:
                waiting.append((self.step, results, coefficients))
            if len(waiting) > _BEHIND:
                in_a_row = self._log(*waiting.pop(0))
                if in_a_row >= self.config.train.skips_before_rollback:
                    if rollbacks >= self.config.train.max_rollbacks:
                        self._note("given_up", skipped_in_a_row=in_a_row)
                        break
                    rollbacks += 1
                    self.seed += 1
                    self._note("rollback", to=kept[0], failed_at=self.step)
                    self.step, waiting = kept[0], []
                    self.state = self.function("copy")(kept[1])
                    continue
            if self.step in evaluated:
                evaluated.remove(self.step)
                finite = self._evaluate(_EVALUATED_IMAGES)
                if finite:
                    kept = self.step, self.function("copy")(self.state)
                    self.save()
            if time.time() > stop_at and self.step % 20 == 0:
                self._note("out_of_time", planned=total)
                break
        for entry in waiting:
            self._log(*entry)
        jax.block_until_ready(self.state)
        self._note("trained", train_seconds=round(time.time() - began, 1))

    def finish(self) -> None:
        """Final bounds and pictures."""
        self._draw()
        self.save()
        self._evaluate(len(self.run.test), draws=4)
        self.save()
        self._weigh()
        self._note("ended")
        self.save()
        self.saved.result()

    def _advance(self):
        """Takes a step, or rather has it taken."""
        epoch, place = divmod(self.step, self.run.steps_per_epoch)
        indices = self._order(epoch)[
            place * self.run.batch_size : (place + 1) * self.run.batch_size
        ]
        coefficients = schedules.coefficients(
            self.config.train, self.step, self.run.steps_per_epoch
        )
        numbers = np.array([self.seed, self.step], np.int32)
        self.state, results = self.function("advance")(
            self.state,
            self.run.train,
            indices,
            np.array(coefficients, np.float32),
            numbers,
        )
        self.step += 1
        return results, coefficients

    def _order(self, epoch: int) -> np.ndarray:
        if getattr(self, "_ordered", None) != (self.seed, epoch):
            self._ordered = self.seed, epoch
            self._indices = epoch_order(
                len(self.run.train), self.seed, epoch
            ).astype(np.int32)
        return self._indices

    def _measure(self) -> float:
        """Seconds per step, of steps that are taken again later."""
        seconds = self._seconds_per_step(self.args.measured_steps)
        self._note(
            "measured",
            step_seconds=seconds,
            memory=(jax.devices()[0].memory_stats() or {}).get(
                "peak_bytes_in_use"
            ),
        )
        return seconds

    def _seconds_per_step(self, count: int) -> float:
        """Of so many steps from here on, but for the first quarter."""
        first = count // 4
        for number in range(count):
            if number == first:
                jax.block_until_ready(self.state)
                began = time.time()
            self._advance()
        jax.block_until_ready(self.state)
        return (time.time() - began) / (count - first)

    def _plan(self, seconds: float) -> None:
        """Chooses the number of epochs."""
        left = self.end - self.args.evaluation_seconds - time.time()
        steps = _SHARE * left / seconds
        warmup = self.config.train.warmup_epochs
        epochs = max(warmup + 1, math.floor(steps / self.run.steps_per_epoch))
        if self.args.epochs:
            epochs = self.args.epochs
        self.config = self.run.with_epochs(epochs)
        self._note(
            "planned",
            epochs=epochs,
            steps=epochs * self.run.steps_per_epoch,
            seconds_left=round(left, 1),
        )

    def _log(self, step: int, results: dict, coefficients) -> int:
        values = {k: np.asarray(v, np.float64) for k, v in results.items()}
        channels = values.pop("kl_per_channel")
        in_a_row = int(values.pop("skipped_in_a_row"))
        del values["stop_requests"]
        values |= coefficients._asdict()
        values["active_latents"] = (channels > 0.1).sum(axis=1)
        self._record(step, "train", values)
        if step % (10 * self.config.train.log_every) == 0:
            self._say(
                f"step {step}: NELBO {float(values['nelbo']):.2f}, "
                f"KL {float(values['kl']):.2f}"
            )
        return in_a_row

    def _evaluate(self, count: int, draws: int = 1) -> bool:
        """The NELBO of some test images; whether it is finite."""
        model = self.function("average")(self.state)
        # MNIST's first half is the easier one.
        chosen = np.sort(self.test_order[:count])
        results = [
            self.measuring.nelbo(self.function("evaluate"), model, chosen, i)
            for i in range(draws)
        ]
        nelbo = np.mean([r["nelbo"] for r in results], axis=0, dtype=float)
        kl = np.mean([r["kl_per_group"] for r in results], axis=(0, 1))
        error = nelbo.std() / math.sqrt(len(nelbo))
        self.bounds["nelbo"] = nelbo.astype(np.float32)
        self.bounds["nelbo_images"] = chosen
        self._record(
            self.step,
            "evaluation_ema",
            {
                "num_images": count,
                "num_importance_samples": draws,
                "nelbo": nelbo.mean(),
                "nelbo_standard_error": error,
                "kl": kl.sum(),
                "kl_per_group": kl,
            },
        )
        self._say(f"step {self.step}: test NELBO {nelbo.mean():.3f}")
        return bool(np.isfinite(nelbo).all())

    def _weigh(self) -> None:
        """The importance-weighted bounds."""
        model = self.function("average")(self.state)
        began = time.time()
        weights, images = self.measuring.importance(
            self.function("weigh"),
            model,
            self.test_order,
            self.args.draws,
            self.end - self.args.spare_seconds,
        )
        bounds = curve(weights)
        self.bounds["images"] = images
        for count, nll in bounds.items():
            self.bounds[f"nll_{count}"] = nll.astype(np.float32)
        # What a bound gains on the NELBO differs less between images than the
        # bounds do: its mean over these images goes with the NELBO of all.
        gain = bounds[1] - bounds[max(bounds)]
        every = self.bounds["nelbo"].astype(float)
        self._record(
            self.step,
            "bounds",
            {
                "num_images": len(images),
                "draws": list(bounds),
                "nll": [nll.mean() for nll in bounds.values()],
                "nll_standard_error": bounds[max(bounds)].std()
                / math.sqrt(len(images)),
                "nelbo_all": every.mean(),
                "nll_all": every.mean() - gain.mean(),
                "gain_standard_error": gain.std() / math.sqrt(len(images)),
                "seconds": time.time() - began,
            },
        )
        self._say(json.dumps(self.records[-1]))

    def _draw(self) -> None:
        model = self.function("average")(self.state)
        for temperature in _TEMPERATURES:
            self.pictures[f"samples_{temperature}"] = np.asarray(
                self.function("sample")(
                    model, np.int32(0), np.float32(temperature)
                )
            )

    def save(self) -> None:
        """Writes both files anew, while the training goes on."""
        average, difference = {}, {}
        vectors = jax.device_get(self.function("vectors")(self.state))
        for kind in ("weights", "statistics"):
            last, mean = vectors[kind], vectors[f"average/{kind}"]
            average[kind] = weights_file.narrow(mean)
            base = weights_file.widened(average[kind])
            difference[kind] = (last - base).astype(np.float16).view(np.uint8)
            difference[kind] = difference[kind].reshape(-1, 2).T
        others = {
            name: np.asarray(value)
            for name, value in self.state.items()
            if name.startswith(("spectral/", "training/"))
        }
        text = "".join(json.dumps(record) + "\n" for record in self.records)
        extra = {
            "config": json.dumps(self.config.to_dict()),
            "step": np.int64(self.step),
            "metrics": text,
            **{f"difference/{k}": v for k, v in difference.items()},
            **{f"bounds/{k}": v for k, v in self.bounds.items()},
            **{f"pictures/{k}": v for k, v in self.pictures.items()},
            **others,
        }
        self.saved.result()
        self.saved = self.writer.submit(
            self._write, {"average": average, "run": extra}
        )

    def _write(self, files: dict[str, dict]) -> None:
        for name, arrays in files.items():
            write_bytes(
                pathlib.Path(self.args.output, f"{self.args.name}_{name}.npz"),
                weights_file.packed({k: _array(v) for k, v in arrays.items()}),
            )

    def _meet(self, what: str) -> None:
        """Waits for the other trainings, but not for long."""
        if not self.args.meeting:
            return
        folder = pathlib.Path(self.args.meeting)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.args.name}.{what}").touch()
        limit = time.time() + self.args.patience
        while time.time() < limit:
            if len(list(folder.glob(f"*.{what}"))) >= self.args.party:
                return
            time.sleep(0.05)
        self._note("waited_in_vain")

    def _note(self, kind: str, **values) -> None:
        values["at_seconds"] = round(time.time() - self.started, 1)
        self._record(self.step, kind, values)
        self._say(json.dumps(self.records[-1]))

    def _record(self, step: int, kind: str, values: dict) -> None:
        plain = {name: _plain(value) for name, value in values.items()}
        self.records.append({"step": step, "kind": kind, **plain})

    def _say(self, text: str) -> None:
        seconds = time.time() - self.started
        print(f"{self.args.name} {seconds:6.1f} s: {text}", flush=True)


def _array(value) -> np.ndarray:
    if isinstance(value, str):
        return np.frombuffer(value.encode(), np.uint8)
    return np.asarray(value)


def _plain(value):
    """As JSON holds it: no numbers that it has no words for."""
    if value is None or isinstance(value, str):
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        return array.tolist()
    if array.ndim:
        return [_plain(entry) for entry in array]
    number = array.item()
    return number if math.isfinite(number) else None


def _arguments(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--folder", required=True, help="that prepare made")
    add("--output", required=True, help="folder to write to")
    add("--name", required=True, help="of the files in it")
    add("--seconds", type=float, default=600.0, help="in all")
    add("--until", type=float, default=0.0, help="in Unix time, instead")
    add("--evaluation_seconds", type=float, default=60.0, help="of --seconds")
    add("--spare_seconds", type=float, default=5.0, help="left at the end")
    add("--epochs", type=int, default=0, help="instead of what time allows")
    add("--draws", type=int, default=1000, help="of the last bound, K")
    add("--measured_steps", type=int, default=_MEASURED_STEPS)
    add("--meeting", default="", help="folder that trainings share")
    add("--party", type=int, default=1, help="how many trainings share it")
    add("--compile_patience", type=float, default=40.0, help="seconds, too")
    add("--patience", type=float, default=60.0, help="seconds to wait for them")
    return parser.parse_args(argv)


def main(argv=None) -> None:
    """Trains."""
    args = _arguments(argv)
    # Counters of 64 bits stay such.
    jax.config.update("jax_enable_x64", True)
    os.makedirs(args.output, exist_ok=True)
    training = Training(args)
    training.train()
    training.finish()
    # What is still being compiled is of no use any more.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
