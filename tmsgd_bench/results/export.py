"""All runs of a store in one tidy file: a row a run, or a row a run and epoch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from tmsgd_bench import escaping, files
from tmsgd_bench.errors import ConfigError, StoreError
from tmsgd_bench.results import store
from tmsgd_bench.results.status import FINISHED

RUN_COLUMNS = (
    *("run_id", "status", "task", "model", "dataset", "optimizer", "label", "switch_epoch", "seed", "data", "limit"),
    *("protocols", "benchmark_version", "options"),
)
"""What tells a run from others, in each row of its history."""
WHOLE = (
    *("seed", "limit", "epochs", "batch_size", "benchmark_version", "best_epoch", "epochs_done", "parameters"),
    *("training_examples", "evaluation_limit"),
)
TEXT = (
    *("run_id", "status", "task", "model", "dataset", "optimizer", "label", "data", "fingerprint", "protocols"),
    *("group", "conditions", "options", "weights_file", "metric", "unit", "direction", "split", "weights_sha256"),
    *("note", "started", "commit"),
)
TYPES = {
    **dict.fromkeys(WHOLE, "Int64"),
    **dict.fromkeys(store.REAL, "Float64"),
    **dict.fromkeys(TEXT, "string"),
    "verified": "boolean",
}
"""Of every column of a store's frame but its folder."""
WRITE: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    ".parquet": lambda frame, path: frame.to_parquet(path, index=False),
    ".csv": lambda frame, path: escaping.csv_cells(frame).to_csv(path, index=False),
}


def tidy(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a run: protocols joined by "+", no paths, and the same type of each column whatever the runs.

    A switch epoch is infinite if the run was to choose it itself and never did.

    Args:
        runs: from :func:`tmsgd_bench.results.store.read_runs`.
    """
    plain = runs.drop(columns="folder").assign(protocols=runs["protocols"].map("+".join))
    return plain.astype({name: TYPES[name] for name in plain.columns})


def histories(runs: pd.DataFrame) -> pd.DataFrame:
    """One row for each run and epoch: RUN_COLUMNS, then what the run recorded. Damaged runs and runs without a history
    have no row.

    Metrics that a task does not have are missing in its rows.

    Raises:
        StoreError: a history cannot be read.
    """
    identities = tidy(runs)[list(RUN_COLUMNS)]
    frames = []
    for position, (folder, status) in enumerate(zip(runs["folder"], runs["status"], strict=True)):
        history = store.history(Path(folder)) if status in FINISHED else None
        if history is not None:
            frames.append(identities.iloc[[position]].merge(history, how="cross"))
    return (
        pd.concat(frames, ignore_index=True) if frames else identities.iloc[:0].assign(epoch=pd.Series(dtype="Int64"))
    )


def write(frame: pd.DataFrame, path: Path, force: bool = False) -> None:
    """Write a frame as the file's name says, so that a crash leaves the old file or the new one.

    Args:
        frame: from :func:`tidy` or :func:`histories`.
        path: ends in .parquet or .csv; its folder is made if missing.
        force: replace a file that is there.

    Raises:
        ConfigError: another ending, or a file is there and ``force`` is off.
        StoreError: it cannot be written.
    """
    if path.suffix not in WRITE:
        raise ConfigError(f"cannot tell the format of {path}: give it a name that ends in .parquet or .csv.")
    if path.exists() and not force:
        raise ConfigError(f"{path} is there already: choose another FILE, or replace it with --force.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, partial(WRITE[path.suffix], frame))
    except (OSError, StoreError) as error:
        raise StoreError(
            f"cannot write {path} ({files.os_reason(error)}): free some space, mend the folder's permissions, or "
            "choose another FILE."
        ) from error
