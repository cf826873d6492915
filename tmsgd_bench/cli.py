"""The command line beside run.py: look at runs, judge the paper's claims, look after data sets, run numerics."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

import tmsgd_bench
from tmsgd_bench import __version__, escaping, files, manifest, outputs, terminal
from tmsgd_bench.checks import shown
from tmsgd_bench.data.catalog import STAND_IN, Dataset, catalog, data_root, find
from tmsgd_bench.data.croissant import card
from tmsgd_bench.errors import BenchError, ConfigError, StoreError
from tmsgd_bench.numerics import NAMES
from tmsgd_bench.results import claim_forms, claims, comparison, export, numerical, store, tables
from tmsgd_bench.results.paper import paper
from tmsgd_bench.version import PROTOCOLS

EPILOG = """\
Training is done by run.py, in a checkout:
  python run.py task=tc optimizer=tmsgd            one run
  python run.py -m task=tc optimizer=sgd,tmsgd     a sweep

Examples of this command:
  python -m tmsgd_bench runs --status failed       what went wrong
  python -m tmsgd_bench show tc-lstm-tmsgd         one run in full (the start of its name will do)
  python -m tmsgd_bench table 5                    the paper's Table 5 with our numbers
  python -m tmsgd_bench compare                    any runs that differ in optimizer and seed alone
  python -m tmsgd_bench claims                     what the paper says, and what our runs say to it
  python -m tmsgd_bench report                     all of it as one page
  python -m tmsgd_bench figure 1                   the paper's figures, drawn from the runs
  python -m tmsgd_bench export runs.parquet        all runs as tidy rows
  python -m tmsgd_bench data                       which data sets are here
  python -m tmsgd_bench numerics                   the rules as integrators: order, stability, noise
  python -m tmsgd_bench voc-eval . --devkit FOLDER  PASCAL VOC's average precision of files of detections
"""
FIGURES = {
    "switch": (
        "tmsgd_bench.results.figure_switch",
        "the final metric against the switch epoch (not in the paper; of runs by experiment=switch)",
    )
}
"""Figures of any task's runs, as the tasks declare theirs: the module that draws one, and what is on it."""
RESULTS = Path("results/runs")
KNOWN = {"status": ("done", "diverged", "failed", "running", "abandoned", store.DAMAGED), "data": ("real", "synthetic")}
RUN_COLUMNS = ["run_id", "status", "epochs_done", "epochs", "final", "best", "data", "protocols", "note"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, act, and return the exit code: 0 fine, 1 a check failed, 2 bad input."""
    terminal.prepare()
    try:
        return _act(arguments)
    except BenchError as error:
        return _refused(str(error))
    except KeyboardInterrupt:
        terminal.warn("interrupted: nothing half-written is left behind")
        return 130
    except BrokenPipeError:  # the reader (head, less) has seen enough
        terminal.give_up()
        return 0
    except OSError as error:
        return _refused(f"cannot use {error.filename or 'a file'} ({files.os_reason(error)}).")
    except ValueError as error:
        return _refused(f"a file of the results holds a value that cannot be used ({error}): restore it from a copy.")


def _act(arguments: Sequence[str] | None) -> int:
    try:
        options = _parser().parse_args(arguments)
        action: Callable[[argparse.Namespace], int] = options.action
        return action(options)
    finally:
        terminal.finish()


def _refused(sentence: str) -> int:
    terminal.give_up_if_broken()
    terminal.warn(escaping.plain(f"error: {sentence}"))
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tmsgd_bench",
        description="Look at the runs of the TM-SGD benchmark, make its tables, look after its data sets.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_runs(commands)
    _add_show(commands)
    _add_table(commands)
    _add_compare(commands)
    _add_claims(commands)
    _add_report(commands)
    _add_figure(commands)
    _add_export(commands)
    _add_data(commands)
    _add_numerics(commands)
    _add_voc_eval(commands)
    return parser


def _add_runs(commands: Any) -> None:
    parser = commands.add_parser(
        "runs",
        help="list runs: done, diverged, failed, running, abandoned",
        description="List runs. 'final' is the primary metric after the last epoch, 'best' its best epoch "
        "(chosen on test data). An abandoned run was interrupted; the command that started it resumes it.",
    )
    _add_results(parser)
    for name in ("task", "model", "optimizer"):
        parser.add_argument(f"--{name}", help=f"only runs with this {name}")
    for name, known in KNOWN.items():
        parser.add_argument(f"--{name}", choices=known, help=f"only runs with this {name}")
    parser.add_argument("--seed", type=int, help="only runs with this seed")
    parser.add_argument("--format", choices=("text", "csv"), default="text", help="csv prints every column")
    parser.set_defaults(action=list_runs)


def _add_show(commands: Any) -> None:
    parser = commands.add_parser(
        "show",
        help="one run in full",
        description="Settings, outcome, environment and last epochs of one run.",
    )
    parser.add_argument("run", metavar="RUN", help="the run's name, or enough of its start to be unique")
    _add_results(parser)
    parser.set_defaults(action=show_run)


def _add_table(commands: Any) -> None:
    parser = commands.add_parser(
        "table",
        help="a table of the paper with our numbers beside the printed ones",
        description="A table of the paper: its value, ours as mean ± standard deviation over n seeds, and the "
        "difference to SGD paired by seed with its interval. Only runs that follow the protocol exactly enter.",
    )
    parser.add_argument("number", metavar="NUMBER", help=f"the paper's number: {', '.join(paper()['tables'])}")
    _add_results(parser)
    parser.add_argument("--data", choices=("real", "synthetic"), default="real", help="which runs (default: real)")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="table2", help="which settings (default: table2)")
    parser.add_argument("--format", choices=tuple(tables.FORMATS), default="md", help="printed format (default: md)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="also write all formats and the runs behind them there, in place of what an earlier one wrote",
    )
    parser.set_defaults(action=print_table)


def _add_compare(commands: Any) -> None:
    parser = commands.add_parser(
        "compare",
        help="optimizers side by side, at whatever settings",
        description="Every group of finished runs that agree in all but optimizer and seed: mean ± standard deviation, "
        "and the difference to a reference, paired by seed. For your own optimizer, other settings, partial data.",
    )
    _add_stores(parser, numerics=False)
    parser.add_argument("--task", help="only runs of this task")
    parser.add_argument("--reference", default="sgd", help="the optimizer to compare with (default: sgd)")
    parser.add_argument("--format", choices=tuple(comparison.FORMATS), default="md", help="default: md")
    parser.set_defaults(action=print_comparison)


def _add_claims(commands: Any) -> None:
    parser = commands.add_parser(
        "claims",
        help="the paper's claims, each with our evidence and a verdict",
        description="Each sentence of the paper that can be tested: supported, contradicted, undecided or not yet "
        "tested, by a fixed rule. Only runs on real data that follow the protocol exactly count.",
    )
    _add_stores(parser)
    parser.add_argument(
        "--protocol",
        choices=("table2", "corrected"),
        default="table2",
        help="the settings as printed (table2, default) or as read (corrected)",
    )
    parser.add_argument(
        "--format", choices=tuple(claim_forms.FORMATS), default="text", help="printed format (default: text)"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="also write md, csv and tex there")
    parser.set_defaults(action=print_claims)


def _add_report(commands: Any) -> None:
    parser = commands.add_parser(
        "report",
        help="everything as one HTML page, and its tables as Markdown, CSV and LaTeX",
        description="Write one self-contained HTML file: verdicts, tables, curves, settings, and the runs behind every "
        "number; beside it the same tables as Markdown, CSV and LaTeX.",
    )
    _add_stores(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where to write it (default, for the runs in results/runs alone: results/report)",
    )
    parser.set_defaults(action=write_report)


def _add_figure(commands: Any) -> None:
    parser = commands.add_parser(
        "figure",
        help="a figure of the paper, drawn from the runs",
        description="".join(f"Figure {name}: {about}. " for name, (_, about) in _figures().items())
        + "Runs that are compared are alike in all else.",
    )
    parser.add_argument("number", metavar="NAME", help=" or ".join(_figures()))
    _add_stores(parser, numerics=False)
    parser.add_argument("--data", choices=("real", "synthetic"), default="real", help="which runs (default: real)")
    parser.add_argument(
        "--protocol", choices=(*PROTOCOLS, "any"), default="table2", help="which settings (default: table2)"
    )
    parser.add_argument("--seed", type=int, help="of the runs (default: the one that most optimizers have)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where to write it (default, for the runs in results/runs alone: results/figures)",
    )
    parser.set_defaults(action=draw_figure)


def _add_export(commands: Any) -> None:
    parser = commands.add_parser(
        "export",
        help="all runs in one file, for other tools",
        description="Write all runs as tidy rows, whatever their status, data and protocol: a row a run, or with "
        "--history a row a run and epoch.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="to write; its name ends in .parquet or .csv")
    _add_stores(parser, numerics=False)
    parser.add_argument("--history", action="store_true", help="a row a run and epoch")
    parser.add_argument("--force", action="store_true", help="replace FILE if it is there already")
    parser.set_defaults(action=export_runs)


def _add_data(commands: Any) -> None:
    parser = commands.add_parser(
        "data",
        help="data sets: what is here, where it comes from, verify, prepare",
        description="Without an action: which data sets are present and where each comes from.",
    )
    parser.add_argument(
        "do",
        nargs="?",
        choices=("list", "verify", "prepare", "card"),
        default="list",
        help="list (default); verify checksums; prepare: download or check, or write the stand-in with --synthetic; "
        "card: print the Croissant JSON-LD description",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(catalog())} (default: all)")
    parser.add_argument("--root", help="folder of the data sets (default: $TMSGD_DATA or the user's cache folder)")
    parser.add_argument("--synthetic", action="store_true", help="the synthetic stand-in in place of the real data")
    parser.set_defaults(action=manage_data)


def _add_numerics(commands: Any) -> None:
    parser = commands.add_parser(
        "numerics",
        help="numerical experiments with the multistep rules: order, stability, early phase, noise",
        description="Numerical experiments in the spirit of the paper's section III-B: the optimizer as an integrator "
        "of gradient flows. The paper announces such experiments and omits their details; these problems and settings "
        "are this project's own. Prints tables, and writes figures (PNG, PDF) and the numbers behind them (CSV). Needs "
        "no data and less than a minute.",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("results/numerics"),
        metavar="FOLDER",
        help="for figures and numbers (default: results/numerics)",
    )
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=f"some of {', '.join(NAMES)}"
    )
    parser.set_defaults(action=run_numerics)


def _add_voc_eval(commands: Any) -> None:
    parser = commands.add_parser(
        "voc-eval",
        help="average precision of detections in PASCAL VOC's files, of any detector",
        description="Average precision by the official rules of PASCAL VOC, from its files of detections, "
        "comp4_det_SPLIT_CLASS.txt with lines 'image score xmin ymin xmax ymax'. A class without a file has no "
        "detections.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="with the files of detections")
    parser.add_argument(
        "--devkit", type=Path, required=True, metavar="FOLDER", help="of the year's annotations: .../VOCdevkit/VOC2007"
    )
    parser.add_argument("--split", default="test", help="of ImageSets/Main and of the files' names (default: test)")
    parser.add_argument(
        "--points",
        choices=("11", "all"),
        default="11",
        help="mean precision at 11 recalls, the rule of VOC2007 to VOC2009 (default), or the area below all points, "
        "the rule from VOC2010 on",
    )
    parser.add_argument("--iou", type=float, default=0.5, help="least IoU of a true positive (default: 0.5)")
    parser.add_argument("--format", choices=("text", "csv", "md"), default="text", help="default: text")
    parser.set_defaults(action=evaluate_detections)


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS,
        metavar="FOLDER",
        help="the results (default: results/runs)",
    )


def _add_stores(parser: argparse.ArgumentParser, numerics: bool = True) -> None:
    parser.add_argument(
        "--results",
        type=Path,
        nargs="+",
        default=[RESULTS],
        metavar="FOLDER",
        help="the results, of one store or several (default: results/runs)",
    )
    if numerics:
        parser.add_argument(
            "--numerics",
            type=Path,
            metavar="FOLDER",
            help="what the numerics command wrote (default: results/numerics, if it is there)",
        )


def list_runs(options: argparse.Namespace) -> int:
    """Print the runs that match the filters."""
    runs = _read(options.results)
    runs = _filtered(runs, options, ("task", "model", "optimizer", "status", "data", "seed"))
    if runs.empty and options.format == "text":
        terminal.say("no runs match")
        return 0
    if options.format == "csv":
        terminal.say(escaping.csv(runs), end="")
        return 0
    shown = runs[RUN_COLUMNS].map(lambda cell: escaping.plain(cell) if isinstance(cell, str) else cell)
    shown["protocols"] = shown["protocols"].map(lambda names: "+".join(names) or "custom")
    shown["data"] = [_data(row) for _, row in runs.iterrows()]
    shown["run_id"] = shown["run_id"].str.ljust(shown["run_id"].str.len().max())
    terminal.say(shown.to_string(index=False, na_rep="–", float_format=lambda x: f"{x:.6g}"))
    return 0


def _data(row: pd.Series) -> str:
    """What a run was trained and measured on; empty if that is not known."""
    if pd.isna(row["data"]):
        return ""
    words = [str(row["data"])]
    words += [] if pd.isna(row["limit"]) else [f"{row['limit']:.0f} examples"]
    words += [] if pd.isna(row["split"]) or row["split"] == "test" else [f"{row['split']} split"]
    return ", ".join([*words, *(["unverified"] if row["verified"] is False else [])])


def _filtered(runs: pd.DataFrame, options: argparse.Namespace, names: Sequence[str]) -> pd.DataFrame:
    """The runs that have what the options of these names ask for; a name that no run has is a mistake."""
    kept = runs
    for name in names:
        wanted = getattr(options, name)
        known = sorted(set(runs[name].dropna().map(str)))
        if wanted is not None and wanted not in known and name in ("task", "model", "optimizer"):
            raise ConfigError(
                f"no run has the {name} {wanted!r}: leave out --{name}, or take one of {', '.join(known) or 'none'}."
            )
        kept = kept if wanted is None else kept[kept[name] == wanted]
    return kept


def show_run(options: argparse.Namespace) -> int:
    """Print everything the store knows of one run."""
    runs = _read(options.results)
    matches = runs[runs["run_id"].str.startswith(options.run)]
    exact = matches[matches["run_id"] == options.run]
    matches = exact if len(exact) else matches
    if len(matches) != 1:
        found = "none" if matches.empty else ", ".join(matches["run_id"])
        raise ConfigError(f"{options.run!r} must name one run, but matches {found}: see 'python -m tmsgd_bench runs'.")
    row = matches.iloc[0]
    folder = Path(row["folder"])
    note = "" if pd.isna(row["note"]) else escaping.plain(str(row["note"]))
    terminal.say(f"{row['run_id']}: {row['status']}\n{note}\nfolder: {folder}\n")
    if row["status"] == store.DAMAGED:
        return 1
    terminal.say((folder / store.CONFIG).read_text(encoding="utf-8"))
    for name in (store.RESULT, store.ENVIRONMENT, store.FAILURE):
        if (values := files.read_json(folder / name)) is not None:
            error = values.pop("error", "")
            terminal.say(f"{name}:\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}{error}")
    if (folder / store.HISTORY).exists():
        terminal.say("last epochs:\n" + files.read_parquet(folder / store.HISTORY).tail(5).to_string(index=False))
    return 0


def print_table(options: argparse.Namespace) -> int:
    """Print a table and, with --out, write it in all formats beside copies of the runs behind it."""
    runs = _read(options.results)
    table = tables.build(runs, options.number, options.data, options.protocol)
    others = "" if table.run_ids else tables.other_conditions(runs, options.number)
    if options.out is not None:
        outputs.apart(options.out, [options.results])
        _write_table(table, runs, options.out, others)
    terminal.say(tables.FORMATS[options.format](table), end="")
    if others:
        terminal.warn(f"no run has these conditions; finished runs of this table here: {others}")
    return 0


def _write_table(table: tables.Table, runs: pd.DataFrame, folder: Path, others: str) -> None:
    name = f"table{table.number}"
    if not table.run_ids:
        there = f"; finished runs of this table here: {others}" if others else ""
        raise StoreError(f"no run enters table {table.number} ({table.conditions}), so nothing is written{there}.")
    for other in manifest.read(folder) or {}:
        if other.startswith("table") and other.endswith(".md") and other != f"{name}.md":
            raise ConfigError(
                f"{folder} holds another table, {other}, with its runs: choose another folder with --out."
            )
    finished = runs[runs["status"].isin(["done", "diverged"]) & runs["run_id"].isin(table.run_ids)]
    texts = {f"{name}.{suffix}": render(table) for suffix, render in tables.FORMATS.items()}

    def fill(place: Path) -> None:
        files.write_texts(place, texts)
        for run_id, source in zip(finished["run_id"], finished["folder"], strict=True):
            store.copy_evidence(Path(str(source)), place / "runs" / str(run_id))

    outputs.renew(folder, fill, replaced=lambda name: name.startswith("runs/"))


def print_comparison(options: argparse.Namespace) -> int:
    """Print every group of runs that can be compared."""
    groups = comparison.build(_filtered(_read_all(options.results), options, ["task"]), options.reference)
    if not groups:
        raise StoreError(f"no run in {_list(options.results)} has finished: there is nothing to compare yet.")
    terminal.say(comparison.FORMATS[options.format](groups), end="")
    return 0


def print_claims(options: argparse.Namespace) -> int:
    """Print the verdicts and, with --out, write them in all file formats."""
    runs = _read_all(options.results)
    found = claims.evaluate(runs, numerical.read_numerics(_numerics(options)), options.protocol)
    if options.out is not None:
        _check_some(runs, options)
        texts = {f"claims.{name}": claim_forms.FORMATS[name](found) for name in tables.FORMATS}
        outputs.renew(_target(options, ""), lambda place: files.write_texts(place, texts))
    terminal.say(claim_forms.FORMATS[options.format](found), end="")
    return 0


def _numerics(options: argparse.Namespace) -> Path:
    """Where the numerical experiments are; a folder that was asked for must be there."""
    folder: Path | None = options.numerics
    if folder is not None and not folder.is_dir():
        raise ConfigError(
            f"there is no folder {folder}: write it with 'python -m tmsgd_bench numerics --out {folder}'."
        )
    return folder or RESULTS.with_name("numerics")


def _target(options: argparse.Namespace, name: str) -> Path:
    """The folder to write into, which by default belongs to the default results alone."""
    if options.out is None and options.results != [RESULTS]:
        place = RESULTS.with_name(name)
        raise ConfigError(f"name a folder with --out: {place} is for the runs in {RESULTS}.")
    folder: Path = RESULTS.with_name(name) if options.out is None else options.out
    outputs.apart(folder, options.results)
    return folder


def _check_some(runs: pd.DataFrame, options: argparse.Namespace) -> None:
    if runs.empty:
        raise StoreError(f"there is no run in {_list(options.results)}, so nothing is written: train one first.")


def _list(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths))


def draw_figure(options: argparse.Namespace) -> int:
    """Draw a figure of the paper."""
    import importlib  # matplotlib, which most other commands do not need

    module = importlib.import_module(_drawn_by(options.number))
    protocol = None if options.protocol == "any" else options.protocol
    runs = _read_all(options.results)
    written = module.write(runs, _target(options, "figures"), options.data, protocol, options.seed)
    terminal.say(f"Written: {', '.join(map(str, written))}.")
    return 0


def _figures() -> dict[str, tuple[str, str]]:
    """Every figure by its name: the module that draws it, and what is on it."""
    beside = Path(tmsgd_bench.__file__).resolve().parents[1] / "tasks" / "__init__.py"
    there = find_spec("tasks")  # other packages have that name too
    if there is None or there.origin is None or Path(there.origin).resolve() != beside:
        return FIGURES
    import tasks

    return {**tasks.FIGURES, **FIGURES}


def _drawn_by(name: str) -> str:
    """The module that draws a figure."""
    figures = _figures()
    if name in figures:
        return figures[name][0]
    known = f"there is no figure {shown(name)} here: name one of {', '.join(figures)}"
    if len(figures) > len(FIGURES):
        raise ConfigError(f"{known}.")
    raise ConfigError(
        f"{known}, or start 'python -m tmsgd_bench figure' in the checkout's folder, whose tasks draw the paper's."
    )


def write_report(options: argparse.Namespace) -> int:
    """Write the report and say where it is."""
    from tmsgd_bench.results import report  # matplotlib and jinja2, which no other command needs

    runs = _read_all(options.results)
    _check_some(runs, options)
    path = report.write(runs, _numerics(options), _target(options, "report"))
    terminal.say(f"The report is in {path}.")
    return 0


def export_runs(options: argparse.Namespace) -> int:
    """Write all runs, or their histories, into one file."""
    runs = _read_all(options.results)
    _check_some(runs, options)
    outputs.apart(options.file, options.results)
    frame = export.histories(runs) if options.history else export.tidy(runs)
    export.write(frame, options.file, options.force)
    without = len(runs) - frame["run_id"].nunique()
    left_out = f"; {without} runs have no history yet" if without else ""
    terminal.say(f"{len(frame)} rows of {frame['run_id'].nunique()} runs are in {options.file}{left_out}.")
    return 0


def manage_data(options: argparse.Namespace) -> int:
    """List, verify, prepare or describe data sets."""
    chosen = [find(name) for name in options.names] or list(catalog().values())
    root, kind = data_root(options.root), "synthetic" if options.synthetic else "real"
    if options.do == "card":
        terminal.say(json.dumps(card(chosen[0]) if len(chosen) == 1 else [card(d) for d in chosen], indent=2))
        return 0
    if options.do == "prepare":
        if not options.names and kind == "real":
            raise ConfigError(
                f"name the data sets to prepare, some of {', '.join(catalog())}: together they are large."
            )
        for dataset in chosen:
            folder = dataset.prepare(root, kind, terminal.warn)
            terminal.say(f"{dataset.name}: ready in {folder}")
        return 0
    if options.synthetic:
        raise ConfigError("--synthetic goes with 'prepare' alone, which also checks a stand-in that is there already.")
    states = [_describe(dataset, root, verify_only=options.do == "verify") for dataset in chosen]
    return 0 if options.do == "list" or all(states) else 1


def _describe(dataset: Dataset, root: Path, verify_only: bool) -> bool:
    """Print what is here of a data set; returns whether the real one is whole."""
    folder = dataset.folder(root, "real")
    problems = dataset.problems(folder)
    whole = "verified" if dataset.pinned else "all files are there (no digests of their contents are published)"
    terminal.say(f"{dataset.name}: {'; '.join(problems) or whole} ({folder})")
    if not verify_only:
        stand_in = dataset.folder(root, "synthetic")
        terminal.say(f"  {dataset.title}\n  licence: {' '.join(dataset.licence.split())}")
        terminal.say("\n".join(f"  {line}" for line in _parts(dataset)))
        terminal.say(
            f"  synthetic stand-in: {'present' if (stand_in / STAND_IN).exists() else 'not written yet'} ({stand_in})"
        )
    if problems:
        terminal.say(f"  to mend it, {dataset.remedy(folder)}")
    return not problems


def _parts(dataset: Dataset) -> list[str]:
    """What a data set consists of and where it comes from, a line each."""
    lines = []
    for file in dataset.files:
        size = "" if file.bytes is None else f", {file.bytes:,} bytes"
        lines.append(f"{file.name}: {file.examples:,} examples{size}{f', {file.url}' if file.url else ''}")
    lines += [f"{folder.name}/{folder.pattern}: {folder.count:,} files" for folder in dataset.folders]
    return [*lines, *(f"from {archive.url}" for archive in dataset.archives)]


def run_numerics(options: argparse.Namespace) -> int:
    """Run the numerical experiments and write their figures and numbers."""
    from tmsgd_bench.numerics import report  # torch and matplotlib, which no other command needs

    report.run(options.out, options.only, terminal.say)
    terminal.say(f"Figures and numbers are in {options.out}.")
    return 0


def evaluate_detections(options: argparse.Namespace) -> int:
    """Print average precision by class."""
    from tmsgd_bench.voc import command  # torch, which most other commands do not need

    found = command.evaluate(options.folder, options.devkit, options.split, options.iou, options.points)
    terminal.say(command.FORMATS[options.format](found), end="")
    return 0


def _read(root: Path) -> pd.DataFrame:
    if not root.exists():
        raise StoreError(f"there are no results in {root}: train a run first, or name another folder with --results.")
    runs = store.read_runs(root)
    for sentence in store.complaints(runs):
        terminal.warn(escaping.plain(f"{sentence}."))
    return runs


def _read_all(roots: Sequence[Path]) -> pd.DataFrame:
    return store.merge([_read(root) for root in roots])
