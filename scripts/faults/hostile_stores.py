"""Hostile stores and prepared files: no code in them is executed, and their texts are escaped in every output."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from faults import corruptions, stores, torn_runs
from faults.commands import bench, train
from faults.trial import BELIEVED, Attempt, Fault, Kind, read

HTML = "<script>alert(1)</script><img src=x onerror=alert(1)>"
TABLE = "a | b | c"
FORMULA = '=HYPERLINK("http://example.org","x")'
TEX = r"\input{/etc/passwd}"
ESCAPE = "\x1b]0;title\x07\x1b[2J"
LABELS = (HTML, TABLE, FORMULA, TEX, ESCAPE, "@SUM(1+1)", "+1+cmd|' /C calc'!A0", "two\nlines", "${oc.env:HOME}")
NUMBER = re.compile(r"[+-]?[\d.,–-].*")
FORMATS = ("md", "csv", "tex")


class Harmful:
    """An object whose unpickling makes a folder.

    Args:
        mark: the folder.
    """

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def attempt(trial: Attempt) -> None:
    """Take the attacks in turn."""
    attack = ATTACKS[trial.number % len(ATTACKS)]
    attack(trial)


def labels(trial: Attempt) -> None:
    """A label with a command for another program, such as HTML or a spreadsheet's formula."""
    folder, _ = _copy(trial, corruptions.whole_store(trial.place))
    label = LABELS[trial.number // len(ATTACKS) % len(LABELS)]
    trial.fault = f"the label {label!r}"
    for config in (folder / "store").glob("*-tmsgd-*/config.yaml"):
        values = yaml.safe_load(config.read_text(encoding="utf-8"))
        values["optimizer"]["label"] = label
        config.write_text(yaml.safe_dump(values), encoding="utf-8")
        result = read(config.parent / "result.json") | {"note": label}
        (config.parent / "result.json").write_text(json.dumps(result), encoding="utf-8")
        corruptions.seal(config.parent)
    _expect_escaped(folder, label)
    shutil.rmtree(folder.parent)


def _expect_escaped(folder: Path, label: str) -> None:
    store, out = ("--results", str(folder / "store")), folder / "report"
    bench("report", *store, "--numerics", str(folder / "numerics"), "--out", str(out)).checked()
    bench("export", str(folder / "runs.csv"), *store).checked()
    shown = {"runs": bench("runs", *store).checked().output}
    shown |= {f"compare.{form}": bench("compare", "--format", form, *store).checked().output for form in FORMATS}
    shown |= {path.name: path.read_text(encoding="utf-8") for path in (folder / "runs.csv", *sorted(out.rglob("*.*")))}
    for name, text in shown.items():
        if problem := _problem(Path(name).suffix, text, label):
            raise Fault(BELIEVED, f"{name}: {problem}")


def _problem(suffix: str, text: str, label: str) -> str:
    """How a label is not escaped in a text of a format; empty if it is escaped."""
    if "\x1b" in text:
        return "a terminal's escape sequence is passed on"
    if suffix in (".html", ".md") and ("<script>alert" in text or "<img src=x" in text):
        return "HTML is passed on"
    if suffix == ".tex" and TEX in text:
        return "a TeX command is passed on"
    if suffix == ".md" and label == TABLE and re.search(r"^\| a \| b \| c \|", text, re.MULTILINE):
        return "a cell of Markdown becomes three"
    if suffix == ".csv":
        cells = {cell for row in csv.reader(io.StringIO(text)) for cell in row if cell[:1] in tuple("=@+-")}
        return f"formulas: {wrong}" if (wrong := [cell for cell in cells if not NUMBER.fullmatch(cell)]) else ""
    return ""


def settings(trial: Attempt) -> None:
    """A config.yaml with a Python object in it."""
    folder, mark = _copy(trial, corruptions.whole_store(trial.place))
    config = trial.random.choice(sorted((folder / "store").glob("*/config.yaml")))
    trial.fault = f"{config.parent.name}: config.yaml with !!python/object"
    with config.open("a", encoding="utf-8") as file:
        file.write(f'\nmore: !!python/object/apply:os.mkdir ["{mark}"]\n')
    corruptions.seal(config.parent)
    for ended in corruptions.outputs_of(folder, report=True).values():
        ended.checked()
    _expect_harmless(mark)
    shutil.rmtree(folder.parent)


def states(trial: Attempt) -> None:
    """A checkpoint and a trunk's state that are harmful pickles with the right checksum."""
    folder, mark = _copy(trial, torn_runs.killed(trial.place))
    trial.fault = "checkpoints and trunk states that are harmful pickles"
    for path in sorted(folder.glob(".*/*/checkpoint-*.pt")):
        torch.save({"epoch": Harmful(mark)}, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        path.rename(path.with_name(f"{path.name[:18]}{digest}.pt"))
    train(stores.settings(trial.place, folder, *torn_runs.CHOSEN), folder.parent / "output").checked()
    _expect_harmless(mark)
    shutil.rmtree(folder.parent)


def caches(trial: Attempt) -> None:
    """Prepared tensors that are harmful pickles."""
    chosen = stores.small("seg", "sgd")
    expected = stores.undisturbed(trial.place, *chosen)
    data, mark = _copy(trial, trial.place.data)
    trial.fault = "prepared tensors that are harmful pickles"
    for path in sorted(data.glob("**/.cache/*.pt")):
        torch.save({"photos": Harmful(mark)}, path)
    arguments = stores.settings(trial.place, data.parent / "store", *chosen, data=data)
    stores.expect_success(train(arguments, data.parent / "output"))
    stores.expect_facts(data.parent / "store", expected.facts)
    _expect_harmless(mark)
    shutil.rmtree(data.parent)


def pictures(trial: Attempt) -> None:
    """Arrays of a run's figures that are harmful pickles."""
    folder, mark = _copy(trial, corruptions.whole_store(trial.place))
    trial.fault = "the arrays of the figures are harmful pickles"
    for run in (folder / "store").glob("*/"):
        for name in ("keypoints", "samples", "detections"):
            np.savez(run / f"{name}.npz", points=np.array([Harmful(mark)], dtype=object))
        corruptions.seal(run)
    for number in ("1", "2"):
        options = ("--data", "synthetic", "--protocol", "any", "--out", str(folder / "figures"))
        bench("figure", number, "--results", str(folder / "store"), *options).checked()
    _expect_harmless(mark)
    shutil.rmtree(folder.parent)


def _copy(trial: Attempt, source: Path) -> tuple[Path, Path]:
    """A copy of a folder, and a folder beside it that appears if code of an attack runs."""
    folder = trial.place.copy(source, "hostile")
    return folder, folder.parent / "mark"


def _expect_harmless(mark: Path) -> None:
    if mark.exists():
        raise Fault(BELIEVED, "code from a file was executed")


ATTACKS: tuple[Callable[[Attempt], None], ...] = (labels, settings, states, caches, pictures)
KIND = Kind("hostile-stores", attempt, share=0.6)
