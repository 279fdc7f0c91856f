r"""Trains what `prepare` made, where there are JAX and NumPy alone.

    python -m examples.accelerator_training.train --folder=mnist \
        --output=out --name=mnist --seconds=400 --evaluation_seconds=80

It ends by time: how long a step takes is measured first, and the number of
epochs follows from that, so that all schedules end where the training does.
Let nothing else use the device, or compile, meanwhile; or let it wait, while
something else has its turn, by --hold.

Writes NAME_average.npz (the averaged weights) and NAME_run.npz (what the last
ones differ by, metrics, bounds and samples) for `collect`; now and then on the
way, too.
"""

from __future__ import annotations

import argparse
import math
import os
import pathlib
import sys
import time

import jax
import numpy as np

from examples.accelerator_training.bounds import curve
from examples.accelerator_training.measuring import Measuring
from examples.accelerator_training.records import Records
from examples.accelerator_training.saved_results import SavedResults
from examples.accelerator_training.stored_run import Compiler, StoredRun
from nvae_tf.config import schedules
from nvae_tf.datasets.order import epoch_order

# Of the time there is, to plan with.
_SHARE = 0.95
_EVALUATIONS = 12
_EVALUATED_IMAGES = 2000
_TEMPERATURES = (0.6, 0.7, 0.8, 0.9, 1.0)
# Steps after which it looks whether it is to wait, or to end.
_LOOKS_EVERY = 20
# Results that are not looked at yet: the host is no further ahead.
_BEHIND = 3


class Training:
    """One training.

    Args:
      args: of the command line.
    """

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.records = Records(args.name)
        self.end = self.records.started + args.seconds
        self.results = SavedResults(pathlib.Path(args.output), args.name)
        self.run = StoredRun(pathlib.Path(args.folder))
        self.config = self.run.config
        self.test_order = np.random.default_rng(0).permutation(
            len(self.run.test)
        )
        self.seed = self.config.train.seed
        self.key = jax.random.key(self.seed)
        self.step = 0
        self.futures = self._compile()
        self.state = self._begin()
        self._note(
            "begins",
            jax=jax.__version__,
            device=jax.devices()[0].device_kind,
            parameters=sum(
                int(np.prod(self.state[name].shape))
                for name in self.run.names("weights")
            ),
        )

    def _compile(self) -> dict:
        """Starts to compile all that the training needs, the step first."""
        compiler, first = Compiler(), self.run.first_state()
        average = jax.jit(self.run.averaged)
        copy = jax.jit(lambda s: {k: v.copy() for k, v in s.items()})
        self.measuring = Measuring(self.run)
        calls = {
            "advance": (
                jax.jit(self._take_step, donate_argnums=0),
                first,
                self.run.train,
                np.zeros(self.run.batch_size, np.int32),
                np.zeros(3, np.float32),
                np.zeros(2, np.int32),
            ),
            "begin": (jax.jit(self._initialize), first, np.int32(0)),
            "average": (average, first),
            "vectors": (jax.jit(self.run.vectors), first),
            "copy": (copy, first),
            **self.measuring.arguments(jax.eval_shape(average, first)),
        }
        return {name: compiler(*call) for name, call in calls.items()}

    def _initialize(self, state, zero):
        initialize = self.run.programs["initialize"]
        _, assigned = initialize({**state, "zero": zero})
        return {**state, **assigned}

    def _take_step(self, state, images, indices, coefficients, numbers):
        key = jax.random.fold_in(self.key, numbers[1])
        x = self.run.batch(images[indices], key)
        beta, regularization, rate = coefficients
        results, assigned = self.run.programs["step"](
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

    def function(self, name: str):
        """A compiled function, when it is."""
        return self.futures[name].result()

    def _begin(self) -> dict:
        """The state before the first step."""
        return self.function("begin")(self.run.first_state(), np.int32(0))

    def train(self) -> None:
        """Measures, plans and trains."""
        for name in self.futures:
            self.function(name)
        self._note("compiled")
        if self._wait():
            self.end = time.time() + self.args.seconds
        self._plan(self._seconds_per_step(self.args.measured_steps))
        self.step, self.state = 0, self._begin()
        total = self.config.train.epochs * self.run.steps_per_epoch
        evaluated = {
            round(total * (i + 1) / _EVALUATIONS)
            for i in range(_EVALUATIONS - 1)
        }
        kept, waiting = (0, self.function("copy")(self.state)), []
        rollbacks = 0
        began = time.time()
        while self.step < total:
            if self.step % _LOOKS_EVERY == 0:
                began += self._wait()
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
                if self._evaluate(_EVALUATED_IMAGES):
                    kept = self.step, self.function("copy")(self.state)
                    self.save()
            stop_at = self.end - self.args.evaluation_seconds
            if time.time() > stop_at and self.step % _LOOKS_EVERY == 0:
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
        self.results.wait()

    def save(self) -> None:
        """Has both files written anew, while the training goes on."""
        self.results.save(
            self.config,
            self.step,
            self.state,
            jax.device_get(self.function("vectors")(self.state)),
            self.records.text(),
        )

    def _wait(self) -> float:
        """Waits while it is held; the seconds, by which all ends later."""
        if not self.args.hold or not os.path.exists(self.args.hold):
            return 0.0
        jax.block_until_ready(self.state)
        self._note("held")
        began = time.time()
        while os.path.exists(self.args.hold):
            time.sleep(0.1)
        seconds = time.time() - began
        self.end += seconds
        self._note("resumed", held_seconds=round(seconds, 1))
        return seconds

    def _advance(self):
        """Takes a step, or rather has it taken."""
        epoch, batch = divmod(self.step, self.run.steps_per_epoch)
        indices = self._order(epoch)[
            batch * self.run.batch_size : (batch + 1) * self.run.batch_size
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
        """Chooses the number of epochs, for so many seconds per step."""
        left = self.end - self.args.evaluation_seconds - time.time()
        steps = _SHARE * left / seconds
        epochs = self.args.epochs or max(
            self.config.train.warmup_epochs + 1,
            math.floor(steps / self.run.steps_per_epoch),
        )
        self.config = self.run.with_epochs(epochs)
        memory = jax.devices()[0].memory_stats() or {}
        self._note(
            "planned",
            step_seconds=seconds,
            memory=memory.get("peak_bytes_in_use"),
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
        self.records.add(step, "train", values)
        if step % (10 * self.config.train.log_every) == 0:
            self.records.say(
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
        self.results.bounds["nelbo"] = nelbo.astype(np.float32)
        self.results.bounds["nelbo_images"] = chosen
        self._note(
            "evaluation_ema",
            num_images=count,
            num_importance_samples=draws,
            nelbo=nelbo.mean(),
            nelbo_standard_error=nelbo.std() / math.sqrt(len(nelbo)),
            kl=kl.sum(),
            kl_per_group=kl,
        )
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
        self.results.bounds["images"] = images
        for count, nll in bounds.items():
            self.results.bounds[f"nll_{count}"] = nll.astype(np.float32)
        # What a bound gains on the NELBO differs less between images than the
        # bounds do: its mean over these images goes with the NELBO of all.
        gain = bounds[1] - bounds[max(bounds)]
        every = self.results.bounds["nelbo"].astype(float)
        count = math.sqrt(len(images))
        self._note(
            "bounds",
            num_images=len(images),
            draws=list(bounds),
            nll=[nll.mean() for nll in bounds.values()],
            nll_standard_error=bounds[max(bounds)].std() / count,
            nelbo_all=every.mean(),
            nll_all=every.mean() - gain.mean(),
            gain_standard_error=gain.std() / count,
            seconds=time.time() - began,
        )

    def _draw(self) -> None:
        model = self.function("average")(self.state)
        for temperature in _TEMPERATURES:
            self.results.pictures[f"samples_{temperature}"] = np.asarray(
                self.function("sample")(
                    model, np.int32(0), np.float32(temperature)
                )
            )

    def _note(self, kind: str, **values) -> None:
        self.records.note(self.step, kind, **values)


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
    add("--evaluation_seconds", type=float, default=60.0, help="of --seconds")
    add(
        "--hold",
        default="",
        help="file to wait for while it exists, before steps are measured and "
        "every 20 steps of the training; the time stands still. If it was "
        "there when all was compiled, --seconds count from when it is gone",
    )
    add("--spare_seconds", type=float, default=5.0, help="left at the end")
    add("--epochs", type=int, default=0, help="instead of what time allows")
    add("--draws", type=int, default=1000, help="of the last bound, K")
    add("--measured_steps", type=int, default=200, help="to plan with")
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


if __name__ == "__main__":
    main(sys.argv[1:])
