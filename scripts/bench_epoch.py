"""An epoch of R8 in the engine against a bare PyTorch loop: same model, optimizer, batches and process.

    python scripts/bench_epoch.py [--repeats 5] [--optimizer sgd]

Three loops take turns, so that a change of the machine's speed meets all of them, and each is judged by its fastest
epoch:

- engine     the engine's training clock (with its progress, loss record and schedulers)
- bare       a hand-written loop over the same model, optimizer and batches
- bare, nn.Embedding   the same with torch's own embedding, whose weights include words that training never uses

Uses the real R8 if it is there (TMSGD_DATA), otherwise synthetic data, with a warning.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tasks.tc import TextClassification
from tmsgd_bench import terminal
from tmsgd_bench.data.catalog import data_root, find
from tmsgd_bench.engine.loop import Trainer
from tmsgd_bench.engine.optimizers import build_optimizer
from tmsgd_bench.engine.progress import LogReporter
from tmsgd_bench.engine.spec import RunSpec
from tmsgd_bench.seeding import epoch_order
from tmsgd_bench.task import TaskSettings

TARGETS = {"sgd": "torch.optim.SGD", "tmsgd": "tmsgd_bench.optim.TMSGD"}
BATCH, EPOCHS = 5, 10**6


def main() -> None:
    parser = argparse.ArgumentParser(description="An epoch of R8 in the engine against a bare loop; ratios in one run.")
    parser.add_argument("--repeats", type=int, default=5, help="epochs of each loop (default: 5)")
    parser.add_argument("--optimizer", choices=TARGETS, default="sgd", help="tmsgd is timed after its switch")
    options = parser.parse_args()
    torch.set_num_threads(1)
    loops = make_loops(options.optimizer, data_folder())
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for epoch in range(options.repeats + 1):
        for name, loop in loops.items():
            spent = loop(epoch)
            if epoch:  # the first epoch warms up
                seconds[name].append(spent)
    report(options.optimizer, seconds)


def data_folder() -> Path:
    """The folder of R8, or of synthetic data in a temporary folder."""
    dataset = find("r8")
    folder = dataset.folder(data_root(None), "real")
    if not dataset.problems(folder):
        return folder
    print("real R8 is not here: SYNTHETIC data, whose ratios say less (smaller vocabulary)")
    return dataset.prepare(Path(tempfile.mkdtemp()), "synthetic")


def make_loops(optimizer: str, folder: Path) -> dict[str, Callable[[int], float]]:
    """Functions that train one epoch and return its seconds."""
    spec = make_spec(optimizer)
    model = {"_target_": "tasks.tc.model.LSTMClassifier", "embedding": 100, "hidden": 50}
    settings = TaskSettings(folder, None, BATCH, 0, torch.device("cpu"), model)
    trainer = Trainer.build(spec, lambda _: TextClassification(settings, 32, "end"), torch.device("cpu"))
    task = trainer.task
    assert isinstance(task, TextClassification)
    bare, full = copy.deepcopy(task.model), copy.deepcopy(task.model)
    table = torch.cat([full.embedding.weight.detach(), full.embedding.unreached])
    full.embedding = nn.Embedding.from_pretrained(table, freeze=False)  # type: ignore[assignment]
    words, labels = task.data.train_words, task.data.train_labels
    return {
        "engine": lambda epoch: engine_epoch(trainer, epoch),
        "bare": bare_loop(bare, spec, words, labels),
        "bare, nn.Embedding": bare_loop(full, spec, words, labels),
    }


def make_spec(optimizer: str) -> RunSpec:
    options = {"name": optimizer, "label": optimizer, "_target_": TARGETS[optimizer], "lr": 0.01}
    if optimizer == "tmsgd":
        options["switch_epoch"] = 0
    data = {"kind": "real", "limit": None, "fingerprint": ""}
    return RunSpec({"name": "tc"}, {"name": "lstm"}, data, options, EPOCHS, BATCH, None, 0)


def engine_epoch(trainer: Trainer, epoch: int) -> float:
    """One epoch as ``Trainer.fit`` trains it, by the training clock."""
    trainer.epoch = epoch
    with trainer.clocks.measure("training"):
        trainer.train_epoch([LogReporter()])
    return trainer.clocks.last


def bare_loop(model: nn.Module, spec: RunSpec, words: torch.Tensor, labels: torch.Tensor) -> Callable[[int], float]:
    """What one would write by hand, with the engine's order of documents."""
    optimizer = build_optimizer(spec.optimizer, model.parameters(), 1)

    def epoch_seconds(epoch: int) -> float:
        model.train()
        start = time.perf_counter()
        order = epoch_order(len(labels), 0, epoch)
        for index in order.split(BATCH):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(words[index]), labels[index])
            loss.backward()
            optimizer.step()
        return time.perf_counter() - start

    return epoch_seconds


def report(optimizer: str, seconds: dict[str, list[float]]) -> None:
    best = {name: min(spent) for name, spent in seconds.items()}
    print(f"\n{optimizer}, one thread, fastest of {len(seconds['bare'])} epochs")
    print(f"{'loop':<20} {'s/epoch':>8} {'ratio to bare':>14} {'to nn.Embedding':>16}")
    for name, spent in best.items():
        print(f"{name:<20} {spent:8.3f} {spent / best['bare']:14.3f} {spent / best['bare, nn.Embedding']:16.3f}")


if __name__ == "__main__":
    sys.exit(terminal.piped(main))
