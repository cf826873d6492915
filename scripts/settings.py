"""The paper's Tables 1 and 2, written from this project's own configuration.

    python scripts/settings.py [--out FOLDER]

Table 1: task, data, model, metric and optimizers. Table 2: the settings as the paper prints them, and corrected ones
where the print contradicts itself (protocol=corrected). Both are printed, and written as Markdown and CSV.
"""

from __future__ import annotations

import argparse
import pkgutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tmsgd_bench import files, outputs, terminal
from tmsgd_bench.cli import stores
from tmsgd_bench.data.catalog import find
from tmsgd_bench.engine.compose import ignore_version_warning
from tmsgd_bench.errors import BenchError
from tmsgd_bench.results.paper import paper

CONF = Path(__file__).resolve().parents[1] / "conf"
ORDER = ("ic", "od", "seg", "fkpd", "ig", "tc", "ctr")
"""The paper's order of rows."""
COLUMNS = {"epochs": "epochs", "lr": "learning rate", "batch_size": "batch size", "switch_epoch": "switch epoch"}


def main() -> None:
    ignore_version_warning()
    parser = argparse.ArgumentParser(description="Write the paper's Tables 1 and 2 from the configuration.")
    parser.add_argument("--out", type=Path, default=stores.place_of("settings"), metavar="FOLDER")
    out = parser.parse_args().out
    configs = task_configs()
    texts: dict[str, str] = {}
    for name, table in {"table1": table_1(configs), "table2": table_2(configs)}.items():
        texts |= {f"{name}.md": markdown(table) + "\n", f"{name}.csv": table.to_csv(index=False)}
    try:
        outputs.renew(out, lambda place: files.write_texts(place, texts))
    except BenchError as error:
        sys.exit(f"error: {error}")
    print("\n".join(text for name, text in texts.items() if name.endswith(".md")))
    print(f"Written into {out}.")


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, without a line end after its last row."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def task_configs() -> dict[str, dict[str, Any]]:
    """The task section of every task's configuration, in the paper's order."""
    names = sorted((path.stem for path in (CONF / "task").glob("*.yaml")), key=ORDER.index)
    with initialize_config_dir(str(CONF)):
        return {name: _section(compose("config", overrides=[f"task={name}"])) for name in names}


def _section(config: Any) -> dict[str, Any]:
    section = OmegaConf.to_container(config.task, resolve=True)
    assert isinstance(section, dict)
    return {str(key): value for key, value in section.items()}


def table_1(configs: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """A row for each task: data, model, primary metric, optimizers."""
    rows = []
    for name, config in configs.items():
        tables = [table for table in paper()["tables"].values() if table["task"] == name]
        blocks = [block for table in tables for block in table["blocks"]]
        sets = config.get("datasets", [config["dataset"]])
        sets = sets.values() if isinstance(sets, dict) else sets
        rows.append(
            {
                "task": name,
                "data": _once(find(data).title.split(",")[0] for data in sets if "+" not in data),
                "model": _once(block["label"] for block in blocks),
                "metric": _metric(config),
                "optimizers": _once(row["label"] for block in blocks for row in block["rows"]),
            }
        )
    return pd.DataFrame(rows)


def _once(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words))


def _metric(config: dict[str, Any]) -> str:
    primary = pkgutil.resolve_name(config["_target_"]).metrics[0]
    unit = f", {primary.unit}" if primary.unit else ""
    return f"{primary.label or primary.name}{unit} ({'larger' if primary.direction == 'max' else 'smaller'} is better)"


def table_2(configs: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """A row for each task: the printed settings, whether a run ever switches, and corrected settings that differ."""
    rows = []
    for name, config in configs.items():
        printed, read = config["table2"], config["corrected"]
        switches = "" if printed["switch_epoch"] < printed["epochs"] else " (never reached)"
        row = {label: f"{printed[key]:g}" for key, label in COLUMNS.items()}
        row["switch epoch"] += switches
        differences = [_difference(label, printed[key], read[key]) for key, label in COLUMNS.items()]
        differences += [_schedule(read["schedule"])] if read["schedule"] != printed["schedule"] else []
        reading = "; ".join(filter(None, differences)) or "as printed"
        rows.append({"task": name, **row, "reading (protocol=corrected)": reading, "why": config.get("reading", "")})
    return pd.DataFrame(rows)


def _difference(label: str, printed: float, read: float) -> str:
    return "" if printed == read else f"{label} {read:g}"


def _schedule(schedule: dict[str, Any] | None) -> str:
    if schedule is None:
        return "constant learning rate"
    options = ", ".join(f"{key} {value}" for key, value in schedule.items() if key != "_target_")
    return f"{schedule['_target_'].rpartition('.')[2]} ({options})"


if __name__ == "__main__":
    sys.exit(terminal.piped(main))
