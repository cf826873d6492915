"""The command ``tmsgd-bench``: shows runs, makes tables, judges the paper's claims, prepares data sets, runs numerics.

Each module is a command: ``add`` adds its options to the parser, and its action gets the parsed options and returns the
exit code. To add a command, write such a module and name it in ``NOUNS``. Packages that are slow to import (torch,
matplotlib) are imported in the action, so that other commands do not wait for them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from tmsgd_bench import __version__, escaping, extras, files, terminal
from tmsgd_bench.cli import (
    best,
    claims,
    comparison,
    data,
    export,
    figure,
    jumps,
    new,
    numerics,
    packing,
    report,
    runs,
    table,
    targets,
    tuned,
    verify,
    voc,
)
from tmsgd_bench.errors import BenchError

EPILOG = """\
Training is done by run.py, in a checkout:
  python run.py task=tc optimizer=tmsgd            one run
  python run.py -m task=tc optimizer=sgd,tmsgd     a sweep

Examples of this command:
  tmsgd-bench runs --status failed   what went wrong
  tmsgd-bench show tc-lstm-tmsgd     one run in full (the start of its name will do)
  tmsgd-bench table 5                the paper's Table 5 with our numbers
  tmsgd-bench compare                runs that differ only in optimizer and seed
  tmsgd-bench best                   the best learning rate of each optimizer
  tmsgd-bench tuned                  the optimizers with their best learning rates
  tmsgd-bench claims                 the paper's claims, judged by our runs
  tmsgd-bench targets                epochs and seconds until a fixed target is reached
  tmsgd-bench jumps                  how often the training loss jumps
  tmsgd-bench report                 everything as HTML pages
  tmsgd-bench figure 1               the paper's figures, drawn from the runs
  tmsgd-bench export runs.parquet    all runs as tidy rows
  tmsgd-bench pack results/runs --out runs.parquet  finished runs in one file, to publish
  tmsgd-bench verify                 make the published results again from their runs, and compare
  tmsgd-bench data                   which data sets are present
  tmsgd-bench new task birds         the files of your own task, which work as they are
  tmsgd-bench numerics               the methods as integrators: order, stability, noise
  tmsgd-bench voc-eval . --devkit FOLDER  PASCAL VOC's average precision of files of detections
"""
NOUNS = (
    runs,
    table,
    comparison,
    best,
    tuned,
    claims,
    targets,
    jumps,
    report,
    figure,
    export,
    packing,
    verify,
    data,
    new,
    numerics,
    voc,
)
"""The modules that add commands, in the order of the help."""


class Parser(argparse.ArgumentParser):
    """What to do about an argument that is not known, or that ``--results``, which takes several, has swallowed."""

    def error(self, message: str) -> NoReturn:
        name = message.rpartition("arguments are required: ")[2]
        if name != message and "--results PLACE [PLACE" in self.format_usage():
            message += f": write it first, as in '{self.prog} {name} --results PLACE'"
        if message.startswith("unrecognized arguments"):
            message += f": '{self.prog} COMMAND --help' lists what a command takes; --results names folders of runs"
        super().error(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 success, 1 a failed check, 2 bad input."""
    try:
        return terminal.piped(lambda: _act(arguments))
    except BenchError as error:
        return _refused(str(error))
    except KeyboardInterrupt:
        terminal.warn("interrupted: nothing half-written is left behind")
        return 130
    except OSError as error:
        return _refused(f"cannot use {error.filename or 'a file'} ({files.os_reason(error)}).")
    except ValueError as error:
        if sys.flags.dev_mode:
            raise
        return _refused(
            f"a value cannot be used ({error}). If a file of the results is damaged, restore it from a copy. Otherwise "
            "report this as a bug, with what the same command prints after 'python -X dev -m tmsgd_bench'."
        )


def _act(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    action: Callable[[argparse.Namespace], int] = options.action
    with extras.explained():
        return action(options)


def _refused(sentence: str) -> int:
    terminal.give_up_if_broken()
    terminal.warn(escaping.plain(f"error: {sentence}"))
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="tmsgd-bench",
        description="Show the runs of the TM-SGD benchmark, make its tables, prepare its data sets.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for noun in NOUNS:
        noun.add(commands)
    return parser
