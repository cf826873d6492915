"""``new``: the files of your own task, which work as they are."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import tmsgd_bench
from tmsgd_bench import terminal


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        "new",
        help="write the files of your own task",
        description="Write a small task that works as it is: its YAML, model, data-set entry, synthetic data, and a "
        "test. Then replace the data, the loss and the metric by yours. docs/extending.md explains each part.",
    )
    parser.add_argument("what", choices=("task",), help="what to write")
    parser.add_argument("name", metavar="NAME", help="its name: a-z, 0-9 and _")
    parser.add_argument(
        "--out", type=Path, default=Path(), metavar="FOLDER", help="where (default: the current folder)"
    )
    parser.set_defaults(action=write_new)


def _taken(root: Path) -> dict[str, set[str]]:
    """The names that this project has. With one of them, its YAML or data would be used in place of the user's.

    Args:
        root: of the checkout; an installed package has data sets alone.
    """
    folders = {kind: root / "conf" / kind for kind in ("task", "model", "optimizer")}
    folders["data set"] = Path(tmsgd_bench.__file__).parent / "data/entries"
    return {kind: {path.stem for path in folder.glob("*.yaml")} for kind, folder in folders.items()}


def write_new(options: argparse.Namespace) -> int:
    """Write the files, and say what to do with them."""
    from tmsgd_bench import templates  # here, because no other command needs Jinja

    root = Path(tmsgd_bench.__file__).parents[1]
    templates.check_name(options.name, _taken(root))
    texts = templates.task(options.name)
    templates.write(options.out, texts)
    run = root / "run.py"
    terminal.say("\n".join(f"wrote {options.out / name}" for name in texts))
    terminal.say(
        f"\nTry it in {options.out.absolute()}:\n"
        f"  python -m pytest test_{options.name}.py\n"
        f"  PYTHONPATH=. python {run if run.exists() else 'run.py'} --config-dir my -m task={options.name} "
        "data=synthetic protocol=smoke optimizer=sgd,tmsgd seed=0,1\n"
        "  python -m tmsgd_bench compare"
    )
    return 0
