"""Where the time of ``protocol=reduced`` goes on a CPU, and what could make it faster.

    python scripts/bench_reduced.py [--tasks tc fkpd] [--steps 40] [--rounds 3] [--what shares variants pairs]
                                    [--set model.weights=PATH ...]

- shares     the share of input, forward, backward, optimizer, evaluation and bookkeeping in an epoch, and the engine's
             training against a bare loop on the same batches
- variants   the time of a step with channels_last, torch.compile and bfloat16 autocast, as a ratio to one without
- pairs      two processes of one thread each against one process of two threads: examples of both per second

The engine, the bare loop and the variants take turns in one process; each is judged by its fastest round. The shares
are of one epoch, and pairs are measured one after the other, so these two need a quiet machine. Data are the real ones
where they are found, otherwise synthetic, which is said.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tasks
from tmsgd_bench import terminal
from tmsgd_bench.engine import compose
from tmsgd_bench.engine.loop import Trainer
from tmsgd_bench.errors import BenchError, DataError

ROOT = Path(__file__).resolve().parents[1]
CONFIGS: dict[str, list[str]] = {
    "ic": ["task=ic"],
    "ic, ResNet18": ["task=ic", "model=resnet18"],
    "fkpd": ["task=fkpd"],
    "tc": ["task=tc"],
    "ctr": ["task=ctr"],
    "seg": ["task=seg"],
    "od, Fast R-CNN": ["task=od", "model=fast_rcnn"],
    "od, RFBNet": ["task=od", "model=rfbnet"],
    "ig": ["task=ig"],
}
CPU = torch.device("cpu")
START_SECONDS = 600
"""After which a process no longer waits for the other."""
PHASES = ("input", "forward", "backward", "optimizer", "evaluation", "bookkeeping")
compose.ignore_version_warning()


def main() -> int:
    options = arguments()
    torch.set_num_threads(1)
    for what in options.what:
        print(TABLES[what].heading)
        for name in options.tasks:
            try:
                print(TABLES[what].row(name, options), flush=True)
            except BenchError as error:
                print(f"{name:<16} left out: {error}", file=sys.stderr)
        print()
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Where the time of protocol=reduced goes on a CPU.")
    parser.add_argument("--tasks", nargs="+", choices=CONFIGS, default=list(CONFIGS), metavar="TASK")
    parser.add_argument("--what", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--steps", type=int, default=40, help="steps of a round, at most an epoch (default: 40)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each contestant (default: 3)")
    parser.add_argument("--optimizer", default="sgd", help="default: sgd")
    parser.add_argument("--set", nargs="+", default=[], help="further settings, as for run.py")
    return parser.parse_args()


def build(name: str, options: argparse.Namespace, *changes: str) -> Trainer:
    """The trainer of a task with the reduced settings, on real data where they are found.

    Raises:
        BenchError: it cannot be built.
    """
    settings = [*CONFIGS[name], f"optimizer={options.optimizer}", "protocol=reduced", "workers=0", *options.set]
    try:
        return _build([*settings, *changes])
    except DataError as error:
        print(f"{name}: SYNTHETIC data ({error})", file=sys.stderr)
        return _build([*settings, "data=synthetic", *changes])


def _build(settings: list[str]) -> Trainer:
    with initialize_config_dir(str(ROOT / "conf")):
        config = hydra_compose("config", overrides=settings)
        spec = compose.run_spec(config)
        return Trainer.build(spec, lambda device: compose.make_task(config, device, tasks.build), CPU)


# Shares of an epoch, and the engine against a bare loop


@dataclass
class Stopwatch:
    """Seconds by name of what happens while a trainer trains."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add a block's seconds."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function with its calls measured."""

        def measured(*arguments: Any, **keywords: Any) -> Any:
            with self.measure(name):
                return function(*arguments, **keywords)

        return measured

    def pulled(self, name: str, batches: Callable[[int], Iterable[Any]]) -> Callable[[int], Iterator[Any]]:
        """A task's batches, with the time to make them measured."""

        def measured(epoch: int) -> Iterator[Any]:
            stream, end = iter(batches(epoch)), object()
            while True:
                with self.measure(name):
                    batch = next(stream, end)
                if batch is end:
                    return
                yield batch

        return measured


def shares(name: str, options: argparse.Namespace) -> str:
    """A row of the first table."""
    trainer = build(name, options)
    trainer.train_epoch()  # warms up
    seconds = epoch_phases(trainer)
    total = sum(seconds.values())
    ratio = engine_ratio(build(name, options, limit(trainer, options)), options.rounds)
    cells = " ".join(f"{100 * seconds[phase] / total:10.1f}%" for phase in PHASES)
    return f"{name:<16} {total:9.2f} {cells} {ratio:8.3f}"


def limit(trainer: Trainer, options: argparse.Namespace) -> str:
    """The setting with which an epoch has at most so many steps."""
    return f"data.limit={min(options.steps * trainer.task.settings.batch_size, trainer.task.train_size)}"


def epoch_phases(trainer: Trainer) -> dict[str, float]:
    """Seconds of one whole epoch by phase; of an evaluation that is not made after every epoch, its part of one."""
    watch, task = Stopwatch(), trainer.task
    make, step, backward = task.batches, task.training_step, torch.Tensor.backward
    task.batches = watch.pulled("input", make)  # type: ignore[method-assign]
    task.training_step = watch.timed("steps", step)  # type: ignore[method-assign]
    torch.Tensor.backward = watch.timed("backward", backward)  # type: ignore[method-assign]
    originals = {key: optimizer.step for key, optimizer in trainer.optimizers.items()}
    for optimizer in trainer.optimizers.values():
        optimizer.step = watch.timed("optimizer", optimizer.step)  # type: ignore[method-assign]
    try:
        with watch.measure("training"):
            trainer.train_epoch()
    finally:
        task.batches, task.training_step = make, step  # type: ignore[method-assign]
        torch.Tensor.backward = backward  # type: ignore[method-assign]
        for key, original in originals.items():
            trainer.optimizers[key].step = original  # type: ignore[method-assign]
    with watch.measure("evaluation"):
        trainer.evaluate()
    spent = watch.seconds
    return {
        **{phase: spent[phase] for phase in ("input", "backward", "optimizer")},
        "forward": spent["steps"] - spent["backward"] - spent["optimizer"],
        "evaluation": spent["evaluation"] / task.evaluate_every,
        "bookkeeping": spent["training"] - spent["input"] - spent["steps"],
    }


def engine_ratio(trainer: Trainer, rounds: int) -> float:
    """The engine's training against a bare loop on the same batches: fastest of the rounds, in turns."""
    loops = {"engine": trainer.train_epoch, "bare": lambda: bare_epoch(trainer)}
    best = fastest(loops, rounds)
    return best["engine"] / best["bare"]


def bare_epoch(trainer: Trainer) -> None:
    """What one would write by hand."""
    for module in trainer.task.modules.values():
        module.train()
    for batch in trainer.task.batches(trainer.epoch):
        trainer.task.training_step(batch, trainer.optimizers)


def fastest(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Least seconds of each contestant over the rounds; a round before them warms up."""
    best = dict.fromkeys(contestants, float("inf"))
    for round_ in range(rounds + 1):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            if round_:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


# Variants of a step


def variants(name: str, options: argparse.Namespace) -> str:
    """A row of the second table."""
    plain = build(name, options)
    batches = list(itertools.islice(plain.task.batches(0), options.steps))
    compiled, start = build(name, options), time.perf_counter()
    problem = warm_compiled(compiled, batches)
    seconds = time.perf_counter() - start
    contestants = {
        "plain": steps_of(plain, batches),
        "channels_last": steps_of(in_channels_last(build(name, options)), [channels_last(batch) for batch in batches]),
        "bfloat16": steps_of(build(name, options), batches, autocast=True),
        **({} if problem else {"compile": steps_of(compiled, batches)}),
    }
    best = fastest(contestants, options.rounds)
    ratios = {variant: best[variant] / best["plain"] for variant in best}
    compile_cells = f"{problem:>20}" if problem else f"{ratios['compile']:9.2f} {seconds:8.0f} s"
    milliseconds = 1000 * best["plain"] / len(batches)
    return f"{name:<16} {milliseconds:8.1f} {ratios['channels_last']:14.2f} {ratios['bfloat16']:9.2f} {compile_cells}"


def steps_of(trainer: Trainer, batches: list[Any], autocast: bool = False) -> Callable[[], None]:
    """A function that takes one step on each batch."""

    def run() -> None:
        for module in trainer.task.modules.values():
            module.train()
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
                trainer.task.training_step(batch, trainer.optimizers)

    return run


def warm_compiled(trainer: Trainer, batches: list[Any]) -> str:
    """Compile the modules and take a step with each batch; what is wrong where that is not possible."""
    for module in trainer.task.modules.values():
        module.compile()
    try:
        steps_of(trainer, batches)()
    except Exception as error:  # the compiler raises many kinds
        return type(error).__name__
    return ""


def in_channels_last(trainer: Trainer) -> Trainer:
    """A trainer whose modules' weights lie in memory with a pixel's channels together."""
    for module in trainer.task.modules.values():
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return trainer


def channels_last(batch: Any) -> Any:
    """A batch with its images so."""
    if isinstance(batch, Tensor):
        return batch.contiguous(memory_format=torch.channels_last) if batch.dim() == 4 else batch
    if isinstance(batch, dict):
        return {key: channels_last(value) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return type(batch)(channels_last(value) for value in batch)
    return batch


# Two processes of one thread against one of two


def pairs(name: str, options: argparse.Namespace) -> str:
    """A row of the third table."""
    side_by_side, alone = (steps_per_second(name, options, processes, 3 - processes) for processes in (2, 1))
    return f"{name:<16} {side_by_side:14.2f} {alone:14.2f} {side_by_side / alone:8.2f}"


def steps_per_second(name: str, options: argparse.Namespace, processes: int, threads: int) -> float:
    """Steps that all processes take a second, when they start together."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(processes), context.SimpleQueue()
    workers = [
        context.Process(target=take_steps, args=(name, options, threads, barrier, results)) for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise BenchError("a process failed")
    return sum(results.get() for _ in workers)


def take_steps(name: str, options: argparse.Namespace, threads: int, barrier: Any, results: Any) -> None:
    """Steps a second of one process, put into a queue."""
    torch.set_num_threads(threads)
    trainer = build(name, options)
    batches = list(itertools.islice(trainer.task.batches(0), options.steps))
    run = steps_of(trainer, batches)
    run()
    barrier.wait(timeout=START_SECONDS)  # the other process may have failed
    start = time.perf_counter()
    for _ in range(options.rounds):
        run()
    results.put(options.rounds * len(batches) / (time.perf_counter() - start))


@dataclass(frozen=True)
class Table:
    """A table of the output: its heading, and what makes a row."""

    heading: str
    row: Callable[[str, argparse.Namespace], str]


TABLES = {
    "shares": Table(
        f"{'task':<16} {'s/epoch':>9} " + " ".join(f"{phase:>11}" for phase in PHASES) + "  engine/bare", shares
    ),
    "variants": Table(
        f"{'task':<16} {'ms/step':>8} {'channels_last':>14} {'bfloat16':>9} {'compile':>9} {'once':>10}", variants
    ),
    "pairs": Table(f"{'task':<16} {'2 x 1 thread':>14} {'1 x 2 threads':>14} {'ratio':>8}", pairs),
}


if __name__ == "__main__":
    sys.exit(terminal.piped(main))
