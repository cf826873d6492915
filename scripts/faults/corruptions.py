"""Damaged runs and numerical results: no command may use damaged values without a warning."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from faults import stores
from faults.commands import ROOT, Ended, bench, train
from faults.damage import damage, regular_files
from faults.trial import BELIEVED, TRACEBACK, Attempt, Fault, Kind, Place, read, short
from tmsgd_bench import manifest
from tmsgd_bench.results.store import add_measured

CHOSEN = ("task=tc", "prefix=on")
OPTIMIZERS, SEEDS = ("sgd", "tmsgd"), (0, 1)
MEASURED = {
    "metrics": {"fid": 101.25},
    "primary": {"name": "fid", "label": "FID", "unit": "", "direction": "min"},
    "measured_with": {},
}
"""A measurement of a finished run of task ig."""
NAMES_DAMAGE = re.compile(
    r"damaged|differ|missing|cannot|unreadable|altered|checksum|not in manifest|invalid|no number|broken|left out|"
    r"not there|lacks|is no |is not |must ",
    re.IGNORECASE,
)
REPORT_EVERY = 6
"""The report takes seconds, so it is only made once in so many trials."""


def attempt(trial: Attempt) -> None:
    """Damage one file, and run every command."""
    whole = whole_store(trial.place)
    folder = trial.place.copy(whole, "corruptions")
    path = trial.random.choice(regular_files(folder, _subject(trial)))
    name = path.relative_to(folder)
    trial.fault = f"{name}: {damage(path, trial.random)}"
    report = trial.number % REPORT_EVERY == 0
    expected = trial.place.once(("output", report), lambda: outputs_of(whole, report))
    for command, ended in outputs_of(folder, report).items():
        expect_honest(command, ended, expected[command], _marks(name))
    if name.parts[0] == "store" and name.parts[1] in _trained(whole) and trial.random.random() < 0.4:
        _train_again(trial, folder, name.parts[1])
    shutil.rmtree(folder.parent)


def _subject(trial: Attempt) -> str:
    """A pattern of the files to damage: each file of a run is chosen equally often, numerical results less often."""
    return trial.random.choice(("store/*/*.yaml", "store/*/*.json", "store/*/*.json", "store/**/*", "numerics/*.csv"))


def _marks(name: Path) -> tuple[str, ...]:
    """The names of which a message about a damaged file must contain one: its run, or the file."""
    return (name.parts[1],) if name.parts[0] == "store" else (name.name, "numerics")


def whole_store(place: Place) -> Path:
    """A folder with undamaged finished runs and numerical results; made once."""
    return place.once("whole store", lambda: _make(place))


def _make(place: Place) -> Path:
    folder = place.fresh("whole")
    stores.warm(place)
    runs = [(*CHOSEN, f"optimizer={optimizer}", f"seed={seed}") for optimizer in OPTIMIZERS for seed in SEEDS]
    for chosen in (*runs, stores.small("ig", "sgd")):
        stores.expect_success(train(stores.settings(place, folder / "store", *chosen), place.root / "output-whole"))
    (scored,) = (folder / "store").glob("ig-*")
    add_measured(scored, MEASURED)
    shutil.copytree(ROOT / "results/numerics", folder / "numerics")
    return folder


def seal(folder: Path) -> None:
    """Write the manifest of a folder again, if it has one."""
    if (folder / manifest.NAME).exists():
        names = [path.relative_to(folder).as_posix() for path in regular_files(folder)]
        manifest.write(folder, [name for name in names if name != manifest.NAME])


def outputs_of(folder: Path, report: bool) -> dict[str, Ended]:
    """All that each command prints and writes for a folder's store, by the command."""
    store, numerics, out = str(folder / "store"), str(folder / "numerics"), folder / "out"
    commands: dict[str, tuple[str, ...]] = {
        "runs": ("runs", "--results", store),
        "runs as csv": ("runs", "--format", "csv", "--results", store),
        "table": ("table", "5", "--data", "synthetic", "--protocol", "smoke", "--results", store),
        "compare": ("compare", "--results", store),
        "claims": ("claims", "--numerics", numerics, "--results", store),
        "export": ("export", str(out / "runs.csv"), "--results", store),
        "histories": ("export", "--history", str(out / "histories.csv"), "--results", store),
    }
    if report:
        commands["report"] = ("report", "--numerics", numerics, "--out", str(out / "report"), "--results", store)
    return {name: _output_of(folder, arguments, out) for name, arguments in commands.items()}


def _output_of(folder: Path, arguments: tuple[str, ...], out: Path) -> Ended:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    ended = bench(*arguments)
    written = "".join(_text(path) for path in regular_files(out) if path.suffix in (".csv", ".md", ".html"))
    shutil.rmtree(out)
    return Ended(ended.code, (ended.output + written).replace(str(folder), "FOLDER"))


def _text(path: Path) -> str:
    """A file's text; an HTML page becomes a line for each row of a table, without images."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".html":
        return text
    rows = re.sub(r"</(tr|p|li|h\d|div)>", "\n", re.sub(r'"data:[^"]*"|\s+', " ", text))
    return re.sub(r"<[^>]*>", " ", rows)


def expect_honest(command: str, ended: Ended, expected: Ended, marks: tuple[str, ...]) -> None:
    """Raise a Fault unless a command prints the same as for undamaged files, or names what is damaged.

    Args:
        command: its name, for the fault's detail.
        ended: its output.
        expected: its output for undamaged files.
        marks: names, one of which a message about the damage contains.
    """
    if "Traceback (most recent call last)" in ended.output:
        raise Fault(TRACEBACK, f"{command}: {short(ended.output)}")
    if (ended.code, ended.output) == (expected.code, expected.output):
        return
    new = set(ended.output.splitlines()) - set(expected.output.splitlines())
    if not any(NAMES_DAMAGE.search(line) and any(mark in line for mark in marks) for line in new):
        gone = set(expected.output.splitlines()) - set(ended.output.splitlines())
        raise Fault(BELIEVED, f"{command}: {_difference(min(new, default=''), min(gone, default=''))}")


def _difference(seen: str, expected: str) -> str:
    """The place where two lines begin to differ, with the text around it."""
    seen, expected = (" ".join(line.split()) for line in (seen, expected))
    pairs = enumerate(zip(seen, expected, strict=False))
    start = max(0, next((place for place, (letter, other) in pairs if letter != other), 0) - 60)
    return f"says {seen[start : start + 160]!r} in place of {expected[start : start + 160]!r}"


def _trained(folder: Path) -> set[str]:
    return {path.parent.name for path in (folder / "store").glob("tc-*/result.json")}


def _train_again(trial: Attempt, folder: Path, run_id: str) -> None:
    """Start the damaged run's command again: it must train the same weights, or tell the damage."""
    optimizer, seed = re.search(r"lstm-([a-z]+).*-seed(\d+)", run_id).groups()  # type: ignore[union-attr]
    arguments = stores.settings(trial.place, folder / "store", *CHOSEN, f"optimizer={optimizer}", f"seed={seed}")
    trial.fault += "; run.py again"
    ended = train(arguments, folder / "output").checked()
    expected = read(whole_store(trial.place) / "store" / run_id / "result.json")
    seen = read(folder / "store" / run_id / "result.json")
    same = all(seen.get(fact) == expected[fact] for fact in stores.FACTS)
    named = any(run_id in line and NAMES_DAMAGE.search(line) for line in ended.output.splitlines())
    if not named and not (same and ended.code == 0):
        raise Fault(BELIEVED, f"run.py (exit code {ended.code}): {short(ended.output)}")


KIND = Kind("corruptions", attempt, share=2.0)
