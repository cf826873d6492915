"""Memory and time of one training step with TM-SGD at the paper's batch size, after its switch.

    python scripts/bench_memory.py task=seg
    python scripts/bench_memory.py task=od model=rfbnet device=cuda task.precision=bfloat16

Arguments are run.py's settings. Data are synthetic, since memory does not depend on them, and initial weights are
random. Two steps with zero gradients come first, so that both of the optimizer's buffers exist.

Memory: on a CPU the peak of the whole process, Python and torch included, and its memory before the step; on a GPU what
torch has allocated. Time, only on a GPU: the same batch is repeated, so that making batches is not included. TM-SGD and
torch's SGD take turns, and the median of the rounds is printed.
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hydra import compose as compose_config
from hydra import initialize_config_dir

import tasks
from tmsgd_bench import TMSGD, terminal
from tmsgd_bench.engine import compose, environment, sweep  # noqa: F401 (sweep registers resolvers of conf/)
from tmsgd_bench.errors import BenchError
from tmsgd_bench.seeding import seed_globally
from tmsgd_bench.task import Task

ROOT = Path(__file__).resolve().parents[1]
GIB = 2**30
ROUNDS = 5
ROUND = 0.5  # seconds of each contestant, about


def main() -> int:
    compose.ignore_version_warning()
    with tempfile.TemporaryDirectory() as scratch, initialize_config_dir(str(ROOT / "conf")):
        try:
            overrides = ["data=synthetic", f"data.root={scratch}", "workers=0", *sys.argv[1:]]
            config = compose_config("config", overrides=overrides)
            if "weights" in config.model:
                config.model.weights = "none"
            device = environment.prepare_process(compose.run_options(config, in_sweep=False), config.tf32)
            seed_globally(0, "weights")
            task = compose.make_task(config, device, tasks.build)
            print(measure(task, device) + (timed(task) if device.type == "cuda" else ""))
        except BenchError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    return 0


def measure(task: Task, device: torch.device) -> str:
    """One line with batch size, number of weights, and memory before the step and at its peak."""
    optimizers = {name: TMSGD(module.parameters(), lr=1e-6, switch_step=0) for name, module in task.modules.items()}
    weights = sum(p.numel() for module in task.modules.values() for p in module.parameters())
    for _ in range(2):
        _step_without_gradient(optimizers)
    before = peak_memory(device)
    task.training_step(next(iter(task.batches(0))), optimizers)
    kind = "allocated on the GPU" if device.type == "cuda" else "resident, the whole process"
    return (
        f"{type(task).__name__}: batch {task.settings.batch_size}, {weights:,} weights: "
        f"{peak_memory(device) / GIB:.2f} GiB {kind}; {before / GIB:.2f} GiB before it"
    )


def _step_without_gradient(optimizers: Mapping[str, TMSGD]) -> None:
    for optimizer in optimizers.values():
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()


def timed(task: Task) -> str:
    """Milliseconds of a step with TM-SGD and with torch's SGD, and examples per second with TM-SGD."""
    batch = next(iter(task.batches(0)))
    tmsgd, sgd = (
        {name: kind(module.parameters(), lr=1e-6) for name, module in task.modules.items()}
        for kind in (TMSGD, torch.optim.SGD)
    )
    contestants = [lambda: task.training_step(batch, tmsgd), lambda: task.training_step(batch, sgd)]
    for _ in range(3):  # warms up
        first = [_seconds(run, 1) for run in contestants]
    steps = max(1, int(ROUND / max(first)))
    rounds = [[_seconds(run, steps) for run in contestants] for _ in range(ROUNDS)]
    tmsgd_step, sgd_step = (statistics.median(values) for values in zip(*rounds, strict=True))
    ratio = statistics.median(tmsgd_seconds / sgd_seconds for tmsgd_seconds, sgd_seconds in rounds)
    return (
        f"; {1000 * tmsgd_step:.2f} ms a step, {task.settings.batch_size / tmsgd_step:,.0f} examples a second "
        f"(SGD {1000 * sgd_step:.2f} ms, ratio {ratio:.3f})"
    )


def _seconds(run: Callable[[], object], times: int) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(times):
        run()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / times


def peak_memory(device: torch.device) -> int:
    """The most memory used so far, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    sys.exit(terminal.piped(main))
