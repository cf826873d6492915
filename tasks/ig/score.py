"""FID of runs that were trained without Inception weights: ``python -m tasks.ig.score RUN_FOLDER...``.

The run is left as it is. What is measured goes beside its result if the run was to measure FID and could not; that of a
run with other features of its own choice is only printed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import tasks
from tasks.ig import inception
from tasks.ig.task import GENERATOR, ImageGeneration
from tmsgd_bench import manifest
from tmsgd_bench.data.catalog import data_root
from tmsgd_bench.engine import finished
from tmsgd_bench.errors import BenchError, DataError, StoreError
from tmsgd_bench.results import store
from tmsgd_bench.results.evidence import MEASURED

MODEL = "tasks.ig.model.build"
"""Of a run whose settings name no other: those of this project are not stored."""


def score(run: Path, root: str | None, device: torch.device) -> dict[str, Any]:
    """Every metric of a finished run's generator, as the run would have measured them after its last epoch.

    Args:
        run: its folder.
        root: of the data sets; None for the usual one.

    Returns:
        What :data:`~tmsgd_bench.results.record.MEASURED` holds.

    Raises:
        StoreError: the folder is no finished run of this task, or its generator is not there.
        DataError: the weights or the photos are missing, damaged, or not those of the run.
    """
    known = finished.read(run, "ig")
    if lack := inception.lacking(data_root(root) / "weights"):
        raise DataError(f"FID cannot be measured: {lack}.")
    settings = known.settings(root, device)
    settings = replace(settings, model={"_target_": MODEL, **settings.model})
    task = tasks.build("tasks.ig.ImageGeneration", settings, {**known.options, "features": "inception"})
    assert isinstance(task, ImageGeneration)
    _load(task, run / GENERATOR)
    with torch.no_grad():
        metrics = task.evaluate()
    used = {"weights_sha256": inception.WEIGHTS.sha256, "device": str(device), "torch": str(torch.__version__)}
    primary = task.metrics[0]
    return {
        "metrics": metrics,
        "primary": {key: getattr(primary, key) for key in ("name", "label", "unit", "direction")},
        "measured_with": {"images": len(task.reference), **used},
    }


def _load(task: ImageGeneration, path: Path) -> None:
    problems = manifest.problems(path.parent, [path.name]) if path.exists() else []
    if problems:
        raise StoreError(f"cannot use {path} ({'; '.join(problems)}): train its run again with force=true.")
    try:
        task.generator.load_state_dict(torch.load(path, map_location=task.settings.device, weights_only=True))
    except FileNotFoundError as error:
        raise StoreError(
            f"{path} is missing: a run keeps it where it cannot measure FID; train it again with force=true."
        ) from error
    except Exception as error:  # torch raises many kinds for a damaged file
        raise StoreError(f"cannot use {path} ({type(error).__name__}): train its run again with force=true.") from error
    task.generator.eval()


def _report(run: Path, measured: dict[str, Any]) -> None:
    """Print what was measured, and keep it if FID is the metric that the run was to have."""
    features = finished.read(run, "ig").options["features"]
    note = "" if features == "inception" else f" (not recorded, because the run has task.features={features})"
    if not note:
        store.add_measured(run, measured)
    shown = {**measured["metrics"], **measured["measured_with"]}
    print(f"{run.name}: {', '.join(f'{name} {value}' for name, value in shown.items())}{note}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Score runs; returns the exit code: 0 fine, 2 a run cannot be scored."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.ig.score",
        description=f"Measure FID of finished runs of task=ig that kept their generator. Writes {MEASURED} beside the "
        "result of each run with task.features=inception, which stays as it is; prints the others' FID.",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN_FOLDER", help="folders of finished runs")
    parser.add_argument("--root", help="folder of the data sets (default: $TMSGD_DATA or the user's cache folder)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    options = parser.parse_args(arguments)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        for run in options.runs:
            _report(run, score(run, options.root, device))
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
