"""FID of runs that were trained without Inception weights: ``python -m tasks.ig.score RUN_FOLDER...``.

The run is left as it is; what is measured goes into ``fid.json`` beside its result.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import tasks
from tasks.ig import inception
from tasks.ig.task import GENERATOR, ImageGeneration
from tmsgd_bench import manifest
from tmsgd_bench.data.catalog import data_root, find
from tmsgd_bench.errors import BenchError, DataError, StoreError
from tmsgd_bench.results import store
from tmsgd_bench.task import TaskSettings

FILE = store.SCORE


def score(run: Path, root: str | None, device: torch.device) -> dict[str, Any]:
    """Every metric of a finished run's generator, as the run would have measured them after its last epoch.

    Args:
        run: its folder.
        root: of the data sets; None for the usual one.

    Returns:
        What ``fid.json`` holds: the metrics, the number of images, and what they were measured with.

    Raises:
        StoreError: the folder is no finished run of this task, or its generator is not there.
        DataError: the weights or the photos are missing, damaged, or not those of the run.
    """
    config = _config(run)
    weights = data_root(root) / "weights"
    if lack := inception.lacking(weights):
        raise DataError(f"FID cannot be measured: {lack}.")
    task = _task(config, weights, root, device)
    _load(task, run / GENERATOR)
    with torch.no_grad():
        found = task.evaluate()
    measured = {"weights_sha256": inception.WEIGHTS.sha256, "device": str(device), "torch": str(torch.__version__)}
    return {**found, "images": task.train_size, **measured}


def _config(run: Path) -> dict[str, Any]:
    found = store.whole(run.resolve()) if (run / store.RESULT).exists() else None
    if found is None or found.result["status"] != "done" or found.settings["task"]["name"] != "ig":
        raise StoreError(f"{run} is no finished run of task=ig: name folders such as results/runs/ig-dcgan-sgd-….")
    return found.settings


def _task(config: Mapping[str, Any], weights: Path, root: str | None, device: torch.device) -> ImageGeneration:
    settings = TaskSettings(
        data_folder=data_folder(config, root),
        data_limit=config["data"]["limit"],
        batch_size=config["batch_size"],
        seed=config["seed"],
        device=device,
        model={key: value for key, value in config["model"].items() if key != "name"},
        fingerprint=config["data"]["fingerprint"],
        weights_folder=weights,
    )
    options = {key: value for key, value in config["task"].items() if key not in ("name", "dataset")}
    task = tasks.build("tasks.ig.ImageGeneration", settings, {**options, "features": "inception"})
    assert isinstance(task, ImageGeneration)
    return task


def data_folder(config: Mapping[str, Any], root: str | None) -> Path:
    """The photos that a run was trained on.

    Raises:
        DataError: they are not there, or others are.
    """
    dataset, data = find(config["task"]["dataset"]), config["data"]
    place, kind = data_root(root), data["kind"]
    folder = dataset.prepare(place, kind) if kind == "synthetic" else dataset.folder(place, kind)
    if dataset.fingerprint(folder, kind, verify=False) != data["fingerprint"]:
        raise DataError(
            f"the photos in {folder} are not the ones that the run was trained on: name theirs with --root."
        )
    return folder


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Score runs; returns the exit code: 0 fine, 2 a run cannot be scored."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.ig.score",
        description=f"Measure FID of finished runs of task=ig that kept their generator. Writes {FILE} beside each "
        "result, which stays as it is.",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN_FOLDER", help="folders of finished runs")
    parser.add_argument("--root", help="folder of the data sets (default: $TMSGD_DATA or the user's cache folder)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    options = parser.parse_args(arguments)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        for run in options.runs:
            found = score(run, options.root, device)
            store.add_score(run, found)
            print(f"{run.name}: {', '.join(f'{name} {value}' for name, value in found.items())}")
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
