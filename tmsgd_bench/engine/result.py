"""The content of a run's result.json: status, metrics, clocks and weights."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from tmsgd_bench import splits
from tmsgd_bench.engine import costs
from tmsgd_bench.engine.loop import Trainer, weights_digest
from tmsgd_bench.engine.monitor import SharpnessMonitor
from tmsgd_bench.engine.spec import RunSpec
from tmsgd_bench.results.status import Status
from tmsgd_bench.task import Metric


def switch_note(spec: RunSpec) -> str:
    """A sentence if the switch epoch lies outside the run, which is plain SGD then; empty otherwise."""
    if spec.switch_epoch is None or spec.switches is not False:
        return ""
    return f"the switch epoch {spec.switch_epoch} lies outside its {spec.epochs} epochs, so this run is {_plain(spec)}"


def _plain(spec: RunSpec) -> str:
    return f"plain {'SGD-M' if spec.optimizer.get('momentum') else 'SGD'}"


def of(trainer: Trainer, monitor: SharpnessMonitor) -> dict[str, Any]:
    """The result of a run that has trained all its epochs, or has diverged."""
    spec, clocks, primary = trainer.spec, trainer.clocks, trainer.task.metrics[0]
    switch, failure = monitor.switch_epoch, trainer.divergence
    result: dict[str, Any] = {
        "status": Status.DIVERGED if failure else Status.DONE,
        "metric": primary.name,
        "unit": primary.unit,
        "direction": primary.direction,
        "metrics": [asdict(metric) for metric in trainer.task.metrics],
        **_primary_values(trainer, primary),
        "initial": trainer.initial.get(primary.name),
        "epochs_done": trainer.epoch,
        "steps_per_epoch": trainer.task.steps_per_epoch,
        "training_examples": trainer.task.train_size,
        "parameters": sum(p.numel() for m in trainer.task.modules.values() for p in m.parameters()),
        "training_seconds": clocks.seconds["training"],
        "processor_seconds": clocks.processor,
        **costs.peak_memory(trainer.device),
        "clocks": clocks.state_dict(),
        # A diverged run's clock includes an epoch that was not finished.
        "examples_per_second": None if failure else clocks.throughput(trainer.epoch, trainer.task.train_size),
        "switched": switch is not None and switch < spec.epochs and trainer.epoch >= switch,
        "weights_sha256": weights_digest(trainer.weights()),
        **monitor.result(),
    }
    if failure:
        return result | {"diverged_at": asdict(failure), "note": str(failure)}
    value = "was not measured" if result["final"] is None else f"{result['final']:.6g} {primary.unit}"
    number = f"{primary.label or primary.name} {value}".rstrip() + _split_note(spec)
    return result | {"note": "; ".join(filter(None, [number, switch_note(spec), _auto_note(spec, switch)]))}


def _split_note(spec: RunSpec) -> str:
    """Which split a number is of, unless it is the test split."""
    split = splits.evaluated(spec.task)
    return "" if split == splits.TEST else f" on the {split} split"


def _auto_note(spec: RunSpec, switch: int | None) -> str:
    """When a run with ``auto_switch`` switched, if it did; empty for other runs."""
    if spec.auto_switch is None:
        return ""
    return f"never switched, so this run is {_plain(spec)}" if switch is None else f"switched at epoch {switch}"


def _primary_values(trainer: Trainer, metric: Metric) -> dict[str, Any]:
    """The primary metric after the last epoch, and its best value, which is chosen on test data."""
    history = trainer.history
    if trainer.divergence or not history or metric.name not in history[-1]:
        return {"final": None, "best": None, "best_epoch": None}
    # Epochs without an evaluation have rows without the metric.
    usable = [row for row in history if math.isfinite(row.get(metric.name, math.nan))] or history[-1:]
    choose = max if metric.direction == "max" else min
    best = choose(usable, key=lambda row: row[metric.name])
    return {"final": history[-1][metric.name], "best": best[metric.name], "best_epoch": int(best["epoch"])}
