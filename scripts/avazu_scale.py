"""Click-through data at size: how fast rows are prepared and trained on, and in how much memory.

    python scripts/avazu_scale.py --folder FOLDER [--rows 10000000] [--steps 100]

Writes a synthetic ``train.csv`` of that many rows, with about as many different values as the real one has, and
measures

- preparing it (tasks/ctr/prepare.py), once from the text and once more with another ``min_count``, beside what others
  need for a part of the work: pandas' ``read_csv`` with every field made a category, and reading alone with Polars or
  DuckDB where they are installed;
- training steps of batch 256 on it, by optimizer and implementation, and the share of the optimizer in them.

Each measurement is a process of its own, so that its peak memory is its own; time begins when the libraries are
imported and, for ours, the contents are known by their digest. Wall time depends on what else the machine does;
processor time, over all threads, does so less. ``--what`` takes some of the measurements alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

READERS = ("ours", "ours again", "pandas", "polars", "duckdb")
STEPPERS = ("SGD", "SGD, sparse gradients", "TM-SGD, loop", "TM-SGD, foreach", "TM-SGD, fused", "Adam, fused")
BATCH, WARM_UP = 256, 5
Work = Callable[[], object]


@dataclass(frozen=True)
class Spent:
    """What a piece of work took: seconds on the clock, processor seconds, and mebibytes of memory at most."""

    wall: float
    cpu: float
    peak: float


def main() -> None:
    options = _options()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # A root of its own for each size: nothing of the user's lies there, and nothing of another size.
    path = options.folder / f"avazu-scale-{options.rows}" / "avazu" / "train.csv"
    if options.only:
        print(_worker(options.only, path, options))
        return
    _generate(path, options.rows)
    print(f"{options.rows:,} rows, {path.stat().st_size / 1e9:.2f} GB\n")
    if "reading" in options.what:
        print("| reading | million rows/s | seconds | processor seconds | peak MiB |\n|---|---|---|---|---|")
        for name in READERS:
            print(_in_own_process(name), flush=True)
    if "training" in options.what:
        print("\n| training | rows/s | processor ms/step | share of the optimizer | peak MiB |\n|---|---|---|---|---|")
        for name in STEPPERS:
            print(_in_own_process(name), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Prepare and train on synthetic click-through data of any size.")
    parser.add_argument("--folder", type=Path, required=True, help="where the data are written; 0.4 kB for each row")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--steps", type=int, default=100, help="training steps that are timed")
    parser.add_argument("--what", nargs="+", choices=("reading", "training"), default=("reading", "training"))
    parser.add_argument("--only", choices=(*READERS, *STEPPERS), help=argparse.SUPPRESS)
    return parser.parse_args()


def _generate(path: Path, rows: int) -> None:
    from tmsgd_bench.data.synthetic.avazu import write_csv

    path.parent.mkdir(parents=True, exist_ok=True)
    mark = path.with_name("written.mark")
    if not mark.exists():
        write_csv(path, rows)
        mark.touch()


def _in_own_process(name: str) -> str:
    done = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--only", name], stdout=subprocess.PIPE, text=True)
    return done.stdout.strip() if done.returncode == 0 else f"| {name} | failed | | | |"


def _worker(name: str, path: Path, options: argparse.Namespace) -> str:
    if name in STEPPERS:
        return _steps(name, path, options.steps)
    if not name.startswith("ours") and importlib.util.find_spec(name) is None:
        return f"| {name} | not installed | | | |"
    label, ready = {
        "ours": ("ours, all of the preparation", _ours),
        "ours again": ("ours, with another min_count", _ours_again),
        "pandas": ("pandas, read_csv and astype('category')", _pandas),
        "polars": ("Polars, reading alone", _polars),
        "duckdb": ("DuckDB, reading alone", _duckdb),
    }[name]
    spent = _measure(ready(path))
    return (
        f"| {label} | {options.rows / spent.wall / 1e6:.2f} | {spent.wall:.1f} | {spent.cpu:.1f} | {spent.peak:.0f} |"
    )


def _measure(work: Work) -> Spent:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Spent(wall, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


# --- reading -------------------------------------------------------------------------------------------------------


def _ours(path: Path) -> Work:
    for kept in (path.parents[1] / ".cache").glob("avazu-rows-*"):  # of this script's own root
        shutil.rmtree(kept)
    return _ours_again(path, 4)


def _ours_again(path: Path, min_count: int = 5) -> Work:
    from tasks.ctr.prepare import prepared

    settings = _settings(path)
    return lambda: prepared(settings, min_count, "value")


def _settings(path: Path):  # type: ignore[no-untyped-def]
    import torch

    from tmsgd_bench.data.catalog import find
    from tmsgd_bench.task import TaskSettings

    torch.set_num_threads(1)
    model = {"_target_": "tasks.ctr.model.WideDeep", "embedding": 16, "hidden": [256, 128]}
    contents = find("avazu").fingerprint(path.parent, "real", False)
    return TaskSettings(path.parent, None, BATCH, 0, torch.device("cpu"), model, contents)


def _pandas(path: Path) -> Work:
    import pandas as pd

    def work() -> None:
        frame = pd.read_csv(path)
        frame[list(frame.columns[2:])].astype("category")

    return work


def _polars(path: Path) -> Work:
    import polars  # type: ignore[import-not-found]

    return lambda: polars.read_csv(path)


def _duckdb(path: Path) -> Work:
    import duckdb  # type: ignore[import-not-found]

    return lambda: duckdb.sql("create table rows as select * from read_csv($path)", params={"path": str(path)})


# --- training ------------------------------------------------------------------------------------------------------


def _steps(name: str, path: Path, steps: int) -> str:
    """Forward, backward and step of one thread, on the prepared rows."""
    import torch

    from tasks.ctr import ClickThrough

    torch.manual_seed(0)
    task = ClickThrough(_settings(path), 4, "value", "test")
    task.model.wide.sparse = task.model.vectors.sparse = "sparse" in name
    optimizer = _optimizer(name, task.model)
    batches = _forever(task)
    stepping = 0.0
    for step in range(-WARM_UP, steps):
        if step == 0:
            stepping, start, wall = 0.0, time.process_time(), time.perf_counter()
        optimizer.zero_grad()
        task.loss(next(batches)).backward()
        before = time.process_time()
        optimizer.step()
        stepping += time.process_time() - before
    spent, wall = time.process_time() - start, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    label = f"{name}, table of {task.model.vectors.num_embeddings:,} rows" if name == STEPPERS[0] else name
    return (
        f"| {label} | {BATCH * steps / wall:,.0f} | {1000 * spent / steps:.1f} | {stepping / spent:.0%} | {peak:.0f} |"
    )


def _forever(task) -> Iterator:  # type: ignore[no-untyped-def, type-arg]
    epoch = 0
    while True:
        yield from task.batches(epoch)
        epoch += 1


def _optimizer(name: str, model):  # type: ignore[no-untyped-def]
    import torch

    from tmsgd_bench import TMSGD

    if name.startswith("SGD"):
        return torch.optim.SGD(model.parameters(), lr=1e-3)
    if name.startswith("Adam"):
        return torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    kind = name.removeprefix("TM-SGD, ")
    return TMSGD(model.parameters(), lr=1e-3, foreach=kind == "foreach", fused=kind == "fused")


if __name__ == "__main__":
    main()
