"""One optimizer step, implementation by implementation, against the memory's own speed.

    python scripts/bench_step.py [--device cpu] [--threads 1 2] [--shapes 25m-60 25m-1 resnet18 r8-lstm] [--rounds 15]

The implementations take turns, so that a change of the machine's speed meets all of them. Columns:

- ms          median time of a step
- GB/s        least traffic of the algorithm (each array read or written once, as needed) over that time
- limit       GB/s as a share of the fastest stream, ``a.add_(b)`` or ``torch.add(a, b, out=c)`` over the same number
              of elements, 12 bytes each, timed in the same rounds
- state       bytes of optimizer state for each parameter
- x SGD-M     time over that of torch's fused SGD with momentum: the median of the rounds' own ratios
- launches    kernels started for one step (GPU only)

TM-SGD is timed after its switch. On a GPU the times are those of CUDA events, and the caches are larger than some
models, so small models may show more than the limit.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tmsgd_bench import files, outputs, terminal
from tmsgd_bench.errors import BenchError
from tmsgd_bench.optim import TMSGD
from tmsgd_bench.optim import fused as one_pass

Step = Callable[[], Any]
LR = 1e-3
REFERENCE = "SGD-M, torch fused"
STREAMS = ("stream: a.add_(b)", "stream: add(a, b, out=c)")


@dataclass
class Subject:
    """A step to time, its least memory traffic in bytes per parameter, and its optimizer, if it has one."""

    step: Step
    traffic: int
    optimizer: torch.optim.Optimizer | None = None
    milliseconds: list[float] = field(default_factory=list)


def main() -> None:
    options = parse()
    rows: list[dict[str, Any]] = []
    for name in options.shapes:
        for threads in options.threads if options.device == "cpu" else [torch.get_num_threads()]:
            torch.set_num_threads(threads)
            shapes = SHAPES[name]()
            subjects = make_subjects(shapes, torch.device(options.device), options.compile)
            measure(subjects, options.rounds, options.device)
            elements = sum(math.prod(shape) for shape in shapes)
            where = f"{threads} threads" if options.device == "cpu" else torch.cuda.get_device_name()
            print(f"\n{name}: {elements / 1e6:.2f} M parameters in {len(shapes)} tensors, {where}")
            table = evaluate(subjects, elements, options.device)
            show(table)
            rows += [{"shapes": name, "threads": threads, **row} for row in table]
    if options.out:
        text = json.dumps(rows, indent=1) + "\n"
        try:
            outputs.renew(options.out.parent, lambda place: files.write_text(place / options.out.name, text))
        except BenchError as error:
            sys.exit(f"error: {error}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="One optimizer step against the memory's speed; ratios in one run.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="CPU threads (default: 1 2)")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["25m-60", "25m-1", "resnet18", "r8-lstm"])
    parser.add_argument("--rounds", type=int, default=15, help="timed steps of each implementation (default: 15)")
    parser.add_argument("--compile", action="store_true", help="also torch.compile (needs a C++ compiler; slow start)")
    parser.add_argument("--out", type=Path, help="also write the numbers there, as JSON")
    options = parser.parse_args()
    if options.rounds < 1 or any(threads < 1 for threads in options.threads):
        parser.error("--rounds and --threads must be at least 1")
    if options.out:
        try:  # now, and not after the measurement
            options.out.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"cannot write into {options.out.parent} ({error.strerror}): choose another --out")
    if reason := one_pass.unavailable(options.device):
        parser.error(f"there is no fused step on {options.device}: {reason}")
    return options


def equal_shapes(total: int, count: int) -> list[tuple[int, ...]]:
    """``count`` vectors of about ``total`` elements together."""
    return [(total // count,)] * count


def resnet18() -> list[tuple[int, ...]]:
    """The 62 tensors of ResNet18 for 32×32 images (11,173,962 parameters): convolutions, batch norms, one Linear."""
    shapes: list[tuple[int, ...]] = [(64, 3, 3, 3), (64,), (64,)]
    width = 64
    for stage, out in enumerate((64, 128, 256, 512)):
        for block in range(2):
            shapes += [(out, width, 3, 3), (out,), (out,), (out, out, 3, 3), (out,), (out,)]
            if stage and not block:
                shapes += [(out, width, 1, 1), (out,), (out,)]
            width = out
    return [*shapes, (10, 512), (10,)]


def vgg16() -> list[tuple[int, ...]]:
    """VGG16 with batch norm and one Linear for 32×32 images (14,728,266 parameters)."""
    shapes: list[tuple[int, ...]] = []
    width = 3
    for out in (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512):
        shapes += [(out, width, 3, 3), (out,), (out,), (out,)]
        width = out
    return [*shapes, (10, 512), (10,)]


def r8_lstm() -> list[tuple[int, ...]]:
    """The R8 model: 23,587 words × 100, an LSTM of 50, a Linear to 8 classes."""
    return [(23587, 100), (200, 100), (200, 50), (200,), (200,), (8, 50), (8,)]


SHAPES: dict[str, Callable[[], list[tuple[int, ...]]]] = {
    "25m-60": lambda: equal_shapes(25_000_000, 60),
    "25m-1": lambda: equal_shapes(25_000_000, 1),
    "500m-1": lambda: equal_shapes(500_000_000, 1),
    "resnet18": resnet18,
    "vgg16": vgg16,
    "r8-lstm": r8_lstm,
}


def make_subjects(shapes: list[tuple[int, ...]], device: torch.device, compiled: bool) -> dict[str, Subject]:
    """Everything to time, each with its own tensors."""

    def weights() -> list[Tensor]:
        parameters = [torch.nn.Parameter(torch.randn(shape, device=device)) for shape in shapes]
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        return list(parameters)

    def of(optimizer: torch.optim.Optimizer, traffic: int) -> Subject:
        return Subject(optimizer.step, traffic, optimizer)

    elements = sum(math.prod(shape) for shape in shapes)
    a, b, c = (torch.ones(elements, device=device) for _ in range(3))
    subjects = {
        STREAMS[0]: Subject(lambda: a.add_(b), 12),
        STREAMS[1]: Subject(lambda: torch.add(a, b, out=c), 12),
        "eq. (8) written down": Subject(literal(weights()), 24),
        "TM-SGD, loop": of(TMSGD(weights(), LR, switch_step=0, fused=False, foreach=False), 24),
        "TM-SGD, foreach": of(TMSGD(weights(), LR, switch_step=0, foreach=True), 24),
        "TM-SGD, fused": of(TMSGD(weights(), LR, switch_step=0, fused=True), 24),
        "TM-SGD-M, fused": of(TMSGD(weights(), LR, momentum=0.9, switch_step=0, fused=True), 32),
        "TM-SGD, fused, before the switch": of(TMSGD(weights(), LR, fused=True, switch_step=10**9), 12),
        "SGD, torch fused": of(torch.optim.SGD(weights(), LR, fused=True), 12),
        "SGD-M, torch loop": of(torch.optim.SGD(weights(), LR, momentum=0.9, foreach=False), 20),
        REFERENCE: of(torch.optim.SGD(weights(), LR, momentum=0.9, fused=True), 20),
        "Adam, torch fused": of(torch.optim.Adam(weights(), LR, fused=True), 28),
    }
    if compiled:
        optimizer = TMSGD(weights(), LR, switch_step=0)
        subjects["TM-SGD, torch.compile"] = Subject(torch.compile(optimizer.step), 24, optimizer)
    return subjects


def literal(parameters: list[Tensor]) -> Step:
    """W⁺ = 1.5 W − W₋₁ + 0.5 W₋₂ − ε g, as one would write it down, with copies of the old weights."""
    before = [p.detach().clone() for p in parameters]
    before_that = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def step() -> None:
        for index, p in enumerate(parameters):
            assert p.grad is not None
            new = 1.5 * p - before[index] + 0.5 * before_that[index] - LR * p.grad
            before_that[index] = before[index]
            before[index] = p.detach().clone()
            p.copy_(new)

    return step


def measure(subjects: dict[str, Subject], rounds: int, device: str) -> None:
    """Warm up (the history needs two steps), then let the subjects take turns."""
    clock = cuda_milliseconds if device == "cuda" else cpu_milliseconds
    for subject in subjects.values():
        for _ in range(4):
            subject.step()
    for _ in range(rounds):
        for subject in subjects.values():
            subject.milliseconds.append(clock(subject.step))


def cpu_milliseconds(step: Step) -> float:
    start = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - start)


def cuda_milliseconds(step: Step) -> float:
    """Time on an idle GPU from the first launch to the end of the last kernel: waiting for launches counts."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    step()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def evaluate(subjects: dict[str, Subject], elements: int, device: str) -> list[dict[str, Any]]:
    """One row for each subject."""
    limit = max(speed(subjects[stream], elements) for stream in STREAMS)
    return [
        {
            "implementation": label,
            "ms": statistics.median(subject.milliseconds),
            "gb_per_s": speed(subject, elements),
            "share_of_limit": speed(subject, elements) / limit,
            "state_bytes": state_bytes(subject.optimizer) / elements,
            "ratio": ratio(subject, subjects[REFERENCE]),
            "launches": launches(subject.step) if device == "cuda" else None,
        }
        for label, subject in subjects.items()
    ]


def show(rows: list[dict[str, Any]]) -> None:
    print(f"{'':34} {'ms':>8} {'GB/s':>7} {'limit':>6} {'state':>6} {'x SGD-M':>8} {'launches':>9}")
    for row in rows:
        numbers = f"{row['ms']:8.3f} {row['gb_per_s']:7.1f} {row['share_of_limit']:6.0%} {row['state_bytes']:6.1f}"
        started = "-" if row["launches"] is None else row["launches"]
        print(f"{row['implementation']:34} {numbers} {row['ratio']:8.2f} {started:>9}")


def speed(subject: Subject, elements: int) -> float:
    """GB/s of the least traffic."""
    return subject.traffic * elements / statistics.median(subject.milliseconds) / 1e6


def ratio(subject: Subject, reference: Subject) -> float:
    """Time over the reference's, round by round; the median."""
    pairs: Iterable[tuple[float, float]] = zip(subject.milliseconds, reference.milliseconds, strict=True)
    return statistics.median(time / reference_time for time, reference_time in pairs)


def state_bytes(optimizer: torch.optim.Optimizer | None) -> int:
    if optimizer is None:
        return 0
    values = (value for state in optimizer.state.values() for value in state.values())
    return sum(value.numel() * value.element_size() for value in values if isinstance(value, Tensor) and value.dim())


def launches(step: Step) -> int:
    """Kernels, copies and fills that one step puts on the GPU."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        torch.cuda.synchronize()
    return sum(1 for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA)


if __name__ == "__main__":
    sys.exit(terminal.piped(main))
