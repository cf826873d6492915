"""Click-through data at size: what preparing them and training on them cost.

    python scripts/avazu_scale.py --folder FOLDER [--rows 10000000] [--steps 100]

Writes a synthetic ``train.csv`` with about as many different values as the real one has. Measures its preparation and
then, for each optimizer, training steps with the settings of conf/task/ctr.yaml and conf/model/wide_deep.yaml on one
thread. Each measurement is a process of its own, so that its peak memory is its own. Time begins when the libraries
are imported and the contents of the file are known.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tasks.ctr import ClickThrough  # noqa: E402
from tasks.ctr.prepare import prepared  # noqa: E402
from tmsgd_bench import TMSGD, terminal  # noqa: E402
from tmsgd_bench.data.catalog import find  # noqa: E402
from tmsgd_bench.data.synthetic.avazu import write_csv  # noqa: E402
from tmsgd_bench.data.texts import FOLDER  # noqa: E402
from tmsgd_bench.task import TaskSettings  # noqa: E402

MODEL = {"_target_": "tasks.ctr.model.WideDeep", "embedding": 16, "hidden": [256, 128]}
BATCH, MIN_COUNT, WARM_UP = 256, 4, 5
PREPARATION = "preparation"
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda weights: torch.optim.SGD(weights, lr=1e-3),
    "TM-SGD, loop": lambda weights: TMSGD(weights, lr=1e-3, switch_step=0, foreach=False, fused=False),
    "TM-SGD, foreach": lambda weights: TMSGD(weights, lr=1e-3, switch_step=0, foreach=True),
    "TM-SGD, fused": lambda weights: TMSGD(weights, lr=1e-3, switch_step=0, fused=True),
    "Adam, fused": lambda weights: torch.optim.Adam(weights, lr=1e-3, fused=True),
}


def main() -> None:
    options = _options()
    # A root of its own for each size: nothing of the user's lies there, and nothing of another size.
    path = options.folder / f"avazu-scale-{options.rows}" / "avazu" / "train.csv"
    torch.set_num_threads(1)
    if options.only:
        print(_prepare(path) if options.only == PREPARATION else _train(options.only, path, options.steps))
        return
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_csv(path.with_suffix(".tmp"), options.rows)
        path.with_suffix(".tmp").rename(path)
    for name in (PREPARATION, *OPTIMIZERS):
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--only", name], check=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Prepare and train on synthetic click-through data of any size.")
    parser.add_argument("--folder", type=Path, required=True, help="where the data are written; 0.2 kB for each row")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--steps", type=int, default=100, help="training steps that are timed")
    parser.add_argument("--only", choices=(PREPARATION, *OPTIMIZERS), help=argparse.SUPPRESS)
    return parser.parse_args()


def _settings(path: Path) -> TaskSettings:
    fingerprint = find("avazu").fingerprint(path.parent, "real", False)
    return TaskSettings(path.parent, None, BATCH, 0, torch.device("cpu"), MODEL, fingerprint)


def _prepare(path: Path) -> str:
    settings = _settings(path)
    for rows in (path.parents[1] / FOLDER).glob("avazu-rows-*.pt"):  # of this script's own root
        rows.unlink()
    wall, cpu = time.perf_counter(), time.process_time()
    prepared(settings, MIN_COUNT, "value")
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return f"{PREPARATION}: {wall:.1f} s, {cpu:.1f} processor seconds, {_peak():.0f} MiB at most"


def _train(name: str, path: Path, steps: int) -> str:
    torch.manual_seed(0)
    task = ClickThrough(_settings(path), MIN_COUNT, "value", "test")
    optimizer = OPTIMIZERS[name](task.model.parameters())
    batches = _batches(task)
    for batch in islice(batches, WARM_UP):
        task.training_step(batch, {"wide_deep": optimizer})
    start, stepping = time.process_time(), 0.0
    for batch in islice(batches, steps):
        optimizer.zero_grad()
        task.loss(batch).backward()
        before = time.process_time()
        optimizer.step()
        stepping += time.process_time() - before
    spent = time.process_time() - start
    step = f"{1000 * spent / steps:.1f} processor ms for a step, {stepping / spent:.0%} of it the optimizer"
    return f"{name}: {step}, {task.model.vectors.num_embeddings:,} rows of the table, {_peak():.0f} MiB at most"


def _batches(task: ClickThrough) -> Iterator[Any]:
    for epoch in count():
        yield from task.batches(epoch)


def _peak() -> float:
    """Mebibytes of memory that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(terminal.piped(main))
