"""The command line beside run.py: look at runs, judge the paper's claims, look after data sets, run numerics.

Each command is in the module of its noun: ``add`` tells the parser its options, and its action gets what was parsed and
returns the exit code. A new command is a module like these and its name in ``NOUNS``. What takes long to import (torch,
matplotlib) is imported in the action, so that no other command waits for it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from tmsgd_bench import __version__, escaping, files, terminal
from tmsgd_bench.cli import claims, comparison, data, export, figure, numerics, packing, report, runs, table, voc
from tmsgd_bench.errors import BenchError

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
  python -m tmsgd_bench pack results/runs --out runs.parquet  finished runs in one file, to publish
  python -m tmsgd_bench data                       which data sets are here
  python -m tmsgd_bench numerics                   the rules as integrators: order, stability, noise
  python -m tmsgd_bench voc-eval . --devkit FOLDER  PASCAL VOC's average precision of files of detections
"""
NOUNS = (runs, table, comparison, claims, report, figure, export, packing, data, numerics, voc)
"""The modules that add commands, in the order of the help."""


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
    for noun in NOUNS:
        noun.add(commands)
    return parser
